from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from store.schema import migrate
from testhide.engines import Engines


@pytest.fixture
def database(engines: Engines) -> Iterator[str]:
    """The connection string of an empty, migrated database of its own."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        conninfo = make_conninfo(engines.database_url, dbname=name)
        migrate(conninfo)
        yield conninfo
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))
