"""Measures the `eventsourcing` library's ProjectionRunner on the stored events of our log.

The library's recorder reads our log. The view is a PostgresTrackingRecorder, used as the library's documentation says:
one transaction per event writes the rows and the position. `measure_read_models` builds our read models with the pure
functions of a rebuild; `measure_builds` builds one small table of builds. Neither decrypts sealed fields.
"""

import os
import time
from typing import Any, Protocol

import psycopg
from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.persistence import Mapper, Tracking
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL

from domain.builds import BuildAssigned, BuildDeleted, BuildEvent, BuildFinished, BuildQueued, BuildStarted
from domain.core.events import Recorded
from domain.registry import EVENTS, UPCASTERS
from projections.engine import statements
from projections.engine.batch import RowBatch, RowCache
from projections.registry import PROJECTIONS
from store.log.codec import EventMapper
from store.log.recorder import datastore

SCHEMA = "stock"
"""Schema of the runner's tables, dropped afterwards."""


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
    name = "builds"

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


class ReadModelsView(PostgresTrackingRecorder):
    def apply(self, recorded: Recorded, tracking: Tracking) -> None:
        event = recorded.event
        takers = [item for item in PROJECTIONS if item.handles is None or isinstance(event, item.handles)]
        batch = RowBatch(RowCache())
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            for row, keys in batch.missing(key for item in takers for key in item.keys(recorded)).items():
                cursor.execute(statements.fetch(row).encode(), (statements.keys_json(row, keys),), prepare=True)
                batch.add_fetched(row, keys, [row(**values) for values in cursor.fetchall()])
            for item in takers:
                batch.change(item.apply(recorded, batch))
            for query, parameters in batch.statements():
                cursor.execute(query.encode(), parameters, prepare=True)


class ReadModels(Projection[ReadModelsView]):
    name = "read_models"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.apply(domain_event, tracking)


class _Tracked(Protocol):
    def max_tracking_id(self, application_name: str) -> int | None: ...


def measure_builds(conninfo: str, head: int, seconds: float) -> float:
    """Processes the log up to `head`, for `seconds` at most, into a table of builds. Returns the events per second."""
    return _run(conninfo, Builds, BuildsView, head, seconds)


def measure_read_models(conninfo: str, head: int, seconds: float) -> float:
    """Processes the log up to `head`, for `seconds` at most, into our read models. Returns the events per second."""
    return _run(conninfo, ReadModels, ReadModelsView, head, seconds)


def _run(conninfo: str, projection: Any, view: Any, head: int, seconds: float) -> float:
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    env = {"PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_PORT": parts.get("port", "5432")}
    env |= {f"POSTGRES_{name.upper()}": parts[name] for name in ("dbname", "host", "user", "password")}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {SCHEMA}".encode())
        os.environ["PGOPTIONS"] = f"-c search_path={SCHEMA}"  # our statements name no schema; the library's do
        try:
            _make_tables(conninfo)
            return _measure_rate(projection, view, env, head, seconds)
        finally:
            del os.environ["PGOPTIONS"]
            connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE".encode())


def _make_tables(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for row in (row for item in PROJECTIONS for row in item.rows):
            for statement in statements.create(row):
                connection.execute(statement.encode())


def _measure_rate(projection: Any, view: Any, env: dict[str, str], head: int, seconds: float) -> float:
    begun = time.monotonic()
    with ProjectionRunner(application_class=Log, projection_class=projection, view_class=view, env=env) as runner:
        tracked: _Tracked = runner.view
        reached = 0
        while reached < head and time.monotonic() - begun < seconds:
            runner.run_forever(timeout=0.2)  # raises the errors of the projection
            reached = tracked.max_tracking_id("testhide") or 0
        return reached / (time.monotonic() - begun)
