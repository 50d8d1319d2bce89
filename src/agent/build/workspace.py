"""The folders of one build, its environment, and getting rid of both."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from agent.console import say
from agent.process.orphans import RECORD
from agent.process.privileges import Account

_INHERITED = (
    *("PATH", "TZ"),
    *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *("GIT_SSL_CAINFO", "PIP_CERT"),
)


class Workspace:
    """`<folder>` is the agent's; the workspace, home and tmp in it are the build's and nobody else's."""

    def __init__(self, folder: Path, account: Account | None) -> None:
        self.folder = folder
        self.root = folder / "workspace"
        self.record = str(folder / RECORD)
        self._home = folder / "home"
        self._tmp = folder / "tmp"
        remove(folder)
        folder.mkdir(parents=True)
        folder.chmod(0o711 if account else 0o700)
        for part in (self.root, self._home, self._tmp):
            part.mkdir(mode=0o700)
            if account:
                os.chown(part, account.uid, account.gid)

    def base_environment(self) -> dict[str, str]:
        """What the agent's own git runs with, and every build."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return {
            "PATH": os.defpath,
            **inherited,
            "HOME": str(self._home),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
        }

    def environment(self, build: dict[str, Any], commit: str | None) -> dict[str, str]:
        return {
            **self.base_environment(),
            "CI": "true",
            "TESTHIDE": "true",
            "PYTHONUNBUFFERED": "1",  # or the lines of a Python test run come in blocks
            "TESTHIDE_BUILD_ID": str(build["id"]),
            "TESTHIDE_JOB_ID": str(build["job_id"]),
            "TESTHIDE_JOB_NAME": str(build["job_name"]),
            "TESTHIDE_PROJECT_ID": str(build["project_id"]),
            "TESTHIDE_BRANCH": build.get("branch") or "",
            "TESTHIDE_COMMIT": commit or "",
            "TESTHIDE_WORKSPACE": str(self.root),
            "TESTHIDE_REPORT_XML": str(self.root / "junittests.xml"),
            **{name: str(value) for name, value in (*build["env"].items(), *build["secrets"].items())},
        }

    def now(self) -> int:
        """The file system's idea of now, in ns: its clock ticks more coarsely than the machine's."""
        with tempfile.TemporaryFile(dir=self.folder) as marker:
            return os.fstat(marker.fileno()).st_mtime_ns

    def remove(self) -> None:
        remove(self.folder)


def remove(folder: Path) -> None:
    if not folder.exists():
        return
    if os.geteuid() != 0:
        _make_writable(folder)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        say(f"Cannot remove all of {folder}: it holds files of another user.")


def _make_writable(folder: Path) -> None:
    """Not even the owner can delete what is in a read-only folder. (Root can.)"""
    for path, folders, _ in os.walk(folder):
        for name in folders:
            inner = os.path.join(path, name)
            with contextlib.suppress(OSError):  # another user's: the removal will tell
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
