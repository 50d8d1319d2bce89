"""The system calls of a running PostgreSQL, by strace: was the log of every acknowledged append flushed before?

An acknowledgement is the answer to the append function. Before it is sent, what its process wrote to the write-ahead
log must have been followed by a flush of the log that succeeded.
"""

import contextlib
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CALLS = "pwrite64,pwritev,fdatasync,fsync,sendto"
ANSWER = "first_position"
"""The name of the append function's first column, as it travels in front of its row."""
ENDS_S = 30.0
_LINE = re.compile(r"^(?P<at>\d+\.\d+) (?P<call>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+).*<(?P<took>[\d.]+)>$")


class Call(NamedTuple):
    begin: float
    end: float
    pid: int
    kind: str
    """`write` to the log, `flush` of the log, or `answer`."""


@dataclass
class Trace:
    """Filled when the block that made it ends."""

    calls: list[Call] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        return sum(call.kind == "answer" for call in self.calls)

    def unflushed(self) -> int:
        """Acknowledgements that no flush had earned."""
        found = 0
        for answer in self.calls:
            if answer.kind != "answer":
                continue
            earlier = [call for call in self.calls if call.pid == answer.pid and call.end <= answer.begin]
            written = max((call.end for call in earlier if call.kind == "write"), default=0.0)
            before = max((call.end for call in earlier if call.kind == "answer"), default=0.0)
            # Another process may have written its part of the log for it; then any flush since its last answer will do.
            since = max(written, before)
            found += not any(
                call.kind == "flush" and call.begin >= since and call.end <= answer.begin for call in self.calls
            )
        return found


@contextlib.contextmanager
def traced(postmaster: int) -> Iterator[Trace]:
    """Traces this server and every process that it starts, for as long as the block runs."""
    trace = Trace()
    with tempfile.TemporaryDirectory(prefix="flushes-") as folder:
        pids = [argument for pid in (postmaster, *_helpers(postmaster)) for argument in ("-p", str(pid))]
        # A file a process: lines of several would be torn apart by each other.
        command = ["strace", "-ff", "-y", "-ttt", "-T", "-s", "64", "-e", f"trace={CALLS}", "-o", f"{folder}/trace"]
        process = subprocess.Popen([*command, *pids], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            for _ in range(len(pids) // 2):
                line = process.stderr.readline()
                assert "attached" in line, line
            yield trace
            # A client has its answer before strace has the line about it, which is there when the process has ended.
            _await_ends([file for file in Path(folder).iterdir() if file.suffix[1:] not in pids])
        finally:
            process.terminate()
            process.communicate(timeout=30)
        for file in Path(folder).iterdir():
            trace.calls += _read(file)
    trace.calls.sort()


def _await_ends(traces: list[Path]) -> None:
    deadline = time.monotonic() + ENDS_S
    while not all("+++ exited" in trace.read_text(encoding="utf-8", errors="replace") for trace in traces):
        assert time.monotonic() < deadline, "a process of PostgreSQL did not end with its connection"
        time.sleep(0.01)  # between two looks


def _helpers(postmaster: int) -> Iterator[int]:
    """Those of its processes that stay and may write the log for others."""
    for pid in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text(encoding="ascii").split():
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith((b"postgres: walwriter", b"postgres: checkpointer", b"postgres: background writer")):
                yield int(pid)


def _read(file: Path) -> Iterator[Call]:
    pid = int(file.suffix[1:])
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        begin = float(found["at"])
        end = begin + float(found["took"])
        call, rest = found["call"], found["rest"]
        if call == "sendto":
            if ANSWER in rest:
                yield Call(begin, end, pid, "answer")
        elif "/pg_wal/" in rest:
            if call in ("fdatasync", "fsync"):
                if int(found["result"]) == 0:
                    yield Call(begin, end, pid, "flush")
            else:
                yield Call(begin, end, pid, "write")
