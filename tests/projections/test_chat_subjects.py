"""Choice of the build that a question is about if nobody has named one."""

from datetime import UTC, datetime

from projections.builds import BuildRow
from projections.chat_subjects import find_worst


def make_build(number: int, status: str, failed: int = 0) -> BuildRow:
    at = datetime(2026, 5, 20, 10, tzinfo=UTC)
    return BuildRow(number, 5, 1, status, "main", 0, external=False, created_at=at, created_by="user:1", failed=failed)


def test_the_worst_build_of_a_matrix() -> None:
    passed, aborted = make_build(1, "passed"), make_build(2, "aborted", 9)
    few, many, as_many = make_build(3, "failed", 1), make_build(4, "failed", 2), make_build(5, "failed", 2)
    assert find_worst([passed, aborted, few, as_many, many]) == many
    assert find_worst([passed, aborted, few]) == few
    assert find_worst([passed, aborted]) == aborted
    assert find_worst([passed]) is None
    assert find_worst([]) is None
