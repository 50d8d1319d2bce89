"""Creates and removes the folders of one build, and makes the environment variables of its commands."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from agent.console import print_line
from agent.process import removal
from agent.process.orphans import RECORD_FILE
from agent.process.privileges import BuildAccount

_INHERITED = (
    *("PATH", "TZ"),
    *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
    *("GIT_SSL_CAINFO", "PIP_CERT"),
)


class Workspace:
    """Folder of one build or administrator command. The folder belongs to the agent's user, and its subfolders
    workspace, home and tmp belong to `account`. Without `account`, all of them belong to the agent's user.
    """

    def __init__(self, folder: Path, account: BuildAccount | None) -> None:
        self.folder = folder
        self.root = folder / "workspace"
        self.record = str(folder / RECORD_FILE)
        self.account = account
        self._home = folder / "home"
        self._tmp = folder / "tmp"
        remove_folder(folder)
        folder.mkdir(parents=True)
        if account:
            os.chown(folder, -1, account.gid)  # other builds cannot enter: their group is another one
        folder.chmod(0o710 if account else 0o700)
        for part in (self.root, self._home, self._tmp):
            part.mkdir(mode=0o700)
            if account:
                os.chown(part, account.uid, account.gid)

    def base_environment(self) -> dict[str, str]:
        """Return the environment variables of every process that the agent starts for a build, including git."""
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        return {
            "PATH": os.defpath,
            **inherited,
            "HOME": str(self._home),
            "TMPDIR": str(self._tmp),
            "LANG": "C.UTF-8",
        }

    def environment(self, build: dict[str, Any], commit: str | None) -> dict[str, str]:
        """Return the environment variables of the build's setup lines and command. `build` is the server's `run`
        message.
        """
        return {
            **self.base_environment(),
            "CI": "true",
            "TESTHIDE": "true",
            "PYTHONUNBUFFERED": "1",  # otherwise the output of a Python test run arrives in blocks
            "JEST_JUNIT_REPORT_TEST_SUITE_ERRORS": "true",  # otherwise it leaves out files that do not load
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

    def read_clock_ns(self) -> int:
        """Return the time, in ns, that the file system gives to a file which is written now. It may be a tick behind
        the machine's clock.
        """
        with tempfile.TemporaryFile(dir=self.folder) as marker:
            return os.fstat(marker.fileno()).st_mtime_ns

    def remove(self) -> None:
        remove_folder(self.folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder. If not all of it can be removed, print why. In any case, `folder` no longer exists
    afterwards.
    """
    try:
        removal.remove_tree(folder)
    except OSError as error:
        print_line(f"Cannot remove all of {folder}; the rest is kept in {folder.parent}: {error.strerror}")


def remove_remains(parent: Path) -> None:
    """Remove the remains that earlier calls of `remove_folder` left in `parent`. Print why if this fails again."""
    try:
        removal.remove_remains(parent)
    except OSError as error:
        print_line(f"Cannot remove folders of earlier builds in {parent}: {error.strerror}")
