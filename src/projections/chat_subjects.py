"""Query for the subject of a chat message: the build, job or project that the message names, if the request names none.
Only projects that the caller may read are searched.
"""

import re
from collections.abc import Sequence

import msgspec
from psycopg import AsyncConnection

from domain.assistant.answers import BuildChoice
from domain.assistant.chat_intents import BUILD_INTENTS, find_intent
from domain.assistant.chat_mentions import find_build_numbers, find_names_of_tests, names_test
from domain.assistant.chat_names import (
    NameKind,
    find_branch_words,
    find_marked_names,
    find_misspelt,
    names,
    remove_name,
)
from domain.assistant.job_states import is_red
from projections import builds, results_history
from projections.builds import BuildRow
from projections.engine.queries import fetch_one
from projections.job_states import COUNTS, fetch_newest
from projections.jobs import JobRow
from projections.named_tests import TESTS, fetch_failures, find_cases, search_for_tests
from projections.projects import ProjectRow
from store.postgres.queries import Source, fetch_row, fetch_rows, fetch_rows_planned

MAX_NAMED = 50
"""Largest number of jobs, and of projects, whose names are looked for in a message. The conversation's project, its
jobs and the jobs of named projects come first, then longer names.
"""
MAX_JOBS = 100
"""Largest number of jobs whose names are compared with misspelt words of a message: first jobs of the conversation's
project, then the newest ones.
"""
MAX_BRANCH_BUILDS = 2_000
"""Largest number of a job's or project's newest builds that are searched for a branch that a message names."""
MAX_TESTS_OF_PROJECTS = 200
"""Largest number of tests, of all projects, that are compared with a test name in a message. Tests of all projects are
searched only while the project of the message is not known.
"""
MAX_NUMBERS = 50
"""Largest number of build numbers that are read from a message. All after the first MAX_NUMBERS are ignored."""
MAX_ID_DIGITS = 15
_ID = rf"\d{{1,{MAX_ID_DIGITS}}}"
_BUILD = re.compile(rf"(?:\bbuild ?(?:#|no\.?|number)? ?|#)(\d{{1,{MAX_ID_DIGITS}}})\b", re.IGNORECASE)


class ChatSubject(msgspec.Struct, frozen=True):
    project_id: int
    job_id: int | None = None
    build_id: int | None = None
    build_choice: BuildChoice = ""
    result_id: int | None = None
    """Id of a failed result, if the message names exactly one test and a failure of it was found."""
    is_missing: bool = False
    """Whether the message names a build, a job or a project that does not exist."""
    rest: str = ""
    """The message without the names of jobs and projects that were found. Names of branches are looked for in this
    text.
    """


class Nameable(msgspec.Struct, frozen=True):
    """A project or a job whose name may be in a message."""

    kind: NameKind
    id: int
    project_id: int
    name: str


class NamedSubject(msgspec.Struct, frozen=True):
    subject: ChatSubject | None
    rest: str
    """The message without the names of jobs and projects that were found."""


async def find_subject(
    source: AsyncConnection, projects: Sequence[int] | None, message: str, earlier: ChatSubject | None = None
) -> ChatSubject | None:
    """Returns the subject of a message. Takes the first of these that exists:

    1. a build that the message names by its number;
    2. a job that the message names;
    3. a project that the message names;
    4. a job whose name the message misspells, if the message has no build number and is a known kind of question;
    5. `earlier`, the subject of the conversation so far;
    6. the only project that the caller may read;
    7. the only project with the tests that the message names.

    Returns None if none exists. `projects` are the ids of the projects that the caller may read; None for all.
    """
    if numbers := _find_numbers(message):
        query = (
            f"SELECT project_id, job_id, id FROM {BuildRow.table} WHERE id = ANY (%(ids)s) AND {_IS_VISIBLE}"
            " ORDER BY array_position(%(ids)s::bigint[], id) LIMIT 1"
        )
        if row := await fetch_row(source, query, {"ids": numbers, "projects": _listed(projects)}):
            return ChatSubject(*row)
    named = await _find_named(source, projects, message, earlier)
    is_missing = bool(find_build_numbers(message)) or any(one.kind != "branch" for one in find_marked_names(named.rest))
    subject = named.subject
    if subject is None and not find_build_numbers(message) and find_intent(message) != "unknown":
        subject = await _find_misspelt_job(source, projects, named.rest, earlier)
        is_missing = is_missing or subject is not None
    subject = subject or earlier
    subject = subject or await find_only_project(source, projects)
    subject = subject or await _find_project_of_tests(source, projects, message)
    return None if subject is None else msgspec.structs.replace(subject, is_missing=is_missing, rest=named.rest)


