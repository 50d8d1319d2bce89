"""What follows from events outside the log: when X then Y.

A reaction runs at least once for each event of its kind, and is idempotent. New reactions start at "now": a replay
deletes nothing and sends no mail.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from domain.base import Event
from domain.jobs import JobDeleted
from integrations.ports import Blobs
from store.build_logs import BuildLogs


@dataclass(frozen=True)
class Tools:
    """What reactions work with."""

    build_logs: BuildLogs
    blobs: Blobs


@dataclass(frozen=True)
class Reaction:
    name: str
    event: type[Event]
    run: Callable[[Event, Tools], Awaitable[None]]


async def when_job_deleted_delete_its_logs_and_artifacts(event: Event, tools: Tools) -> None:
    assert isinstance(event, JobDeleted)
    await tools.build_logs.delete_of_job(event.job_id)
    await tools.blobs.delete_prefix(f"job-{event.job_id}/")


REACTIONS = (Reaction("delete_logs_and_artifacts", JobDeleted, when_job_deleted_delete_its_logs_and_artifacts),)
