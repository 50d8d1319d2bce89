"""Runs one supervised process: starts it, takes its output, notices its end, and plans its restart."""

import os
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from testhide.supervise.program import Program, send

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds before a restart; the pause doubles each time
_LONG_LIFE_S = 10.0  # seconds; a child that lived this long starts again with the first pause
_LAST_OUTPUT_LINES = 20  # last lines of output, which may explain why a child ended
_DETAILS = re.compile(r"[-^~]+|(LINE \d+|DETAIL|HINT|CONTEXT|QUERY):.*|PL/pgSQL function .*")
"""Pattern of lines that explain less than the message of an error above them: details of PostgreSQL, and the marks by
which Python points at code.
"""


@dataclass(frozen=True)
class Service:
    """A program that the supervisor restarts whenever it ends. The supervisor stops services of a lower `wave`
    first.
    """

    program: Program
    wave: int = 1
    ready: Callable[[int], bool] | None = None  # called with the pid; None: ready as soon as it runs
    prints: bool = False  # whether its standard output is that of the supervisor, so that only its errors are logged


class Child:
    def __init__(
        self, service: Service, logs: Path, print_line: Callable[[str], None], *, verbose: bool, one_shot: bool = False
    ) -> None:
        self.service = service
        self.one_shot = one_shot
        self.name = service.program.name
        self.process: subprocess.Popen[bytes] | None = None
        self.due: float | None = None  # when to start it again
        self.failures = 0  # deaths since it was last ready
        self.tail: deque[str] = deque(maxlen=_LAST_OUTPUT_LINES)
        self._pause = FIRST_PAUSE
        self._started = 0.0
        self._log = BoundedFile(logs / f"{self.name}.log")
        self._print_line = print_line
        self._verbose = verbose
        self._partial = b""

    @property
    def running(self) -> bool:
        return self.process is not None

    def start(self) -> int:
        """Start the process. Returns a file descriptor to read its output from; for a service that `prints`, only its
        stderr.
        """
        self.due = None
        self.service.program.prepare()
        self._started = time.monotonic()
        read, write = os.pipe()
        try:
            self.process = self.service.program.start(stdout=1 if self.service.prints else write, stderr=write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        os.set_blocking(read, False)
        return read

    def take_output(self, content: bytes) -> None:
        self._log.write(content)
        *lines, self._partial = (self._partial + content).split(b"\n")
        if len(self._partial) > 8192:
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            text = line.decode(errors="replace")[:2000]
            self.tail.append(text)
            if self._verbose:
                self._print_line(f"{self.name}: {text}")

    def poll(self) -> int | None:
        """Return the exit code if the process has ended since the last call, otherwise None. Kills the rest of an ended
        process's group.
        """
        if self.process is None:
            return None
        code = self.process.poll()
        if code is not None:
            send(self.process.pid, 9, group=True)
            self.process = None
            self.failures += 1
        return code

    def schedule(self) -> float:
        """Plan when to start the program again. Returns the number of seconds until then."""
        lived = time.monotonic() - self._started
        pause = self._pause = FIRST_PAUSE if lived >= _LONG_LIFE_S else self._pause
        self.due = time.monotonic() + pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return pause

    def is_ready(self) -> bool:
        ready = self.process is not None and (self.service.ready is None or self.service.ready(self.process.pid))
        if ready:
            self.failures = 0
        return ready

    def why(self) -> str:
        return reason_in(self.tail)

    def close(self) -> None:
        self._log.close()


class BoundedFile:
    """Log file of limited size. At `limit` bytes it is renamed to NAME.1 and begun anew. While the disk is full, it
    drops output.
    """

    def __init__(self, path: Path, limit: int = 4 * 2**20) -> None:
        self._path = path
        self._limit = limit
        self._open()

    def write(self, content: bytes) -> None:
        try:
            if self._size + len(content) > self._limit:
                os.close(self._file)
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
            self._size += os.write(self._file, content)
        except OSError:
            return

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size


def reason_in(output: Iterable[str]) -> str:
    """Return the line of a program's output that best explains its end."""
    lines = [text for line in output if (text := line.strip(" \t\r\n|+"))] or ["it said nothing"]
    fatal = (line for line in reversed(lines) if "FATAL" in line or "Fatal" in line)
    message = (line for line in reversed(lines) if not _DETAILS.fullmatch(line))
    return next(fatal, next(message, lines[-1]))
