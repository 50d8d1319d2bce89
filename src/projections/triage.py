"""Read model of the triage of failed results: classifications, defects and resolutions.

The classifications that failures get while their report is recorded are in an append-only table with only numbers, so
that a report with a hundred thousand known failures is written fast. Later classifications, and all defects and
resolutions, are in the other table. If both tables have a classification for a result, the later one counts.
"""

from collections.abc import Iterable, Iterator

import msgspec

from domain.builds import BuildDeleted
from domain.core.events import Recorded, copy_fields
from domain.jobs import JobDeleted
from domain.known_issues import KnownIssueSearched
from domain.triage import CERTAIN, CLASSIFICATIONS, ResultEvent, ResultsClassifiedByRules, Triage, evolve
from projections.auth import email_column
from projections.engine.model import Change, DeleteRange, DeleteWhere, Int, Key, Projection, Row, Rows, SmallInt, Table
from projections.engine.queries import fetch_one
from projections.known_issues import KnownIssueRow
from store.postgres.queries import Source

VERSION = 3


class RuleMatchRow(Row, frozen=True):
    table = Table("rule_matches", VERSION, indexes=("(id)", "(job_id)"), append_only=True)
    id: int
    """Id of the result."""
    job_id: Int
    known_issue_id: int
    """Id of the known issue that matched; 0 if a classification rule or the statistics classified the failure."""
    classification: SmallInt
    """Index into CLASSIFICATIONS."""
    rule: SmallInt = 0
    """Number of the classification rule that matched, counted from 1 in the list of rules; 0 if none matched."""
    rules_version: Int = 0
    match_start: Int = 0
    match_end: Int = 0
    """End of the part of the failure's text that the pattern matched. The text is message, line break and trace in
    UTF-8. Start and end are 0 if no pattern matched.
    """
    confidence: SmallInt = CERTAIN


class TriageRow(Row, frozen=True):
    table = Table("triage", VERSION, indexes=("(job_id)",))
    id: int
    """Id of the result."""
    job_id: Int
    classification: str | None = None
    set_by_kind: str | None = None
    set_by: int | None = None
    """Id of the user who classified the result; None if no user has."""
    defect_key: str = ""
    defect_url: str = ""
    resolution: str = ""
    resolution_by: int | None = None
    known_issue_id: int | None = None
    is_by_link: bool = False


TABLES = (RuleMatchRow, TriageRow)


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case ResultEvent(result_id=result_id):
            yield TriageRow, (result_id,)
        case KnownIssueSearched(result_ids=result_ids):
            yield from ((TriageRow, (result_id,)) for result_id in result_ids)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case ResultsClassifiedByRules():
            for result_id, *match in event.rows:
                yield RuleMatchRow(result_id, event.job_id, *match)
        case KnownIssueSearched():
            yield from _classified_by_search(event, rows)
        case ResultEvent():
            row = rows.get(TriageRow, event.result_id) or TriageRow(event.result_id, event.job_id)
            after = evolve(copy_fields(Triage, row), event)
            yield copy_fields(TriageRow, after, id=row.id, job_id=row.job_id)
        case JobDeleted():
            for table in TABLES:
                yield DeleteWhere(table, "job_id", event.job_id)
        case BuildDeleted():
            for first, cases in event.results:
                for table in TABLES:
                    yield DeleteRange(table, "id", first, first + cases - 1)


def _classified_by_search(event: KnownIssueSearched, rows: Rows) -> Iterator[TriageRow]:
    for result_id, job_id in zip(event.result_ids, event.job_ids, strict=False):
        row = rows.get(TriageRow, result_id) or TriageRow(result_id, job_id)
        if row.classification is None:
            yield msgspec.structs.replace(
                row, classification=event.classification, set_by_kind="rule", known_issue_id=event.known_issue_id
            )


PROJECTION = Projection(
    "triage",
    VERSION,
    TABLES,
    keys,
    apply,
    handles=(BuildDeleted, JobDeleted, KnownIssueSearched, ResultEvent, ResultsClassifiedByRules),
)


class RecordedMatch(msgspec.Struct, frozen=True):
    """Says by which known issue or rule a failure was classified when its report was recorded, and which part of the
    failure's text the pattern matched.
    """

    known_issue_id: int
    rule: int
    """Number of the classification rule that matched; 0 if a known issue or the statistics classified the failure."""
    rules_version: int
    start: int
    end: int
    confidence: int
    """Confidence in percent."""


class ResultTriage(msgspec.Struct, frozen=True):
    """The classification, defect and resolution that count for a result."""

    classification: str | None = None
    classified_by: str | None = None
    set_by: str | None = None
    defect_key: str | None = None
    defect_url: str | None = None
    resolution: str | None = None
    resolution_by: str | None = None
    known_issue_id: int | None = None


_NAMES = "ARRAY[" + ", ".join(f"'{name}'" for name in CLASSIFICATIONS) + "]"

