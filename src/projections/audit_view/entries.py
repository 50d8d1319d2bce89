"""A reading of the audit trail: each event with a sentence and with what it changed.

What changed is what the stream's state was before the event against what it is after it, so a stream is folded once
for all its events in one reading. Secrets show as SECRET, whether they were sealed or not.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from domain.artifacts import ARTIFACT
from domain.audit import AUDIT_READ
from domain.auth import API_TOKEN, SESSION
from domain.builds import BUILD, Build, status_of
from domain.claims import CLAIM
from domain.core.events import Category, Damaged, Event, Recorded
from domain.dispatch import LEADER
from domain.flakiness import FLAKINESS
from domain.jobs import JOB
from domain.known_issues import KNOWN_ISSUE
from domain.node_commands import NODE_COMMAND
from domain.nodes import NODE, NodeRegistered
from domain.pools import POOL
from domain.projects import PROJECT, ProjectCreated, WebhookSecretRotated
from domain.quarantine import QUARANTINE
from domain.registry import AREAS
from domain.sealing import SIGNING_KEY
from domain.teams import CARD, CHANNEL
from domain.templates import TEMPLATE
from domain.triage import TRIAGE
from domain.users import USER, UserRegistered
from domain.webhooks import DELIVERY, WEBHOOK
from projections.audit_view.summaries import summarize
from store.log.event_log import EventLog

SECRET = "(secret)"  # noqa: S105 - stands for one
MAX_CHANGES = 100
MAX_TEXT = 500
MAX_ITEMS = 20
MAX_FOLDED = 10_000
"""Events of a stream; of later ones it is not said what they changed."""
EVENT_BATCH = 10
"""Events to hold together while they are told: one of a report's may be megabytes."""
SHORT_STREAM_LENGTH = 200

EVENT_AREAS: Mapping[str, str] = {
    event.name: area.__name__.rpartition(".")[2] for area in AREAS for event in area.EVENTS
}
"""The area of each type of event."""

CATEGORIES: Mapping[str, Category[Any]] = {
    category.prefix: category
    for category in (
        *(API_TOKEN, ARTIFACT, AUDIT_READ, BUILD, CLAIM, JOB, KNOWN_ISSUE, LEADER, NODE, NODE_COMMAND, POOL, PROJECT),
        *(QUARANTINE, SESSION, SIGNING_KEY.category, TEMPLATE, TRIAGE, USER, WEBHOOK, DELIVERY, FLAKINESS),
        *(CHANNEL, CARD),
    )
}

BLANK: tuple[Any, ...] = (None, "", [], False)

SYSTEM = {
    "deliveries": "The delivery of messages",
    "dispatch": "The dispatcher",
    "first-start": "The first start",
    "known-issues": "The search for known issues",
    "quarantine": "The watch over quarantines",
    "retention": "Retention",
}

_HIDDEN = re.compile(r"(^|_)(secret|password|token|hash)(_|$)", re.IGNORECASE)
_INTERNAL = {"assigned_at", "claim", "queued", "read_id", "results_version", *Event.__struct_fields__}
"""Fields that say nothing to a reader, or say again what stands beside them."""


