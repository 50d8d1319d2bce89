from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.agent.agent_forks import AgentForks, ForkedAgent
from tests.agent.fake_server import TOKEN, WAIT

# Every user can run it, unlike the Python of a virtual environment in a home folder.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable
FOREVER = "while :; do sleep 0.1; done"
"""Shell command."""
AGENT_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "TZ": "UTC",
    "HTTPS_PROXY": "http://proxy.example",
    "OPERATORS_OWN": "not for builds",
}


class Agent:
    """Runs the zipapp: as a process of `python`, or else as a fork of one that has its modules imported."""

    def __init__(
        self,
        bundle: Path,
        folder: Path,
        url: str,
        *options: str,
        forks: AgentForks,
        python: str | None = None,
        user: int | None = None,
    ) -> None:
        self.workdir = folder / "work"
        self.token_file = folder / "token"
        if not self.token_file.exists():
            self.token_file.write_text(TOKEN + "\n")
            self.token_file.chmod(0o600)
        self.workdir.mkdir(exist_ok=True)
        if user is not None:
            for path in (self.workdir, self.token_file):
                os.chown(path, user, user)
        errors = folder / "stderr"
        self._errors = errors.open("w+")
        token = [] if "--token-file" in options else ["--token-file", str(self.token_file)]
        arguments = ["--server", url, *token, "--workdir", str(self.workdir), *options]
        self.process: subprocess.Popen[bytes] | ForkedAgent
        if python is None:
            self.process = forks.start(arguments, errors)
        else:
            self.process = subprocess.Popen(
                [python, str(bundle), *arguments],
                env=AGENT_ENVIRONMENT,
                user=user,
                stdin=subprocess.DEVNULL,
                stderr=self._errors,
            )

    @property
    def printed(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def wait_printed(self, text: str, expected: bool = True) -> None:
        deadline = time.monotonic() + WAIT
        while expected and text not in self.printed:
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.02)

    def wait(self) -> int:
        return self.process.wait(WAIT)

    def end(self) -> int:
        """End the agent and its builds at once; return its exit code."""
        self.process.send_signal(signal.SIGQUIT)
        return self.wait()

    def close(self) -> None:
        try:
            if self.process.poll() is None:
                self.end()
        finally:
            self.process.kill()
            self.process.wait()
            printed = self.printed
            self._errors.close()
        assert "Traceback" not in printed, printed


StartAgent = Callable[..., Agent]


def processes_until(text: str, count: int) -> None:
    """Wait until at least that many processes have the text in command line or environment."""
    deadline = time.monotonic() + WAIT
    while len(processes_with(text)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_with(text: str) -> list[int]:
    """Return the ids of processes that have the text in their command line or environment."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            for what in ("cmdline", "environ"):
                try:
                    content = Path(f"/proc/{name}/{what}").read_bytes()
                except OSError:
                    continue
                if text.encode() in content:
                    found.append(int(name))
                    break
    return found
