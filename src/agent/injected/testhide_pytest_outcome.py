"""Counts the failures of a pytest run that writes a JUnit file, and lets the run pass if only quarantined tests failed.
PYTEST_DONT_REWRITE

If a complete run has no other failures, pytest ends as if the quarantined tests had passed. If the run ended early,
`RunOutcome.not_run` is the number of tests that it did not run. This number is counted, since not every run that ends
early raises an exception: xdist gives up after too many crashes of its workers, and ends as after a complete run.
"""

from __future__ import annotations

from ast import literal_eval
from collections import Counter
from contextlib import suppress
from typing import Any, Callable, Iterator, Sequence  # noqa: UP035 (collections.abc is not enough for 3.8)

import pytest


class RunOutcome:
    """Counts the failures of a run as pytest's session does, and lets the run pass if all of them are in quarantine. It
    gets each report before the plugins that print results, since some of these change the report's outcome.
    """

    def __init__(self, ignores: Callable[..., bool]) -> None:
        self._ignores = ignores
        self._runs_each = False
        """Whether each worker of xdist runs all of its tests (`--dist each`)."""
        self._collected: dict[int, Counter[str]] = {}
        """Node ids of the tests to run, by the number of their worker (see `_number`). The same node id may occur
        several times, as with `--keep-duplicates`.
        """
        self._finished: Counter[tuple[int, str]] = Counter()
        """How many tests have ended, by the number of their worker and by their node id."""
        self._repeated: set[tuple[int, str]] = set()
        """Number of the worker and node id of each test that failed and will be repeated."""
        self._ignorable = 0
        self.failures = 0
        """Number of failures that make pytest end with exit code 1."""
        self.ignored = 0
        self.not_run = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        with suppress(Exception):
            self._note_end(report)
        if report.failed and not hasattr(report, "wasxfail"):
            self.failures += 1
            with suppress(Exception):
                self._ignorable += self._ignores(
                    report, f"::{self.describe_subtest(report)}" if hasattr(report, "context") else ""
                )

    def pytest_collectreport(self, report: Any) -> None:
        self.failures += report.failed

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if not self._runs_each and (0, nodeid) not in self._repeated:  # the test may have no report of its teardown
            self._finished[0, nodeid] = self._finished[0, nodeid] or 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        with suppress(Exception):
            worker = self._number(node)
            self._collected[worker] = self._collected.get(worker, Counter()) | Counter(ids)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection(self) -> Iterator[None]:
        outcome: Any = yield
        self.not_run = int(outcome.excinfo is not None)

    @pytest.hookimpl(hookwrapper=True, trylast=True)  # before other wrappers, such as a coverage gate, look at the run
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        with suppress(Exception):
            self._runs_each = getattr(session.config.option, "dist", "no") == "each"
            self._collected[0] = Counter(item.nodeid for item in session.items)
        outcome: Any = yield
        with suppress(Exception):
            if outcome.excinfo is not None or not session.config.option.collectonly:
                self.not_run = self._count_not_run()
            if outcome.excinfo is None and not self.not_run and self._ignorable == self.failures == session.testsfailed:
                session.testsfailed = self.failures = 0
                self.ignored = self._ignorable

    def _number(self, node: Any) -> int:
        """Return a number for an xdist worker, which the workers that replace it after a crash have too. Return 0 if
        the workers share the tests, or without xdist.
        """
        return id(node.gateway.spec) if self._runs_each else 0

    def _note_end(self, report: Any) -> None:
        key = self._number(getattr(report, "node", None)), report.nodeid
        if report.outcome == "rerun":
            self._repeated.add(key)
        elif report.when in ("setup", "???"):  # "???" means that the worker crashed
            self._repeated.discard(key)
        has_ended = report.when in ("teardown", "???")
        self._finished[key] += has_ended and key not in self._repeated

    def _count_not_run(self) -> int:
        collected = {(worker, node_id): n for worker, ids in self._collected.items() for node_id, n in ids.items()}
        return sum((Counter(collected) - self._finished).values())

    def summary(self) -> Iterator[str]:
        if self.ignored:
            yield f"failures ignored, since their tests are in quarantine: {self.ignored}."
        if self.not_run:
            yield f"the run ended early; tests that did not run: {self.not_run}."

    @staticmethod
    def describe_subtest(report: Any) -> str:
        """Return the description of a subtest in the form that pytest writes without xdist. With xdist, the values of a
        subtest of pytest 9 arrive quoted twice, so one pair of quotes is removed.
        """
        context = report.context
        is_builtin = type(context).__module__ == "_pytest.subtests"  # whose values are texts already
        values = {}
        for name, value in context.kwargs.items():
            values[name] = value if is_builtin else repr(value)
            if is_builtin and hasattr(report, "node"):
                with suppress(SyntaxError, ValueError):
                    values[name] = str(literal_eval(value))
        parts = [f"[{context.msg}]"] if isinstance(context.msg, str) else []
        if values:
            described = ", ".join(f"{name}={value}" for name, value in values.items())
            parts.append(f"({described})")
        return " ".join(parts) or "(<subtest>)"
