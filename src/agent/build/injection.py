"""Writes files for test runners next to a workspace: plugins for pytest and unittest, and lists of tests. The lists
name the selected tests, those in quarantine, those of this shard and those of the other shards.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.process.privileges import BuildAccount

_MODULES = (
    "testhide_startup",
    "testhide_pytest_selection",
    "testhide_pytest_shard",
    "testhide_pytest_junit",
    "testhide_pytest_outcome",
    "testhide_unittest_selection",
)
_SITECUSTOMIZE = b"""\
import sys

if sys.version_info >= (3, 8):
    import testhide_startup

    testhide_startup.begin()
"""
"""Source of the module `sitecustomize`. Every Python process of the build imports this module at its start. In a
version of Python that the plugin does not support, the module does nothing.
"""
LISTS = ("TESTHIDE_TEST_IDS_FILE", "TESTHIDE_QUARANTINE_FILE", "TESTHIDE_IGNORE_FAILURES_FILE")
SHARD_LISTS = ("TESTHIDE_SHARD_FILE", "TESTHIDE_OTHER_SHARDS_FILE")
SHARD_NUMBERS = ("TESTHIDE_SHARD", "TESTHIDE_SHARDS")
PINNED = (*LISTS, *SHARD_LISTS, *SHARD_NUMBERS)
"""Environment variables that hold the paths of the lists of tests, the number of the shard, and the number of shards.
After each setup line the agent sets them again. If a setup line could change them, a list would be ignored, or tests of
a shard would be left out, without any message.
"""
_PLUGIN = "python"
_QUARANTINE_IN_WORKSPACE = ".testhide_quarantine_file"


def write_lists(
    folder: Path, workspace: Path, message: Mapping[str, Any], account: BuildAccount | None
) -> dict[str, str]:
    """Write the lists of tests that the `run` message contains. Return the environment variables that hold the paths of
    the files and, for a shard, its number and the number of shards.
    """
    variables = {}
    test_ids, quarantine, ignored = map(message.get, ("test_ids", "quarantine", "ignore_failures_of"))
    ids_file, quarantine_file, ignored_file = LISTS
    if test_ids is not None:
        variables[ids_file] = _write(folder / "test-ids.txt", _lines(test_ids))
    if quarantine is not None:
        content = _lines(quarantine)
        variables[quarantine_file] = _write(folder / "quarantine.txt", content)
        _write(workspace / _QUARANTINE_IN_WORKSPACE, content, account)
    if ignored is not None:
        variables[ignored_file] = _write(folder / "ignore-failures.txt", _lines(ignored))
    if (shard := message.get("shard")) is not None:
        shard_file, others_file = SHARD_LISTS
        variables[shard_file] = _write(folder / "shard.txt", _lines(shard["tests"]))
        variables[others_file] = _write(folder / "other-shards.txt", _lines(shard["other_tests"]))
        number, count = SHARD_NUMBERS
        variables |= {number: str(shard["number"]), count: str(shard["count"])}
    return variables


def describe_lists(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield notes for the log about the tests that the build runs, if it does not run all."""
    if (test_ids := message.get("test_ids")) is not None:
        yield f"Only these tests are wanted: {len(test_ids)}, named in $TESTHIDE_TEST_IDS_FILE"
    if (shard := message.get("shard")) is not None:
        number, count, known = shard["number"], shard["count"], len(shard["tests"])
        yield f"Shard {number} of {count}: {known} known tests, in $TESTHIDE_SHARD_FILE"


def install_plugin(folder: Path) -> None:
    """Copy the plugins for pytest and unittest into a subfolder of `folder`, with the `sitecustomize` for them."""
    plugin = folder / _PLUGIN
    plugin.mkdir()
    _write(plugin / "sitecustomize.py", _SITECUSTOMIZE)
    for name in _MODULES:
        source = pkgutil.get_data("agent.injected", f"{name}.py")
        assert source is not None
        _write(plugin / f"{name}.py", source)


def add_plugin(folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of `env` in which PYTHONPATH contains the plugin's folder. If PYTHONPATH lacks this folder, the
    folder is put first.
    """
    plugin, path = str(folder / _PLUGIN), env.get("PYTHONPATH") or ""
    if plugin in path.split(os.pathsep):
        return dict(env)
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, (plugin, path)))}


def _lines(ids: Iterable[str]) -> bytes:
    return "".join(f"{node_id}\n" for node_id in ids).encode("utf-8", "replace")


def _write(path: Path, content: bytes, account: BuildAccount | None = None) -> str:
    """Create a new file and return its path. The file belongs to `account` if that is given. An old file or link at the
    path is removed first: a link in the repository could otherwise redirect the content.
    """
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "wb") as file:
        if account:
            os.fchown(fd, account.uid, account.gid)
        file.write(content)
    return str(path)
