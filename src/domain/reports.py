"""The reports of a build: what its state keeps of each, without the results."""

import msgspec

UNEXPLAINED = -1
"""The explained exit code of a report whose test runner ended for another reason than failed tests."""
COUNTS = ("passed", "failed", "skipped", "flaky", "known_issues", "quarantined")
"""Fields of `build.report_recorded` that are added up over the reports of a build."""
IGNORED = ("known_issues", "quarantined")
"""Those of COUNTS that are failures which do not fail the build."""


class Report(msgspec.Struct, frozen=True):
    """A report as the state of its build knows it."""

    attempt: int
    path: str
    first_result_id: int
    cases: int
    warnings: list[str]
    explained_exit_code: int | None = None
    unloaded: int = 0
    digest: bytes = b""
    counts: tuple[int, ...] = ()
    """Its tests by their last attempts, in the order of COUNTS."""
    is_replaced: bool = False
    unreadable: bool = False
    missing: bool = False
    """It stands for a pattern of the job's artifacts that names reports and that no file matches."""
    late: bool = False
    """It came after the end of the build, so it has no results."""
    selected_ran: bytes | None = None
    """One byte for each selected test of the build, as in `build.report_recorded`."""
    by_wildcard: bool = False
    """A wildcard or folder of the job's artifacts found it."""
    results_from: int = 0
    """The version of the results stream before it; its results are in the next `blocks` events."""
    blocks: int = 0

    @property
    def ignored(self) -> int:
        """Failures in quarantine, and those that the reporter calls known."""
        return sum(count for name, count in zip(COUNTS, self.counts, strict=True) if name in IGNORED)
