"""Appends events to the log by group commit. Nothing else in the server appends events.

Callers queue requests. One task, the flusher, writes them over one connection. While a commit runs, new requests
collect in the queue. The next call of the append function (`store.log.append_function`) writes all of them together.

The append function first takes an advisory lock. So positions become visible in their order, and a reader misses no
event. NOTIFY serialises commits anyway, so the lock costs little.

A request is written whole or not at all. If another writer took a version that the request writes, or appended to a
stream that the request guards, only this request fails. The other requests of the batch are written. After any other
error the flusher writes the requests one by one, so that only the request with bad data fails.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
from eventsourcing.persistence import IntegrityError, StoredEvent
from psycopg.sql import SQL, Identifier

from store.log.append_function import function_name
from store.postgres.queries import QueryConnection, int_array, text_array

MAX_BATCH_EVENTS = 5_000
"""Number of events with which a batch is full, so that no more requests are added to it."""
MAX_BATCH_BYTES = 16 * 1024 * 1024
"""Number of bytes of events with which a batch is full, so that no more requests are added to it."""
RECONNECT_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 2.0)
"""Seconds of pause before each further try to write a batch after the connection broke. If the last try fails, all
appends of the batch fail.
"""


class VersionConflict(IntegrityError):
    """Another writer was first: it appended to a stream that the request writes or guards. Nothing was written."""


class AlreadyDone(Exception):
    """A request with this idempotency key was written before. Nothing was written this time."""


class AppendFailed(Exception):
    """The database of the log could not be reached. Nothing was written."""


@dataclass(frozen=True)
class IdempotencyKey:
    """Identifies an HTTP request, so that the server recognises the request when the client sends it again.

    `scope` is the SHA-256 of the key that the client sent, the caller, the method and the path. `body` is the SHA-256
    of the request's body.
    """

    scope: bytes
    body: bytes


@dataclass(frozen=True)
class Request:
    """Events to append, and what else the same transaction writes.

    `guards` are pairs (stream, version): the request fails if such a stream has a newer version. `keys` are pairs
    (name, wrapped key) of new data keys. `notifications` are payloads for the channel AGENT_NOTIFICATIONS
    (`store.postgres.notifications`). `erased` are names of data keys to destroy. `idempotency_key` is stored with the
    events; the request fails if the key was stored before.
    """

    events: Sequence[StoredEvent]
    guards: Sequence[tuple[str, int]] = ()
    keys: Sequence[tuple[str, bytes]] = ()
    notifications: Sequence[str] = ()
    erased: Sequence[str] = ()
    idempotency_key: IdempotencyKey | None = None

    @property
    def slots(self) -> set[tuple[str, int]]:
        return {(str(event.originator_id), event.originator_version) for event in self.events}

    @property
    def depends_on(self) -> set[tuple[str, int]]:
        return (
            self.slots
            | {(stream, version + 1) for stream, version in self.guards}
            | {(name, 0) for name, _ in self.keys}
            | ({(self.idempotency_key.scope.hex(), 0)} if self.idempotency_key is not None else set())
        )


@dataclass(eq=False)
class _Waiting:
    """A queued request, and the future for which its caller waits. A cancelled caller cancels the future."""

    request: Request
    done: "asyncio.Future[list[int]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def succeed(self, positions: list[int]) -> None:
        if not self.done.done():
            self.done.set_result(positions)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class GroupCommit:
    """Appends the requests of one process in groups. Belongs to one event loop.

    `append` waits up to 9 s for a database that cannot be reached, but raises DiskFull at once. When it raises
    VersionConflict, AlreadyDone, AppendFailed or another database error, nothing was written. When a caller is
    cancelled, its events may still be written.
    """

    is_disk_full = False
    """Whether the last write failed because the database's disk was full."""

    def __init__(self, conninfo: str, *, schema: str = "public", table: str = "stored_events") -> None:
        self._conninfo = conninfo
        call = SQL(
            "SELECT first_position, conflicts, done FROM {}.{}(%s::int[], %s::text[], %s::bigint[], %s::text[],"
            " %b::bytea[], %s::int[], %s::text[], %s::bigint[], %s::int[], %s::text[], %b::bytea[], %s::int[],"
            " %s::text[], %s::text[], %s::int[], %b::bytea[], %b::bytea[])"
        )
        self._call = call.format(Identifier(schema), Identifier(function_name(table))).as_string()
        find = SQL("SELECT notification_id, state FROM {}.{} WHERE originator_id = %s AND originator_version = %s")
        self._find = find.format(Identifier(schema), Identifier(table)).as_bytes()
        self._connection: QueryConnection | None = None
        self._queue: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        """The requests that are being written."""
        self._written = asyncio.Event()
        """Set when the current batch is written or has failed. Then a new `asyncio.Event` replaces this one."""
        self._flusher: asyncio.Task[None] | None = None

    async def append(self, request: Request) -> list[int]:
        """Appends the events of a request. Returns their positions, in the order of the events."""
        waiting = _Waiting(request)
        self._queue.append(waiting)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await waiting.done

    async def wait_until_written(self) -> None:
        """Waits until each request that was queued before this call is written or has failed."""
        before = [*self._batch, *self._queue]
        while any(waiting in before for waiting in (*self._batch, *self._queue)):
            await self._written.wait()

    async def close(self) -> None:
        """Waits until all requests are written or have failed. If the caller is cancelled meanwhile, all of them
        fail.
        """
        try:
            if self._flusher is not None:
                await self._flusher
        finally:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _flush(self) -> None:
        while self._queue:
            self._batch = batch = self._take()
            try:
                await self._write(batch)
                self.is_disk_full = False
            except BaseException as error:
                self.is_disk_full = isinstance(error, psycopg.errors.DiskFull)
                if not isinstance(error, Exception):
                    for waiting in (*batch, *self._queue):
                        waiting.fail(AppendFailed("the process is stopping"))
                    self._queue.clear()
                    raise
                for waiting in batch:
                    waiting.fail(error)
            finally:
                self._batch = []
                self._written.set()
                self._written = asyncio.Event()
            await asyncio.sleep(0)  # lets the callers of this batch queue their next requests

    def _take(self) -> list[_Waiting]:
        """Takes the next batch from the queue, the oldest requests first. Leaves a request for a later batch if it
        depends on a stream version or data key that an earlier request in the queue writes.
        """
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        written: set[tuple[str, int]] = set()
        events = size = 0
        while self._queue and events < MAX_BATCH_EVENTS and size < MAX_BATCH_BYTES:
            waiting = self._queue.popleft()
            request = waiting.request
            if written.isdisjoint(request.depends_on):
                batch.append(waiting)
                events += len(request.events)
                size += sum(len(event.state) for event in request.events)
            else:
                later.append(waiting)
            written |= request.slots | {(name, 0) for name, _ in request.keys}
        self._queue.extendleft(reversed(later))
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            await self._write_together(batch)
        except psycopg.errors.DiskFull:
            raise
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
        """Writes the requests of a batch again after the connection broke, except those that were committed before.

        Raises AppendFailed if no try succeeds.
        """
        for pause in RECONNECT_PAUSES_S:
            await asyncio.sleep(pause)
            try:
                left = [
                    waiting for waiting in batch if not waiting.done.done() and not await self._was_written(waiting)
                ]
                if left:
                    await self._write_together(left)
            except psycopg.errors.DiskFull:
                raise
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

    async def _connected(self) -> QueryConnection:
        if self._connection is None or self._connection.closed:
            self._connection = await QueryConnection.connect(self._conninfo, autocommit=True, connect_timeout=5)
            # Keeps plans that were made for a small table from scanning a large one. As a setting of the function it
            # would cost time at every call.
            await self._connection.execute("SET enable_seqscan = off")
        return self._connection

    async def _write_together(self, batch: list[_Waiting]) -> None:
        requests = [waiting.request for waiting in batch]
        events = [(n, event) for n, request in enumerate(requests) for event in request.events]
        guards = [(n, *guard) for n, request in enumerate(requests) for guard in request.guards]
        keys = [(n, *key) for n, request in enumerate(requests) for key in request.keys]
        idempotency_keys = [
            (n, key) for n, request in enumerate(requests) if (key := request.idempotency_key) is not None
        ]
        connection = await self._connected()
        answer = await connection.fetch(
            self._call,
            (
                int_array([n for n, _ in events]),
                text_array([str(event.originator_id) for _, event in events]),
                int_array([event.originator_version for _, event in events]),
                text_array([event.topic for _, event in events]),
                [event.state for _, event in events],
                int_array([n for n, _, _ in guards]),
                text_array([stream for _, stream, _ in guards]),
                int_array([version for _, _, version in guards]),
                int_array([n for n, _, _ in keys]),
                text_array([name for _, name, _ in keys]),
                [value for _, _, value in keys],
                int_array([n for n, request in enumerate(requests) for _ in request.erased]),
                text_array([name for request in requests for name in request.erased]),
                text_array([payload for request in requests for payload in request.notifications]),
                int_array([n for n, _ in idempotency_keys]),
                [key.scope for _, key in idempotency_keys],
                [key.body for _, key in idempotency_keys],
            ),
        )
        ((position, conflicts, done),) = answer
        for n, waiting in enumerate(batch):
            if n in (done or ()):
                waiting.fail(AlreadyDone("this idempotency key was used before"))
            elif n in conflicts:
                streams = sorted({str(event.originator_id) for event in waiting.request.events})
                waiting.fail(VersionConflict(f"another writer was first on {', '.join(streams)}"))
            else:
                count = len(waiting.request.events)
                waiting.succeed(list(range(position, position + count)))
                position += count
