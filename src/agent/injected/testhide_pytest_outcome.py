"""Counts the failures of a pytest run that writes a JUnit file, and lets the run pass if only quarantined tests failed.
PYTEST_DONT_REWRITE

If a complete run has no other failures, pytest ends as if the quarantined tests had passed. If the run ended early,
`RunOutcome.not_run` is the number of tests that it did not run.
"""

from __future__ import annotations

from ast import literal_eval
from contextlib import suppress
from typing import Any, Callable, Iterator  # noqa: UP035 (collections.abc is not enough for 3.8)

import pytest


class RunOutcome:
    """Counts the failures of a run as pytest's session does, and lets the run pass if all of them are in quarantine. It
    gets each report before the plugins that print results, since some of these change the report's outcome.
    """

    def __init__(self, ignores: Callable[..., bool]) -> None:
        self._ignores = ignores
        self._finished: set[str] = set()
        self._ignorable = 0
        self.failures = 0
        """Number of failures that make pytest end with exit code 1."""
        self.ignored = 0
        self.not_run = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not hasattr(report, "wasxfail"):
            self.failures += 1
            with suppress(Exception):
                self._ignorable += self._ignores(
                    report, f"::{self.describe_subtest(report)}" if hasattr(report, "context") else ""
                )

    def pytest_collectreport(self, report: Any) -> None:
        self.failures += report.failed

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._finished.add(nodeid)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_collection(self) -> Iterator[None]:
        outcome: Any = yield
        self.not_run = int(outcome.excinfo is not None)

    @pytest.hookimpl(hookwrapper=True, trylast=True)  # before other wrappers, such as a coverage gate, look at the run
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        outcome: Any = yield
        with suppress(Exception):
            if outcome.excinfo is not None:
                self.not_run = max(0, session.testscollected - len(self._finished))
            elif self._ignorable == self.failures == session.testsfailed:
                session.testsfailed = self.failures = 0
                self.ignored = self._ignorable

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
