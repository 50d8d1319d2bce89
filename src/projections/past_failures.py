"""Queries for earlier failures that are like those of a build, and for how these earlier failures were classified."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection

from domain.assistant.answers import Question
from domain.assistant.evidence import MAX_MESSAGE, MAX_PAST_BUILDS, FailedTest, PastFailure
from domain.assistant.failure_starts import is_unlike
from domain.assistant.traced_tests import pick_traced
from domain.failures.telling_words import find_telling_words
from domain.run_histories import RunHistory
from domain.test_health import FAILED as RUN_FAILED
from projections import test_health
from projections.test_cases import fetch_names
from projections.test_health import FailureText
from projections.triage import CLASSIFICATION, CLASSIFIED_BY, TRIAGE_JOINS
from store.postgres.queries import fetch_rows
from store.tables import passages

MAX_SIMILAR = 5
"""Largest number of similar failures of other tests that are returned for one failure."""


async def fetch_past(
    connection: AsyncConnection,
    question: Question,
    failures: Sequence[FailedTest],
    histories: Mapping[int, RunHistory],
    build_id: int,
) -> tuple[tuple[PastFailure, ...], set[int]]:
    """Returns earlier failures that are like those of the tests that `pick_traced` chooses. For each of these tests,
    they are the test's earlier failures with the same signature or, if there are none, similar failures of other tests.
    Also returns the ids of the results that are unlike all earlier failures of their tests.
    """
    texts: dict[int, tuple[FailedTest, FailureText]] = {}
    unlike: set[int] = set()
    for one in pick_traced(failures, question):
        newest = find_earlier_builds(histories, one, build_id)
        found = await test_health.fetch_failure_texts(connection, one.case_id, newest, []) if newest else []
        if is_unlike(one, [text.message for text in found]):
            unlike.add(one.result_id)
        texts |= {text.result_id: (one, text) for text in found if text.signature == one.signature != ""}
    triage = await _fetch_triage(connection, list(texts))
    equal = tuple(
        PastFailure(
            result_id=text.result_id,
            build_id=text.build_id,
            name=one.name,
            message=text.message[:MAX_MESSAGE],
            is_equal=True,
            signature=text.signature,
            classification=triage.get(result_id, (None, None))[0],
            classified_by=triage.get(result_id, (None, None))[1],
        )
        for result_id, (one, text) in sorted(texts.items(), reverse=True)
    )
    similar: list[PastFailure] = []
    known = {past.signature for past in equal}
    for one in pick_traced(failures, question):
        if one.signature not in known:
            similar += await fetch_similar(connection, question.project_id, one, build_id)
    return (*equal, *{past.result_id: past for past in similar}.values()), unlike


def find_earlier_builds(histories: Mapping[int, RunHistory], test: FailedTest, build_id: int) -> list[int]:
    """Returns the ids of the newest builds before `build_id` in which a test failed, up to MAX_PAST_BUILDS."""
    notable = histories[test.case_id].notable if test.case_id in histories else ()
    failed = {run.build_id for run in notable if run.flags & RUN_FAILED and run.build_id < build_id}
    return sorted(failed, reverse=True)[:MAX_PAST_BUILDS]


async def fetch_similar(
    connection: AsyncConnection, project_id: int, failure: FailedTest, build_id: int
) -> tuple[PastFailure, ...]:
    """Returns earlier failures of other tests whose messages contain the telling words of this failure's message
    (`domain.failures.telling_words`). Returns none if the message has too few telling words.
    """
    words = find_telling_words(failure.message)
    if not words:
        return ()
    found = await passages.find_with_all_words(
        connection, project_id, words, before_build=build_id, other_than=failure.case_id, limit=MAX_SIMILAR
    )
    # The passages of a deleted build are deleted only later, so some may be among those found.
    existing = await test_health.find_existing_builds(connection, [item.build_id for item in found])
    names = await fetch_names(connection, [item.subject_id for item in found])
    triage = await _fetch_triage(connection, [item.result_id for item in found if item.result_id is not None])
    return tuple(
        PastFailure(
            result_id=item.result_id,
            build_id=item.build_id,
            name=names[item.subject_id].node_id,
            message=item.text[:MAX_MESSAGE],
            is_equal=False,
            signature=failure.signature,
            classification=triage.get(item.result_id, (None, None))[0],
            classified_by=triage.get(item.result_id, (None, None))[1],
        )
        for item in found
        if item.build_id in existing and item.subject_id in names and item.result_id is not None
    )


async def _fetch_triage(connection: AsyncConnection, ids: Sequence[int]) -> dict[int, tuple[Any, Any]]:
    """Returns result -> (its classification, who gave it)."""
    if not ids:
        return {}
    query = f"SELECT t.id, {CLASSIFICATION}, {CLASSIFIED_BY} FROM unnest(%(ids)s::bigint[]) AS t (id){TRIAGE_JOINS}"
    return {id: (given, by) for id, given, by in await fetch_rows(connection, query, {"ids": list(ids)})}
