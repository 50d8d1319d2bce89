"""The event log, as the rest of the server uses it: appends events, loads streams, reads the whole log in order."""

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import StoredEvent
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.core.data_keys import lineage
from domain.core.events import Event, EventMetadata, LoadedState, Recorded, Stream, readable
from store.crypto.secrets import SecretMismatch, Secrets
from store.log.append import GroupCommit, IdempotencyKey, Request
from store.log.codec import EventMapper, StoredRow
from store.log.credentials import reseal
from store.log.data_keys import DataKeys
from store.log.ids import LAST_POSITION
from store.log.row_macs import add_mac
from store.log.selects import SELECT, StreamRows, is_cut, load_streams, select_after, select_at, select_stream
from store.postgres.batch_loader import BatchLoader
from store.postgres.queries import Source, fetch_rows

S = TypeVar("S")
T = TypeVar("T")

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Size in bytes of a batch: `read_batch` ends a batch once the fields of its events have this size together."""
PIECE_BYTES = 1024 * 1024
"""Size in bytes of a piece of the log that is read at once: a piece ends once the fields of its events have this size
together.
"""
PIECE_EVENTS = 250
"""Largest number of positions whose events `read_piece` reads at once."""
PIECE_EVENTS_OF_STREAMS = 4_000
"""Largest number of events that `fold` reads at once. It is high, since most events of the streams that are folded are
small.
"""
MAX_ENCODING_S = 0.005
"""Seconds for which an append encodes events in the event loop. The rest of a large report is encoded in a thread, so
that other requests do not wait.
"""

_encoder = ThreadPoolExecutor(1, "encode-events")
"""Executor whose only thread encodes the events of large appends. With one thread, encoding takes at most half of the
interpreter's time, however many large appends there are.
"""


@dataclass(frozen=True)
class Write:
    """An event to append, and the version that it gets in its stream (from 1)."""

    version: int
    event: Event


class Batch(NamedTuple):
    """Events that were read, in order, and how far the log was read."""

    events: Sequence[Recorded]
    position: int
    """Position up to which the log was read: all matching events up to here have been returned."""
    is_full: bool
    """True if the read reached one of its limits, so that more events may follow."""


class Piece(NamedTuple):
    """Some of the events that a caller asked for, few enough to have them in memory."""

    events: Sequence[Recorded]
    sizes: Sequence[int]
    """Sizes in bytes of the fields of these events."""
    covered: int
    """Number of the requested positions that this piece covers."""


class EventLog:
    def __init__(self, pool: AsyncConnectionPool, commit: GroupCommit, mapper: EventMapper, secrets: Secrets) -> None:
        self._source: Source = pool
        self._commit = commit
        self._mapper = mapper
        self._secrets = secrets
        self._loading: Callable[[tuple[str, ...]], Awaitable[StreamRows]] = BatchLoader(pool, _load_streams)
        self.data_keys = DataKeys(pool, secrets)

    @property
    def is_disk_full(self) -> bool:
        """Whether the last append of this process failed because the database's disk was full."""
        return self._commit.is_disk_full

    def on(self, connection: AsyncConnection) -> "EventLog":
        """Returns a copy of this log that reads over the caller's `connection`."""

        async def load(streams: tuple[str, ...]) -> StreamRows:
            return (await _load_streams(connection, [streams]))[0]

        reader = copy.copy(self)
        reader._source, reader._loading, reader.data_keys = connection, load, self.data_keys.on(connection)
        return reader

    async def append(
        self,
        writes: Sequence[Write],
        metadata: EventMetadata,
        guards: Iterable[tuple[str, int]] = (),
        idempotency_key: IdempotencyKey | None = None,
    ) -> list[Recorded]:
        """Appends all of the events, or none. `guards` are pairs (stream, version).

        Raises VersionConflict if another writer took a version, or a stream in `guards` has a newer version. Raises
        AlreadyDone if the idempotency key was used before, and Erased if the data key of an event was destroyed.
        """
        events = [write.event for write in writes]
        keys, new = await self.data_keys.load_or_make(
            {
                name: write.version == 1 and write.event.stream == name.rpartition("/")[2]
                for write in reversed(writes)
                if (name := write.event.data_key) is not None and self._mapper.seals(write.event)
            }
        )
        stored: list[StoredEvent] = []
        until = time.monotonic() + MAX_ENCODING_S
        for write in writes:
            encode = partial(self._encode, write, metadata, keys.get(write.event.data_key))
            is_late = time.monotonic() > until
            stored.append(await asyncio.get_running_loop().run_in_executor(_encoder, encode) if is_late else encode())
        notifications = [payload for event in events if (payload := event.notifies) is not None]
        erased = [name for event in events if (name := event.erases) is not None]
        positions = await self._commit.append(
            Request(stored, tuple(guards), new, notifications, erased, idempotency_key)
        )
        self.data_keys.remember({name: keys[name] for name, _ in new})
        self.data_keys.forget(events)
        return [
            Recorded(write.event.stream, write.version, position, metadata.on(write.event))
            for write, position in zip(writes, positions, strict=True)
        ]

    async def load(self, streams: Sequence[str]) -> dict[str, list[Recorded]]:
        """Returns the events of each stream in order; an empty list for an unknown stream. Raises StreamDamaged if an
        event cannot be read. All events are in memory at once: use `fold` for streams that may grow large.
        """
        return await self.fold(streams, lambda name: [], lambda events, more: [*events, *more])

    async def load_states(self, streams: Iterable[Stream[Any]]) -> dict[str, LoadedState[Any]]:
        """Returns the current state and version of each stream, by the stream's name. Raises StreamDamaged if an event
        cannot be read.
        """
        categories = {stream.name: stream.category for stream in streams}

        def begin(name: str) -> tuple[int, Any, int]:
            return 0, categories[name].initial, 0

        def add(before: tuple[int, Any, int], events: Sequence[Recorded]) -> tuple[int, Any, int]:
            last, state, evolve = events[-1], before[1], categories[events[0].stream].evolve
            for recorded in events:
                state = evolve(state, recorded.event)
            return last.version, state, last.position

        folded = await self.fold(categories, begin, add)
        return {name: LoadedState(name, *values) for name, values in folded.items()}

    async def load_at_version(self, stream: Stream[S]) -> LoadedState[S]:
        """Returns a stream's current state and version, to pass to a command. Raises StreamDamaged if an event cannot
        be read.
        """
        return (await self.load_states([stream]))[stream.name]

    async def load_state(self, stream: Stream[S]) -> S:
        """Returns the state to which all events of a stream fold. Raises StreamDamaged if an event cannot be read."""
        return (await self.load_at_version(stream)).state

    async def fold(
        self, streams: Iterable[str], begin: Callable[[str], T], add: Callable[[T, Sequence[Recorded]], T]
    ) -> dict[str, T]:
        """Folds the events of each stream, in order, to a value, and returns stream -> value.

        `begin` returns the value of a stream before its first event. `add` returns the value after some more events of
        the stream. Only a part of the events is in memory at a time: PIECE_BYTES, and at most one event more. Raises
        StreamDamaged if an event cannot be read.
        """
        while True:
            values = {name: begin(name) for name in streams}
            rows, unread = await self._loading(tuple(values)) if values else ([], {})
            rows = rows or await self._read_next(rows, unread)
            opened: set[str] = set()
            """Data keys of the events in earlier pieces."""
            while rows:
                events, _ = await self._decode_sized(rows, PIECE_BYTES)
                erased = {name for recorded in events if opened and (name := recorded.event.erases) is not None}
                if any(not erased.isdisjoint(lineage(name)) for name in opened):
                    break  # The earlier pieces were read by a key that was destroyed: they have to read as blank, too.
                for name, some in _by_stream((recorded.stream for recorded in events), readable(events)).items():
                    values[name] = add(values[name], some)
                if len(events) == len(rows) and not unread:
                    return values
                rows = await self._read_next(rows[len(events) :], unread)
                sealed = (recorded.event for recorded in events if self._mapper.seals(recorded.event))
                opened.update(name for event in sealed if (name := event.data_key) is not None)
            else:
                return values

    async def read(
        self, after: int, limit: int, names: Sequence[str] | None = None, up_to: int | None = None
    ) -> list[Recorded]:
        """Returns at most `limit` events after position `after`, in order of position.

        With `names`, returns only events with these names. With `up_to`, returns only events up to this position;
        otherwise up to the last position that was ever allocated. An event that cannot be read is returned as Damaged.
        Raises UnknownEvent for an event that only a newer release knows.
        """
        rows = await fetch_rows(self._source, *select_after(after, limit, names, up_to))
        return await self._decode(rows)

    async def read_batch(
        self, after: int, limit: int, names: Sequence[str] | None = None, up_to: int | None = None
    ) -> Batch:
        """Returns at most `limit` events after position `after`, in order of position, and how far the log was read.
        The batch ends early once its events have MAX_BATCH_BYTES.

        With `names`, returns only events with these names. With `up_to`, which must not be larger than the newest
        position, returns only events up to this position. An event that cannot be read is returned as Damaged.
        """
        end = up_to or after
        if up_to is None and names is not None:
            # Read before the events, so that the position does not skip an event that is appended in between.
            end = await self.read_head()
        rows = await fetch_rows(self._source, *select_after(after, limit, names, up_to, MAX_BATCH_BYTES))
        events = await self._decode(rows, MAX_BATCH_BYTES)
        last = events[-1].position if events else after
        stored_bytes = sum(len(state) for *_, state in rows)
        is_full = len(rows) == limit or stored_bytes >= MAX_BATCH_BYTES or len(events) < len(rows)
        return Batch(events, last if is_full else max(last, end), is_full)

    async def find_positions(
        self, streams: Sequence[str], until: int, names: Sequence[str] | None = None, after: int = 0
    ) -> list[int]:
        """Returns the positions of the events in these streams after position `after`, up to position `until`. With
        `names`, returns only the positions of events with these names. The list is not sorted.
        """
        rows = await fetch_rows(
            self._source,
            # Positions plus 0 are in no index. PostgreSQL could otherwise read all events between the two positions.
            "SELECT notification_id FROM stored_events WHERE originator_id = ANY (%s)"
            " AND notification_id + 0 > %s AND notification_id + 0 <= %s"
            " AND (%s::text[] IS NULL OR topic = ANY (%s::text[]))",
            (list(streams), after, until, names, names),
        )
        return [position for (position,) in rows]

    async def read_at(self, positions: Sequence[int]) -> list[Recorded]:
        """Returns the events at these positions, in order of position. Leaves out positions without an event."""
        rows = await fetch_rows(
            self._source, f"{SELECT} WHERE notification_id = ANY (%s) ORDER BY notification_id", (list(positions),)
        )
        return await self._decode(rows)

    async def read_piece(self, positions: Sequence[int]) -> Piece:
        """Returns the events at the first positions of the list, in the order of the list. The piece ends once its
        events have PIECE_BYTES, and after PIECE_EVENTS positions at the latest. Leaves out positions without an event.
        No position may be given twice.
        """
        wanted = positions[:PIECE_EVENTS]
        rows = await fetch_rows(self._source, *select_at(wanted, PIECE_BYTES))
        events, sizes = await self._decode_sized(rows, PIECE_BYTES)
        is_cut = sum(len(state) for *_, state in rows) >= PIECE_BYTES or len(events) < len(rows)
        return Piece(events, sizes, wanted.index(events[-1].position) + 1 if is_cut else len(wanted))

    async def read_pieces(self, positions: Sequence[int]) -> AsyncIterator[Piece]:
        """Yields the events at these positions, in this order, in pieces of about PIECE_BYTES at most."""
        start = 0
        while start < len(positions):
            piece = await self.read_piece(positions[start : start + PIECE_EVENTS])
            start += piece.covered
            yield piece

    async def read_stream(self, name: str, after: int, limit: int) -> list[Recorded]:
        """Returns at most `limit` events of one stream: those that follow version `after`, in order."""
        rows = await fetch_rows(
            self._source,
            f"{SELECT} WHERE originator_id = %s AND originator_version > %s ORDER BY originator_version LIMIT %s",
            (name, after, limit),
        )
        return await self._decode(rows)

    async def load_up_to(self, versions: Mapping[str, int]) -> dict[str, list[Recorded]]:
        """Returns the events of each stream in order. `versions` maps the name of each stream to the last version to
        return.
        """
        rows = await fetch_rows(
            self._source,
            f"{SELECT} JOIN unnest(%s::text[], %s::bigint[]) AS wanted(name, version)"
            " ON originator_id = wanted.name AND originator_version <= wanted.version"
            " ORDER BY originator_id, originator_version",
            (list(versions), list(versions.values())),
        )
        return _by_stream(versions, await self._decode(rows))

    async def find_stream_positions(self, versions: Mapping[str, int]) -> dict[str, list[int]]:
        """Returns the positions of the events of each stream, in order. `versions` maps the name of each stream to the
        version of the last event whose position is wanted.
        """
        rows = await fetch_rows(
            self._source,
            "SELECT originator_id, notification_id FROM stored_events"
            " JOIN unnest(%s::text[], %s::bigint[]) AS wanted(name, version)"
            " ON originator_id = wanted.name AND originator_version <= wanted.version"
            " ORDER BY originator_id, originator_version",
            (list(versions), list(versions.values())),
        )
        found: dict[str, list[int]] = {stream: [] for stream in versions}
        for stream, position in rows:
            found[stream].append(position)
        return found

    async def read_head(self) -> int:
        """Returns the newest position; 0 for an empty log. Ignores rows beyond LAST_POSITION."""
        rows = await fetch_rows(
            self._source,
            f"SELECT coalesce(max(notification_id), 0) FROM stored_events WHERE notification_id <= {LAST_POSITION}",
        )
        return int(rows[0][0])

    async def _read_next(self, rows: list[tuple[Any, ...]], unread: dict[str, int]) -> list[tuple[Any, ...]]:
        """Returns `rows` if there are any, else the next rows of a stream in `unread`. Returns no rows at the end of
        all streams. `unread` maps the names of streams to the versions up to which they were read; this call updates
        it.
        """
        if rows:
            await asyncio.sleep(0)  # lets others run between two pieces
        while not rows and unread:
            name = next(iter(unread))
            rows = await fetch_rows(
                self._source, *select_stream(name, unread[name], PIECE_EVENTS_OF_STREAMS, PIECE_BYTES)
            )
            if is_cut(rows, PIECE_EVENTS_OF_STREAMS, PIECE_BYTES):
                unread[name] = rows[-1][2]
            else:
                del unread[name]
        return rows

    def _encode(self, write: Write, metadata: EventMetadata, key: AESGCM | None) -> StoredEvent:
        encoded = self._mapper.encode(write.event.stream, write.version, write.event, metadata, key)
        return add_mac(self._secrets.rows_key, encoded)

    async def _decode(self, rows: list[tuple[Any, ...]], max_bytes: int | None = None) -> list[Recorded]:
        return (await self._decode_sized(rows, max_bytes))[0]

    async def _decode_sized(
        self, rows: list[tuple[Any, ...]], max_bytes: int | None = None
    ) -> tuple[list[Recorded], list[int]]:
        """Decodes stored events, in order. Returns the events, and the size in bytes of the decrypted fields of each.
        With `max_bytes`, stops after the event at which the sizes add up to so many bytes.
        """
        stored = [StoredRow(*row) for row in rows]
        envelopes = [self._mapper.find_envelope(row.state) for row in stored]
        names = {envelope.key_name for envelope in envelopes if envelope is not None and envelope.key_name is not None}
        keys, key_of = await self.data_keys.lookup(names)
        recorded: list[Recorded] = []
        sizes: list[int] = []
        size = 0
        for row, envelope in zip(stored, envelopes, strict=True):
            before = self._mapper.opened_bytes
            recorded.append(self._mapper.read(row, row.position, key_of, envelope))
            sizes.append(self._mapper.opened_bytes - before)
            size += sizes[-1]
            if max_bytes is not None and size >= max_bytes:
                break
        erased = self.data_keys.forget([item.event for item in recorded])
        if erased and any(key is not None and not erased.isdisjoint(lineage(name)) for name, key in keys.items()):
            # The cache still had a destroyed key. Events before its erasure have to read as blank, too.
            _, key_of = await self.data_keys.lookup(names)
            recorded = [
                self._mapper.read(row, row.position, key_of, envelope)
                for row, envelope in zip(stored[: len(recorded)], envelopes, strict=False)
            ]
        if self._secrets.has_older_roots:
            for item in recorded:
                with contextlib.suppress(SecretMismatch):  # of no use to whoever would unseal it, as before
                    reseal(item.event, self._secrets.reseal)
        return recorded, sizes


async def _load_streams(connection: AsyncConnection, asked: Sequence[Sequence[str]]) -> list[StreamRows]:
    return await load_streams(connection, asked, PIECE_EVENTS_OF_STREAMS, PIECE_BYTES)


def _by_stream(streams: Iterable[str], events: Iterable[Recorded]) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = {stream: [] for stream in streams}
    for recorded in events:
        found[recorded.stream].append(recorded)
    return found