async def find_only_project(source: Source, projects: Sequence[int] | None) -> ChatSubject | None:
    """Returns the only project that the caller may read; None if the caller may read no project or several."""
    query = f"SELECT id FROM {ProjectRow.table} WHERE {_IS_VISIBLE.replace('project_id', 'id')} LIMIT 2"
    rows = await fetch_rows(source, query, {"projects": _listed(projects)})
    return ChatSubject(rows[0][0]) if len(rows) == 1 else None


async def choose_build(source: AsyncConnection, subject: ChatSubject, message: str) -> ChatSubject:
    """Chooses a build for a message that names no build, and returns the subject with this build. Takes the first of
    these that exists:

    1. the newest build with a failure of a test that the message names;
    2. for a job, its newest build on the branch that the message names, or else on the default branch;
    3. for a project, the newest build of the job that failed last, or the project's newest build if no job is red.

    Ignores builds of forks. For 2 and 3, considers only builds that passed or failed and ran all tests. If the builds
    of a matrix did not all pass, 2 and 3 choose the build with the most failed tests. If a question about a project
    needs no build, chooses none. If something that the message names does not exist, offers a build instead of choosing
    it.
    """
    if subject.is_missing:
        return await _offer_build(source, subject)
    of_branch = await _find_newest_of_branch(source, subject)
    if of_branch is None and any(one.kind == "branch" for one in find_marked_names(subject.rest)):
        return await _offer_build(source, subject)
    if subject.build_id is not None:
        before = await builds.find(source, subject.build_id)
        if of_branch is None or before is None or before.branch == of_branch.branch:
            return subject
    if of_branch is None and subject.job_id is None and not _asks_about_build(message):
        return subject
    failure = await _find_newest_failure(source, subject, message, of_branch)
    if failure is not None:
        is_alone = len(find_names_of_tests(message)) == 1
        result_id = failure.result_id if is_alone else None
        return ChatSubject(failure.project_id, failure.job_id, failure.build_id, "newest_failure", result_id)
    branch = None if of_branch is None else of_branch.branch
    newest = await fetch_newest(source, subject.project_id, job_id=subject.job_id, branch=branch)
    if not newest:
        return subject
    chosen = max(newest, key=lambda build: (is_red(build.status), build.id))
    choice: BuildChoice = "newest" if branch is None else "newest_of_branch"
    if len(newest) > 1:
        choice = "red_job" if is_red(chosen.status) else "green_jobs"
    elif chosen.group_id is not None and is_red(chosen.status):
        choice = "most_failures"
    return ChatSubject(subject.project_id, chosen.job_id, chosen.id, choice)


