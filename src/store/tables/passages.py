"""Passages: texts that semantic search finds, such as failure messages. Texts that are equal but for numbers, times and
paths are one group, of which only the newest text is stored.

A worker (`workers.semantic_index`) makes passages from events, and can make them again. A passage has the vector of its
text (an embedding), which the same worker adds later. Vectors are arrays of numbers, so that the table needs no
extension of PostgreSQL. Queries turn them into the type `vector` of the extension pgvector, if it is there.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec
from psycopg import AsyncConnection

from store.postgres.queries import Source, execute, fetch_row, fetch_rows

PassageType = Literal["build", "test", "log"]
PASSAGE_TYPES: tuple[PassageType, ...] = get_args(PassageType)
MAX_PASSAGES = 20_000
"""Largest number of passages of each type that are stored for a project. Older passages are deleted."""
TERMS = "array_to_tsvector(string_to_array(words, ' '))"
"""SQL expression for the words of a passage. The table has an index on it."""


class Passage(msgspec.Struct, frozen=True):
    project_id: int
    type: PassageType
    digest: bytes
    """Hash of the text without its numbers, times and paths. All texts of the group have the same hash."""
    subject_id: int
    """Id of the test case or build of the newest text of the group."""
    result_id: int | None
    job_id: int
    build_id: int
    text: str
    """The newest text of the group."""
    words: str


class PassageRank(msgspec.Struct, frozen=True):
    """A passage that a query has found."""

    id: int
    type: PassageType
    subject_id: int
    result_id: int | None
    build_id: int
    text: str
    relevance: float
    """Relevance for the query. In a search by words, the sum of the weights of the query's words that the passage has.
    In a search by vectors, the cosine similarity.
    """


_COLUMNS = "id, type, subject_id, result_id, build_id, text"
_CHOSEN = "project_id = %(project)s AND (%(type)s::text IS NULL OR type = %(type)s)"


async def store(connection: AsyncConnection, passages: Sequence[Passage]) -> None:
    """Stores passages. If a passage is stored already, replaces its text and its subject by the new ones."""
    newest = {(item.project_id, item.type, item.digest): item for item in passages}
    if not newest:
        return
    columns = list(zip(*map(msgspec.structs.astuple, newest.values()), strict=True))
    await execute(
        connection,
        "INSERT INTO search_passages AS p"
        " (project_id, type, digest, subject_id, result_id, job_id, build_id, text, words)"
        " SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bytea[], %s::bigint[], %s::bigint[], %s::bigint[],"
        "  %s::bigint[], %s::text[], %s::text[])"
        " ON CONFLICT (project_id, type, digest) DO UPDATE SET subject_id = EXCLUDED.subject_id,"
        " result_id = EXCLUDED.result_id, job_id = EXCLUDED.job_id, build_id = EXCLUDED.build_id,"
        " text = EXCLUDED.text, words = EXCLUDED.words",
        [list(column) for column in columns],
    )
    for project_id in {item.project_id for item in newest.values()}:
        for type in PASSAGE_TYPES:
            await execute(
                connection,
                "DELETE FROM search_passages WHERE id IN (SELECT id FROM search_passages"
                f" WHERE project_id = %s AND type = %s ORDER BY build_id DESC OFFSET {MAX_PASSAGES})",
                (project_id, type),
            )


async def delete(
    connection: AsyncConnection, *, builds: Sequence[int] = (), jobs: Sequence[int] = (), projects: Sequence[int] = ()
) -> None:
    """Deletes the passages whose newest text belongs to one of these builds, jobs or projects."""
    for column, ids in (("build_id", builds), ("job_id", jobs), ("project_id", projects)):
        if ids:
            await execute(connection, f"DELETE FROM search_passages WHERE {column} = ANY (%s)", (list(ids),))


async def fetch_without_vector(source: Source, model: str, limit: int) -> list[tuple[int, str]]:
    """Returns (id, text) of up to `limit` passages that have no vector by this model."""
    query = "SELECT id, text FROM search_passages WHERE model IS DISTINCT FROM %s ORDER BY id DESC LIMIT %s"
    return [(id, text) for id, text in await fetch_rows(source, query, (model, limit))]


async def store_vectors(source: Source, model: str, texts: Sequence[tuple[int, str]], vectors: Sequence[Any]) -> None:
    """Stores the vectors of passages. `texts` has the id of each passage, and the text from which its vector was
    computed. Skips a passage whose text has changed since.
    """
    rows = [{"id": id, "text": text, "vector": vector} for (id, text), vector in zip(texts, vectors, strict=True)]
    await execute(
        source,
        "UPDATE search_passages p SET vector = r.vector, model = %s"
        " FROM json_to_recordset(%s::json) AS r(id bigint, text text, vector real[])"
        " WHERE p.id = r.id AND p.text = r.text",
        (model, msgspec.json.encode(rows).decode()),
    )


async def has_pgvector(source: Source) -> bool:
    row = await fetch_row(source, "SELECT to_regtype('vector') IS NOT NULL")
    return row is not None and bool(row[0])


async def find_by_words(
    source: Source, project_id: int, type: PassageType | None, words: Sequence[str], limit: int
) -> list[PassageRank]:
    """Returns up to `limit` passages of a project that have any of these words, the most relevant first. A word that
    few of the found passages have counts more than a frequent word.
    """
    query = (
        f"WITH found AS MATERIALIZED (SELECT {_COLUMNS}, words FROM search_passages"
        f" WHERE {_CHOSEN} AND {TERMS} @@ %(query)s::tsquery),"
        " hits AS MATERIALIZED (SELECT found.id, word FROM found, unnest(%(words)s::text[]) word"
        "  WHERE position(' ' || word || ' ' IN ' ' || found.words || ' ') > 0),"
        f" weights AS MATERIALIZED (SELECT word, ln(1 + (SELECT count(*) FROM search_passages WHERE {_CHOSEN})"
        "  / count(*)::float8) AS weight FROM hits GROUP BY word)"
        f" SELECT {_COLUMNS}, relevance FROM found JOIN (SELECT id, sum(weight) AS relevance FROM hits"
        "  JOIN weights USING (word) GROUP BY id) ranked USING (id)"
        " ORDER BY relevance DESC, build_id DESC LIMIT %(limit)s"
    )
    parameters = {
        "project": project_id,
        "type": type,
        "query": " | ".join(f"'{word}'" for word in words),
        "words": list(words),
        "limit": limit,
    }
    return [PassageRank(*row) for row in await fetch_rows(source, query, parameters)] if words else []


async def find_with_all_words(
    source: Source, project_id: int, words: Sequence[str], *, before_build: int, other_than: int, limit: int
) -> list[PassageRank]:
    """Returns up to `limit` failure messages of a project that have all of these words, the newest first. Leaves out
    messages of the test case `other_than`, and messages from the build `before_build` or later builds.
    """
    query = (
        f"SELECT {_COLUMNS}, 1.0::float8 FROM search_passages WHERE {_CHOSEN} AND {TERMS} @@ %(query)s::tsquery"
        " AND build_id < %(before)s AND subject_id <> %(other)s AND result_id IS NOT NULL"
        " ORDER BY build_id DESC LIMIT %(limit)s"
    )
    parameters = {
        "project": project_id,
        "type": "test",
        "query": " & ".join(f"'{word}'" for word in words),
        "before": before_build,
        "other": other_than,
        "limit": limit,
    }
    return [PassageRank(*row) for row in await fetch_rows(source, query, parameters)] if words else []


async def find_by_vector(
    source: Source,
    project_id: int,
    type: PassageType | None,
    model: str,
    vector: Sequence[float],
    *,
    min_similarity: float,
    limit: int,
) -> list[PassageRank]:
    """Returns up to `limit` passages of a project, ordered by the similarity of their vectors to `vector`, the most
    similar first. Leaves out passages with a similarity below `min_similarity`, and passages without a word that the
    model knows, since their vector is zero. Compares `vector` with all passages of the project. The database must have
    the extension pgvector.
    """
    query = (
        f"SELECT {_COLUMNS}, similarity FROM (SELECT {_COLUMNS},"
        " 1 - (vector::vector <=> %(vector)s::real[]::vector) AS similarity FROM search_passages"
        f" WHERE {_CHOSEN} AND model = %(model)s) compared"
        # A zero vector has the similarity NaN, which PostgreSQL counts as larger than all numbers.
        " WHERE similarity >= %(least)s AND similarity <> 'NaN' ORDER BY similarity DESC LIMIT %(limit)s"
    )
    parameters = {
        "project": project_id,
        "type": type,
        "model": model,
        "vector": list(vector),
        "least": min_similarity,
        "limit": limit,
    }
    return [PassageRank(*row) for row in await fetch_rows(source, query, parameters)]
