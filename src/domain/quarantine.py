"""Quarantine: tests of a job that run as ever, but whose failures do not fail its builds.

A job's quarantine is one stream. An entry is a test's node id or, as pytest's reporter understands it, a prefix of
node ids: what follows it begins with `::` or `[`. An entry that has expired does not count. One whose tests have
recovered still does, until somebody lifts it; both are said once, by events.
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
"""Builds in a row in which an entry's tests passed, and none of them failed in any attempt."""

MAX_PREFIXES = 64
"""Of an id with more places where an entry may end, only the first ones are looked at."""
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
    """The n-th node id is entry `first_id + n`."""

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
    """Of the entries, in the same order."""
    why: Literal["removed", "expired"] = "removed"
    """Expired entries are only taken away when the same id is quarantined anew."""


class QuarantineExpired(QuarantineEvent, frozen=True):
    name: ClassVar[str] = "quarantine.expired"
    ids: list[int]


class QuarantineBecameHealthy(QuarantineEvent, frozen=True):
    """True until a test of the entry fails again; recovering from that is news again."""

    name: ClassVar[str] = "quarantine.became_healthy"
    ids: list[int]
    failures: list[int]
    """In how many builds tests of each entry had failed since it was quarantined: tells one recovery from the next."""


class QuarantinedTestsRan(Event, frozen=True):
    """How the entries that counted fared in a report of a build; an entry whose tests were all skipped did not run.

    It lies beside the report's results, so that reports of a job do not wait for each other.
    """

    name: ClassVar[str] = "quarantine.tests_ran"
    build_id: int
    job_id: int
    project_id: int
    passed: list[int]
    """Ids of the entries whose tests passed, all that ran."""
    failed: list[int]
    """Ids of the entries of which a test failed, in any attempt."""

    @property
    def stream(self) -> str:
        return results_stream(self.build_id)


class Entry(msgspec.Struct, frozen=True):
    quarantine_id: int
    reason: Reason
    expires_at: datetime | None = None
    expiry_recorded: bool = False
    healthy_after: int | None = None
    """How many failures had come before its last recovery that was said."""

    def counts(self, now: datetime) -> bool:
        return self.expires_at is None or self.expires_at > now


class Quarantine(msgspec.Struct, frozen=True):
    entries: Mapping[str, Entry] = MappingProxyType({})
    """By node id."""

    def active(self, now: datetime) -> list[str]:
        return list(self.counting(now))

    def counting(self, now: datetime) -> dict[str, Entry]:
        """The entries that have not expired."""
        return {node_id: entry for node_id, entry in self.entries.items() if entry.counts(now)}


def possible_entries(node_id: str) -> Iterator[str]:
    """The entries that would quarantine this test: its id, and each prefix of it that may be one."""
    yield node_id
    for end in islice(_ENDS.finditer(node_id), MAX_PREFIXES):
        yield node_id[: end.start()]


def filter_quarantined(node_ids: Iterable[str], entries: Iterable[str]) -> set[str]:
    """Those of the node ids that one of the entries quarantines."""
    known = frozenset(entries)
    if not known:
        return set()
    return {node_id for node_id in node_ids if any(entry in known for entry in possible_entries(node_id))}


def split_by_outcome(ran: Iterable[tuple[str, bool]], entries: Mapping[str, Entry]) -> tuple[list[int], list[int]]:
    """Ids of the entries whose tests all passed, and of those of which one failed.

    `ran` has each test that was not only skipped, and whether it failed in any attempt.
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
            said = zip(event.ids, event.failures, strict=False)
            return _changed(state, {quarantine_id: {"healthy_after": failures} for quarantine_id, failures in said})
        case _:
            return state


def _changed(state: Quarantine, changes: Mapping[int, Mapping[str, Any]]) -> Quarantine:
    """`changes` by the id of an entry."""
    entries = dict(state.entries)
    for node_id, entry in state.entries.items():
        if (changed := changes.get(entry.quarantine_id)) is not None:
            entries[node_id] = msgspec.structs.replace(entry, **changed)
    return Quarantine(entries)


QUARANTINE = Category("quarantine", Quarantine(), evolve)
EVENTS = (TestsQuarantined, QuarantineLifted, QuarantineExpired, QuarantineBecameHealthy, QuarantinedTestsRan)
