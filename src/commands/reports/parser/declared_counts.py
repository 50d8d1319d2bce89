"""Reads the numbers of tests that a report file declares for a suite or a run, and compares them with the cases in the
file.
"""

from commands.reports.parser.case import Counts, Declared
from commands.reports.parser.notes import Notes
from commands.reports.parser.values import whole_number


def total_as_declared(declared: Declared, elements: Counts, folded: Counts) -> Counts:
    """Returns the counts to compare with the declared counts. `elements` counts each <testcase> once. `folded` counts
    the other attempts that are written inside a <testcase>. Some reporters, such as surefire, include these attempts in
    the declared number of tests. If the declared number shows this, returns the sum of `elements` and `folded`, and
    otherwise `elements`.
    """
    total = Counts()
    total.include(elements)
    if declared.tests == elements.tests + folded.tests:
        total.include(folded)
    return total


def describe_mismatches(declared: Declared, total: Counts, direct: Counts, *, junit: bool, pytest: bool) -> list[str]:
    """Returns a description of each declared count that is wrong. A count is right if it equals the count in `total`,
    which includes nested suites, or in `direct`, which does not.

    Some differences are normal and not described. pytest counts subtests as tests and failures of their own, but writes
    them into the element of their test. jest-junit does not count a `todo`, but writes it as a skipped test; so a file
    may contain more tests and more skipped tests than it declares. gotestsum declares no count for a package that could
    not be built, but writes it as a failed test.
    """
    wrong: list[str] = []
    for what in ("tests", "failures", "errors", "skipped"):
        says = getattr(declared, what)
        found = [_found(counts, what, junit) for counts in (total, direct)]
        if says is None or says in found:
            continue
        is_more = junit and what in ("tests", "skipped") and says < max(found)
        is_of_subtests = pytest and (what == "tests" or (what == "failures" and max(found) > 0))
        is_of_suite = junit and what == "failures" and declared.tests == 0 and says < max(found)
        if not is_more and not is_of_subtests and not is_of_suite:
            wrong.append(f"{says:,} {what} instead of {found[0]:,}")
    return wrong


def count_lost_failures(declared: Declared, counts: Counts, *, junit: bool, pytest: bool) -> int:
    """Returns how many failures and errors are lost: the declared number minus the failed cases in the file. For
    pytest, leaves out failures that may come from subtests, which have no case of their own.
    """
    failures, errors = declared.failures or 0, (declared.errors or 0) if junit else 0
    if pytest and counts.failed > counts.errors:
        failures = min(failures, counts.failed - counts.errors)
    return max(0, failures + errors - counts.failed)


def count_lost_tests(declared: Declared, counts: Counts, *, pytest: bool) -> int:
    """Returns how many tests are lost: the declared number minus the cases in the file. Returns 0 for pytest, whose
    declared number includes subtests, which have no case of their own.
    """
    return 0 if pytest else max(0, (declared.tests or 0) - counts.tests)


def _found(counts: Counts, what: str, junit: bool) -> int:
    if what == "failures":
        return counts.failed - counts.errors if junit else counts.failed
    return int(getattr(counts, what))


def declared_by(element: str, attributes: dict[str, str], notes: Notes) -> Declared:
    def number(name: str) -> int | None:
        return whole_number(attributes.get(name, ""), name, notes)

    def both(first: str, second: str) -> int | None:
        one, two = number(first), number(second)
        return None if one is None and two is None else (one or 0) + (two or 0)

    if element in ("testsuite", "testsuites"):
        # gtest counts disabled tests separately; here they count as skipped.
        skipped = (
            both("skipped", "disabled") if "skipped" in attributes or attributes.get("disabled", "0") != "0" else None
        )
        return Declared(tests=number("tests"), failures=number("failures"), errors=number("errors"), skipped=skipped)
    if element == "assembly":
        return Declared(
            tests=both("total", "errors"),
            errors=number("errors"),
            skipped=both("skipped", "not-run"),
            failures=both("failed", "errors"),
        )
    if element == "assemblies":
        return Declared()
    if element == "test-results":  # NUnit 2: `total` leaves out tests that did not run
        return Declared(failures=both("failures", "errors"))
    return Declared(tests=number("total"), failures=number("failed"), skipped=both("skipped", "inconclusive"))


def declared_by_catch2(declared: Declared) -> Declared:
    """Returns counts that have only `failures`: the sum of the failures and errors that a Catch2 report declares. Its
    other declared numbers count assertions, not tests, so they are left out.
    """
    return Declared(failures=(declared.failures or 0) + (declared.errors or 0))


def declared_by_trx(attributes: dict[str, str], notes: Notes) -> Declared:
    def number(name: str) -> int | None:
        return whole_number(attributes.get(name, ""), name, notes)

    total, executed, failed = number("total"), number("executed"), number("failed")
    others = sum(number(name) or 0 for name in ("error", "timeout", "aborted", "disconnected", "inProgress"))
    return Declared(
        tests=total,
        failures=None if failed is None else failed + others,
        # No counter of `dotnet test` includes skipped tests, but they were not executed.
        skipped=None if total is None or executed is None else total - executed,
    )
