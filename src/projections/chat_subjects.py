"""Query for what a chat message is about, if the request does not say: a build, a job or a project that it names.

Only projects that the caller may read are searched.
"""

import re
from collections.abc import Sequence

import msgspec
from psycopg import AsyncConnection

from domain.assistant.answers import BuildChoice
from domain.assistant.chat_intents import BUILD_INTENTS, find_intent
from domain.assistant.chat_mentions import find_names_of_tests, names_test
from projections import builds, results_history
from projections.build_groups import fetch_counting
from projections.builds import BuildRow
from projections.engine.queries import fetch_one
from projections.jobs import JobRow
from projections.projects import ProjectRow
from projections.search import TestDocument
from projections.search_queries import SearchQuery
from store.postgres.queries import Source, fetch_row, fetch_rows, fetch_rows_planned

MIN_NAME = 3
"""Number of characters of a name from which on it is looked for in messages."""
MAX_NAMED = 50
"""Number of jobs, and of projects, that a message may name. The longest names count."""
MAX_NUMBERS = 50
"""Number of builds that a message may name. The first ones count."""
MAX_TESTS = 5
"""Number of tests that a message names whose failures are searched."""
MAX_FOUND = 20
"""Number of failed tests with the words of such a name that are looked at, those that failed last."""
MAX_ID_DIGITS = 15
_BUILD = re.compile(rf"(?:\bbuild ?(?:#|no\.?|number)? ?|#)(\d{{1,{MAX_ID_DIGITS}}})\b", re.IGNORECASE)


class ChatSubject(msgspec.Struct, frozen=True):
    project_id: int
    job_id: int | None = None
    build_id: int | None = None
    build_choice: BuildChoice = ""
    result_id: int | None = None
    """Result of the test that the message names, if it names one and a failure of it was found."""


async def find_subject(source: Source, projects: Sequence[int] | None, message: str) -> ChatSubject | None:
    """Returns what a message names: a build by its number; or else a job; or else a project. None if it names none of
    these. `projects` are those that the caller may read; None for all.
    """
    if numbers := _find_numbers(message):
        query = (
            f"SELECT project_id, job_id, id FROM {BuildRow.table} WHERE id = ANY (%(ids)s) AND {_IS_VISIBLE}"
            " ORDER BY array_position(%(ids)s::bigint[], id) LIMIT 1"
        )
        if row := await fetch_row(source, query, {"ids": numbers, "projects": _listed(projects)}):
            return ChatSubject(*row)
    parameters = {"projects": _listed(projects), "message": message.lower()}
    named = f"length(name) >= {MIN_NAME} AND strpos(%(message)s, lower(name)) > 0"
    query = (
        f"SELECT id, lower(name) FROM {ProjectRow.table} WHERE {named} AND {_IS_VISIBLE.replace('project_id', 'id')}"
        f" ORDER BY length(name) DESC, id LIMIT {MAX_NAMED}"
    )
    rows = await fetch_rows(source, query, parameters)
    by_project = {project_id: len(name) for project_id, name in rows if _is_named(name, message)}
    query = (
        f"SELECT id, project_id, lower(name) FROM {JobRow.table} WHERE {named} AND {_IS_VISIBLE}"
        f" ORDER BY length(name) DESC, id LIMIT {MAX_NAMED}"
    )
    jobs = [job for job in await fetch_rows(source, query, parameters) if _is_named(job[2], message)]
    if jobs:
        job_id, project_id, _ = max(jobs, key=lambda job: (by_project.get(job[1], 0), len(job[2]), job[0]))
        return ChatSubject(project_id, job_id)
    return ChatSubject(max(by_project, key=lambda one: (by_project[one], one))) if by_project else None


async def find_only_project(source: Source, projects: Sequence[int] | None) -> ChatSubject | None:
    """Returns the only project that the caller may read; None if there are others."""
    query = f"SELECT id FROM {ProjectRow.table} WHERE {_IS_VISIBLE.replace('project_id', 'id')} LIMIT 2"
    rows = await fetch_rows(source, query, {"projects": _listed(projects)})
    return ChatSubject(rows[0][0]) if len(rows) == 1 else None


