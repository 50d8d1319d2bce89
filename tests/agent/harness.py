from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.agent.fake_server import TOKEN, WAIT

# One that every user can run, unlike that of a virtual environment in somebody's home.
SYSTEM_PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable
AGENT_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "TZ": "UTC",
    "HTTPS_PROXY": "http://proxy.example",
    "OPERATORS_OWN": "not for builds",
}


class Agent:
    """The zipapp as a process of its own."""

    def __init__(
        self,
        bundle: Path,
        place: Path,
        url: str,
        *options: str,
        python: str = sys.executable,
        user: int | None = None,
    ) -> None:
        self.workdir = place / "work"
        self.token_file = place / "token"
        if not self.token_file.exists():
            self.token_file.write_text(TOKEN + "\n")
            self.token_file.chmod(0o600)
        self.workdir.mkdir(exist_ok=True)
        if user is not None:
            for path in (self.workdir, self.token_file):
                os.chown(path, user, user)
        self._errors = (place / "stderr").open("w+")
        token = [] if "--token-file" in options else ["--token-file", str(self.token_file)]
        self.process = subprocess.Popen(
            [python, str(bundle), "--server", url, *token, "--workdir", str(self.workdir), *options],
            env=AGENT_ENVIRONMENT,
            user=user,
            stdin=subprocess.DEVNULL,
            stderr=self._errors,
        )

    @property
    def said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()

    def wait_said(self, text: str, really: bool = True) -> None:
        deadline = time.monotonic() + WAIT
        while really and text not in self.said:
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)  # between two looks

    def wait(self) -> int:
        return self.process.wait(WAIT)

    def end(self) -> int:
        """At once, with its builds."""
        self.process.send_signal(signal.SIGQUIT)
        return self.wait()

    def close(self) -> None:
        try:
            if self.process.poll() is None:
                self.end()
        finally:
            self.process.kill()
            self.process.wait()
            said = self.said
            self._errors.close()
        assert "Traceback" not in said, said


StartAgent = Callable[..., Agent]


def processes_until(text: str, count: int) -> None:
    """There are that many, or more."""
    deadline = time.monotonic() + WAIT
    while len(processes_with(text)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)  # between two looks


def processes_with(text: str) -> list[int]:
    """Ids of processes whose command line or environment holds the text."""
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
