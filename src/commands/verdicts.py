"""Decides the verdict of a build, finds the exit codes that ignored failures excuse, and explains the verdict in
sentences.
"""

from collections.abc import Collection, Mapping, Sequence

from commands.fail_fast import find_fail_fast
from domain.build_reasons import Reason
from domain.builds import AnyBuild, BuildFinished, Finished, Verdict
from domain.reports import UNEXPLAINED, Report

TEST_FAILURE_EXIT_CODES = "TESTHIDE_TEST_FAILURE_EXIT_CODES"
"""Environment variable in which a job lists the exit codes by which its test runner reports failed tests, separated by
commas. Default: 1.
"""


def decide_verdict(
    exit_code: int | None,
    reason: Reason | None,
    failed: int,
    excused: Collection[int] = (),
    lacks_selected_tests: bool = False,
) -> tuple[Verdict, Reason | None]:
    """Returns the verdict and its reason. A `reason` from the agent decides first, then failed tests, then the exit
    code, then selected tests without a result.

    `failed` is the number of failures that count. An exit code in `excused` does not fail the build, since failures
    that do not count account for this code. `lacks_selected_tests` is True if a selected test has no result.
    """
    if reason == "agent_stopped":
        return "aborted", reason
    if reason is not None:
        return "failed", reason
    if failed:
        return "failed", "tests_failed"
    if exit_code != 0 and exit_code not in excused:
        return "failed", "command_failed"
    if lacks_selected_tests:
        return "failed", "selected_tests_not_run"
    return "passed", None


def find_excused_exit_codes(build: AnyBuild, *, excuse_pytest: bool = False) -> set[int]:
    """Returns the exit codes that do not fail the build, since ignored failures account for them. They are the exit
    codes with which the job's test runner reports failed tests. Ignored failures are failures in quarantine, and
    failures that the reporter marks as known issues.

    A report of the agent's pytest plugin contains the exit code of pytest. This code is returned only with
    `excuse_pytest`, since pytest itself ends with 0 if all failures of its run are in quarantine.

    Returns an empty set if no failure is ignored, or if results may be missing. Results may be missing if a suite could
    not be loaded or ended early, if a report is missing or unreadable, if a test runner ended for another reason than
    failed tests, or if an option makes the test runner stop after a failure. They may also be missing if a wildcard
    found a report and the job does not list the exit codes of failed tests.
    """
    reports = build.counting_reports
    if find_reports_by_wildcard(build) or find_fail_fast(build.queued.configuration):
        return set()
    if any(
        report.unloaded or report.unreadable or report.missing or report.explained_exit_code == UNEXPLAINED
        for report in reports
    ):
        return set()
    runners = find_exit_codes_of_failed_tests(build.queued.configuration.env)
    excused = [
        runners if report.explained_exit_code is None else {report.explained_exit_code}
        for report in reports
        if report.ignored and (excuse_pytest or report.explained_exit_code is None)
    ]
    return set().union(*excused)


def find_reports_by_wildcard(build: AnyBuild) -> list[Report]:
    """Returns the reports that a wildcard found. A wildcard does not say how many reports there should be, so only the
    exit code shows that a report is missing.

    Leaves out reports with an `explained_exit_code`, such as those of the agent's pytest plugin. Returns an empty list
    if the job lists the exit codes that mean failed tests.
    """
    if TEST_FAILURE_EXIT_CODES in build.queued.configuration.env:
        return []
    return [report for report in build.counting_reports if report.by_wildcard and report.explained_exit_code is None]


def find_exit_codes_of_failed_tests(env: Mapping[str, str]) -> set[int]:
    """Returns the exit codes with which a job's test runner reports failed tests. The environment variable
    `TESTHIDE_TEST_FAILURE_EXIT_CODES` in `env` lists these exit codes. Without the variable, returns only 1.
    """
    return {int(code) for code in env.get(TEST_FAILURE_EXIT_CODES, "1").split(",") if code.strip().isdecimal()}


def count_unloaded(build: AnyBuild) -> int:
    """Returns the number of test suites that could not be loaded, ended early or failed as a whole. Such suites always
    fail the build, since their tests may be missing from the reports.
    """
    return sum(report.unloaded for report in build.counting_reports)


def describe_unexcused(build: AnyBuild, reason: str | None) -> str | None:
    """Returns a sentence that says why a build failed although its failures are ignored: suites could not be loaded or
    ended early, or the ignored failures do not explain the exit code. Returns None if the build failed for another
    reason.
    """
    if reason not in ("command_failed", "tests_failed"):
        return None
    if count_unloaded(build):
        return describe_unloaded(build)
    reports = build.counting_reports
    by_wildcard = list_paths(
        "The report {} was found by a wildcard, so one beside it may be missing",
        "{:,} reports were found by a wildcard, so one beside them may be missing ({})",
        [report.path for report in find_reports_by_wildcard(build)],
    )
    if reason == "command_failed" and any(report.ignored for report in reports):
        return join_sentences(
            "The ignored failures do not account for the exit code of the command.",
            list_paths(
                "The report {} explains no exit code.",
                "{:,} reports explain no exit code: {}.",
                [report.path for report in reports if report.explained_exit_code == UNEXPLAINED],
            ),
            f"{by_wildcard}: name each report in the job's artifacts, or list in {TEST_FAILURE_EXIT_CODES} the exit"
            " codes that always mean failed tests."
            if by_wildcard
            else None,
            describe_fail_fast(build),
        )
    return None