async def _find_named(
    source: AsyncConnection, projects: Sequence[int] | None, message: str, earlier: ChatSubject | None
) -> NamedSubject:
    """Returns the job that a message names, or else the project. If the message names both, the job must be in this
    project. Of several jobs with the name, one in the conversation's project is preferred.
    """
    ids = [int(one.name) for one in find_marked_names(message) if re.fullmatch(_ID, one.name)]
    near = None if earlier is None else earlier.project_id
    parameters = {"projects": _listed(projects), "message": message.lower(), "ids": ids, "near": near}
    is_named = "(strpos(%(message)s, lower(name)) > 0 OR id = ANY (%(ids)s))"
    query = (
        f"SELECT id, id, name FROM {ProjectRow.table} WHERE {is_named} AND {_IS_VISIBLE.replace('project_id', 'id')}"
        f" ORDER BY (id = %(near)s) DESC NULLS LAST, length(name) DESC, id LIMIT {MAX_NAMED}"
    )
    all_projects = [Nameable("project", *row) for row in await fetch_rows(source, query, parameters)]
    query = (
        f"SELECT id, project_id, name FROM {JobRow.table} WHERE {is_named} AND {_IS_VISIBLE}"
        " ORDER BY (project_id = %(near)s OR project_id = ANY (%(named)s)) DESC NULLS LAST, length(name) DESC, id"
        f" LIMIT {MAX_NAMED}"
    )
    named_projects = [one.id for one in all_projects]
    rows = await fetch_rows(source, query, parameters | {"named": named_projects})
    return choose_named((*all_projects, *(Nameable("job", *row) for row in rows)), message, near)


def choose_named(nameables: Sequence[Nameable], message: str, near: int | None) -> NamedSubject:
    """Returns the job that a message names, or else the project. Prefers jobs of the project `near`, the project of the
    conversation. Looks for longer names first. A name that is only part of a longer name in the message does not count.
    """
    rest, found = message, list[Nameable]()
    for name in sorted({one.name.lower() for one in nameables}, key=lambda name: (-len(name), name)):
        equal = [one for one in nameables if one.name.lower() == name and names(rest, one.kind, name)]
        found += equal
        rest = remove_name(rest, name) if equal else rest
    numbered = {(one.kind, one.name) for one in find_marked_names(rest)}
    by_id = [one for one in nameables if (one.kind, str(one.id)) in numbered]
    for one in by_id:
        rest = remove_name(rest, str(one.id))
    found += by_id
    by_project = {one.project_id: len(one.name) for one in reversed(found) if one.kind == "project"}
    jobs = [one for one in found if one.kind == "job"]
    inside = [job for job in jobs if not by_project or job.project_id in by_project]
    if inside:
        job = max(
            inside, key=lambda one: (by_project.get(one.project_id, 0), one.project_id == near, len(one.name), one.id)
        )
        return NamedSubject(ChatSubject(job.project_id, job.id), rest)
    if not by_project:
        return NamedSubject(None, rest)
    project = max(by_project, key=lambda one: (by_project[one], one == near, one))
    # If the message names only jobs of other projects, their names stay in the text: such a job is missing.
    return NamedSubject(ChatSubject(project), message if jobs else rest)


async def _find_misspelt_job(
    source: AsyncConnection, projects: Sequence[int] | None, message: str, earlier: ChatSubject | None
) -> ChatSubject | None:
    """Returns the job whose name a message has misspelt. Looks at the newest jobs, and prefers jobs of the
    conversation's project. Returns None if no name is similar enough.
    """
    query = (
        f"SELECT project_id, id, name FROM {JobRow.table} WHERE {_IS_VISIBLE}"
        f" ORDER BY (project_id = %(near)s) DESC NULLS LAST, id DESC LIMIT {MAX_JOBS}"
    )
    near = None if earlier is None else earlier.project_id
    rows = await fetch_rows(source, query, {"projects": _listed(projects), "near": near})
    found = find_misspelt(message, [name for _, _, name in rows])
    return None if found is None else ChatSubject(*rows[found[1]][:2])


async def _find_project_of_tests(
    source: AsyncConnection, projects: Sequence[int] | None, message: str
) -> ChatSubject | None:
    """Returns the project with the tests that a message names. Uses the first name in the message that any test has.
    Returns None if no test has such a name, or if tests of several projects have this name.
    """
    for searched in search_for_tests(message):
        query = (
            f"SELECT project_id, node_id FROM {TESTS} WHERE words @@ %(words)s::text::tsquery"
            f" AND {_IS_VISIBLE} LIMIT {MAX_TESTS_OF_PROJECTS}"
        )
        parameters = {"words": searched.to_tsquery("&"), "projects": _listed(projects)}
        rows = await fetch_rows_planned(source, query, parameters)
        if found := {project_id for project_id, test in rows if names_test(message, test)}:
            return ChatSubject(found.pop()) if len(found) == 1 else None
    return None


