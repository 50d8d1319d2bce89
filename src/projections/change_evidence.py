"""Queries for the changes of a repository that may have caused failures of a build: those that came after the last good
build and up to the first bad one. Only changes that a hook or `git-notify` has reported are known.
"""

from contextlib import suppress

from domain.assistant.changed_paths import find_passed_paths
from domain.assistant.evidence import ChangeFacts, Evidence
from domain.assistant.sensitive_text import mask_secrets
from domain.changes import CHANGE, ChangeReceived
from domain.core.errors import StreamDamaged
from domain.triggers import find_repository_path, may_be_repository
from projections.builds import BuildRow
from projections.engine.queries import fetch_column, find_row
from projections.jobs import JobRow
from store.log.event_log import EventLog
from store.postgres.queries import Source

MAX_RANGES = 3
"""Largest number of pairs of a good and a bad build between which changes are looked for."""
MAX_CHANGES = 5
"""Largest number of changes that are returned for each pair of a good and a bad build. If there are more, the newest
ones are returned.
"""
SEARCHED_BUILDS = 1_000
"""Largest number of a project's builds between a good and a bad build, the newest ones, that are searched for the
changes that started them.
"""
MAX_PATHS = 30
"""Largest number of changed paths that are kept of a change."""


async def fetch_changes(source: Source, log: EventLog, evidence: Evidence) -> tuple[ChangeFacts, ...]:
    """Returns the changes of the build's branch that may have made the build fail. For a failed test, these are the
    changes after the last good build and up to the first bad one. If no test failed, these are the changes since the
    build before, provided that the build before passed.
    """
    build = evidence.build
    if build is None or not (ranges := _find_ranges(evidence)):
        return ()
    job = await find_row(source, JobRow, build.job_id)
    repository = find_repository_path((None if job is None else job.repository) or "")
    texts = [*(test.trace for test in evidence.failures), *("\n".join(one.lines) for one in evidence.excerpts)]
    found: dict[tuple[int, str], ChangeFacts] = {}
    for good, bad, good_commit in ranges[:MAX_RANGES]:
        ids = await _find_change_ids(source, evidence.question.project_id, build.branch, good, bad)
        for received in await _load(log, ids):
            change = received.change
            if received.project_id != evidence.question.project_id or change.commit in (None, good_commit):
                continue
            if may_be_repository(repository, change.repository):
                facts = _to_facts(received, good, bad, texts)
                found.setdefault((bad, facts.commit_sha), facts)
    return tuple(found.values())


def _find_ranges(evidence: Evidence) -> list[tuple[int, int, str | None]]:
    """Returns (last good build, first bad build, commit of the last good build) for each pair of builds between which
    changes are looked for, without duplicates.
    """
    assert evidence.build is not None
    starts = [test.first_bad for test in evidence.failures if test.first_bad is not None]
    found = [
        (one.last_good_build, one.build_id, one.last_good_commit)
        for one in starts
        if one.last_good_build is not None and one.cause not in ("same_commit", "recurring")
    ]
    if not evidence.failures and evidence.earlier and evidence.earlier[0].status == "passed":
        before = evidence.earlier[0]
        found.append((before.id, evidence.build.id, before.commit_sha))
    return list(dict.fromkeys(found))


async def _find_change_ids(source: Source, project_id: int, branch: str, good: int, bad: int) -> list[int]:
    """Returns the ids of the newest changes of a branch that started builds of the project after the build `good`, up
    to the build `bad`. Searches the builds of all jobs, since the failed job may have only nightly builds, which no
    change starts.
    """
    between = (
        f"SELECT branch, trigger FROM {BuildRow.table} WHERE project_id = %(project)s AND id > %(good)s"
        f" AND id <= %(bad)s ORDER BY id DESC LIMIT {SEARCHED_BUILDS}"
    )
    query = (
        f"SELECT DISTINCT (trigger->>'change_id')::bigint AS change_id FROM ({between}) newest"
        " WHERE branch = %(branch)s AND trigger->>'change_id' IS NOT NULL"
        f" ORDER BY change_id DESC LIMIT {MAX_CHANGES}"
    )
    return await fetch_column(source, query, {"project": project_id, "branch": branch, "good": good, "bad": bad})


async def _load(log: EventLog, ids: list[int]) -> list[ChangeReceived]:
    """Returns the changes with these ids. Leaves out those that cannot be read."""
    streams = [CHANGE.at(change_id) for change_id in ids]
    try:
        states = await log.load_states(streams) if streams else {}
    except StreamDamaged:
        states = {}
        for stream in streams:
            with suppress(StreamDamaged):
                states |= await log.load_states([stream])
    found = [states[stream.name].state for stream in streams if stream.name in states]
    return [received for received in found if received is not None]


def _to_facts(received: ChangeReceived, good: int, bad: int, texts: list[str]) -> ChangeFacts:
    change = received.change
    assert change.commit is not None
    paths = change.paths or []
    passed = find_passed_paths(paths, texts)
    kept = list(dict.fromkeys([*passed, *paths]))[:MAX_PATHS]
    return ChangeFacts(
        commit_sha=change.commit,
        last_good_build=good,
        first_bad_build=bad,
        message=mask_secrets(change.message),
        author=change.author,
        paths=tuple(kept),
        all_paths=None if change.paths is None else len(paths),
    )