def describe_fail_fast(build: AnyBuild) -> str | None:
    """Returns a sentence about the option that makes the job's test runner end after a failure; None if the job has no
    such option.
    """
    option = find_fail_fast(build.queued.configuration)
    return f"With {option} other tests may not run after a failure: leave it out." if option else None


def describe_unexplained(build: Finished) -> str | None:
    """Returns a sentence that says that failed tests do not explain the build's exit code. Returns None if failed tests
    may explain it, or if the build has no exit code other than 0.
    """
    code = build.exit_code
    explained = {report.explained_exit_code for report in build.counting_reports} - {None, UNEXPLAINED}
    if not code or code in explained | find_exit_codes_of_failed_tests(build.queued.configuration.env):
        return None
    return (
        f"Failed tests do not account for exit code {code}: if it always means failed tests, list it in"
        f" {TEST_FAILURE_EXIT_CODES}."
    )


def describe_late(paths: Sequence[str]) -> str | None:
    """Returns a sentence that names the reports that came after the end of a build; None if there are none."""
    return list_paths(
        "The report {} came after the end and does not count.",
        "{:,} reports came after the end and do not count: {}.",
        paths,
    )


def describe_lost_tests(build: AnyBuild) -> str | None:
    """Returns a sentence that names the reports that lack results of tests; None if there are no such reports."""
    return list_paths(
        "The report {} says that it lacks tests.",
        "{:,} reports say that they lack tests: {}.",
        [report.path for report in build.counting_reports if report.lost_tests],
    )


def describe_unloaded(build: AnyBuild) -> str | None:
    """Returns a sentence about the test suites that could not be loaded, ended early or failed as a whole. Returns None
    if there are none.
    """
    unloaded = count_unloaded(build)
    return (
        f"{unloaded:,} test suite{'s' * (unloaded > 1)} could not be loaded, ended early or failed as a whole."
        if unloaded
        else None
    )


def describe_unreadable(build: AnyBuild) -> str | None:
    """Returns a sentence that names the reports that are incomplete or cannot be read; None if there are none."""
    return list_paths(
        "The report {} is incomplete or cannot be read.",
        "{:,} reports are incomplete or cannot be read: {}.",
        [report.path for report in build.counting_reports if report.unreadable],
    )


def describe_missing(build: AnyBuild) -> str | None:
    """Returns a sentence that names the job's patterns of reports for which no readable file was found; None if there
    are no such patterns.
    """
    return list_paths(
        "No readable file of this build matches {}, which names reports.",
        "No readable file of this build matches {:,} patterns that name reports: {}.",
        [report.path for report in build.counting_reports if report.missing],
    )


def describe_empty(build: AnyBuild) -> str | None:
    """Returns a sentence that names the reports of a build if all can be read and none contains a test; else None."""
    reports = [report for report in build.counting_reports if not report.missing]
    if any(report.cases or report.unreadable for report in reports):
        return None
    return list_paths(
        "The report {} contains no test.", "{:,} reports contain no test: {}.", [report.path for report in reports]
    )


def list_paths(one: str, many: str, paths: Sequence[str]) -> str | None:
    """Returns a sentence that names these paths. Its template is `one` for a single path and `many` for several.
    Returns None without paths.
    """
    if not paths:
        return None
    if len(paths) == 1:
        return one.format(paths[0])
    more = f" and {len(paths) - 5:,} more" if len(paths) > 5 else ""
    return many.format(len(paths), ", ".join(paths[:5]) + more)


def join_sentences(*sentences: str | None) -> str | None:
    """Returns the sentences joined by spaces; None if there are none. A sentence before the last gets a full stop if it
    has none.
    """
    *before, last = [*filter(None, sentences)] or [""]
    return " ".join([*(one if one.endswith((".", "!", "?")) else f"{one}." for one in before), last]) or None


def describe_ignored(build: AnyBuild) -> str | None:
    """Returns a sentence about the quarantined failures of a build and one about its known issues. Neither fails the
    build. Returns None if the build has neither.
    """
    return join_sentences(
        _count_ignored(build.quarantined, "quarantined failure", "quarantined failures"),
        _count_ignored(
            build.known_issues,
            "failure that its reporter calls a known issue",
            "failures that their reporter calls known issues",
        ),
    )


def _count_ignored(count: int, one: str, many: str) -> str | None:
    if not count:
        return None
    return f"1 {one} was ignored." if count == 1 else f"{count:,} {many} were ignored."


def find_reported_verdict(end: BuildFinished | Finished) -> Verdict:
    """Returns the verdict that the pipeline of an external build reported, also if test reports have overruled this
    verdict.
    """
    return "passed" if end.reason in ("tests_failed", "reports_unreadable") else end.status
