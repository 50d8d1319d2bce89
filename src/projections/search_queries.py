"""Full-text search over the documents of `projections.search`.

The condition on projects is part of the query for each type, so documents that the caller may not see are neither
ranked nor counted. The score depends on the query and on the document only, so it says nothing about other documents.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import msgspec
from psycopg import AsyncConnection

from domain.search import find_query_words
from projections.pools import PoolRow
from projections.results_cases import TestCaseRow
from projections.search import (
    BuildDocument,
    FailureDocument,
    JobDocument,
    NamedDocument,
    NodeDocument,
    ProjectDocument,
    TestDocument,
    scope_word,
)
from store.postgres.queries import fetch_rows_planned

SearchType = Literal["build", "test", "job", "node", "project"]
TYPES: tuple[SearchType, ...] = get_args(SearchType)

MAX_RANKED = 500
"""Number of matching documents of each type that are ranked: the newest ones."""
MAX_SCOPE = 200
"""Largest number of a caller's projects that are named in the search of the index. For a caller with more projects,
other projects' documents are filtered out afterwards.
"""
MIN_PREFIX = 3
"""Least number of characters that the last word of a query must have to match longer words that begin with it, too."""
WORD_IN_NAME, WORD_IN_TEXT, PREFIX_IN_NAME, PREFIX_IN_TEXT = 1.0, 0.8, 0.7, 0.5
"""Scores of a word of the query in a document: the document's name contains the word; its text does; its name contains
a longer word that begins with the word; its text contains such a longer word.
"""
WORDS_SHARE = 0.9
"""Weight of the average score of the words in a document's score. The rest is for documents that contain the query
literally.
"""


class SearchQuery(msgspec.Struct, frozen=True):
    text: str
    words: list[str]

    @classmethod
    def parse(cls, text: str) -> "SearchQuery":
        return cls(" ".join(text.split()).lower(), find_query_words(text))

    @property
    def prefix(self) -> str | None:
        """The last word of the query, if longer words that begin with it match, too; else None."""
        return self.words[-1] if len(self.words[-1]) >= MIN_PREFIX else None

    def to_tsquery(self, operator: Literal["&", "|"], projects: Sequence[int] = ()) -> str:
        """Returns the query in the syntax of PostgreSQL's `tsquery`: for documents that have all words (&), or any of
        them (|). With `projects`, only for documents of these projects.
        """
        # A word has only letters and digits, so nothing in it must be escaped.
        words = f" {operator} ".join(f"'{word}'{':*' if word == self.prefix else ''}" for word in self.words)
        if not projects:
            return words
        return f"({' | '.join(map(scope_word, projects))}) & ({words})"

    def to_parts(self) -> dict[str, list[str | None]]:
        """Returns the parameters of _PARTS."""
        prefixes = [word if word == self.prefix else None for word in self.words]
        return {
            "in_name": [f"'{word}':A" for word in self.words],
            "in_text": [f"'{word}'" for word in self.words],
            "begins_in_name": [None if word is None else f"'{word}':*A" for word in prefixes],
            "begins_in_text": [None if word is None else f"'{word}':*" for word in prefixes],
        }


class FoundDocument(msgspec.Struct, frozen=True):
    type: SearchType
    id: int
    name: str
    text: str
    score: float
    project_id: int | None
    result_id: int | None


_PARTS = (
    "parts AS MATERIALIZED (SELECT * FROM unnest(%(in_name)s::text[]::tsquery[], %(in_text)s::text[]::tsquery[],"
    " %(begins_in_name)s::text[]::tsquery[], %(begins_in_text)s::text[]::tsquery[])"
    " AS part (in_name, in_text, begins_in_name, begins_in_text))"
)
"""SQL for a table with a row for each word of the query: conditions for the word in a document's name and text."""
_SCORE = (
    f"{WORDS_SHARE} * (SELECT avg(CASE WHEN d.words @@ p.in_name THEN {WORD_IN_NAME}"
    f" WHEN d.words @@ p.in_text THEN {WORD_IN_TEXT} WHEN d.words @@ p.begins_in_name THEN {PREFIX_IN_NAME}"
    f" WHEN d.words @@ p.begins_in_text THEN {PREFIX_IN_TEXT} ELSE 0 END) FROM parts p)"
    f" + {1 - WORDS_SHARE:.1f} * (position(%(text)s IN lower(d.name || ' ' || d.text)) > 0)::int"
)
"""SQL expression for the score of a document `d`."""
_VISIBLE = (
    "(%(projects)s::bigint[] IS NULL OR d.{0} = ANY (%(projects)s::bigint[]))"
    " AND (%(project)s::bigint IS NULL OR d.{0} = %(project)s)"
)
_VISIBLE_NODE = (
    "(%(project)s::bigint IS NULL OR d.pool_id IN"
    f" (SELECT p.id FROM {PoolRow.table} p WHERE p.project_id = %(project)s))"
)


