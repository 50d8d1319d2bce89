"""Builds that run only selected tests: finds which of the selected tests ran, and whether other tests ran too."""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import compress

from commands.reports.reading import ReportRead
from domain.builds import AnyBuild
from domain.quarantine import possible_entries

_UNITTEST = re.compile(r"(\S+\.py::[\w:]+) [\[(]")
"""Matches a subtest in the form of unittest-xml-reporting: `test_a.py::T::test_1 (i=1)`. Reports in this form leave out
subtests that passed.
"""
_SUBTEST = re.compile(r"([^:]+\.py::[^\[(]+?(?:\[(?:[^\[\]]|\[[^\[\]]*\])*\])?)::[\[(]")
"""Matches a subtest as the pytest plugin writes it: `test_a.py::T::test_1[x]::[message]` or `test_a.py::test_1::(i=1)`.
Matches no name of a test that begins with a bracket, `cart_spec.rb::[P1] adds`, and no parameter that contains `::[`.
"""
MAX_NAMED = 5
"""Largest number of tests that are named in the sentence about selected tests without a result. The sentence counts the
others.
"""


def mark_ran(selected: Sequence[str], report: ReportRead, left_out: Collection[str] = ()) -> bytes:
    """Returns one byte for each selected test: 1 if the test or one of its variants or subtests ran, otherwise 0. Tests
    in `left_out`, which the build skips because of their quarantine, also have 1.
    """
    ran = {*left_out, *(entry for node_id in find_ran(report) for entry in possible_entries(node_id))}
    return bytes(node_id in ran or whole_test(node_id) in ran for node_id in selected)


def warn_of_others(selected: Sequence[str], report: ReportRead) -> Iterator[str]:
    """Yields one warning if tests ran that were not selected, and nothing otherwise."""
    # A selected subtest makes its whole test run, and a bare id makes all variants of its test run.
    tests = {*selected, *map(whole_test, selected)}
    others = sum(tests.isdisjoint(possible_entries(node_id)) for node_id in find_ran(report))
    if others:
        yield (
            f"the build was to run only {len(selected):,} of its tests, but this report has {others:,} others that"
            " ran: the command has to select the tests that the file $TESTHIDE_TEST_IDS_FILE lists"
            " (examples/runners/README.md)"
        )


def describe_not_run(build: AnyBuild) -> str | None:
    """Returns a sentence about the selected tests that have not run. Returns None if all of them have run or if the
    build runs all tests. Also returns None if an older release recorded one of the reports: such a report does not say
    which tests ran.
    """
    selected = build.queued.test_ids
    reports = [report.selected_ran for report in build.counting_reports if not report.missing]
    if selected is None or None in reports:
        return None
    ran = {index for flags in reports for index, has_run in enumerate(flags or b"") if has_run}
    not_run = [node_id for index, node_id in enumerate(selected) if index not in ran]
    if not not_run:
        return None
    more = f" and {len(not_run) - MAX_NAMED:,} more" if len(not_run) > MAX_NAMED else ""
    return (
        f"{len(selected) - len(not_run):,} of {len(selected):,} selected tests ran;"
        f" without a result: {', '.join(not_run[:MAX_NAMED])}{more}."
    )


def find_ran(report: ReportRead) -> Collection[str]:
    """Returns the node ids of the tests that ran: those that were not skipped, and those that failed as expected, which
    pytest writes as skipped.
    """
    return [report.node_ids[test] for test in set(compress(report.tests, report.ran))]


def whole_test(node_id: str) -> str:
    """Returns the node id of the test that a subtest belongs to; any other node id unchanged."""
    subtest = _UNITTEST.match(node_id) or _SUBTEST.match(node_id)
    return subtest[1] if subtest else node_id
