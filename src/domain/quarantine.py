"""Quarantine: tests of a job that run as ever, but whose failures do not fail its builds.

A job's quarantine is one stream. An entry is a test's node id or, as pytest's reporter understands it, a prefix of
node ids: what follows it begins with `::` or `[`. An entry that has expired does not count.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from types import MappingProxyType
from typing import ClassVar, Literal, get_args

import msgspec

from domain.base import Category, Event

Reason = Literal["flaky", "infra", "wip"]
REASONS: tuple[Reason, ...] = get_args(Reason)

MAX_PREFIXES = 64
"""Of an id with more places where an entry may end, only the first ones are looked at."""
_ENDS = re.compile(r"::|\[")


class QuarantineEvent(Event, frozen=True):
    job_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"quarantine-{self.job_id}"


class TestsQuarantined(QuarantineEvent, frozen=True):
    """The n-th node id is entry `first_id + n`."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "quarantine.added"
    first_id: int
    node_ids: list[str]
    reason: Reason
    expires_at: datetime | None = None
    owner: str | None = None


class QuarantineLifted(QuarantineEvent, frozen=True):
    name: ClassVar[str] = "quarantine.removed"
    ids: list[int]
    node_ids: list[str]
    """Of the entries, in the same order."""
    why: Literal["removed", "expired"] = "removed"
    """Expired entries are only taken away when the same id is quarantined anew."""


class Entry(msgspec.Struct, frozen=True):
    quarantine_id: int
    reason: Reason
    expires_at: datetime | None = None

    def counts(self, now: datetime) -> bool:
        return self.expires_at is None or self.expires_at > now


class Quarantine(msgspec.Struct, frozen=True):
    entries: Mapping[str, Entry] = MappingProxyType({})
    """By node id."""

    def active(self, now: datetime) -> list[str]:
        return [node_id for node_id, entry in self.entries.items() if entry.counts(now)]


def covering(node_id: str) -> Iterator[str]:
    """The entries that would quarantine this test: its id, and each prefix of it that may be one."""
    yield node_id
    for end in islice(_ENDS.finditer(node_id), MAX_PREFIXES):
        yield node_id[: end.start()]


def covered(node_ids: Iterable[str], entries: Iterable[str]) -> set[str]:
    """Those of the node ids that one of the entries quarantines."""
    known = frozenset(entries)
    if not known:
        return set()
    return {node_id for node_id in node_ids if any(entry in known for entry in covering(node_id))}


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
        case _:
            return state


QUARANTINE = Category("quarantine", Quarantine(), evolve)
EVENTS = (TestsQuarantined, QuarantineLifted)
