"""Agents as forks of one process that has imported the modules of the zipapp, which takes most of an agent's start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

PROGRAM = """
import gc, json, os, sys

bundle = sys.argv[1]
sys.path.insert(0, bundle)
import agent.cli
from agent.__main__ import main

gc.freeze()

for line in sys.stdin:
    ended, errors, arguments = json.loads(line)
    if ended:
        print(os.waitstatus_to_exitcode(os.waitpid(ended, 0)[1]), flush=True)
    elif (child := os.fork()) != 0:
        print(child, flush=True)
    else:
        for path, flags, streams in ((os.devnull, os.O_RDONLY, (0,)), (errors, os.O_WRONLY | os.O_APPEND, (1, 2))):
            opened = os.open(path, flags)
            for stream in streams:
                os.dup2(opened, stream)
            os.close(opened)
        sys.argv = [bundle, *arguments]
        sys.exit(main(arguments))
"""


class AgentForks:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, arguments: list[str], errors: Path) -> ForkedAgent:
        """Start an agent whose messages are appended to a file."""
        return ForkedAgent(self, self._ask(0, str(errors), arguments))

    def reap(self, pid: int) -> int:
        """Return the exit code of an agent that has ended."""
        return self._ask(pid, "", [])

    def _ask(self, *request: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


class ForkedAgent:
    """What tests use of `subprocess.Popen`."""

    def __init__(self, forks: AgentForks, pid: int) -> None:
        self.pid = pid
        self._forks = forks
        self._end = os.pidfd_open(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        assert code is not None, "the agent does not end"
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self._code is None and wait([self._end], timeout):
            os.close(self._end)
            self._code = self._forks.reap(self.pid)
        return self._code


@contextmanager
def open_agent_forks(bundle: Path, env: dict[str, str]) -> Iterator[AgentForks]:
    """Yield what starts agents of a zipapp, with these environment variables."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", PROGRAM, str(bundle)],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield AgentForks(process)
        assert process.stdin is not None
        process.stdin.close()
