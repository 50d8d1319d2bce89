"""What the agent lays beside a workspace for test runners: the wanted tests, those to leave out, a pytest plugin."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.process.privileges import Account

_MODULES = ("testhide_startup", "testhide_pytest_selection")
# Every Python reads it, whatever its version.
_SITECUSTOMIZE = b"""\
import sys

if sys.version_info >= (3, 8):
    import testhide_startup

    testhide_startup.begin()
"""
_QUARANTINE_IN_WORKSPACE = ".testhide_quarantine_file"


def variables(folder: Path, workspace: Path, message: Mapping[str, Any], account: Account | None) -> dict[str, str]:
    """Writes the lists that this build has; what tells its runners of them."""
    found = {}
    test_ids, quarantine = message.get("test_ids"), message.get("quarantine")
    if test_ids is not None:
        found["TESTHIDE_TEST_IDS_FILE"] = _write(folder / "test-ids.txt", _lines(test_ids))
    if quarantine is not None:
        content = _lines(quarantine)
        found["TESTHIDE_QUARANTINE_FILE"] = _write(folder / "quarantine.txt", content)
        _write(workspace / _QUARANTINE_IN_WORKSPACE, content, account)
    return found


def with_plugin(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Lays the pytest plugin down and puts it before what the job itself has on its path."""
    place = folder / "python"
    place.mkdir()
    _write(place / "sitecustomize.py", _SITECUSTOMIZE)
    for name in _MODULES:
        source = pkgutil.get_data("agent.injected", f"{name}.py")
        assert source is not None
        _write(place / f"{name}.py", source)
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, (str(place), env.get("PYTHONPATH"))))}


def _lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{node_id}\n" for node_id in ids).encode("utf-8", "replace")


def _write(path: Path, content: bytes, owner: Account | None = None) -> str:
    """A new file, even where the repository left a link to another."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "wb") as file:
        if owner:
            os.fchown(fd, owner.uid, owner.gid)
        file.write(content)
    return str(path)
