"""The `eventsourcing` library's own way to a read model: a ProjectionRunner over the same stored events.

Its recorder reads our log, its view is a PostgresTrackingRecorder as its documentation has it: one transaction an
event, for the row and the tracking. It materialises builds only, and is spared the sealed fields: nothing is decrypted.
"""

import time
from typing import Any

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.persistence import Mapper, Tracking
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL

from domain.base import Recorded
from domain.builds import BuildAssigned, BuildDeleted, BuildEvent, BuildFinished, BuildQueued, BuildStarted
from domain.catalogue import EVENTS, UPCASTERS
from store.codec import EventMapper
from store.recorder import datastore


class Log(Application[str]):
    name = "testhide"

    def construct_mapper(self) -> Mapper[str]:
        return EventMapper(EVENTS, UPCASTERS)

    def construct_recorder(self) -> PostgresApplicationRecorder:
        parts = {name: self.env[f"POSTGRES_{name.upper()}"] for name in ("dbname", "host", "port", "user", "password")}
        return PostgresApplicationRecorder(datastore(" ".join(f"{name}='{value}'" for name, value in parts.items())))


class BuildsView(PostgresTrackingRecorder):
    def __init__(self, datastore: PostgresDatastore, **kwargs: Any) -> None:
        super().__init__(datastore, **kwargs)
        self.sql_create_statements.append(
            SQL(
                "CREATE TABLE IF NOT EXISTS stock_builds (id bigint PRIMARY KEY, job_id bigint, project_id bigint,"
                " status text, node_id bigint, created_at timestamptz, started_at timestamptz, finished_at timestamptz)"
            ).format()
        )

    def write(self, tracking: Tracking, statement: str | None = None, *parameters: object) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            if statement is not None:
                cursor.execute(statement.encode(), parameters, prepare=True)


class Builds(Projection[BuildsView]):
    name = "stock"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        recorded: Recorded = domain_event
        match recorded.event:
            case BuildQueued() as event:
                statement = (
                    "INSERT INTO stock_builds (id, job_id, project_id, status, created_at) VALUES (%s, %s, %s, %s, %s)"
                )
                self.view.write(tracking, statement, event.build_id, event.job_id, event.project_id, "queued", event.at)
            case BuildAssigned() as event:
                self._set(tracking, event, "node_id = %s", event.node_id)
            case BuildStarted() as event:
                self._set(tracking, event, "status = 'running', started_at = %s", event.at)
            case BuildFinished() as event:
                self._set(tracking, event, "status = %s, finished_at = %s", event.status, event.at)
            case BuildDeleted() as event:
                self.view.write(tracking, "DELETE FROM stock_builds WHERE id = %s", event.build_id)
            case _:
                self.view.write(tracking)

    def _set(self, tracking: Tracking, event: BuildEvent, columns: str, *values: object) -> None:
        self.view.write(tracking, f"UPDATE stock_builds SET {columns} WHERE id = %s", *values, event.build_id)


def events_a_second(conninfo: str, head: int, seconds: float) -> float:
    """From the beginning of the log to `head`, or for as long as is given."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    env = {"PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_PORT": parts.get("port", "5432")}
    env |= {f"POSTGRES_{name.upper()}": parts[name] for name in ("dbname", "host", "user", "password")}
    begun = time.monotonic()
    with ProjectionRunner(application_class=Log, projection_class=Builds, view_class=BuildsView, env=env) as runner:
        reached = 0
        while reached < head and time.monotonic() - begun < seconds:
            time.sleep(0.2)
            reached = runner.view.max_tracking_id("testhide") or 0
        return reached / (time.monotonic() - begun)