CLASSIFICATION = f"coalesce(v.classification, ({_NAMES})[m.classification + 1])"
"""SQL expression: the classification that counts for a result `t`; NULL if the result has none. The query needs
TRIAGE_JOINS.
"""
BY_RULE = "(known_issue_id <> 0 OR rule <> 0)"
"""SQL condition that a row of RuleMatchRow comes from a known issue or a classification rule, not from statistics."""
CLASSIFIED_BY = (
    "coalesce(v.set_by_kind, CASE WHEN m.known_issue_id = 0 AND m.rule = 0 THEN 'statistics'"
    " WHEN m.id IS NOT NULL THEN 'rule' END)"
)
"""SQL expression: the source (`user`, `rule`, `ai` or `statistics`) of the classification that counts for a result `t`;
NULL if the result has none. The query needs TRIAGE_JOINS.
"""
LINKED_ISSUE = "coalesce(v.known_issue_id, nullif(m.known_issue_id, 0))"
"""SQL expression: the id of the known issue that a result `t` is linked to; NULL if there is none. The query needs
TRIAGE_JOINS.
"""

TRIAGE_COLUMNS = (
    f"{CLASSIFICATION}, {CLASSIFIED_BY}, {email_column('v.set_by')},"
    # The defect that a person linked, or else the known issue's current defect.
    " coalesce(nullif(v.defect_key, ''), i.defect_key),"
    " CASE WHEN v.defect_key <> '' THEN v.defect_url ELSE i.defect_url END,"
    f" nullif(v.resolution, ''), {email_column('v.resolution_by')}, {LINKED_ISSUE}"
)
"""SQL columns with the fields of `ResultTriage` for a result `t`. The query needs TRIAGE_JOINS."""

TRIAGE_JOINS = (
    f" LEFT JOIN {TriageRow.table} v ON v.id = t.id LEFT JOIN {RuleMatchRow.table} m ON m.id = t.id"
    f" LEFT JOIN {KnownIssueRow.table} i ON i.id = coalesce(v.known_issue_id, m.known_issue_id)"
)

RULE_COLUMNS = (
    "coalesce(CASE WHEN v.set_by_kind = 'rule' THEN v.known_issue_id END, nullif(m.known_issue_id, 0)),"
    f" coalesce(CASE WHEN v.set_by_kind = 'rule' THEN array_position({_NAMES}, v.classification)::smallint"
    " - 1::smallint END, m.classification),"
    " coalesce(v.set_by_kind IS DISTINCT FROM 'rule' AND m.known_issue_id = 0 AND m.rule = 0, false)"
)
"""SQL columns about how a result `t` was classified without people or AI: the id of the known issue that matched, the
classification as an index into CLASSIFICATIONS, and whether the classification comes from statistics. The query needs
TRIAGE_JOINS.
"""

_RANGE = "id >= %(low)s::bigint AND id < %(high)s::bigint"

HAS_CLASSIFICATION = (
    f"(t.id IN (SELECT id FROM {TriageRow.table} WHERE {_RANGE} AND classification = %(classification)s)"
    f" OR t.id IN (SELECT id FROM {RuleMatchRow.table} WHERE {_RANGE} AND classification = %(classification_index)s"
    f" EXCEPT SELECT id FROM {TriageRow.table} WHERE {_RANGE} AND classification IS NOT NULL))"
)
"""SQL condition that a result `t` has the classification passed to `classification_parameters`. The query needs the
parameters that `classification_parameters` returns. It also needs `low` and `high`, the range of the results' ids.
"""


IS_CLASSIFIED_BY_RULE = (
    f"(t.id IN (SELECT id FROM {TriageRow.table} WHERE {_RANGE} AND set_by_kind = 'rule')"
    f" OR t.id IN (SELECT id FROM {RuleMatchRow.table} WHERE {_RANGE} AND {BY_RULE}"
    f" EXCEPT SELECT id FROM {TriageRow.table} WHERE {_RANGE} AND set_by_kind IS NOT NULL))"
)
"""SQL condition that a known issue or a classification rule classified a result `t`. The query needs the parameters
`low` and `high`, the range of the results' ids.
"""

MAY_BE_CLASSIFIED_BY_RULES = (
    f"(EXISTS (SELECT FROM {RuleMatchRow.table} WHERE {_RANGE} AND {BY_RULE})"
    f" OR EXISTS (SELECT FROM {TriageRow.table} WHERE {_RANGE} AND set_by_kind = 'rule'))"
)
"""SQL condition that a known issue or a classification rule has classified any result with an id in the range from
`low` to `high`, which the query needs as parameters. PostgreSQL evaluates this condition once for the whole query. If
it is false, the query reads no results.
"""


async def find_recorded_match(source: Source, result_id: int) -> RecordedMatch | None:
    """Returns the classification that a result got while its report was recorded; None if it got none."""
    query = (
        "SELECT known_issue_id, rule, rules_version, match_start, match_end, confidence"
        f" FROM {RuleMatchRow.table} WHERE id = %(id)s LIMIT 1"
    )
    return await fetch_one(source, RecordedMatch, query, {"id": result_id})


def classification_parameters(classification: str | None) -> dict[str, str | int | None]:
    """Returns the parameters of HAS_CLASSIFICATION except `low` and `high`, which are in `ReportRanges.parameters`."""
    index = None if classification is None else [*CLASSIFICATIONS, classification].index(classification)
    return {"classification": classification, "classification_index": index}
