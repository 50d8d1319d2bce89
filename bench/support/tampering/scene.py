"""The server whose data `bench/long/tampering.py` changes. The kinds of change and their detectors share it."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import requests
from psycopg.sql import SQL, Identifier
from tests.support.server import Server
from tests.support.tampering import Intruder

from store.crypto.secrets import Secrets


@dataclass
class Scene:
    """A server with a sealed log, and the ids of the data that the changes touch."""

    server: Server
    connection: psycopg.Connection[Any]
    chance: random.Random
    build: int
    """Id of a finished build whose log has two chunks."""
    artifact: int
    blob: Path
    once: dict[str, str]
    """Header of a request that has a stored answer. The request creates a project called `Once`."""
    held: int
    """Size of the auditor's newest checkpoint."""

    @property
    def secrets(self) -> Secrets:
        return self.server.secrets

    def intruder(self) -> Intruder:
        return Intruder(self.connection, self.secrets, self.chance)

    def put_back(self, table: str, kept: str) -> None:
        """Gives a table the rows of the temporary table `kept` again, which is dropped. Leaves out columns that
        PostgreSQL computes from others.
        """
        query = (
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
            " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
        )
        found = self.connection.execute(query, (f'public."{table}"',))
        columns = SQL(", ").join(Identifier(name) for (name,) in found)
        parts = {"table": Identifier(table), "kept": Identifier(kept), "columns": columns}
        for statement in (
            SQL("TRUNCATE public.{table}"),
            SQL("INSERT INTO public.{table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM pg_temp.{kept}"),
            SQL("DROP TABLE pg_temp.{kept}"),
        ):
            self.connection.execute(statement.format(**parts))

    def execute(self, statement: str, *parameters: object) -> None:
        """Executes a statement that changes rows. Fails if it changes none, since that would prove nothing."""
        assert self.connection.execute(statement.encode(), parameters).rowcount, statement

    def fetch(self, query: str, *parameters: object) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self.connection.execute(query.encode(), parameters).fetchone()
        assert row is not None, query
        return row

    def get(self, path: str) -> str | None:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, **more: Any) -> str | None:
        """Sends a request as a reader. Returns what the reader notices: the problem in a refusal, or that the
        connection breaks off. Returns None if the request succeeds.
        """
        try:
            answer = self.server.admin.request(method, f"/api/v3{path}", **more)
        except requests.RequestException as error:
            return type(error).__name__
        return None if answer.ok else f"{answer.status_code} {answer.json()['detail']}"
