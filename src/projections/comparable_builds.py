"""Queries for builds with which a build is compared: builds before it, and builds on the same commit."""

from collections.abc import Mapping

from psycopg.types.json import Jsonb

from domain.assistant.evidence import BuildSummary
from domain.core.events import copy_fields
from projections.builds import BuildRow
from projections.engine.queries import fetch_all, fetch_column
from store.postgres.queries import Source

MAX_OLDER = 200
"""Number of older builds of a job among which `find_last_passed` looks for one that passed."""
MAX_ON_COMMIT = 5
"""Largest number of other builds on the same commit with which a report is compared."""
MAX_EARLIER = 10
"""Largest number of builds that `fetch_earlier` returns."""
SEARCHED_EARLIER = 60
"""Number of builds that `fetch_earlier` searches for builds of the same branch: the newest ones of the job that are
older than the given build.
"""


async def find_ended_on_commit(
    source: Source, job_id: int, commit_sha: str, matrix: Mapping[str, str], *, other_than: int, untrusted: bool
) -> list[int]:
    """Returns the ids of up to MAX_ON_COMMIT builds of a job that passed or failed on this commit with the combination
    `matrix`, newest first. Leaves out the build `other_than` and, unless `untrusted` is true, builds of forks:
    strangers may have written their results.
    """
    query = (
        f'SELECT id FROM {BuildRow.table} WHERE lower(commit_sha) COLLATE "C" = lower(%(commit)s)'
        " AND job_id = %(job)s AND matrix = %(matrix)s AND status IN ('passed', 'failed') AND id <> %(other)s"
        f" AND (%(untrusted)s OR NOT untrusted) ORDER BY id DESC LIMIT {MAX_ON_COMMIT}"
    )
    parameters = {
        "job": job_id,
        "commit": commit_sha,
        "matrix": Jsonb(dict(matrix)),
        "other": other_than,
        "untrusted": untrusted,
    }
    return await fetch_column(source, query, parameters)


async def find_last_passed(source: Source, build_id: int) -> int | None:
    """Returns the id of the newest build before `build_id` that passed, with the same job and combination. Returns None
    if there is none among the job's MAX_OLDER builds before `build_id`. Leaves out builds of forks, whose logs
    strangers write.
    """
    query = (
        f"SELECT older.id FROM {BuildRow.table} this CROSS JOIN LATERAL (SELECT id, status, matrix, untrusted"
        f"  FROM {BuildRow.table} WHERE job_id = this.job_id AND id < this.id ORDER BY id DESC LIMIT {MAX_OLDER}) older"
        " WHERE this.id = %(id)s AND older.status = 'passed' AND NOT older.untrusted"
        " AND older.matrix = this.matrix ORDER BY older.id DESC LIMIT 1"
    )
    return next(iter(await fetch_column(source, query, {"id": build_id})), None)


async def fetch_earlier(source: Source, build: BuildRow) -> tuple[BuildSummary, ...]:
    """Returns the builds of the same job, branch and combination that came before this one, and passed or failed.
    Leaves out builds that ran only some tests: such a build may pass while other tests still fail.
    """
    query = (
        f"SELECT * FROM (SELECT * FROM {BuildRow.table} WHERE job_id = %(job)s AND id < %(id)s ORDER BY id DESC"
        f" LIMIT {SEARCHED_EARLIER}) older WHERE status IN ('passed', 'failed') AND branch = %(branch)s"
        f" AND matrix = %(matrix)s AND selected_tests IS NULL ORDER BY id DESC LIMIT {MAX_EARLIER}"
    )
    parameters = {"job": build.job_id, "id": build.id, "branch": build.branch, "matrix": Jsonb(build.matrix)}
    rows = await fetch_all(source, BuildRow, query, parameters)
    return tuple(copy_fields(BuildSummary, row) for row in rows)


async def fetch_same_commit(source: Source, build: BuildRow) -> tuple[BuildSummary, ...]:
    """Returns up to MAX_ON_COMMIT other builds of the same job, combination and commit that passed or failed, newest
    first. Returns none if the commit is not known. Leaves out untrusted builds, unless `build` is untrusted, too.
    """
    if not build.commit_sha:
        return ()
    ids = await find_ended_on_commit(
        source, build.job_id, build.commit_sha, build.matrix, other_than=build.id, untrusted=build.untrusted
    )
    rows = await fetch_all(
        source,
        BuildRow,
        f"SELECT * FROM {BuildRow.table} WHERE id = ANY (%(ids)s) ORDER BY id DESC",
        {"ids": ids},
    )
    return tuple(copy_fields(BuildSummary, row) for row in rows)