async def _offer_build(source: AsyncConnection, subject: ChatSubject) -> ChatSubject:
    """Returns a subject that offers a build to the user: the build of the conversation, or else the newest build of the
    job or project.
    """
    if subject.build_id is not None:
        return ChatSubject(subject.project_id, subject.job_id, subject.build_id, "offered")
    newest = await fetch_newest(source, subject.project_id, job_id=subject.job_id)
    if not newest:
        return ChatSubject(subject.project_id, build_choice="offered")
    return ChatSubject(subject.project_id, newest[0].job_id, newest[0].id, "offered")


async def _find_newest_of_branch(source: AsyncConnection, subject: ChatSubject) -> BuildRow | None:
    """Returns the newest build of the branch that the message names. Takes the first named branch that has builds.
    Searches only the newest builds of the job or project; returns None if none is on a named branch.
    """
    words = find_branch_words(subject.rest)
    if not words:
        return None
    newest = f"SELECT id, lower(branch) AS branch {_NEWEST.format(_of(subject))} LIMIT {MAX_BRANCH_BUILDS}"
    query = (
        f"SELECT b.* FROM ({newest}) found JOIN {BuildRow.table} b ON b.id = found.id"
        " WHERE found.branch = ANY (%(words)s)"
        " ORDER BY array_position(%(words)s::text[], found.branch), b.id DESC LIMIT 1"
    )
    return await fetch_one(source, BuildRow, query, _ids(subject) | {"words": words})


async def _find_newest_failure(
    source: AsyncConnection, subject: ChatSubject, message: str, of_branch: BuildRow | None
) -> results_history.ResultOrigin | None:
    """Returns the newest failure of a test that the message names, in the subject's job, or in its project if the
    subject has no job. If the message names several tests, takes the first of them that has such a failure; returns
    None if none has. Without `of_branch`, prefers failures that count for the health of the test (outages, for example,
    do not). With `of_branch`, considers only failures on the branch of the build `of_branch`. Ignores failures of
    forks.
    """
    async for case_id, _ in find_cases(source, subject.project_id, message, failed=True):
        for build_id, result_id in await fetch_failures(source, case_id, counting_first=of_branch is None):
            build = await builds.find(source, build_id)
            if (
                build is not None
                and not build.untrusted
                and subject.job_id in (None, build.job_id)
                and (of_branch is None or build.branch == of_branch.branch)
            ):
                return await results_history.find_origin(source, result_id)
    return None


def _asks_about_build(message: str) -> bool:
    return find_intent(message) in BUILD_INTENTS or bool(find_names_of_tests(message))


def _find_numbers(message: str) -> list[int]:
    """Returns the build numbers in a message, in the order of the text, without duplicates."""
    # One space between words, so that the search takes linear time.
    found = _BUILD.findall(" ".join(message.split()))
    return list(dict.fromkeys(map(int, found)))[:MAX_NUMBERS]


_NEWEST = f"FROM {BuildRow.table} WHERE {{}} AND {COUNTS} ORDER BY id DESC"


def _of(subject: ChatSubject) -> str:
    return "job_id = %(job)s" if subject.job_id is not None else "project_id = %(project)s"


def _ids(subject: ChatSubject) -> dict[str, object]:
    return {"job": subject.job_id, "project": subject.project_id}


_IS_VISIBLE = "(%(projects)s::bigint[] IS NULL OR project_id = ANY (%(projects)s))"


def _listed(projects: Sequence[int] | None) -> list[int] | None:
    return None if projects is None else list(projects)
