"""Queries for the tests that a chat message names."""

from collections.abc import AsyncIterator, Collection, Iterator

import msgspec
from psycopg import AsyncConnection

from domain.assistant.chat_mentions import find_names_of_tests, names_test
from domain.assistant.named_tests import NamedTest, make_named_test
from domain.test_health import FAILED, LEFT_OUT
from projections.missed_builds import count_newer_builds
from projections.results_cases import TestCaseRow
from projections.search import TestDocument
from projections.search_queries import SearchQuery
from projections.test_health import fetch_failure_texts, fetch_histories
from store.postgres.queries import fetch_rows_planned

MAX_TESTS = 5
"""Largest number of test names in a message that are searched for. All further names are ignored."""
MAX_FOUND = 20
"""Largest number of tests that are looked at for one name in a message: those that failed last. Also the largest number
of failures that are looked at for one test: the newest ones.
"""
TESTS = f"{TestDocument.table} JOIN {TestCaseRow.table} USING (id, project_id)"


def search_for_tests(message: str) -> Iterator[SearchQuery]:
    """Yields the search queries for the first MAX_TESTS tests that a message names."""
    queries = map(SearchQuery.parse, find_names_of_tests(message)[:MAX_TESTS])
    return (query for query in queries if query.words)


async def fetch_named_tests(
    source: AsyncConnection, project_id: int, message: str, asked: Collection[int] = ()
) -> tuple[NamedTest, ...]:
    """Returns the states of the tests of a project that a message names. `asked` has the ids of the builds on the
    branch that the question is about: their failures count even if that branch is not the default one.
    """
    found: dict[int, str] = {}
    async for case_id, name in find_cases(source, project_id, message, failed=False):
        found.setdefault(case_id, name)
    histories = await fetch_histories(source, list(found)[:MAX_TESTS], asked=asked) if found else []
    tests = [make_named_test(case.id, case.node_id, case.history) for case in histories]
    last = {case.id: run.build_id for case in histories if (run := case.history.find_last_failing()) is not None}
    newer = await count_newer_builds(source, set(last.values()))
    missed = {case_id: newer.get(build_id, 0) for case_id, build_id in last.items()}
    return tuple(msgspec.structs.replace(test, missed_builds=missed.get(test.case_id, 0)) for test in tests)


async def find_cases(
    source: AsyncConnection, project_id: int, message: str, *, failed: bool
) -> AsyncIterator[tuple[int, str]]:
    """Yields (id, node id) of each test case of a project that a message names. With `failed`, leaves out tests that
    have never failed.
    """
    for searched in search_for_tests(message):
        query = (
            f"SELECT id, node_id FROM {TESTS} WHERE words @@ %(words)s::text::tsquery"
            f" AND project_id = %(project)s AND failure >= %(least)s ORDER BY failure DESC LIMIT {MAX_FOUND}"
        )
        parameters = {"words": searched.to_tsquery("&", [project_id]), "project": project_id, "least": int(failed)}
        for case_id, name in await fetch_rows_planned(source, query, parameters):
            if names_test(message, name):
                yield case_id, name


async def fetch_failures(source: AsyncConnection, case_id: int, *, counting_first: bool) -> list[tuple[int, int]]:
    """Returns (build, result) of the newest failures of a test, newest first. With `counting_first`, failures that say
    nothing about the test, such as outages, come last.
    """
    cases = await fetch_histories(source, [case_id])
    failed = [run for case in cases for run in case.history.notable if run.flags & FAILED]
    ordered = sorted(failed, key=lambda run: (counting_first and run.flags & LEFT_OUT != 0, -run.build_id))[:MAX_FOUND]
    texts = await fetch_failure_texts(source, case_id, [run.build_id for run in ordered], [])
    results = {text.build_id: text.result_id for text in reversed(texts)}
    return [(run.build_id, results[run.build_id]) for run in ordered if run.build_id in results]
