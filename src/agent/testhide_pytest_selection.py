"""A pytest plugin of the build machine's agent (pytest 6 or newer, Python 3.8 or newer). PYTEST_DONT_REWRITE

It records each test's node id as the property `nodeid` of its case in the JUnit file, and where TESTHIDE_TEST_IDS_FILE
names a file keeps only the tests that are listed there: exact node ids, one a line; one without parameters means the
test with all of its parameters. A pytest that a test starts is left alone, and no fault of ours ends a run.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Iterator  # noqa: UP035 (collections.abc is not enough for 3.8)

import pytest

FILE = "TESTHIDE_TEST_IDS_FILE"
_PLUGINS = "PYTEST_PLUGINS"
_RUNNING = "TESTHIDE_PYTEST_RUNNING"  # the process that the others are inside of
_PROPERTY = "nodeid"
_TOLD = "testhide_selection"  # what an xdist worker tells
_SHOWN = 3


def pytest_configure(config: pytest.Config) -> None:
    with suppress(Exception):
        is_worker = hasattr(config, "workerinput") or hasattr(config, "slaveinput")
        if is_worker or _RUNNING not in os.environ:
            config.pluginmanager.register(Selection(is_worker), "testhide-selection")


class Selection:
    def __init__(self, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._wanted: list[str] | None = None
        self._trouble = ""
        self._counts: tuple[int, int] | None = None  # kept, collected
        # Not for the processes that tests start: theirs may not find the plugin that it names.
        self._plugins = os.environ.pop(_PLUGINS, None)
        if self._plugins:
            rest = [name for name in self._plugins.split(",") if name and name != __name__]
            if rest:
                os.environ[_PLUGINS] = ",".join(rest)
        if not is_worker:
            os.environ[_RUNNING] = str(os.getpid())
        path = os.environ.get(FILE)
        if path:
            try:
                with open(path, encoding="utf-8") as file:
                    self._wanted = list(filter(None, file.read().split("\n")))
            except (OSError, ValueError) as error:
                self._trouble = f"{FILE} cannot be read, all tests are kept: {error}"
        self._set = frozenset(self._wanted or ())

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

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """xdist: only its workers collect."""
        with suppress(Exception):
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

    def _is_wanted(self, item: pytest.Item) -> bool:
        ids = {item.nodeid, str(_recorded(item))}
        return not self._set.isdisjoint(ids | {_without_parameters(one) for one in ids})

    def _summary(self) -> Iterator[str]:
        if self._trouble:
            yield self._trouble
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
