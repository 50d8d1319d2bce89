"""Runs of pytest under the agent's plugin, in forks of one process that has pytest imported, which takes a second."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.agent.plugin_run import PluginRun

PROGRAM = """
import gc, json, os, sys
import pytest, pytest_rerunfailures, xdist.plugin
from _pytest.config import get_config

get_config()  # imports pytest's own plugins
gc.freeze()

for line in sys.stdin:
    folder, env, arguments, output = json.loads(line)
    if (child := os.fork()) == 0:
        os.chdir(folder)
        plugins = os.environ["PYTEST_PLUGINS"]  # which the agent's startup has set
        os.environ.clear()
        os.environ.update(env, PYTEST_PLUGINS=plugins)
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = int(pytest.main(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class PytestForks:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, run: PluginRun, options: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Does what `run.shell(f"pytest {options}", **env)` does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = run.root.with_name("output")
        print(
            json.dumps([str(run.root), {**run.env, **env}, shlex.split(options), str(output)]),
            file=self._process.stdin,
            flush=True,
        )
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(options, code, output.read_text(encoding="utf-8"), "")


@contextmanager
def open_forks(folder: Path) -> Iterator[PytestForks]:
    env = PluginRun(folder).env
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield PytestForks(process)
        assert process.stdin is not None
        process.stdin.close()
