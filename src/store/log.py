"""The event log as the rest of the server sees it: append, load, read on."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cachetools import LRUCache
from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.base import Event, Recorded, Stamp, Stream
from domain.errors import Erased
from store.append import GroupCommit, Request
from store.codec import EventMapper
from store.grouped import Grouped
from store.secrets import Secrets

S = TypeVar("S")

KEYS_CACHED = 20_000


@dataclass(frozen=True)
class Write:
    """An event and the version that it takes in its stream."""

    version: int
    event: Event


class EventLog:
    def __init__(self, pool: AsyncConnectionPool, commit: GroupCommit, mapper: EventMapper, secrets: Secrets) -> None:
        self._pool = pool
        self._commit = commit
        self._mapper = mapper
        self._secrets = secrets
        self._loading = Grouped(pool, _load)
        self._keys: LRUCache[str, bytes | None] = LRUCache(KEYS_CACHED)

    async def append(
        self,
        writes: Sequence[Write],
        stamp: Stamp,
        guards: Iterable[tuple[str, int]] = (),
        wakes: Iterable[str] = (),
    ) -> list[Recorded]:
        """Appends all or nothing. Raises VersionConflict when a version is taken or a guarded stream has moved on."""
        events = [write.event for write in writes]
        keys, new = await self._keys_for(writes)
        stored = [
            self._mapper.encode(write.event.stream, write.version, write.event, stamp, keys.get(write.event.data_key))
            for write in writes
        ]
        erased = [name for event in events if (name := event.erases) is not None]
        positions = await self._commit.append(Request(stored, tuple(guards), new, tuple(wakes), erased))
        self._keys.update({name: keys[name] for name, _ in new})
        self._forget(events)
        return [
            Recorded(write.event.stream, write.version, position, stamp.on(write.event))
            for write, position in zip(writes, positions, strict=True)
        ]

    async def load(self, streams: Sequence[str]) -> dict[str, list[Recorded]]:
        """The events of each stream, in order; an empty list for a stream that does not exist."""
        rows = await self._loading(tuple(streams))
        loaded: dict[str, list[Recorded]] = {stream: [] for stream in streams}
        for recorded in await self._decode(rows):
            loaded[recorded.stream].append(recorded)
        return loaded

    async def state(self, stream: Stream[S]) -> S:
        """What a stream's events fold to, right now."""
        return stream.fold(recorded.event for recorded in (await self.load([stream.name]))[stream.name])

    async def read(self, after: int, limit: int, names: Sequence[str] | None = None) -> list[Recorded]:
        """The next events of the whole log, by position; only those with one of `names` where given."""
        rows = await self._rows(
            "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
            " WHERE notification_id > %s AND (%s::text[] IS NULL OR topic = ANY (%s::text[]))"
            " ORDER BY notification_id LIMIT %s",
            (after, names, names, limit),
        )
        return await self._decode(rows)

    async def head(self) -> int:
        """The newest position; 0 for an empty log."""
        rows = await self._rows("SELECT coalesce(max(notification_id), 0) FROM stored_events", ())
        return int(rows[0][0])

    async def _rows(self, query: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(query.encode(), params, prepare=True, binary=True)
            return await cursor.fetchall()

    async def _decode(self, rows: list[tuple[Any, ...]]) -> list[Recorded]:
        stored = [(position, StoredEvent(*columns)) for position, *columns in rows]
        keys = await self._data_keys(
            name for _, event in stored if (name := self._mapper.envelope(event.state).key_name) is not None
        )
        recorded = [self._mapper.decode(event, position, keys.get) for position, event in stored]
        erased = self._forget([item.event for item in recorded])
        if any(keys.get(name) is not None for name in erased):
            # This process remembered the key still; what came before its erasure reads as blank too.
            keys |= dict.fromkeys(erased)
            recorded = [self._mapper.decode(event, position, keys.get) for position, event in stored]
        return recorded

    async def _keys_for(self, writes: Sequence[Write]) -> tuple[dict[str | None, bytes], list[tuple[str, bytes]]]:
        """The data keys that the sealed fields need, and which of them are new (with their wrapped form)."""
        sealed = [write for write in writes if write.event.sealed]
        known = await self._data_keys(
            name
            for write in sealed
            # The first event of the stream of the same name makes the key: no need to look.
            if (name := write.event.data_key) is not None and not (write.version == 1 and write.event.stream == name)
        )
        keys: dict[str | None, bytes] = {}
        new: list[tuple[str, bytes]] = []
        for write in sealed:
            name = write.event.data_key
            if name is None or name in keys:
                continue
            if name in known:
                key = known[name]
                if key is None:
                    raise Erased(f"{name} was erased; nothing can be added to it.")
            else:
                key, wrapped = self._secrets.new_data_key(name)
                new.append((name, wrapped))
            keys[name] = key
        return keys, new

    def _forget(self, events: Iterable[Event]) -> list[str]:
        """An erasure reaches what this process remembers as soon as it sees it. Answers the keys that are gone."""
        erased = [name for event in events if (name := event.erases) is not None]
        self._keys.update(dict.fromkeys(erased))
        return erased

    async def _data_keys(self, names: Iterable[str]) -> dict[str, bytes | None]:
        """Those of `names` that were ever made; None for a destroyed one."""
        wanted = set(names)
        # Taken out before more come in: a key that has to leave the full cache for them is still one of the wanted.
        keys = {name: self._keys[name] for name in wanted if name in self._keys}
        if missing := list(wanted - keys.keys()):
            rows = await self._rows("SELECT name, wrapped FROM stored_events_keys WHERE name = ANY (%s)", (missing,))
            fresh = {name: None if wrapped is None else self._secrets.unwrap(name, wrapped) for name, wrapped in rows}
            self._keys.update(fresh)
            keys |= fresh
        return keys


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
