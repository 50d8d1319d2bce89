"""Group commit: the only way into the log.

Callers queue their requests; one flusher on one connection writes everything that queued while the last commit was in
flight with one call of one function. The function takes an advisory lock before anything else, so positions commit in
their order and a follower that reads by position misses nothing. NOTIFY would serialise commits anyway, so the lock
costs little.

A single event, the usual batch while little happens, takes plain statements: a quarter of the time that arrays take.
Lookups are scalar subqueries, which are never planned as anything but one index probe each.

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
from psycopg.sql import SQL, Composed, Identifier, Literal

MAX_EVENTS = 5_000
MAX_BYTES = 16 * 1024 * 1024
RECONNECT_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 2.0)


class VersionConflict(IntegrityError):
    """Another writer was first on a stream that this request writes or was decided on."""


class AppendFailed(Exception):
    """The log could not be reached; nothing was written."""


@dataclass(frozen=True)
class Request:
    """Events to append together.

    `guards` are (stream, version) pairs that must still be the newest. `keys` are new data keys, (name, wrapped key).
    `wakes` are payloads for the channel that waiting agents listen on. `erased` are data keys to destroy.
    """

    events: Sequence[StoredEvent]
    guards: Sequence[tuple[str, int]] = ()
    keys: Sequence[tuple[str, bytes]] = ()
    wakes: Sequence[str] = ()
    erased: Sequence[str] = ()

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


def function_name(table: str) -> str:
    return f"{table}_append"


def create_statements(schema: str, table: str) -> list[Composed]:
    """The data keys' table and the append function of one events table (one function a table: the name holds the
    table's).
    """
    names = {
        "schema": Identifier(schema),
        "table": Identifier(table),
        "keys": Identifier(f"{table}_keys"),
        "function": Identifier(function_name(table)),
        "lock": Literal(f"{schema}.{table}"),
        "channel": Literal(table),
        "wake_channel": Literal(wake_channel(table)),
    }
    keys = SQL(
        "CREATE TABLE IF NOT EXISTS {schema}.{keys} (name text PRIMARY KEY, wrapped bytea, destroyed_at timestamptz)"
    ).format(**names)
    function = SQL(
        """
        CREATE OR REPLACE FUNCTION {schema}.{function}(
            reqs int[], streams text[], versions bigint[], topics text[], states bytea[],
            guard_reqs int[], guard_streams text[], guard_versions bigint[],
            key_reqs int[], key_names text[], key_values bytea[],
            erased_reqs int[], erased_names text[],
            wakes text[],
            OUT first_position bigint, OUT conflicts int[]
        ) LANGUAGE plpgsql VOLATILE AS $body$
        DECLARE
            last_position bigint;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtextextended({lock}, 0));
            IF cardinality(reqs) = 1 THEN
                IF EXISTS (
                        SELECT FROM {schema}.{table}
                        WHERE originator_id = streams[1] AND originator_version = versions[1]
                    )
                    OR EXISTS (
                        SELECT FROM unnest(guard_streams, guard_versions) AS g(stream, version) WHERE (
                            SELECT true FROM {schema}.{table}
                            WHERE originator_id = g.stream AND originator_version = g.version + 1
                        )
                    )
                    OR EXISTS (SELECT FROM {schema}.{keys} WHERE name = ANY (key_names))
                THEN
                    conflicts := reqs;
                    RETURN;
                END IF;
                conflicts := '{{}}';
                IF cardinality(key_reqs) > 0 THEN
                    INSERT INTO {schema}.{keys} (name, wrapped) SELECT * FROM unnest(key_names, key_values);
                END IF;
                INSERT INTO {schema}.{table} (originator_id, originator_version, topic, state)
                    VALUES (streams[1], versions[1], topics[1], states[1])
                    RETURNING notification_id INTO first_position;
                last_position := first_position;
            ELSE
                conflicts := ARRAY(
                    SELECT w.req FROM unnest(reqs, streams, versions) AS w(req, stream, version) WHERE (
                        SELECT true FROM {schema}.{table}
                        WHERE originator_id = w.stream AND originator_version = w.version
                    )
                    UNION
                    SELECT g.req FROM unnest(guard_reqs, guard_streams, guard_versions) AS g(req, stream, version)
                    WHERE (
                        SELECT true FROM {schema}.{table}
                        WHERE originator_id = g.stream AND originator_version = g.version + 1
                    )
                    UNION
                    SELECT k.req FROM unnest(key_reqs, key_names) AS k(req, name)
                    WHERE (SELECT true FROM {schema}.{keys} WHERE name = k.name)
                );
                INSERT INTO {schema}.{keys} (name, wrapped)
                    SELECT k.name, k.value FROM unnest(key_reqs, key_names, key_values) AS k(req, name, value)
                    WHERE k.req <> ALL (conflicts);
                WITH written AS (
                    INSERT INTO {schema}.{table} (originator_id, originator_version, topic, state)
                        SELECT w.stream, w.version, w.topic, w.state
                        FROM unnest(reqs, streams, versions, topics, states)
                            WITH ORDINALITY AS w(req, stream, version, topic, state, place)
                        WHERE w.req <> ALL (conflicts)
                        ORDER BY w.place
                    RETURNING notification_id
                )
                SELECT min(notification_id), max(notification_id) INTO first_position, last_position FROM written;
            END IF;
            IF cardinality(erased_reqs) > 0 THEN
                UPDATE {schema}.{keys} d SET wrapped = NULL, destroyed_at = now()
                    FROM unnest(erased_reqs, erased_names) AS k(req, name)
                    WHERE d.name = k.name AND k.req <> ALL (conflicts);
            END IF;
            IF first_position IS NOT NULL THEN
                PERFORM pg_notify({channel}, last_position::text);
                PERFORM pg_notify({wake_channel}, wake) FROM unnest(wakes) AS wake;
            END IF;
        END
        $body$
        """
    ).format(**names)
    return [keys, function]


def wake_channel(table: str) -> str:
    return f"{table}_wakes"


# Arrays are written as text of one fixed type. psycopg would pick int2[], int4[] or int8[] by value and prepare a
# statement for each mixture, and takes ten times as long.


def _ints(values: Iterable[int]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _texts(values: Iterable[str]) -> str:
    return "{" + ",".join(['"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]) + "}"


class GroupCommit:
    """The flusher of one process. Belongs to one event loop.

    `append` may block for as long as the database is away (about 9 s), may raise VersionConflict (nothing written),
    AppendFailed (nothing written) or another database error (nothing written). A cancelled caller's events may still
    be written.
    """

    def __init__(self, conninfo: str, *, schema: str = "public", table: str = "stored_events") -> None:
        self._conninfo = conninfo
        self._call = SQL(
            "SELECT first_position, conflicts FROM {}.{}(%s::int[], %s::text[], %s::bigint[], %s::text[], %b::bytea[],"
            " %s::int[], %s::text[], %s::bigint[], %s::int[], %s::text[], %b::bytea[], %s::int[], %s::text[],"
            " %s::text[])"
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
            ),
            prepare=True,
            binary=True,
        )
        row = await cursor.fetchone()
        assert row is not None, "the append function returns one row"
        position, conflicts = row
        for n, waiting in enumerate(batch):
            if n in conflicts:
                waiting.fail(VersionConflict("another writer was first on " + _streams(waiting.request)))
            else:
                count = len(waiting.request.events)
                waiting.succeed(list(range(position, position + count)))
                position += count


def _streams(request: Request) -> str:
    return ", ".join(sorted({str(event.originator_id) for event in request.events}))
