"""Reads reports in separate processes, so that a large report neither slows down the processes that answer requests nor
fills their memory.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from commands.reports.reading import ReportRead, make_unreadable
from commands.reports.reading_process import OUT_OF_MEMORY, pack_rules, send, unpack, unpack_matches
from commands.reports.report_queue import ReportQueue, ReportSender
from domain.known_issues import MatchRule

log = structlog.get_logger()

PROCESSES = max(2, min(8, os.cpu_count() or 1))
"""Largest number of processes that read reports. Each process is started when it is first needed, which takes 0.1 s,
and then kept.
"""
MAX_CPU_S = 60.0
"""Largest number of seconds of CPU time for reading one report. The largest report that an agent may send, of 512 MiB,
takes about 35 s.
"""
MAX_MATCH_CPU_S = 20.0
"""Largest number of seconds of CPU time for matching the failures of one report. 100,000 failures and 50 patterns take
about 1 s.
"""
MAX_MEMORY = 1024 * 1024 * 1024
"""Largest address space of a process, in bytes. A report of 100,000 tests and 50 MB takes about 250 MB."""
READ_TIMEOUT_S = 600.0
"""Seconds that a process may take to read one report and match its failures. After that the process is killed."""
TRIES = 2
"""Number of tries to read a report if the process that reads it ends for an unknown reason. The kernel may have killed
the process because others need memory.
"""
ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""Environment variables that the processes inherit. The server's settings are left out, since they contain secrets."""


class ReadingPool:
    """Processes that read reports, in the order that a ReportQueue decides. Use a pool in one event loop only."""

    def __init__(
        self,
        processes: int = PROCESSES,
        *,
        max_cpu_s: float = MAX_CPU_S,
        max_match_cpu_s: float = MAX_MATCH_CPU_S,
        max_memory: int = MAX_MEMORY,
    ) -> None:
        self._arguments = [str(max_cpu_s), str(max_match_cpu_s), str(max_memory)]
        self._limits = {
            -signal.SIGPROF: f"reading it takes more than {max_cpu_s:g} s of CPU time",
            OUT_OF_MEMORY: f"reading it takes more than {max_memory // 2**20} MiB of memory",
        }
        """Exit code of a process that exceeded a limit -> explanation for the warning in the report."""
        self._match_limits = {
            -signal.SIGPROF: f"it takes more than {max_match_cpu_s:g} s of CPU time",
            OUT_OF_MEMORY: f"it takes more than {max_memory // 2**20} MiB of memory",
        }
        self._queue = ReportQueue(processes)
        self._idle: list[_Process] = []

    async def read(
        self,
        project_id: int,
        sender: ReportSender,
        path: Path,
        fetch_rules: Callable[[], Awaitable[Sequence[MatchRule]]],
    ) -> ReportRead:
        """Reads a report of a project, and matches its failures. If reading takes too much time or memory, returns a
        report that is marked as unreadable, with a warning that says why. If matching takes too much, returns the
        report without matches; its last warning says why.

        Raises Unavailable if the sender leaves before it is the report's turn. A report that is already being read is
        read to its end, so that a client that sends it again finds it recorded.
        """
        async with self._queue.turn(project_id, sender.actor, sender.has_left):
            rules = await fetch_rules()
            tries = 0
            while True:
                process = self._idle.pop() if self._idle else _Process(self._arguments)
                try:
                    async with asyncio.timeout(READ_TIMEOUT_S):
                        report = await asyncio.to_thread(process.read, path, rules)
                except TimeoutError:
                    process.kill()
                    return make_unreadable(f"reading it took more than {READ_TIMEOUT_S:g} s")
                except _Ended as ended:
                    if ended.code in self._limits:
                        return make_unreadable(self._limits[ended.code])
                    tries += ended.code != 0  # 0: the process ended by itself after a large report
                    if tries == TRIES:
                        return make_unreadable(f"the process that read it ended with exit code {ended.code}")
                    log.warning("a process that reads reports has ended", code=ended.code)
                    continue
                except BaseException:
                    process.kill()
                    raise
                if (code := process.exit_code) is None:
                    self._idle.append(process)
                else:
                    reason = self._match_limits.get(code, f"the process that did it ended with exit code {code}")
                    report.warnings.append(f"its failures were not matched with the known issues: {reason}")
                return report

    def close(self) -> None:
        """Ends all idle processes. A process that reads a report ends after its request."""
        while self._idle:
            self._idle.pop().close()


class _Ended(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Process:
    def __init__(self, arguments: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "commands.reports.reading_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        )

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while its end has not been noticed."""
        return self._process.returncode

    def read(self, path: Path, rules: Sequence[MatchRule]) -> ReportRead:
        """Sends the path of a report and the match rules to the process. Returns the report, with the rules that each
        failure matches. The process reads first and matches afterwards: if it ends before it has read the report,
        raises _Ended; if it ends later, returns the report without matches. Blocks.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            send(self._process.stdin, os.fsencode(path))
            send(self._process.stdin, pack_rules(rules))
            self._process.stdin.flush()
            report = unpack(self._process.stdout)
        except (EOFError, BrokenPipeError):
            self.close()
            raise _Ended(self._process.returncode) from None
        try:
            report.matches, report.outages = unpack_matches(self._process.stdout)
        except EOFError:
            self.close()
        return report

    def kill(self) -> None:
        """Ends the process. A `read` that is under way then raises _Ended."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Closes the pipes of the process, which makes it end, and waits for its end."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        self._process.wait()
