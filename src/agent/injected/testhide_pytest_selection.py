"""A pytest plugin that the agent adds to builds (pytest 6 or newer, Python 3.8 or newer). PYTEST_DONT_REWRITE

It records each test's node id as the property `nodeid` of its case in the JUnit file. With TESTHIDE_TEST_IDS_FILE it
runs only the tests listed in that file: exact node ids, one a line. A run that has none of these tests ends with exit
code 0. An id without parameters means the test with each of its parameters; the id of a subtest means its whole test.
TESTHIDE_QUARANTINE_FILE lists tests to skip, by node ids or by prefixes of node ids that end before `::` or `[`.
TESTHIDE_IGNORE_FAILURES_FILE lists tests in the same form: their failures do not fail a run that writes a JUnit file.
With TESTHIDE_SHARD_FILE the plugin runs only the tests of one shard (see `testhide_pytest_shard`). The plugin has no
effect in a pytest that a test starts. No defect of this plugin ends a test run.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from importlib import import_module
from typing import Any, Iterator  # noqa: UP035 (collections.abc is not enough for 3.8)

import pytest

FILE = "TESTHIDE_TEST_IDS_FILE"
QUARANTINE_FILE = "TESTHIDE_QUARANTINE_FILE"
IGNORE_FAILURES_FILE = "TESTHIDE_IGNORE_FAILURES_FILE"
_PLUGINS = "PYTEST_PLUGINS"
_RUNNING = "TESTHIDE_PYTEST_RUNNING"
"""Variable that the outermost pytest sets to its process id, so that a pytest inside it runs without the plugin."""
_PROPERTY = "nodeid"
_COUNTS_KEY = "testhide_selection"
"""Key of `workeroutput` for two numbers that an xdist worker sends to the main process: the tests that the worker
keeps, and all tests that it has collected.
"""
_SKIPPED_KEY = "testhide_skipped"
"""Key of `workeroutput` for the number of tests that an xdist worker skips. The worker sends it to the main process."""
_PREFIX_ENDS = re.compile(r"::|\[")
_SUBTEST = re.compile(r"::(?=\[|\()")
_MAX_SHOWN_IDS = 3
_NO_TESTS = 5  # pytest's exit code


def pytest_configure(config: pytest.Config) -> None:
    with suppress(Exception):
        is_worker = hasattr(config, "workerinput") or hasattr(config, "slaveinput")
        if is_worker or _RUNNING not in os.environ:
            config.pluginmanager.register(Selection(is_worker), "testhide-selection")


class Selection:
    def __init__(self, is_worker: bool) -> None:
        self._is_worker = is_worker
        self._warnings: list[str] = []
        self._counts: tuple[int, int] | None = None  # tests that are kept, and all that were collected
        self._skipped = 0
        # Hidden from processes that tests start: in those the plugin may be impossible to import.
        self._plugins = os.environ.pop(_PLUGINS, None)
        if self._plugins:
            rest = [name for name in self._plugins.split(",") if name and name != __name__]
            if rest:
                os.environ[_PLUGINS] = ",".join(rest)
        if not is_worker:
            os.environ[_RUNNING] = str(os.getpid())
        self._wanted = self._read_list(FILE, "all tests are kept")
        self._wanted_set = frozenset(
            prefix
            for node_id in self._wanted or ()
            for prefix in (node_id, *(node_id[: end.start()] for end in _SUBTEST.finditer(node_id)))
        )
        self._skipped_ids = self._read_quarantine(QUARANTINE_FILE, "quarantined tests run")
        self._ignored_ids = self._read_quarantine(IGNORE_FAILURES_FILE, "failures of quarantined tests fail this run")
        self._shard: Any = None  # a `SelectedShard`, if this run is one of several
        if self._wanted is None:
            try:
                self._shard = import_module("testhide_pytest_shard").read_shard()
            except Exception as error:
                self._warnings.append(f"the tests of the shard cannot be read, all tests are kept: {error}")
        self._outcome: Any = None  # the `RunOutcome` of a run with a JUnit file

    def _read_list(self, variable: str, otherwise: str) -> list[str] | None:
        path = os.environ.get(variable)
        if path:
            try:
                with open(path, encoding="utf-8") as file:
                    return list(filter(None, file.read().split("\n")))
            except (OSError, ValueError) as error:
                self._warnings.append(f"{variable} cannot be read, {otherwise}: {error}")
        return None

    def _read_quarantine(self, variable: str, otherwise: str) -> frozenset[str]:
        lines = self._read_list(variable, otherwise) or []
        return frozenset(line for line in lines if not line.startswith("#"))

    def pytest_unconfigure(self) -> None:
        """Restore the environment, for the next pytest run in this process."""
        if not self._is_worker:
            os.environ.pop(_RUNNING, None)
        if self._plugins:
            os.environ[_PLUGINS] = self._plugins

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        with suppress(Exception):
            outcome = import_module("testhide_pytest_outcome").RunOutcome(self._ignores_failure)
            if import_module("testhide_pytest_junit").install(session, outcome):
                self._outcome = outcome

    @pytest.hookimpl(trylast=True)
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        # Not later: xdist appends the group of a test to its node id.
        with suppress(Exception):
            if _recorded_id(item) is None:
                item.user_properties.append((_PROPERTY, item.nodeid))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
        yield
        with suppress(Exception):
            if self._wanted is not None or self._shard is not None:
                self._select(config, items)
        with suppress(Exception):
            if self._skipped_ids:
                self._skip(config, items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let a run pass that has none of the selected tests. Either another run of the build has these tests, or the
        server reports that they did not run.
        """
        with suppress(Exception):
            kept, collected = self._counts or (0, 0)
            if session.exitstatus == _NO_TESTS and collected and not kept:
                session.exitstatus = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Copy the counts of an xdist worker: under xdist only workers collect tests."""
        with suppress(Exception):
            self._skipped = node.workeroutput.get(_SKIPPED_KEY, self._skipped)
            kept, collected = node.workeroutput[_COUNTS_KEY]
            self._counts = kept, collected

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        with suppress(Exception):
            for line in self._summary():
                terminalreporter.write_line(f"Testhide: {line}")

    def _select(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        kept = [item for item in items if self._is_wanted(item)]
        deselected = [item for item in items if not self._is_wanted(item)]
        self._counts = len(kept), len(items)
        getattr(config, "workeroutput", {})[_COUNTS_KEY] = list(self._counts)
        if deselected:
            items[:] = kept
            config.hook.pytest_deselected(items=deselected)

    def _skip(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        skip = pytest.mark.skip(reason="in quarantine")
        for item in items:
            if _is_listed(self._skipped_ids, item.nodeid, str(_recorded_id(item))):
                item.add_marker(skip, append=False)
                self._skipped += 1
        getattr(config, "workeroutput", {})[_SKIPPED_KEY] = self._skipped

    def _ignores_failure(self, report: Any, suffix: str = "") -> bool:
        """Return whether the failure is that of a quarantined test. For a subtest, `suffix` is the part of the
        subtest's id that follows the id of its test.
        """
        recorded = _recorded_id(report)
        node_id = report.nodeid if recorded is None else str(recorded)
        return _is_listed(self._ignored_ids, node_id + suffix)

    def _is_wanted(self, item: pytest.Item) -> bool:
        if self._shard is not None:
            recorded = _recorded_id(item)
            return bool(self._shard.has(item.nodeid if recorded is None else str(recorded)))
        ids = {item.nodeid, str(_recorded_id(item))}
        return not self._wanted_set.isdisjoint(ids | {_without_parameters(one) for one in ids})

    def _summary(self) -> Iterator[str]:
        yield from self._warnings
        if self._skipped:
            yield f"{self._skipped} skipped, since they are in quarantine."
        if self._outcome is not None:
            yield from self._outcome.summary()
        if self._counts is None:
            return
        kept, collected = self._counts
        if self._shard is not None:
            yield f"{kept} of {collected} tests are in shard {self._shard.number} of {self._shard.shards}."
        if self._wanted is None:
            return
        wanted_by_build = f"among the {len(set(self._wanted))} that this build asks for"
        if kept:
            yield f"{kept} of {collected} tests are {wanted_by_build}."
            return
        yield f"none of {collected} tests is {wanted_by_build}, so none was run:"
        for wanted in self._wanted[:_MAX_SHOWN_IDS]:
            yield f"    {wanted}"
        if len(self._wanted) > _MAX_SHOWN_IDS:
            yield f"    and {len(self._wanted) - _MAX_SHOWN_IDS} more, in {os.environ.get(FILE)}"


def _is_listed(entries: frozenset[str], *node_ids: str) -> bool:
    return any(
        node_id in entries or any(node_id[: end.start()] in entries for end in _PREFIX_ENDS.finditer(node_id))
        for node_id in node_ids
    )


def _recorded_id(source: Any) -> object:
    """Return the node id among the properties of a test item or of a test report; None if there is none."""
    return next((value for name, value in source.user_properties if name == _PROPERTY), None)


def _without_parameters(node_id: str) -> str:
    """Return the node id without its parameters. Brackets in the name of a folder stay."""
    file, separator, test = node_id.partition("::")
    return file + separator + test.partition("[")[0]
