"""Reports as they are in the state of a build: with the numbers of their results, but without the results."""

import msgspec

UNEXPLAINED = -1
"""Value of `explained_exit_code` if the test runner ended for a reason that the results of the report do not show."""
COUNTS = ("passed", "failed", "skipped", "flaky", "known_issues", "quarantined")
"""Fields of `build.report_recorded` that are added up over the reports of a build."""
IGNORED = ("known_issues", "quarantined")
"""Those fields in COUNTS that count failures which do not fail the build."""


class Report(msgspec.Struct, frozen=True):
    """A report in the state of a build. Fields without a description are copied from `domain.builds.ReportRecorded`."""

    attempt: int
    path: str
    first_result_id: int
    cases: int
    warnings: list[str]
    explained_exit_code: int | None = None
    unloaded: int = 0
    digest: bytes = b""
    counts: tuple[int, ...] = ()
    """The values of the fields in COUNTS, in the same order. Each test counts by its last attempt."""
    is_replaced: bool = False
    unreadable: bool = False
    missing: bool = False
    """Whether the report is missing: `path` is a pattern for reports in the job's artifacts, and no file matches it."""
    late: bool = False
    """Whether the report came after the end of the build. The results of such a report are not recorded."""
    selected_ran: bytes | None = None
    """One byte for each selected test of the build: 1 if the test ran or quarantine skips it, else 0. None if the build
    runs all tests, or if an older release recorded the report.
    """
    by_wildcard: bool = False
    """Whether a wildcard or folder of the job's artifacts found the file."""
    lost_tests: bool = False
    """Whether the report says that it lacks results of tests."""
    results_from: int = 0
    """Version of the build's results stream before the report was recorded. The next `blocks` events of the stream
    contain the report's results.
    """
    blocks: int = 0

    @property
    def ignored(self) -> int:
        """Number of failures that do not fail the build: failures of tests in quarantine, and failures that the report
        calls known issues.
        """
        return sum(count for name, count in zip(COUNTS, self.counts, strict=True) if name in IGNORED)
