"""Processes that tests fork end with the tests, even if these are killed."""

import os
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import _forkserver, set_forkserver_preload

import psutil

from tests.support.documentation import ROOT
from tests.support.forked_process import end_with_the_tests

WAIT_S = 30.0


def start() -> None:
    """Prints the ids of a forked process and of the one that it was forked from."""
    set_forkserver_preload([])
    process = ForkServerProcess(target=work, daemon=True)
    process.start()
    print(process.pid, _forkserver._forkserver_pid, flush=True)  # type: ignore[attr-defined]
    process.join()


def work() -> None:
    end_with_the_tests()
    time.sleep(2 * WAIT_S)


def test_forked_processes_end_with_the_tests() -> None:
    code = "from tests.testhide.test_forked_process import start; start()"
    # `./dev test` sets PYTHONSAFEPATH, with which the folder of the process is not searched for modules.
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        forked = [psutil.Process(int(pid)) for pid in tests.stdout.readline().split()]
        tests.kill()
    assert len(forked) == 2
    _, alive = psutil.wait_procs(forked, WAIT_S)
    for process in alive:
        process.kill()
    assert alive == []