class Change(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """One field; dots lead into what it is made of: `configuration.env.HOST`."""

    field: str
    before: Any
    after: Any


class Told(msgspec.Struct, frozen=True):
    position: int
    stream: str
    version: int
    type: str
    area: str
    at: datetime
    actor: str
    actor_name: str | None
    """As of today; null for somebody who is gone, and for the server itself."""
    correlation_id: str
    causation: int | None
    project_id: int | None
    erased: bool
    """Its texts were erased."""
    summary: str
    changes: list[Change] | None = None
    """Null for an event too far back in a long stream."""


class _Secret(NamedTuple):
    value: Any


def describe(recorded: Recorded, name: str | None) -> Told:
    """The event by itself; `with_changes` says what it changed. `name` is the actor's of today."""
    event = recorded.event
    gone = " Its texts were erased." if recorded.erased else ""
    if isinstance(event, Damaged):
        type, did = event.type, f"did what cannot be read any more: {event.reason}"
    else:
        type, did = event.name, summarize(event)
    return Told(
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


async def add_changes(log: EventLog, shown: Sequence[Told]) -> list[Told]:
    """The same events, each with what it changed. Folds each of their streams once."""
    changed: dict[int, list[Change]] = {}
    by_stream: dict[str, set[int]] = defaultdict(set)
    for one in shown:
        if one.version <= MAX_FOLDED and find_category(one.stream) is not None:
            by_stream[one.stream].add(one.version)
    last = {stream: max(versions) for stream, versions in by_stream.items()}
    short = await log.load_up_to(
        {stream: version for stream, version in last.items() if version <= SHORT_STREAM_LENGTH}
    )
    for stream, version in last.items():
        folding = StreamFolder(stream, by_stream[stream])
        if stream in short:
            folding.take(short[stream])
        else:
            for start in range(0, version, SHORT_STREAM_LENGTH):
                folding.take(await log.read_stream(stream, start, min(SHORT_STREAM_LENGTH, version - start)))
        changed |= folding.changes
    return [
        msgspec.structs.replace(one, changes=None if one.version > MAX_FOLDED else changed.get(one.position, []))
        for one in shown
    ]


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


def find_category(stream: str) -> Category[Any] | None:
    """None for streams that nothing is folded from, as those of results."""
    parts = stream.split("-")
    prefixes = ("-".join(parts[:number]) for number in range(len(parts) - 1, 0, -1))
    return next((CATEGORIES[prefix] for prefix in prefixes if prefix in CATEGORIES), None)


class StreamFolder:
    """Folds a stream and keeps what the wanted versions changed, by position. Takes its events in order, in parts."""

    def __init__(self, stream: str, wanted: Collection[int]) -> None:
        category = find_category(stream)
        assert category is not None, f"nothing is folded from {stream}"
        self._evolve = category.evolve
        self._initial = self._state = category.initial
        self._own = f"{category.prefix.rpartition('-')[2]}_id"
        self._wanted = wanted
        self.changes: dict[int, list[Change]] = {}

    def take(self, events: Iterable[Recorded]) -> None:
        for recorded in events:
            before, self._state = self._state, self._evolve(self._state, recorded.event)
            if recorded.version in self._wanted:
                changes = [*_difference(self._facts(before), self._facts(self._state)), *_beside(recorded.event)]
                self.changes[recorded.position] = _shown(changes, self._own, recorded.erased)

    def _facts(self, state: Any) -> dict[str, Any]:
        """Nothing where nothing has happened yet."""
        return {} if state == self._initial else flatten(state)


def flatten(state: Any) -> dict[str, Any]:
    """What a state says, by dotted names; secrets as _Secret, so that they can be told apart and not be shown."""
    match state:
        case None:
            return {}
        case Build():
            own = {name: value for name, value in _fields("", state) if value is not None}
            return {**dict(_fields("", state.queued)), **own, "status": status_of(state)}  # type: ignore[arg-type]
        case msgspec.Struct():
            return dict(_fields("", state))
        case _:
            return {"state": state}


def _fields(prefix: str, struct: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    for name in struct.__struct_fields__:
        if name not in _INTERNAL:
            yield from _flat(f"{prefix}{name}", name, getattr(struct, name))


def _flat(name: str, last: str, value: Any) -> Iterator[tuple[str, Any]]:
    """`last` is the last part of the dotted name."""
    match value:
        case msgspec.Struct():
            yield from _fields(f"{name}.", value)
        case Mapping():
            for key, item in value.items():
                yield from _flat(f"{name}.{key}", str(key), item)
        case _ if isinstance(value, bytes) or (isinstance(value, str) and _HIDDEN.search(last)):
            yield name, _Secret(value) if value else None
        case list() | tuple() if value and isinstance(value[0], msgspec.Struct):
            yield name, len(value)
        case set() | frozenset():
            yield name, sorted(value)
        case tuple():
            yield name, list(value)
        case _:
            yield name, value


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for field in dict.fromkeys([*after, *before]):
        was, now = before.get(field), after.get(field)
        # Of what is new, only what somebody said.
        if was != now and not (was is None and now in BLANK):
            yield Change(field, was, now)


def _beside(event: Event) -> Iterator[Change]:
    """What changed and is in no state, since nothing is decided by it."""
    match event:
        case ProjectCreated():
            yield Change("slug", None, event.slug)
            yield Change("webhook_secret", None, SECRET)
        case WebhookSecretRotated():
            yield Change("webhook_secret", SECRET, SECRET)
        case NodeRegistered():
            yield Change("agent_token", None, SECRET)
        case UserRegistered() if event.password_hash:
            yield Change("password", None, SECRET)
        case _:
            return


def _shown(changes: Iterable[Change], own: str, erased: bool) -> list[Change]:
    # The id that the stream is named by is no news, and defaults are not what an erased event said.
    kept = [change for change in changes if change.field != own and not (erased and change.after in BLANK)]
    shown = [Change(change.field, _plain(change.before), _plain(change.after)) for change in kept[:MAX_CHANGES]]
    if len(kept) > MAX_CHANGES:
        shown.append(Change("…", None, f"and {len(kept) - MAX_CHANGES:,} more"))
    return shown


def _plain(value: Any) -> Any:
    match value:
        case _Secret():
            return SECRET
        case str() if len(value) > MAX_TEXT:
            return f"{value[:MAX_TEXT]}… ({len(value):,} characters)"
        case list() if len(value) > MAX_ITEMS:
            return [*(_plain(item) for item in value[:MAX_ITEMS]), f"… and {len(value) - MAX_ITEMS:,} more"]
        case list():
            return [_plain(item) for item in value]
        case _:
            return value
