"""Quarantine: tests of a job whose failures do not fail its builds.

A job's quarantine is one stream. An entry is the node id of a test, or a prefix of node ids that ends before `::` or
`[`. A prefix stands for all tests of a file, a class or a parametrised test. An expired entry has no effect. An entry
whose tests have recovered keeps its effect until somebody lifts it. The expiry of an entry and each recovery are
recorded once.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import msgspec

from domain.core.data_keys import job_key
from domain.core.events import Category, Event
from domain.results import results_stream

Reason = Literal["flaky", "infra", "wip"]
REASONS: tuple[Reason, ...] = get_args(Reason)

HEALTHY_AFTER = 10
"""Number of builds in a row after which an entry has recovered, if no attempt of its tests failed in any of them."""

MAX_PREFIXES = 64
"""Largest number of prefixes of a test's node id that are looked up among the entries, the shortest first. Longer
prefixes are ignored.
"""
_ENDS = re.compile(r"::|\[")


class QuarantineEvent(Event, frozen=True):
    job_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"quarantine-{self.job_id}"

    @property
    def data_key(self) -> str | None:
        return job_key(self.project_id, self.job_id)


class TestsQuarantined(QuarantineEvent, frozen=True):
    """Tests were put in quarantine. The n-th node id (from 0) is the entry with the id `first_id + n`."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "quarantine.added"
    sealed: ClassVar[tuple[str, ...]] = ("node_ids", "owner")
    first_id: int
    reason: Reason
    node_ids: list[str] = []
    expires_at: datetime | None = None
    owner: str | None = None


class QuarantineLifted(QuarantineEvent, frozen=True):
    name: ClassVar[str] = "quarantine.removed"
    sealed: ClassVar[tuple[str, ...]] = ("node_ids",)
    ids: list[int]
    node_ids: list[str] = []
    """The node ids of the entries, in the order of `ids`."""
    why: Literal["removed", "expired"] = "removed"
    """`removed`: a user lifted the entries. `expired`: the entries had expired before, and their node ids were put in
    quarantine again.
    """


class QuarantineExpired(QuarantineEvent, frozen=True):
    name: ClassVar[str] = "quarantine.expired"
    ids: list[int]


class QuarantineBecameHealthy(QuarantineEvent, frozen=True):
    """The tests of these entries recovered. If an entry fails again after its recovery, its next recovery is recorded,
    too.
    """

    name: ClassVar[str] = "quarantine.became_healthy"
    ids: list[int]
    failures: list[int]
    """For each entry, the number of builds in which one of its tests failed since the entry was added. The number
    identifies the recovery, since it differs for each recovery of an entry.
    """


class QuarantinedTestsRan(Event, frozen=True):
    """Tests in quarantine ran, according to a report. The event lists the entries that passed and those that failed.
    Entries whose tests were all skipped are in neither list.

    The event is in the results stream of the build, not in the job's quarantine, so that reports of a job do not wait
    for each other.
    """

    name: ClassVar[str] = "quarantine.tests_ran"
    build_id: int
    job_id: int
    project_id: int
    passed: list[int]
    """Ids of the entries that passed: all their tests that ran passed."""
    failed: list[int]
    """Ids of the entries that failed: one of their tests failed, in any attempt."""

    @property
    def stream(self) -> str:
        return results_stream(self.build_id)


class Entry(msgspec.Struct, frozen=True):
    quarantine_id: int
    reason: Reason
    expires_at: datetime | None = None
    expiry_recorded: bool = False
    healthy_after: int | None = None
    """Number of builds in which one of the entry's tests had failed when the entry last recovered; None before the
    first recovery.
    """

    def is_active(self, now: datetime) -> bool:
        """Whether the entry has an effect: it has not expired."""
        return self.expires_at is None or self.expires_at > now


class Quarantine(msgspec.Struct, frozen=True):
    entries: Mapping[str, Entry] = MappingProxyType({})
    """The entries by node id."""

    def active(self, now: datetime) -> list[str]:
        return list(self.counting(now))

    def counting(self, now: datetime) -> dict[str, Entry]:
        """Returns the entries that have not expired at `now`, by node id."""
        return {node_id: entry for node_id, entry in self.entries.items() if entry.is_active(now)}


def possible_entries(node_id: str) -> Iterator[str]:
    """Yields the entries that would quarantine a test: its node id, and each prefix of the node id before `::` or
    `[`.
    """
    yield node_id
    for end in islice(_ENDS.finditer(node_id), MAX_PREFIXES):
        yield node_id[: end.start()]


def filter_quarantined(node_ids: Iterable[str], entries: Iterable[str]) -> set[str]:
    """Returns those of the node ids that at least one of the entries quarantines."""
    known = frozenset(entries)
    if not known:
        return set()
    return {node_id for node_id in node_ids if any(entry in known for entry in possible_entries(node_id))}


def split_by_outcome(ran: Iterable[tuple[str, bool]], entries: Mapping[str, Entry]) -> tuple[list[int], list[int]]:
    """Returns two lists of entry ids: the entries whose tests all passed, and the entries with a failed test.

    `ran` has (node id, whether the test failed in any attempt) for each test that ran. `entries` maps node ids to
    entries.
    """
    failures: dict[int, bool] = {}
    for node_id, failed in ran:
        for covers in possible_entries(node_id):
            if (entry := entries.get(covers)) is not None:
                failures[entry.quarantine_id] = failed or failures.get(entry.quarantine_id, False)
    passed = sorted(quarantine_id for quarantine_id, failed in failures.items() if not failed)
    return passed, sorted(failures.keys() - passed)


def evolve(state: Quarantine, event: Event) -> Quarantine:
    match event:
        case TestsQuarantined():
            added = {
                node_id: Entry(event.first_id + number, event.reason, event.expires_at)
                for number, node_id in enumerate(event.node_ids)
            }
            return Quarantine({**state.entries, **added})
        case QuarantineLifted():
            lifted = set(event.ids)
            kept = {node: entry for node, entry in state.entries.items() if entry.quarantine_id not in lifted}
            return Quarantine(kept)
        case QuarantineExpired():
            return _changed(state, {quarantine_id: {"expiry_recorded": True} for quarantine_id in event.ids})
        case QuarantineBecameHealthy():
            outcomes = zip(event.ids, event.failures, strict=False)
            return _changed(state, {quarantine_id: {"healthy_after": failures} for quarantine_id, failures in outcomes})
        case _:
            return state


def _changed(state: Quarantine, changes: Mapping[int, Mapping[str, Any]]) -> Quarantine:
    entries = dict(state.entries)
    for node_id, entry in state.entries.items():
        if (changed := changes.get(entry.quarantine_id)) is not None:
            entries[node_id] = msgspec.structs.replace(entry, **changed)
    return Quarantine(entries)


QUARANTINE = Category("quarantine", Quarantine(), evolve)
EVENTS = (TestsQuarantined, QuarantineLifted, QuarantineExpired, QuarantineBecameHealthy, QuarantinedTestsRan)
