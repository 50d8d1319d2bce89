"""What is related to a thing without standing in its stream."""

from typing import Any

from domain.builds import BuildAssigned, BuildDeleted, BuildFinished, BuildQueued, BuildRequeued, BuildStarted
from domain.core.events import Event
from domain.known_issues import KnownIssueSearched
from domain.projects import MemberAdmitted, ProjectDeleted
from domain.quarantine import QuarantinedTestsRan
from projections.event_index import KINDS, PROJECTION, RelatedRow
from tests.support.spec import given

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 3}


def related(*events: Event) -> list[tuple[str, int, int]]:
    rows = given(*events).when(PROJECTION).all(RelatedRow)
    return sorted((KINDS[row.kind], row.id, row.position) for row in rows)


def test_what_the_kinds_are_stored_as() -> None:
    """Changed only with a new version of the projection."""
    assert KINDS == ("job", "quarantine", "triage", "node", "user", "projects")


def test_builds_are_related_to_their_job_and_to_the_nodes_they_ran_on() -> None:
    lived: list[Event] = [
        BuildQueued(**IDS),
        BuildAssigned(**IDS, node_id=1, attempt=1),
        BuildRequeued(**IDS, node_id=1, attempt=1, reason="agent_lost"),
        BuildAssigned(**IDS, node_id=2, attempt=2),
        BuildStarted(**IDS, node_id=2, attempt=2),
        BuildFinished(**IDS, status="passed", node_id=2),
    ]
    expected = [("job", 5, 1), ("node", 1, 2), ("node", 1, 3), ("node", 2, 4), ("node", 2, 6)]
    assert related(*lived) == expected
    assert related(*lived, BuildDeleted(**IDS)) == expected  # and stay when it is deleted


def test_a_build_that_ends_in_the_queue_is_related_to_no_node() -> None:
    assert related(BuildFinished(**IDS, status="aborted")) == []


def test_what_else_happens_elsewhere() -> None:
    searched = KnownIssueSearched(
        known_issue_id=1,
        project_id=3,
        edition=1,
        down_to=0,
        classification="infra",
        result_ids=[10, 11, 12],
        job_ids=[5, 6, 5],
    )
    assert related(
        QuarantinedTestsRan(**IDS, passed=[1], failed=[]),
        searched,
        MemberAdmitted(project_id=3, user_id=9, access="read"),
        ProjectDeleted(project_id=3),
    ) == [("projects", 0, 4), ("quarantine", 5, 1), ("triage", 5, 2), ("triage", 6, 2), ("user", 9, 3)]
