"""Event index: finds events that concern a resource, but are in streams of other resources.

Historical reads use this index. Its rows contain only numbers and are never deleted. So the index also finds events of
builds that were deleted later.
"""

from collections.abc import Iterable
from typing import Literal, get_args

from domain.builds import BuildAssigned, BuildFinished, BuildQueued, BuildRequeued
from domain.core.events import Recorded
from domain.known_issues import KnownIssueSearched
from domain.projects import MemberAdmitted, MemberRemoved, ProjectCreated, ProjectDeleted
from domain.quarantine import QuarantinedTestsRan
from projections.engine.model import Change, Projection, Row, Rows, SmallInt, Table, no_rows
from projections.engine.queries import fetch_column
from store.postgres.queries import Source

VERSION = 2

Kind = Literal["job", "quarantine", "triage", "node", "user", "projects"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of resources, with the events that concern each. A row stores the index of its kind in this tuple.

- `job`: builds of the job were queued
- `quarantine`: quarantined tests of a job ran
- `triage`: a search found a known issue among older failures of a job
- `node`: builds were assigned to the node, or its builds were requeued or finished
- `user`: the user became a member of a project, or was removed from it
- `projects` (always with id 0): a project was created or deleted
"""


class RelatedRow(Row, frozen=True):
    table = Table(
        "related_events",
        VERSION,
        key=("kind", "id", "position"),
        indexes=("(kind, id, position)",),
        append_only=True,
    )
    kind: SmallInt
    id: int
    position: int


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event, position = recorded.event, recorded.position
    match event:
        case BuildQueued():
            yield _row("job", event.job_id, position)
        case BuildAssigned() | BuildRequeued() | BuildFinished(node_id=int()):
            assert event.node_id is not None
            yield _row("node", event.node_id, position)
        case QuarantinedTestsRan():
            yield _row("quarantine", event.job_id, position)
        case KnownIssueSearched():
            for job_id in sorted(set(event.job_ids)):
                yield _row("triage", job_id, position)
        case MemberAdmitted() | MemberRemoved():
            yield _row("user", event.user_id, position)
        case ProjectCreated() | ProjectDeleted():
            yield _row("projects", 0, position)


def _row(kind: Kind, id: int, position: int) -> RelatedRow:
    return RelatedRow(KINDS.index(kind), id, position)


PROJECTION = Projection(
    "related",
    VERSION,
    (RelatedRow,),
    no_rows,
    apply,
    handles=(
        BuildAssigned,
        BuildFinished,
        BuildQueued,
        BuildRequeued,
        KnownIssueSearched,
        MemberAdmitted,
        MemberRemoved,
        ProjectCreated,
        ProjectDeleted,
        QuarantinedTestsRan,
    ),
)


async def find_positions(source: Source, kind: Kind, id: int, until: int, limit: int | None = None) -> list[int]:
    """Returns the positions, up to `until`, of events that concern a resource, newest first."""
    return await fetch_column(
        source,
        f"SELECT position FROM {RelatedRow.table} WHERE kind = %(kind)s AND id = %(id)s AND position <= %(until)s"
        " ORDER BY position DESC LIMIT %(limit)s",
        {"kind": KINDS.index(kind), "id": id, "until": until, "limit": limit},
    )
