"""Compares parts of the log with those read models that are too large to be folded whole. Compares only values that
later events never change: what a build belongs to, how it ended, and the names of test cases.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg_pool import AsyncConnectionPool

from domain.builds import BuildFinished, BuildQueued
from domain.core.events import Recorded
from domain.results import CasesSeen
from projections.builds import BuildRow
from projections.results_cases import TestCaseRow
from store.log.event_log import EventLog
from store.postgres.queries import fetch_rows


async def find_changed_builds(
    pool: AsyncConnectionPool, event_log: EventLog, events: Sequence[Recorded]
) -> dict[int, int]:
    """Finds the builds that the read model does not show as `events` say: those with another job, project, group,
    change or end, and missing ones. Leaves out deleted builds. Returns build id -> position of an event that differs
    from the read model.
    """
    build_ids = {event.build_id for item in events if isinstance(event := item.event, BuildQueued | BuildFinished)}
    if not build_ids:
        return {}
    rows = await fetch_rows(
        pool,
        "SELECT id, job_id, project_id, group_id, untrusted, (trigger->>'change_id')::bigint, status, reason, exit_code"
        f" FROM {BuildRow.table} WHERE id = ANY (%s)",
        (list(build_ids),),
    )
    shown: dict[int, list[Any]] = {build_id: columns for build_id, *columns in rows}
    different: dict[int, Recorded] = {}
    for recorded in events:
        right: list[Any]
        match recorded.event:
            case BuildQueued() as event:
                change_id = None if event.trigger is None else event.trigger.change_id
                right, columns = [event.job_id, event.project_id, event.group_id, event.untrusted, change_id], slice(5)
            case BuildFinished() as event:
                right, columns = [event.status, event.reason, event.exit_code], slice(5, 8)
            case _:
                continue
        if shown.get(event.build_id, [])[columns] != right:
            different[event.build_id] = recorded
    deleted = await _find_deleted(event_log, different.values())
    return {build_id: item.position for build_id, item in different.items() if item.event.data_key not in deleted}


async def find_changed_cases(
    pool: AsyncConnectionPool, event_log: EventLog, events: Sequence[Recorded]
) -> dict[int, int]:
    """Finds the test cases that the read model does not show with the name that `events` give them. Leaves out test
    cases of deleted projects. Returns test case id -> position of the event that gives the name.
    """
    different: dict[int, Recorded] = {}
    for recorded in events:
        if isinstance(event := recorded.event, CasesSeen) and event.node_ids:
            rows = await fetch_rows(
                pool,
                f"SELECT id, project_id, node_id FROM {TestCaseRow.table} WHERE id >= %s AND id < %s",
                (event.first_case_id, event.first_case_id + len(event.node_ids)),
            )
            shown: dict[int, tuple[Any, ...]] = {case_id: tuple(columns) for case_id, *columns in rows}
            for case_id, node_id in enumerate(event.node_ids, event.first_case_id):
                if shown.get(case_id) != (event.project_id, node_id):
                    different[case_id] = recorded
    deleted = await _find_deleted(event_log, different.values())
    return {case_id: item.position for case_id, item in different.items() if item.event.data_key not in deleted}


async def _find_deleted(event_log: EventLog, events: Iterable[Recorded]) -> set[str]:
    # Asked after the rows were read: what was deleted in between has no row either.
    return await event_log.data_keys.find_destroyed(
        {key for item in events if (key := item.event.data_key) is not None}
    )
