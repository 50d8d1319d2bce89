"""Parses and sorts what comes out, for the tests."""

from collections.abc import Iterable
from typing import NamedTuple

from commands.reports.parser import Case, Limits, Suite, Summary, parse_report


class Parsed(NamedTuple):
    cases: list[Case]
    suites: list[Suite]
    summary: Summary

    @property
    def kinds(self) -> set[str]:
        return {warning.kind for warning in self.summary.warnings}

    @property
    def ids(self) -> list[str]:
        return [case.node_id for case in self.cases]

    @property
    def statuses(self) -> list[str]:
        return [case.status for case in self.cases]


def parsed(report: str | bytes | Iterable[bytes], limits: Limits = Limits()) -> Parsed:  # noqa: B008  # frozen
    if isinstance(report, str):
        report = report.encode()
    chunks = [report] if isinstance(report, bytes) else report
    items = list(parse_report(chunks, limits=limits))
    summary = items.pop()
    assert isinstance(summary, Summary)
    cases = [item for item in items if isinstance(item, Case)]
    suites = [item for item in items if isinstance(item, Suite)]
    assert len(cases) + len(suites) == len(items)
    for counts in (suite.counts for suite in suites):
        assert counts.tests == counts.passed + counts.failed + counts.skipped
    return Parsed(cases, suites, summary)