def _select(
    type: SearchType,
    document: type[NamedDocument | TestDocument | FailureDocument],
    *,
    project: str = "project_id",
    id: str = "id",
    result: str = "NULL::bigint",
) -> str:
    """Returns a query for the newest MAX_RANKED matching documents of one kind, with their scores."""
    visible, of_project = _VISIBLE.format(project), f"d.{project}"
    matches = "d.words @@ %(query)s::tsquery"
    if document is NodeDocument:
        visible, of_project = _VISIBLE_NODE, "NULL::bigint"
        matches = "d.words @@ %(words_query)s::tsquery"
    newest = f"SELECT d.* FROM {document.table} d WHERE {matches} AND {visible} ORDER BY d.id DESC LIMIT {MAX_RANKED}"
    cases = f"({newest}) d JOIN {TestCaseRow.table} c"
    if document is TestDocument:
        newest = f"SELECT d.*, c.node_id AS name, c.suite AS text FROM {cases} ON c.id = d.id"
    elif document is FailureDocument:
        newest = f"SELECT d.*, c.node_id AS name FROM {cases} ON c.id = d.case_id"
    return (
        f"SELECT '{type}' AS type, d.{id} AS id, d.name, d.text, ({_SCORE})::float8 AS score,"
        f" {of_project} AS project_id, {result} AS result_id FROM ({newest}) d"
    )


_TESTS = (
    "SELECT DISTINCT ON (id) * FROM ("
    f"{_select('test', TestDocument, result='nullif(d.failure, 0)')}"
    f" UNION ALL {_select('test', FailureDocument, id='case_id', result='d.id')}) tests ORDER BY id, score DESC"
)
"""Query for tests. A test that has failed has two documents, of which the one with the higher score counts."""
_QUERIES: Mapping[SearchType, str] = {
    "build": _select("build", BuildDocument),
    "test": _TESTS,
    "job": _select("job", JobDocument),
    "node": _select("node", NodeDocument),
    "project": _select("project", ProjectDocument, project="id"),
}


async def search(
    connection: AsyncConnection,
    query: SearchQuery,
    types: Sequence[SearchType],
    *,
    projects: Sequence[int] | None,
    project_id: int | None,
    limit: int,
) -> list[FoundDocument]:
    """Returns up to `limit` documents of each type, those with the highest scores first.

    Finds documents of `projects` (None: of all projects), and nodes. `project_id` limits documents to one project, and
    nodes to those in the project's pools. If a type has fewer than `limit` documents with all words of the query,
    documents with some of the words follow.
    """
    if not query.words or not types:
        return []
    parameters = {
        **query.to_parts(),
        "text": query.text,
        "projects": None if projects is None else list(projects),
        "project": project_id,
        "limit": limit,
    }
    visible = projects if project_id is None else [project_id]
    scope = visible if visible is not None and len(visible) <= MAX_SCOPE else ()

    def queries(operator: Literal["&", "|"]) -> dict[str, str]:
        return {"query": query.to_tsquery(operator, scope), "words_query": query.to_tsquery(operator)}

    found = await _fetch(connection, types, parameters | queries("&"))
    if len(query.words) > 1:
        counts = {type: sum(item.type == type for item in found) for type in types}
        few: list[SearchType] = [type for type in types if counts[type] < limit]
        if few:
            more = await _fetch(connection, few, parameters | queries("|"))
            found = [item for item in found if item.type not in few] + _best(found, more, few, limit)
    return sorted(found, key=lambda item: (-item.score, TYPES.index(item.type), -item.id))


async def _fetch(
    connection: AsyncConnection, types: Sequence[SearchType], parameters: Mapping[str, Any]
) -> list[FoundDocument]:
    parts = (
        f"(SELECT * FROM ({_QUERIES[type]}) {type}s ORDER BY score DESC, id DESC LIMIT %(limit)s)" for type in types
    )
    # A frequent word needs another plan than a rare one.
    rows = await fetch_rows_planned(connection, f"WITH {_PARTS} {' UNION ALL '.join(parts)}", parameters)
    return [FoundDocument(*row) for row in rows]


def _best(
    with_all: Sequence[FoundDocument], with_some: Sequence[FoundDocument], types: Sequence[SearchType], limit: int
) -> list[FoundDocument]:
    """Returns up to `limit` documents of each type: first those with all words, then those with some words."""
    best: list[FoundDocument] = []
    for type in types:
        unique = {item.id: item for item in (*with_all, *with_some) if item.type == type}
        first = {item.id for item in with_all if item.type == type}
        best += sorted(unique.values(), key=lambda item: (item.id not in first, -item.score, -item.id))[:limit]
    return best
