"""A recorder for the library `eventsourcing` that inserts events by group commit (`store.log.append`).

The table, the queries and the subscriptions are the library's. The library itself has two ways to insert events. One
holds a table lock for several round trips; the other takes no lock, so that readers miss events
(docs/decisions/0002-group-commit.md).
"""

import asyncio
from collections.abc import Sequence
from threading import Thread
from typing import Any

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.log.append import GroupCommit, Request
from store.log.append_function import create_statements


def datastore(conninfo: str, schema: str = "public") -> PostgresDatastore:
    """Returns the library's datastore for the database at `conninfo`. Stream ids are of the type text."""
    parts = conninfo_to_dict(conninfo)
    return PostgresDatastore(
        dbname=str(parts.get("dbname") or ""),
        host=str(parts.get("host") or ""),
        port=str(parts.get("port") or "5432"),
        user=str(parts.get("user") or ""),
        password=str(parts.get("password") or ""),
        originator_id_type="text",
        max_overflow=9,  # each subscription occupies one connection
        schema=schema,
    )


class GroupCommitRecorder(PostgresApplicationRecorder):
    """Recorder that runs the group commit on a thread of its own. Its methods block and may be called from any thread,
    as the library requires.
    """

    def __init__(self, datastore: PostgresDatastore, *, events_table_name: str = "stored_events") -> None:
        super().__init__(datastore, events_table_name=events_table_name)
        self.sql_create_statements.extend(create_statements(datastore.schema, events_table_name))
        self._commit = GroupCommit(_conninfo(datastore), schema=datastore.schema, table=events_table_name)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True, name="group-commit")
        self._thread.start()

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        if not stored_events:
            return []
        append = self._commit.append(Request(list(stored_events)))
        return asyncio.run_coroutine_threadsafe(append, self._loop).result()

    def close(self) -> None:
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._commit.close(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _conninfo(datastore: PostgresDatastore) -> str:
    kwargs = datastore.pool.kwargs
    assert isinstance(kwargs, dict), "the library passes its connection parameters as a dict"
    return make_conninfo("", **{name: kwargs[name] for name in ("dbname", "host", "port", "user", "password")})
