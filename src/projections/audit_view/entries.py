"""Entries of the audit trail: each event with a sentence that describes it, and the fields that it changed.

Each stream is folded only once for all its events on a page, and not further than a limit: a stream may have thousands
of events, each of a megabyte.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import NamedTuple

import msgspec

from domain.core.events import Damaged, Recorded
from domain.registry import AREAS
from projections import audit_trail
from projections.audit_view.rule_matches import CLASSIFYING, RuleMatches
from projections.audit_view.stream_changes import Change, StreamFolder, add_matches, find_category
from projections.audit_view.summaries import summarize
from store.log.event_log import PIECE_EVENTS, EventLog
from store.postgres.queries import Source

GROUP_EVENTS = 1_000
"""Largest number of events whose positions one query looks up."""

EVENT_AREAS: Mapping[str, str] = {
    event.name: area.__name__.rpartition(".")[2] for area in AREAS for event in area.EVENTS
}
"""Event name -> area: the name of the event's module in `domain`."""

SYSTEM = {
    "deliveries": "The delivery of messages",
    "dispatch": "The dispatcher",
    "evals": "The runs of evaluations",
    "docker-agents": "The worker of Docker agents",
    "first-start": "The first start",
    "identity-providers": "The refresh of identity providers",
    "known-issues": "The search for known issues",
    "hook": "The hook of a source code host",
    "operator": "An operator",
    "quarantine": "The watch over quarantines",
    "retention": "Retention",
    "schedule": "A time table",
    "sso": "Single sign-on",
    "start": "The start of the server",
    "tickets": "The tickets of Jira integrations",
    "vcenter": "The operations on vCenters",
}


class AuditEntry(msgspec.Struct, frozen=True):
    """An entry of the audit trail: an event, who caused it, a sentence about it, and the fields that it changed."""

    position: int
    stream: str
    version: int
    type: str
    area: str
    """Area of the event, such as `builds`."""
    at: datetime
    actor: str
    """Origin of the event, such as `user:7`, `node:12` or `system:dispatch`."""
    actor_name: str | None
    """The actor's current name; null for deleted users and nodes, and for the server itself."""
    correlation_id: str
    """Id that the events of a request share with all events that workers append because of the request."""
    causation: int | None
    """Log position of the event that caused this event; null if a request caused it."""
    project_id: int | None
    erased: bool
    """Whether the texts of the event have been erased."""
    summary: str
    """Sentence that describes the event."""
    changes: list[Change] | None = None
    """Fields that the event changed. Null if the event comes after the first 10,000 events of its stream, or after the
    first 64 MiB of them.
    """


class FoldLimits(NamedTuple):
    """Limits of the part of each stream that is folded. Later events are shown without their changes."""

    events: int
    bytes: int
    """Largest total size of the fields of the folded events, in bytes."""


TRAIL_FOLD_LIMITS = FoldLimits(10_000, 64 * 1024 * 1024)
"""Limits of the audit trail. Folding 64 MiB takes some 0.5 s."""


class AuditPage(NamedTuple):
    entries: list[AuditEntry]
    is_cut: bool
    """Whether entries are missing at the end of the page, since the limit of bytes that may be read was reached."""


def describe(recorded: Recorded, name: str | None) -> AuditEntry:
    """Returns the entry of an event, without its changes: `add_changes` adds them. `name` is the current name of the
    event's actor; None if the actor has no name.
    """
    event = recorded.event
    gone = " Its texts were erased." if recorded.erased else ""
    if isinstance(event, Damaged):
        type, did = event.type, f"did what cannot be read any more: {event.reason}"
    else:
        type, did = event.name, summarize(event)
    return AuditEntry(
        position=recorded.position,
        stream=recorded.stream,
        version=recorded.version,
        type=type,
        area=EVENT_AREAS[type],
        at=event.at,
        actor=event.actor,
        actor_name=name,
        correlation_id=event.correlation_id,
        causation=event.causation,
        project_id=getattr(event, "project_id", None),
        erased=recorded.erased,
        summary=f"{describe_actor(event.actor, name)} {did}.{gone}",
    )


def describe_actor(actor: str, name: str | None) -> str:
    kind, _, which = actor.partition(":")
    match kind:
        case "user":
            return name or f"User {which}"
        case "node":
            return f"Node {name or which}"
        case "system":
            return SYSTEM.get(which, f"The server ({which})")
        case _:
            return "Somebody"


async def load_page(
    source: Source, log: EventLog, positions: Sequence[int], limits: FoldLimits, max_bytes: int
) -> AuditPage:
    """Returns the audit entries of the events at `positions`, in this order, each with the fields that its event
    changed. Leaves out positions that have no event. Stops when it has read `max_bytes` of events, but returns at least
    one entry if there is one.
    """
    described: list[AuditEntry] = []
    size = count = 0
    async for events, sizes, covered in log.read_pieces(positions):
        described += await describe_all(source, events)
        size, count = size + sum(sizes), count + covered
        if described and size >= max_bytes:
            break
    entries = await add_changes(source, log, described, limits, max_bytes)
    return AuditPage(entries, count < len(positions) or len(entries) < len(described))


