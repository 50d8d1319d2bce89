"""A database that may lose what it acknowledged is refused, unless that was asked for."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from testhide.engines import Engines
from testhide.operator_errors import Fault
from testhide.processes import core
from testhide.settings import Settings, save_settings
from tests.support.forked_process import run_forked


def settings_for(url: str, data: Path) -> Settings:
    return Settings(database_url=url, redis_url="", secret_key=b"s" * 32, data_dir=str(data))


@pytest.fixture
def careless(engines: Engines, database: str) -> Iterator[str]:
    """A database that acknowledges before it has written."""
    name = conninfo_to_dict(database)["dbname"]
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off".encode())
        yield database
        connection.execute(f"ALTER DATABASE {name} RESET synchronous_commit".encode())


async def test_a_careless_database_is_refused_and_says_what_to_do(careless: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"synchronous_commit is off .* --unsafe or TESTHIDE_UNSAFE=1"):
        async with core(settings_for(careless, tmp_path)):
            pass


async def test_it_is_taken_when_that_was_asked_for(careless: str, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(settings_for(careless, tmp_path), unsafe=True)
    async with core(settings) as parts:
        assert await parts.log.read_head() == 0


def test_a_process_that_refuses_says_so_without_a_trace(careless: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    save_settings(settings_for(careless, tmp_path), file)
    refused = run_forked("project", TESTHIDE_SETTINGS=str(file))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("testhide: This PostgreSQL does not keep what it acknowledges")
