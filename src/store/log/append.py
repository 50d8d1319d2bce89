"""Group commit: the only way into the log.

Callers queue their requests; one flusher on one connection writes everything that queued while the last commit was in
flight with one call of one function. The function takes an advisory lock before anything else, so positions commit in
their order and a follower that reads by position misses nothing. NOTIFY would serialise commits anyway, so the lock
costs little.

A request is all or nothing. It conflicts when one of its versions is taken or one of its guarded streams has moved
on, and then it fails alone: the others of its batch are written. Any other error reruns the batch one by one, so that
one caller's bad data is that caller's error.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psycopg
from eventsourcing.persistence import IntegrityError, StoredEvent
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from store.log.append_function import function_name

MAX_EVENTS = 5_000
MAX_BYTES = 16 * 1024 * 1024
RECONNECT_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 2.0)


class VersionConflict(IntegrityError):
    """Another writer was first on a stream that this request writes or was decided on."""


class AlreadyDone(Exception):
    """The client's idempotency key was used before; nothing was written now."""


class AppendFailed(Exception):
    """The log could not be reached; nothing was written."""


@dataclass(frozen=True)
class IdempotencyKey:
    """Of what the client may send again: who asked for what under which key, and with which body (both hashed)."""

    scope: bytes
    body: bytes


@dataclass(frozen=True)
class Request:
    """Events to append together.

    `guards` are (stream, version) pairs that must still be the newest. `keys` are new data keys, (name, wrapped key).
    `wakes` are payloads for the channel that waiting agents listen on. `erased` are data keys to destroy. `once` is
    noted with the events; where it was noted before, nothing is written.
    """

    events: Sequence[StoredEvent]
    guards: Sequence[tuple[str, int]] = ()
    keys: Sequence[tuple[str, bytes]] = ()
    wakes: Sequence[str] = ()
    erased: Sequence[str] = ()
    once: IdempotencyKey | None = None

    @property
    def size(self) -> int:
        return sum(len(event.state) for event in self.events)

    @property
    def slots(self) -> set[tuple[str, int]]:
        return {(str(event.originator_id), event.originator_version) for event in self.events}

    @property
    def depends_on(self) -> set[tuple[str, int]]:
        return (
            self.slots
            | {(stream, version + 1) for stream, version in self.guards}
            | {(name, 0) for name, _ in self.keys}
            | ({(self.once.scope.hex(), 0)} if self.once is not None else set())
        )


@dataclass
class _Waiting:
    """A request and its caller, who may have been cancelled in the meantime."""

    request: Request
    done: "asyncio.Future[list[int]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def succeed(self, positions: list[int]) -> None:
        if not self.done.done():
            self.done.set_result(positions)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


# Arrays are written as text of one fixed type. psycopg would pick int2[], int4[] or int8[] by value and prepare a
# statement for each mixture, and takes ten times as long.