async def choose_build(source: AsyncConnection, subject: ChatSubject, message: str) -> ChatSubject:
    """Returns the subject with the build that the question is about if only a job or a project is known: the newest one
    in which a test failed that the message names; or else the newest one that passed or failed, is not of a fork and
    ran all tests. If that is of a matrix whose builds did not all pass, returns the one with the most failed tests,
    never one that passed. A question about a project stays one if it can be answered without a build.
    """
    if subject.build_id is not None or (subject.job_id is None and not _asks_about_build(message)):
        return subject
    failure = await _find_newest_failure(source, subject, message)
    if failure is not None:
        is_alone = len(find_names_of_tests(message)) == 1
        result_id = failure.result_id if is_alone else None
        return ChatSubject(failure.project_id, failure.job_id, failure.build_id, "newest_failure", result_id)
    of = "job_id = %(job)s" if subject.job_id is not None else "project_id = %(project)s"
    query = (
        f"SELECT * FROM {BuildRow.table} WHERE {of} AND status IN ('passed', 'failed') AND NOT untrusted"
        " AND selected_tests IS NULL ORDER BY id DESC LIMIT 1"
    )
    newest = await fetch_one(source, BuildRow, query, {"job": subject.job_id, "project": subject.project_id})
    if newest is None:
        return subject
    group = [] if newest.group_id is None else await fetch_counting(source, newest.group_id)
    worst = find_worst(group)
    if worst is not None:
        return ChatSubject(subject.project_id, worst.job_id, worst.id, "most_failures")
    return ChatSubject(subject.project_id, newest.job_id, newest.id, "newest")


async def _find_newest_failure(
    source: AsyncConnection, subject: ChatSubject, message: str
) -> results_history.ResultOrigin | None:
    """Returns the newest failure of the first test that a message names and that has failed in the project, and in the
    job if one is known. Failures of forks do not count.
    """
    for name in find_names_of_tests(message)[:MAX_TESTS]:
        searched = SearchQuery.parse(name)
        if not searched.words:
            continue
        query = (
            f"SELECT name, failure FROM {TestDocument.table} WHERE words @@ %(words)s::text::tsquery"
            f" AND project_id = %(project)s AND failure > 0 ORDER BY failure DESC LIMIT {MAX_FOUND}"
        )
        parameters = {"words": searched.to_tsquery("&", [subject.project_id]), "project": subject.project_id}
        for test, result_id in await fetch_rows_planned(source, query, parameters):
            if names_test(message, test):
                origin = await results_history.find_origin(source, result_id)
                build = None if origin is None else await builds.find(source, origin.build_id)
                if build is not None and not build.untrusted and subject.job_id in (None, build.job_id):
                    return origin
    return None


def find_worst(group: Sequence[BuildRow]) -> BuildRow | None:
    """Returns the build with the most failed tests among those that failed; without such builds, the first one that was
    aborted. None if none of the builds failed or was aborted.
    """
    bad = [build for build in group if build.status in ("failed", "aborted")]
    return min(bad, key=lambda build: (build.status != "failed", -build.failed, build.id), default=None)


def _asks_about_build(message: str) -> bool:
    return find_intent(message) in BUILD_INTENTS or bool(find_names_of_tests(message))


def _find_numbers(message: str) -> list[int]:
    """Returns the numbers of builds that a message names, in its order, each once."""
    # One space between words, so that the search takes linear time.
    found = _BUILD.findall(" ".join(message.split()))
    return list(dict.fromkeys(map(int, found)))[:MAX_NUMBERS]


def _is_named(name: str, message: str) -> bool:
    """Returns whether the message has the name, in lower case, as words of its own: not `api` in `capital`."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message.lower()) is not None


_IS_VISIBLE = "(%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s))"


def _listed(projects: Sequence[int] | None) -> list[int] | None:
    return None if projects is None else list(projects)
