"""A pytest plugin of the build machine's agent (pytest 6 or newer, Python 3.8 or newer). PYTEST_DONT_REWRITE

It records each test's node id as the property `nodeid` of its case in the JUnit file, and where TESTHIDE_TEST_IDS_FILE
names a file keeps only the tests that are listed there: exact node ids, one a line; one without parameters means the
test with all of its parameters. What TESTHIDE_QUARANTINE_FILE lists is skipped: node ids, or prefixes of them that
`::` or `[` follows. A pytest that a test starts is left alone, and no fault of ours ends a run.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any, Iterator  # noqa: UP035 (collections.abc is not enough for 3.8)

import pytest

FILE = "TESTHIDE_TEST_IDS_FILE"
QUARANTINE_FILE = "TESTHIDE_QUARANTINE_FILE"
_PLUGINS = "PYTEST_PLUGINS"
_RUNNING = "TESTHIDE_PYTEST_RUNNING"  # the process that the others are inside of
_PROPERTY = "nodeid"
_TOLD, _TOLD_SKIPPED = "testhide_selection", "testhide_skipped"  # what an xdist worker tells
_ENDS = re.compile(r"::|\[")
_SHOWN = 3


def pytest_configure(config: pytest.Config) -> None:
    with suppress(Exception):
        is_worker = hasattr(config, "workerinput") or hasattr(config, "slaveinput")
        if is_worker or _RUNNING not in os.environ:
            config.pluginmanager.register(Selection(is_worker), "testhide-selection")


class Selection:
    def __init__(self, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._troubles: list[str] = []
        self._counts: tuple[int, int] | None = None  # kept, collected
        self._skipped = 0
        # Not for the processes that tests start: theirs may not find the plugin that it names.
        self._plugins = os.environ.pop(_PLUGINS, None)
        if self._plugins:
            rest = [name for name in self._plugins.split(",") if name and name != __name__]
            if rest:
                os.environ[_PLUGINS] = ",".join(rest)
        if not is_worker:
            os.environ[_RUNNING] = str(os.getpid())
        self._wanted = self._listed(FILE, "all tests are kept")
        self._set = frozenset(self._wanted or ())
        quarantine = self._listed(QUARANTINE_FILE, "quarantined tests run") or []
        self._quarantine = frozenset(line for line in quarantine if not line.startswith("#"))

    def _listed(self, variable: str, otherwise: str) -> list[str] | None:
        path = os.environ.get(variable)
        if path:
            try:
                with open(path, encoding="utf-8") as file:
                    return list(filter(None, file.read().split("\n")))
            except (OSError, ValueError) as error:
                self._troubles.append(f"{variable} cannot be read, {otherwise}: {error}")
        return None

    def pytest_unconfigure(self) -> None:
        """The next run of this process begins like the first."""
        if not self._is_worker:
            os.environ.pop(_RUNNING, None)
        if self._plugins:
            os.environ[_PLUGINS] = self._plugins

    @pytest.hookimpl(trylast=True)
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        # Now: xdist appends the group of a test to its node id later.
        with suppress(Exception):
            if _recorded(item) is None:
                item.user_properties.append((_PROPERTY, item.nodeid))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
        yield
        with suppress(Exception):
            if self._wanted is not None:
                self._select(config, items)
        with suppress(Exception):
            if self._quarantine:
                self._skip(config, items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """xdist: only its workers collect."""
        with suppress(Exception):
            self._skipped = node.workeroutput.get(_TOLD_SKIPPED, self._skipped)
            kept, collected = node.workeroutput[_TOLD]
            self._counts = kept, collected

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        with suppress(Exception):
            for line in self._summary():
                terminalreporter.write_line(f"Testhide: {line}")

    def _select(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept: list[pytest.Item] = []
        left_out: list[pytest.Item] = []
        for item in items:
            (kept if self._is_wanted(item) else left_out).append(item)
        self._counts = len(kept), len(items)
        output = getattr(config, "workeroutput", None)
        if output is not None:
            output[_TOLD] = list(self._counts)
        if left_out:
            items[:] = kept
            config.hook.pytest_deselected(items=left_out)

    def _skip(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        skip = pytest.mark.skip(reason="in quarantine")
        for item in items:
            if self._is_quarantined(item):
                item.add_marker(skip, append=False)
                self._skipped += 1
        output = getattr(config, "workeroutput", None)
        if output is not None:
            output[_TOLD_SKIPPED] = self._skipped

    def _is_quarantined(self, item: pytest.Item) -> bool:
        return any(
            node_id in self._quarantine
            or any(node_id[: end.start()] in self._quarantine for end in _ENDS.finditer(node_id))
            for node_id in (item.nodeid, str(_recorded(item)))
        )

    def _is_wanted(self, item: pytest.Item) -> bool:
        ids = {item.nodeid, str(_recorded(item))}
        return not self._set.isdisjoint(ids | {_without_parameters(one) for one in ids})

    def _summary(self) -> Iterator[str]:
        yield from self._troubles
        if self._skipped:
            yield f"{self._skipped} skipped, since they are in quarantine."
        if self._wanted is None or self._counts is None:
            return
        kept, collected = self._counts
        if kept:
            yield f"{kept} of {collected} tests are among the {len(self._set)} that this build asks for."
            return
        yield f"none of {collected} tests is among the {len(self._set)} that this build asks for, so none was run:"
        for wanted in self._wanted[:_SHOWN]:
            yield f"    {wanted}"
        if len(self._wanted) > _SHOWN:
            yield f"    and {len(self._wanted) - _SHOWN} more, in {os.environ.get(FILE)}"


def _recorded(item: pytest.Item) -> object:
    return next((value for name, value in item.user_properties if name == _PROPERTY), None)


def _without_parameters(node_id: str) -> str:
    """Not the brackets of a folder's name."""
    file, separator, test = node_id.partition("::")
    return file + separator + test.partition("[")[0]
