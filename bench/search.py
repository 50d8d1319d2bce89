"""Measures searches over a history of 1,000,000 results and 100,000 builds, and how many paraphrases semantic search
finds: `./dev bench search`.
"""

import argparse
import asyncio
import random
import sys
import time
from urllib.parse import urlencode
from xml.sax.saxutils import quoteattr

import psycopg
import requests
from psycopg import AsyncConnection

from api.semantic_search import STOP_WORDS
from bench.rebuild import built_read_models, fill_log
from bench.support.paraphrases import HELD_OUT, OTHERS, PAIRS
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from domain.search import find_query_words
from projections.search import BuildDocument, FailureDocument, TestDocument
from store.tables import passages

EVENTS, RESULTS = 1_000_000, 1_000_000
SEARCHES = 600
FOUND_AT = 5
INDEX_TIMEOUT_S = 600.0
Pairs = tuple[tuple[str, str], ...]


def choose_query(rng: random.Random, builds: tuple[int, int]) -> str:
    """Returns a query as people write them: for names, numbers, messages, and frequent words."""
    kind = rng.randrange(8)
    return (
        f"test case {rng.randrange(500)}",
        "AssertionError",
        "main",
        f"AssertionError {rng.randrange(1_000, 900_000)}",
        f"build {rng.randint(*builds)}",
        f"feature/{rng.randrange(500)}",
        f"test_j{rng.randrange(1_000, 1_120)} area",
        "project tests failed main",
    )[kind]


def measure_speed(stack: Stack, report: Report) -> None:
    with psycopg.connect(stack.settings.database_url) as connection:
        ((first, last, count),) = connection.execute(
            f"SELECT min(id), max(id), count(*) FROM {BuildDocument.table}".encode()
        ).fetchall()
        query = f"SELECT (SELECT count(*) FROM {TestDocument.table}), (SELECT count(*) FROM {FailureDocument.table})"
        ((tests, failures),) = connection.execute(query.encode()).fetchall()
    report.add("documents of builds", count, "documents")
    report.add("documents of tests and of failures", tests + failures, "documents")
    project = stack.call("GET", "/api/v3/projects?limit=1")[0]["id"]
    rng = random.Random(1)
    for name, more in (("all projects", {}), ("one project", {"project_id": project})):
        seconds, slowest = [], ("", 0.0)
        for _ in range(SEARCHES):
            query = choose_query(rng, (first, last))
            begun = time.monotonic()
            stack.call("GET", f"/api/v3/search?{urlencode({'q': query, **more})}")
            seconds.append(time.monotonic() - begun)
            slowest = max(slowest, (query, seconds[-1]), key=lambda item: item[1])
        report.add(f"search, {name}: p50", percentile(seconds, 50) * 1000, "ms")
        report.add(f"search, {name}: p99", percentile(seconds, 99) * 1000, "ms", at_most=150)
        print(f"slowest: {slowest[0]!r} {slowest[1] * 1000:.0f} ms", file=sys.stderr)


def create_failures(stack: Stack, pairs: Pairs) -> int:
    """Records a failure for each text of a test set. Returns the project."""
    project: int = stack.call("POST", "/api/v3/projects", {"name": "Paraphrases"})["id"]
    job: int = stack.call("POST", "/api/v3/jobs", {"name": "tests", "project_id": project})["id"]
    build: int = stack.call("POST", "/api/v3/builds/start", {"job_id": job, "external": True})["id"]
    texts = [*(text for _, text in pairs), *OTHERS]
    cases = (
        f'<testcase name="case_{n}"><failure message={quoteattr(text)}/></testcase>' for n, text in enumerate(texts)
    )
    requests.post(
        f"{stack.url}/api/v3/artifacts/upload",
        headers={"Authorization": f"Bearer {stack.token}"},
        data={"build_id": build},
        files={"file": ("report.xml", f"<testsuite>{''.join(cases)}</testsuite>".encode())},
        timeout=120,
    ).raise_for_status()
    return project


def wait_until_indexed(stack: Stack, project: int) -> None:
    deadline = time.monotonic() + INDEX_TIMEOUT_S
    with psycopg.connect(stack.settings.database_url, autocommit=True) as connection:
        query = "SELECT count(*) FROM search_passages WHERE project_id = %s AND vector IS NOT NULL"
        while (connection.execute(query, (project,)).fetchone() or (0,))[0] < len(PAIRS) + len(OTHERS):
            assert time.monotonic() < deadline, "the failures are not indexed"
            time.sleep(0.2)


def measure_recall(stack: Stack, name: str, pairs: Pairs, report: Report) -> None:
    project = create_failures(stack, pairs)
    wait_until_indexed(stack, project)
    found, seconds = 0, []
    for query, text in pairs:
        begun = time.monotonic()
        asked = urlencode({"q": query, "project_id": project, "limit": FOUND_AT})
        answer = stack.call("GET", f"/api/v3/ai/search?{asked}")
        seconds.append(time.monotonic() - begun)
        assert answer["mode"] == "hybrid", "the stack has no model or no pgvector"
        tests = [stack.call("GET", f"/api/v3/tests/{item['result_id']}") for item in answer["results"]]
        found += text in [test["message"] for test in tests]
    by_words = asyncio.run(count_found_by_words(stack, project, pairs))
    report.add(f"{name}, semantic search: recall@{FOUND_AT}", found / len(pairs), "", at_least=0.8)
    report.add(f"{name}, full text alone: recall@{FOUND_AT}", by_words / len(pairs), "")
    report.add(f"{name}, semantic search: p50", percentile(seconds, 50) * 1000, "ms")
    report.add(f"{name}, semantic search: slowest", max(seconds) * 1000, "ms")


async def count_found_by_words(stack: Stack, project: int, pairs: Pairs) -> int:
    found = 0
    async with await AsyncConnection.connect(stack.settings.database_url, autocommit=True) as connection:
        for query, text in pairs:
            words = [word for word in find_query_words(query) if word not in STOP_WORDS]
            ranked = await passages.find_by_words(connection, project, None, words, FOUND_AT)
            found += text in [item.text for item in ranked]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Search a long history, and find paraphrases.")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--results", type=int, default=RESULTS)
    options = parser.parse_args()
    report = Report("search")
    with running_stack(agent=False) as stack:
        measure_recall(stack, "pairs of the development", PAIRS, report)
        measure_recall(stack, "held-out pairs", HELD_OUT, report)
        with built_read_models(stack):
            fill_log(stack, options.events, options.results, report)
        measure_speed(stack, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
