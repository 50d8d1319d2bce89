"""Commands on the quarantine of a job: add, remove, record expiry and recovery."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from commands.handler import Command, must_exist
from domain.core.errors import Conflict, Invalid
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job
from domain.quarantine import (
    QUARANTINE,
    Quarantine,
    QuarantineBecameHealthy,
    QuarantineExpired,
    QuarantineLifted,
    Reason,
    TestsQuarantined,
)


@dataclass(frozen=True)
class _OfJob(Command):
    job_id: int

    def reads(self) -> Sequence[AnyStream]:
        return QUARANTINE.at(self.job_id), JOB.at(self.job_id)


@dataclass(frozen=True)
class AddToQuarantine(_OfJob):
    """Puts tests in the quarantine of a job. Their entries get the ids `first_id`, `first_id + 1` and so on. If a test
    has an entry that expired before `now`, the new entry replaces it.
    """

    first_id: int
    node_ids: tuple[str, ...]
    now: datetime
    reason: Reason = "flaky"
    expires_at: datetime | None = None
    owner: str | None = None
    skip_known: bool = False
    """If True, leaves out tests that are already in quarantine. If False, `decide` raises Conflict for these tests."""

    def decide(self, quarantine: Quarantine, job: Job | None) -> Iterable[Event]:
        job = must_exist(job, f"job {self.job_id}")
        entries = quarantine.entries
        if any(self.first_id <= entry.quarantine_id < self.first_id + len(self.node_ids) for entry in entries.values()):
            return  # this request was carried out before
        if self.expires_at is not None and self.expires_at <= self.now:
            raise Invalid.field("expires_at", "is in the past")
        known = {node_id for node_id in self.node_ids if node_id in entries and entries[node_id].is_active(self.now)}
        if known and not self.skip_known:
            raise Conflict(f"{min(known)} is in the quarantine of job {self.job_id} already.")
        new = [node_id for node_id in dict.fromkeys(self.node_ids) if node_id not in known]
        if expired := [node_id for node_id in new if node_id in entries]:
            ids = [entries[node_id].quarantine_id for node_id in expired]
            yield self.event(QuarantineLifted, job, ids=ids, node_ids=expired, why="expired")
        if new:
            yield self.event(TestsQuarantined, job, node_ids=new)


@dataclass(frozen=True)
class RemoveFromQuarantine(_OfJob):
    """Removes entries from the quarantine of a job: the entries for `node_ids`, and the entry with the id
    `quarantine_id`. Ignores node ids and ids that have no entry.
    """

    node_ids: tuple[str, ...] = ()
    quarantine_id: int | None = None

    def decide(self, quarantine: Quarantine, job: Job | None) -> Iterable[Event]:
        job = must_exist(job, f"job {self.job_id}")
        entries = quarantine.entries
        named = [node_id for node_id in dict.fromkeys(self.node_ids) if node_id in entries]
        if self.quarantine_id is not None:
            named += [node for node, entry in entries.items() if entry.quarantine_id == self.quarantine_id]
        if named := list(dict.fromkeys(named)):
            ids = [entries[node_id].quarantine_id for node_id in named]
            yield self.event(QuarantineLifted, job, ids=ids, node_ids=named)


@dataclass(frozen=True)
class RecordExpiry(_OfJob):
    """Records which quarantine entries of a job have expired by the time `now`. The expiry of each entry is recorded
    only once.
    """

    now: datetime

    def decide(self, quarantine: Quarantine, job: Job | None) -> Iterable[Event]:
        if job is None or job.deleted:
            return
        entries = quarantine.entries.values()
        if ids := [
            entry.quarantine_id for entry in entries if not (entry.is_active(self.now) or entry.expiry_recorded)
        ]:
            yield self.event(QuarantineExpired, job, ids=sorted(ids))


@dataclass(frozen=True)
class RecordRecovery(_OfJob):
    """Records that the tests of quarantine entries have recovered. Each recovery is recorded only once. Ignores a
    recovery that is older than the last one recorded for its entry.
    """

    recovered: Mapping[int, int]
    """Id of each recovered entry -> number of builds in which tests of the entry have failed since it was added. The
    number identifies the recovery, since it is higher at the next recovery of the entry.
    """
    now: datetime

    def decide(self, quarantine: Quarantine, job: Job | None) -> Iterable[Event]:
        if job is None or job.deleted:
            return
        recovered = {
            entry.quarantine_id: failures
            for entry in quarantine.entries.values()
            if entry.is_active(self.now)
            and (failures := self.recovered.get(entry.quarantine_id)) is not None
            and (entry.healthy_after is None or entry.healthy_after < failures)
        }
        if recovered:
            ids = sorted(recovered)
            yield self.event(QuarantineBecameHealthy, job, ids=ids, failures=[recovered[number] for number in ids])