def _ints(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _texts(values: Iterable[str]) -> str:
    return "{" + ",".join(['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]) + "}"


class GroupCommit:
    """The flusher of one process. Belongs to one event loop.

    `append` may block for as long as the database is away (about 9 s), may raise VersionConflict, AlreadyDone,
    AppendFailed or another database error; nothing was written then. A cancelled caller's events may still be written.
    """

    def __init__(self, conninfo: str, *, schema: str = "public", table: str = "stored_events") -> None:
        self._conninfo = conninfo
        self._call = SQL(
            "SELECT first_position, conflicts, done FROM {}.{}(%s::int[], %s::text[], %s::bigint[], %s::text[],"
            " %b::bytea[], %s::int[], %s::text[], %s::bigint[], %s::int[], %s::text[], %b::bytea[], %s::int[],"
            " %s::text[], %s::text[], %s::int[], %b::bytea[], %b::bytea[])"
        ).format(Identifier(schema), Identifier(function_name(table)))
        self._find = SQL(
            "SELECT notification_id, state FROM {}.{} WHERE originator_id = %s AND originator_version = %s"
        ).format(Identifier(schema), Identifier(table))
        self._connection: AsyncConnection | None = None
        self._queue: deque[_Waiting] = deque()
        self._flusher: asyncio.Task[None] | None = None

    async def append(self, request: Request) -> list[int]:
        """Appends; returns the positions of the request's events, in their order."""
        waiting = _Waiting(request)
        self._queue.append(waiting)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await waiting.done

    async def close(self) -> None:
        if self._flusher is not None:
            await self._flusher
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _flush(self) -> None:
        while self._queue:
            batch = self._take()
            try:
                await self._write(batch)
            except BaseException as error:
                for waiting in batch:
                    waiting.fail(error if isinstance(error, Exception) else AppendFailed("the process is stopping"))
                if not isinstance(error, Exception):
                    raise
            await asyncio.sleep(0)  # lets callers that this commit woke queue their next request

    def _take(self) -> list[_Waiting]:
        """The oldest requests that can be written together: none depends on what another of them writes."""
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        written: set[tuple[str, int]] = set()
        events = size = 0
        while self._queue and events < MAX_EVENTS and size < MAX_BYTES:
            waiting = self._queue.popleft()
            request = waiting.request
            if written.isdisjoint(request.depends_on):
                batch.append(waiting)
                events += len(request.events)
                size += request.size
            else:
                later.append(waiting)
            written |= request.slots | {(name, 0) for name, _ in request.keys}
        self._queue.extendleft(reversed(later))
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            await self._write_together(batch)
        except psycopg.OperationalError:
            await self._write_again(batch)
        except psycopg.Error:
            for waiting in batch:
                try:
                    await self._write_together([waiting])
                except psycopg.errors.UniqueViolation as error:
                    waiting.fail(VersionConflict(str(error)))
                except psycopg.Error as error:
                    waiting.fail(error)

    async def _write_again(self, batch: list[_Waiting]) -> None:
        """Nobody knows whether the commit of a lost connection went through, so what was written is looked up."""
        for pause in RECONNECT_PAUSES_S:
            await asyncio.sleep(pause)
            try:
                left = [
                    waiting for waiting in batch if not waiting.done.done() and not await self._was_written(waiting)
                ]
                if left:
                    await self._write_together(left)
            except psycopg.OperationalError:
                continue
            return
        raise AppendFailed("the event log's database cannot be reached")

    async def _was_written(self, waiting: _Waiting) -> bool:
        connection = await self._connected()
        positions: list[int] = []
        for event in waiting.request.events:
            cursor = await connection.execute(self._find, (event.originator_id, event.originator_version), binary=True)
            row = await cursor.fetchone()
            if row is None or row[1] != event.state:
                return False
            positions.append(row[0])
        waiting.succeed(positions)
        return True

    async def _connected(self) -> AsyncConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=5)
            # Plans made while the table was small are kept. As a setting of the function it would cost at every call.
            await self._connection.execute("SET enable_seqscan = off")
        return self._connection

    async def _write_together(self, batch: list[_Waiting]) -> None:
        requests = [waiting.request for waiting in batch]
        events = [(n, event) for n, request in enumerate(requests) for event in request.events]
        guards = [(n, *guard) for n, request in enumerate(requests) for guard in request.guards]
        keys = [(n, *key) for n, request in enumerate(requests) for key in request.keys]
        once = [(n, request.once) for n, request in enumerate(requests) if request.once is not None]
        connection = await self._connected()
        cursor = await connection.execute(
            self._call,
            (
                _ints([n for n, _ in events]),
                _texts([str(event.originator_id) for _, event in events]),
                _ints([event.originator_version for _, event in events]),
                _texts([event.topic for _, event in events]),
                [event.state for _, event in events],
                _ints([n for n, _, _ in guards]),
                _texts([stream for _, stream, _ in guards]),
                _ints([version for _, _, version in guards]),
                _ints([n for n, _, _ in keys]),
                _texts([name for _, name, _ in keys]),
                [value for _, _, value in keys],
                _ints([n for n, request in enumerate(requests) for _ in request.erased]),
                _texts([name for request in requests for name in request.erased]),
                _texts([wake for request in requests for wake in request.wakes]),
                _ints([n for n, _ in once]),
                [item.scope for _, item in once],
                [item.body for _, item in once],
            ),
            prepare=True,
            binary=True,
        )
        row = await cursor.fetchone()
        assert row is not None, "the append function returns one row"
        position, conflicts, done = row
        for n, waiting in enumerate(batch):
            if n in (done or ()):
                waiting.fail(AlreadyDone("this idempotency key was used before"))
            elif n in conflicts:
                waiting.fail(VersionConflict("another writer was first on " + _streams(waiting.request)))
            else:
                count = len(waiting.request.events)
                waiting.succeed(list(range(position, position + count)))
                position += count


def _streams(request: Request) -> str:
    return ", ".join(sorted({str(event.originator_id) for event in request.events}))
