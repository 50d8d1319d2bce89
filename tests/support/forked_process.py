"""A process of the server, forked from one that has imported its modules: importing them takes a second of CPU time."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import cache
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.forkserver import ensure_running, set_forkserver_preload
from pathlib import Path

set_forkserver_preload(
    [
        "api.app",
        "testhide.adapters",
        "testhide.cli.app",
        "testhide.cli.projections",
        "testhide.http_server",
        "testhide.periodic_work",
        "integrations.docker.engine",
        "integrations.saml",
        "integrations.token_buckets",
        "projections.time_travel.historical_tables",
        "workers.deliveries.sender",
        "workers.dispatch.dispatcher",
        "workers.reactions.reaction_dispatcher",
        "workers.reactions.registry",
        "workers.sealer",
        "tests.support.made_app",
    ]
)


END_S = 10.0
"""Seconds that a process has for its own end after the tests were killed."""
VERB_S = 60.0
"""Seconds that a verb may take."""


@cache
def _start_fork_server() -> None:
    """Starts the process that the others are forked from. Before Python 3.13 it does not look for modules where this
    process does, so it has to be told where those of the tests are.
    """
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    try:
        ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Forked(ForkServerProcess):
    def start(self) -> None:
        _start_fork_server()
        super().start()


class ForkedProcess(Forked):
    """A process that runs `testhide` with these arguments and settings. Its output goes to `log`, or to the output of
    the tests.
    """

    def __init__(self, arguments: Sequence[str], settings: Path, log: Path | None) -> None:
        environ = {**os.environ, "TESTHIDE_SETTINGS": str(settings)}
        super().__init__(target=_run, args=(arguments, environ, log, log), daemon=True)

    def send_signal(self, number: signal.Signals) -> None:
        if self.is_alive() and self.pid is not None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> int:
        """Waits until the process has ended, and returns its exit code."""
        self.join(timeout_s)
        assert self.exitcode is not None, "it does not end"
        return self.exitcode


def run_forked(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs `testhide` with these arguments, and with no TESTHIDE_ variables but the given ones, to its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        code = _run_to_end(arguments, kept | environ, output, errors)
        return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())


def run_for(pid: int, folder: Path, arguments: Sequence[str], environ: dict[str, str]) -> int:
    """Runs `testhide` to its end, in this folder and with the standard output and errors of another process. Returns
    the exit code.
    """
    files = Path(f"/proc/{pid}/fd")
    return _run_to_end(arguments, environ, files / "1", files / "2", folder)


def _run_to_end(
    arguments: Sequence[str], environ: dict[str, str], output: Path, errors: Path, folder: Path | None = None
) -> int:
    process = Forked(target=_run, args=(arguments, environ, output, errors, folder), daemon=True)
    process.start()
    process.join(VERB_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(
    arguments: Sequence[str],
    environ: dict[str, str],
    output: Path | None,
    errors: Path | None,
    folder: Path | None = None,
) -> None:
    from testhide.cli.main import run

    end_with_the_tests()
    if folder is not None:
        os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    for stream, path in ((1, output), (2, errors)):
        if path is not None:
            with path.open("ab") as file:
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
