"""The event log as the rest of the server sees it: append, load, read on."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.core.data_keys import lineage
from domain.core.errors import Erased
from domain.core.events import Event, EventMetadata, Recorded, Stream, readable
from store.crypto.secrets import SecretMismatch, Secrets
from store.log.append import GroupCommit, IdempotencyKey, Request
from store.log.codec import EventMapper, KeyOf, Unreadable
from store.postgres.batch_loader import BatchLoader

S = TypeVar("S")

KEYS_CACHED = 20_000
KEYS_TRIED = 100
"""Before it is said that the secret is another one."""
KEYS_CACHED_S = 60.0
"""A process that is not told of an erasure forgets the key by then."""


@dataclass(frozen=True)
class Write:
    """An event and the version that it takes in its stream."""

    version: int
    event: Event


class Batch(NamedTuple):
    """Events that follow each other, of the names that were asked for."""

    events: Sequence[Recorded]
    position: int
    """The log was read up to here; a stretch without such events is stepped over."""
    is_full: bool
    """More may follow at once."""


class EventLog:
    def __init__(self, pool: AsyncConnectionPool, commit: GroupCommit, mapper: EventMapper, secrets: Secrets) -> None:
        self._pool = pool
        self._commit = commit
        self._mapper = mapper
        self._secrets = secrets
        self._loading = BatchLoader(pool, _load)
        # Emptied now and then: no key outlives its destruction by more than that.
        self._keys: dict[str, bytes | None] = {}
        self._keys_since = time.monotonic()

    async def append(
        self,
        writes: Sequence[Write],
        stamp: EventMetadata,
        guards: Iterable[tuple[str, int]] = (),
        once: IdempotencyKey | None = None,
    ) -> list[Recorded]:
        """Appends all or nothing. Raises VersionConflict when a version is taken or a guarded stream has moved on, and
        AlreadyDone when `once` was noted before.
        """
        events = [write.event for write in writes]
        keys, new = await self._keys_for(writes)
        stored = [
            self._mapper.encode(write.event.stream, write.version, write.event, stamp, keys.get(write.event.data_key))
            for write in writes
        ]
        notifications = [payload for event in events if (payload := event.notifies) is not None]
        erased = [name for event in events if (name := event.erases) is not None]
        positions = await self._commit.append(Request(stored, tuple(guards), new, notifications, erased, once))
        self._keys.update({name: keys[name] for name, _ in new})
        self._forget(events)
        return [
            Recorded(write.event.stream, write.version, position, stamp.on(write.event))
            for write, position in zip(writes, positions, strict=True)
        ]

    async def load(self, streams: Sequence[str]) -> dict[str, list[Recorded]]:
        """The events of each stream, in order; an empty list for a stream that does not exist. Raises StreamDamaged."""
        rows = await self._loading(tuple(streams))
        loaded: dict[str, list[Recorded]] = {stream: [] for stream in streams}
        for recorded in readable(await self._decode(rows)):
            loaded[recorded.stream].append(recorded)
        return loaded

    async def load_state(self, stream: Stream[S]) -> S:
        """What a stream's events fold to, right now. Raises StreamDamaged."""
        return stream.fold(recorded.event for recorded in (await self.load([stream.name]))[stream.name])

    async def read(
        self, after: int, limit: int, names: Sequence[str] | None = None, up_to: int | None = None
    ) -> list[Recorded]:
        """Reads the next events of the whole log, by position: with one of `names`, at most `up_to`, where given.

        An event that cannot be read is Damaged here. Raises UnknownEvent for one that a newer release wrote.
        """
        rows = await self._rows(
            "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
            " WHERE notification_id > %s AND (%s::text[] IS NULL OR topic = ANY (%s::text[]))"
            f"{'' if up_to is None else ' AND notification_id <= %s'} ORDER BY notification_id LIMIT %s",
            (after, names, names, limit) if up_to is None else (after, names, names, up_to, limit),
        )
        return await self._decode(rows)

    async def read_batch(
        self, after: int, limit: int, names: Sequence[str] | None = None, up_to: int | None = None
    ) -> Batch:
        """Reads as `read`, and tells how far. `up_to` is a position that the log has already."""
        end = up_to or after
        if up_to is None and names is not None:
            # Asked before the events are read: nothing that is appended in between is stepped over.
            end = await self.read_head()
        events = await self.read(after, limit, names, up_to)
        last = events[-1].position if events else after
        is_full = len(events) == limit
        return Batch(events, last if is_full else max(last, end), is_full)

    async def find_positions(self, streams: Sequence[str], until: int) -> list[int]:
        """Where the events of these streams stand, up to a position."""
        rows = await self._rows(
            "SELECT notification_id FROM stored_events WHERE originator_id = ANY (%s) AND notification_id <= %s",
            (list(streams), until),
        )
        return [position for (position,) in rows]

    async def read_at(self, positions: Sequence[int]) -> list[Recorded]:
        """The events at these positions, by position; what is not there is left out."""
        rows = await self._rows(
            "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
            " WHERE notification_id = ANY (%s) ORDER BY notification_id",
            (list(positions),),
        )
        return await self._decode(rows)

    async def read_stream(self, name: str, after: int, limit: int) -> list[Recorded]:
        """The next events of one stream, by version."""
        rows = await self._rows(
            "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
            " WHERE originator_id = %s AND originator_version > %s ORDER BY originator_version LIMIT %s",
            (name, after, limit),
        )
        return await self._decode(rows)

    async def load_up_to(self, versions: Mapping[str, int]) -> dict[str, list[Recorded]]:
        """The events of each stream, in order, up to its version here."""
        rows = await self._rows(
            "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
            " JOIN unnest(%s::text[], %s::bigint[]) AS wanted(name, version)"
            " ON originator_id = wanted.name AND originator_version <= wanted.version"
            " ORDER BY originator_id, originator_version",
            (list(versions), list(versions.values())),
        )
        loaded: dict[str, list[Recorded]] = {stream: [] for stream in versions}
        for recorded in await self._decode(rows):
            loaded[recorded.stream].append(recorded)
        return loaded

    async def find_destroyed_keys(self, names: Iterable[str]) -> set[str]:
        """Those of these data keys that are gone or lie below one that is, whatever this process remembers."""
        lines = {name: lineage(name) for name in names}
        wanted = list({above for line in lines.values() for above in line})
        query = "SELECT name FROM stored_events_keys WHERE name = ANY (%s) AND wrapped IS NULL"
        rows = await self._rows(query, (wanted,))
        gone = {name for (name,) in rows}
        return {name for name, line in lines.items() if not gone.isdisjoint(line)}

    async def read_head(self) -> int:
        """The newest position; 0 for an empty log."""
        rows = await self._rows("SELECT coalesce(max(notification_id), 0) FROM stored_events", ())
        return int(rows[0][0])

    async def _rows(self, query: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(query.encode(), params, prepare=True, binary=True)
            return await cursor.fetchall()

    async def _decode(self, rows: list[tuple[Any, ...]]) -> list[Recorded]:
        stored = [(position, StoredEvent(*columns)) for position, *columns in rows]
        names = {name for _, event in stored if (name := self._mapper.key_name(event.state)) is not None}
        keys, key_of = await self._opening(names)
        recorded = [self._mapper.read(event, position, key_of) for position, event in stored]
        erased = self._forget([item.event for item in recorded])
        if erased and any(key is not None and not erased.isdisjoint(lineage(name)) for name, key in keys.items()):
            # This process remembered the key still; what came before its erasure reads as blank too.
            _, key_of = await self._opening(names)
            recorded = [self._mapper.read(event, position, key_of) for position, event in stored]
        return recorded

    async def _opening(self, names: Collection[str]) -> tuple[dict[str, bytes | None], KeyOf]:
        """These data keys, and what answers for them: it raises Unreadable for one that is damaged itself.

        Raises SecretMismatch when the secret is another one.
        """
        try:
            keys = await self.load_data_keys(names)
        except SecretMismatch:
            await self._must_be_our_secret()
        else:
            return keys, keys.get
        keys, damaged = {}, set[str]()
        for name in names:
            try:
                keys |= await self.load_data_keys([name])
            except SecretMismatch:
                damaged.add(name)

        def key_of(name: str) -> bytes | None:
            if name in damaged:
                raise Unreadable(f"the data key {name} does not open")
            return keys.get(name)

        return keys, key_of

    async def _must_be_our_secret(self) -> None:
        """Raises SecretMismatch when it opens none of the topmost data keys."""
        query = (
            "SELECT name, wrapped FROM stored_events_keys WHERE wrapped IS NOT NULL AND name NOT LIKE '%%/%%' LIMIT %s"
        )
        for name, wrapped in await self._rows(query, (KEYS_TRIED,)):
            with contextlib.suppress(SecretMismatch):
                self._secrets.unwrap(name, wrapped)
                return
        raise SecretMismatch("no data key of this log opens: is TESTHIDE_SECRET_KEY the one that it was written with?")

    async def _keys_for(self, writes: Sequence[Write]) -> tuple[dict[str | None, bytes], list[tuple[str, bytes]]]:
        """The data keys that the sealed fields need, and which of them are new (with their wrapped form)."""
        needed = {
            name: write.version == 1 and write.event.stream == name.rpartition("/")[2]
            for write in reversed(writes)
            if (name := write.event.data_key) is not None and self._mapper.seals(write.event)
        }
        # The first event of the stream of the same name makes the key: no need to look.
        known = await self.load_data_keys(
            above for name, is_first in needed.items() for above in lineage(name)[: -1 if is_first else None]
        )
        keys: dict[str | None, bytes] = {}
        new: list[tuple[str, bytes]] = []
        for name in needed:
            parent = None
            for above in lineage(name):
                if above not in keys and above not in known:
                    keys[above], wrapped = self._secrets.new_data_key(above, parent)
                    new.append((above, wrapped))
                elif (key := keys.get(above) or known[above]) is None:
                    raise Erased(f"{above.rpartition('/')[2]} was erased; nothing can be added to it.")
                else:
                    keys[above] = key
                parent = keys[above]
        return keys, new

    def _forget(self, events: Iterable[Event]) -> set[str]:
        """An erasure reaches what this process remembers as soon as it sees it. Answers the keys that are gone."""
        erased = {name for event in events if (name := event.erases) is not None}
        self._keys.update(dict.fromkeys(erased))
        return erased

    async def load_data_keys(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Those of `names` that were ever made; None for one that was destroyed, or that lies below a destroyed one."""
        lines = {name: lineage(name) for name in names}
        wanted = set[str]().union(*lines.values())
        if len(self._keys) > KEYS_CACHED or time.monotonic() - self._keys_since > KEYS_CACHED_S:
            self._keys.clear()
            self._keys_since = time.monotonic()
        keys = {name: self._keys[name] for name in wanted if name in self._keys}
        if missing := list(wanted - keys.keys()):
            rows = await self._rows("SELECT name, wrapped FROM stored_events_keys WHERE name = ANY (%s)", (missing,))
            fresh: dict[str, bytes | None] = {}
            for name, wrapped in sorted(rows, key=_depth):
                above, _, _ = name.rpartition("/")
                parent = fresh.get(above, keys.get(above))
                if wrapped is None or (above and parent is None):
                    fresh[name] = None
                else:
                    fresh[name] = self._secrets.unwrap(name, wrapped, parent)
            for name, key in fresh.items():
                self._keys.setdefault(name, key)  # what was seen to be erased in the meantime stays so
            keys |= fresh
        return {
            name: None if None in map(keys.get, line) else keys[name] for name, line in lines.items() if name in keys
        }


def _depth(row: tuple[Any, ...]) -> int:
    return str(row[0]).count("/")


async def _load(connection: AsyncConnection, asked: Sequence[Sequence[str]]) -> list[list[tuple[Any, ...]]]:
    cursor = await connection.execute(
        "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
        " WHERE originator_id = ANY (%s) ORDER BY originator_id, originator_version",
        (list({stream for streams in asked for stream in streams}),),
        prepare=True,
        binary=True,
    )
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in await cursor.fetchall():
        rows[row[1]].append(row)
    return [[row for stream in streams for row in rows[stream]] for streams in asked]
