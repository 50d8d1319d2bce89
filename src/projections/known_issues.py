"""Read model of known issues, and of the failures that users have linked to them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

import msgspec

from domain import known_issues
from domain.core.events import Recorded, changes_of, copy_fields
from domain.projects import ProjectDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Int, Projection, Row, Rows, Table, row_of
from projections.engine.queries import Window, fetch_all, fetch_column, find_row
from store.postgres.queries import Source, fetch_rows

VERSION = 1
_UNSEARCHED = "searched < edition"


class KnownIssueRow(Row, frozen=True):
    table = Table("known_issues", VERSION, indexes=("(project_id, id)", f"(id) WHERE {_UNSEARCHED}"))
    id: int
    project_id: int
    title: str
    classification: str
    kind: str
    """Kind of `value`: `pattern`, `signature` or `fail_id`."""
    value: str
    defect_key: str | None
    defect_url: str | None
    created_at: datetime
    updated_at: datetime
    edition: Int = 1
    searched: Int = 0
    """Newest edition for which the search through older failures is complete. Changing the rule or classification makes
    a new edition.
    """


class IssueFailureRow(Row, frozen=True):
    table = Table(
        "known_issue_failures",
        VERSION,
        key=("known_issue_id", "kind", "value"),
        indexes=("(project_id)", "(known_issue_id)"),
    )
    known_issue_id: int
    project_id: int
    kind: str
    value: str


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case known_issues.KnownIssueCreated():
            yield copy_fields(KnownIssueRow, event, id=event.known_issue_id, created_at=event.at, updated_at=event.at)
        case known_issues.KnownIssueUpdated():
            issue = rows.get(KnownIssueRow, event.known_issue_id)
            if issue is not None:
                edition = known_issues.edition_after(issue.edition, event)
                yield msgspec.structs.replace(issue, **changes_of(event), updated_at=event.at, edition=edition)
        case known_issues.KnownIssueSearched(down_to=0):
            issue = rows.get(KnownIssueRow, event.known_issue_id)
            if issue is not None:
                yield msgspec.structs.replace(issue, searched=event.edition)
        case known_issues.KnownIssueFailureAdded():
            for kind, value in (("fail_id", event.fail_id), ("signature", event.signature)):
                if value:
                    yield IssueFailureRow(event.known_issue_id, event.project_id, kind, value)
        case known_issues.KnownIssueDeleted():
            yield Delete(KnownIssueRow, event.known_issue_id)
            yield DeleteWhere(IssueFailureRow, "known_issue_id", event.known_issue_id)
        case ProjectDeleted():
            yield DeleteWhere(KnownIssueRow, "project_id", event.project_id)
            yield DeleteWhere(IssueFailureRow, "project_id", event.project_id)


PROJECTION = Projection(
    "known_issues",
    VERSION,
    (KnownIssueRow, IssueFailureRow),
    row_of(KnownIssueRow, "known_issue_id", known_issues.KnownIssueUpdated, known_issues.KnownIssueSearched),
    apply,
    handles=(known_issues.KnownIssueEvent, ProjectDeleted),
)


async def find(source: Source, known_issue_id: int) -> KnownIssueRow | None:
    return await find_row(source, KnownIssueRow, known_issue_id)


async def fetch_page(source: Source, project_id: int, **window: Unpack[Window]) -> list[KnownIssueRow]:
    return await fetch_all(
        source,
        KnownIssueRow,
        f"SELECT * FROM {KnownIssueRow.table} WHERE project_id = %(project)s AND id > %(after)s"
        " ORDER BY id OFFSET %(offset)s LIMIT %(limit)s",
        {"project": project_id, **window},
    )


async def count_patterns(source: Source, project_id: int) -> int:
    query = f"SELECT count(*) FROM {KnownIssueRow.table} WHERE project_id = %(project)s AND kind = 'pattern'"
    (count,) = await fetch_column(source, query, {"project": project_id})
    return int(count)


async def find_unsearched(source: Source, limit: int) -> list[tuple[int, int | None]]:
    """Returns up to `limit` known issues whose search through older failures is not complete, as (id, project id): the
    oldest of each project first, then the second of each, and so on.
    """
    query = (
        f"SELECT id, project_id FROM {KnownIssueRow.table} WHERE {_UNSEARCHED}"
        " ORDER BY row_number() OVER (PARTITION BY project_id ORDER BY id), id LIMIT %s"
    )
    return await fetch_rows(source, query, (limit,))