async def describe_all(source: Source, events: Sequence[Recorded]) -> list[AuditEntry]:
    """Returns the entries of the events, without the fields that they changed."""
    names = await audit_trail.fetch_actor_names(source, {recorded.event.actor for recorded in events})
    return [describe(recorded, names.get(recorded.event.actor)) for recorded in events]


async def add_changes(
    source: Source,
    log: EventLog,
    shown: Sequence[AuditEntry],
    limits: FoldLimits = TRAIL_FOLD_LIMITS,
    max_bytes: int | None = None,
) -> list[AuditEntry]:
    """Returns these entries with the changes of their events. With `max_bytes`, stops as soon as events of that many
    bytes were read, and leaves out the entries that remain. Always returns the first entry.
    """
    wanted: dict[str, set[int]] = defaultdict(set)
    for one in shown:
        if one.version <= limits.events and find_category(one.stream) is not None:
            wanted[one.stream].add(one.version)
    rules = RuleMatches(source, log)
    folding = _Folding(log, rules, limits, max_bytes)
    await folding.fold(wanted)
    found: list[AuditEntry] = []
    for one in shown:
        is_classifying = one.type in CLASSIFYING and one.version <= limits.events
        is_left_out = one.stream in wanted and one.stream not in folding.reached
        if found and (is_left_out or (is_classifying and folding.is_full)):
            break
        changes = folding.changes.get(one.position, [])
        if is_classifying:
            for recorded in await log.read_at([one.position]):
                changes = add_matches(changes, await rules.find_classified(recorded))
        is_folded = one.version <= (folding.reached.get(one.stream, 0) if one.stream in wanted else limits.events)
        found.append(msgspec.structs.replace(one, changes=changes if is_folded else None))
    return found


class _Folding:
    """Folds streams, one after the other, and collects the fields that their events changed."""

    def __init__(self, log: EventLog, rules: RuleMatches, limits: FoldLimits, max_bytes: int | None) -> None:
        self._log = log
        self._rules = rules
        self._limits = limits
        self._max_bytes = max_bytes
        self._read_bytes = 0
        self.changes: dict[int, list[Change]] = {}
        """Position of an event -> the fields that the event changed."""
        self.reached: dict[str, int] = {}
        """Stream -> version up to which it was folded."""

    @property
    def is_full(self) -> bool:
        """Whether events of `max_bytes` were read, so that no further stream is folded."""
        return self._max_bytes is not None and self._read_bytes + self._rules.read_bytes >= self._max_bytes

    async def fold(self, wanted: Mapping[str, Collection[int]]) -> None:
        """Folds streams, and adds to `self.changes` what some of their events changed. Stops early when `is_full`.
        `wanted` maps each stream to the versions of the events whose changes are needed.
        """
        for group in _group({stream: max(versions) for stream, versions in wanted.items()}):
            found = await self._log.find_stream_positions(group)
            # Short streams share a piece, but only one stream has its state in memory at a time.
            rest = deque((stream, position) for stream, positions in found.items() for position in positions)
            stream, folded_bytes = "", 0
            folder: StreamFolder | None = None
            while rest:
                piece = await self._log.read_piece([position for _, position in islice(rest, PIECE_EVENTS)])
                for _ in range(piece.covered):
                    rest.popleft()
                for recorded, size in zip(piece.events, piece.sizes, strict=True):
                    if folder is None or recorded.stream != stream:
                        if self.is_full:
                            return
                        stream, folded_bytes = recorded.stream, 0
                        folder = StreamFolder(stream, wanted[stream], await self._rules.find_for_stream(stream))
                    if folded_bytes < self._limits.bytes:
                        folder.apply([recorded])
                        self.reached[stream] = recorded.version
                        folded_bytes += size
                        self._read_bytes += size
                        if recorded.version in wanted[stream]:
                            self.changes[recorded.position] = folder.changes[recorded.position]
                while rest and rest[0][0] == stream and folded_bytes >= self._limits.bytes:
                    rest.popleft()
                if self.is_full and rest and rest[0][0] != stream:
                    return
            if self.is_full:
                return


def _group(last: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Splits `last`, which maps each stream to the version up to which it is read. Each part has streams with at most
    GROUP_EVENTS events together, or a single longer stream.
    """
    group: dict[str, int] = {}
    for stream, version in last.items():
        if group and sum(group.values()) + version > GROUP_EVENTS:
            yield group
            group = {}
        group[stream] = version
    if group:
        yield group
