"""A process of the server, forked from one that has imported its modules: importing them takes a second of CPU time."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import set_forkserver_preload
from pathlib import Path

set_forkserver_preload(
    [
        "api.app",
        "testhide.adapters",
        "testhide.cli.projections",
        "testhide.http_server",
        "testhide.periodic_work",
        "integrations.saml",
        "integrations.token_buckets",
        "projections.time_travel.historical_tables",
        "workers.deliveries.sender",
        "workers.dispatch.dispatcher",
        "workers.reactions.reaction_dispatcher",
        "workers.reactions.registry",
        "workers.sealer",
    ]
)


END_S = 10.0
"""Seconds that a process has for its own end after the tests were killed."""


class ForkedProcess(ForkServerProcess):
    """A process that runs `testhide` with these arguments and settings. Its output goes to `log`, or to the output of
    the tests.
    """

    def __init__(self, arguments: Sequence[str], settings: Path, log: Path | None) -> None:
        environ = {**os.environ, "TESTHIDE_SETTINGS": str(settings)}
        super().__init__(target=_run, args=(arguments, environ, log), daemon=True)

    def send_signal(self, number: signal.Signals) -> None:
        if self.is_alive() and self.pid is not None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> int:
        """Waits until the process has ended, and returns its exit code."""
        self.join(timeout_s)
        assert self.exitcode is not None, "it does not end"
        return self.exitcode


def _run(arguments: Sequence[str], environ: dict[str, str], log: Path | None) -> None:
    from testhide.cli.main import run

    end_with_the_tests()
    os.environ.clear()
    os.environ.update(environ)
    if log is not None:
        with log.open("ab") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
    sys.argv = ["testhide", *arguments]
    run()


def end_with_the_tests() -> None:
    """Ends this process when the tests have ended without ending it, as workers of pytest-xdist do when the tests are
    interrupted. Otherwise it stays, and with it the process that it was forked from.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(END_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
