"""Copies the contents of a database. Restoring the copy is faster than executing again the commands that made the
data.
"""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Snapshot:
    rows: dict[str, bytes]
    """Rows of each table in `public` that has any, in PostgreSQL's binary format."""
    sequences: dict[str, int]
    """Last value of each sequence that was used."""

    @classmethod
    def take(cls, connection: Connection) -> "Snapshot":
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'"
        ).fetchall()
        sequences = connection.execute(
            "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL"
        ).fetchall()
        rows = {table: _copy_out(connection, table) for (table,) in tables if _has_rows(connection, table)}
        return cls(rows, dict(sequences))

    def restore(self, connection: Connection) -> None:
        """Replaces the rows of a migrated database by these rows."""
        for table, rows in self.rows.items():
            connection.execute(SQL("DELETE FROM {}").format(Identifier(table)))
            statement = SQL("COPY {} FROM STDIN (FORMAT binary)").format(Identifier(table))
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.write(rows)
        for name, last_value in self.sequences.items():
            connection.execute("SELECT setval(format('%%I', %s::text)::regclass, %s)", (name, last_value))


def _has_rows(connection: Connection, table: str) -> bool:
    return connection.execute(SQL("SELECT FROM {} LIMIT 1").format(Identifier(table))).fetchone() is not None


def _copy_out(connection: Connection, table: str) -> bytes:
    statement = SQL("COPY {} TO STDOUT (FORMAT binary)").format(Identifier(table))
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        return b"".join(map(bytes, copy))
