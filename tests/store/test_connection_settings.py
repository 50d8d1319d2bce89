"""A connection that is lost without a word is noticed by both ends."""

import random
import socket
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from store.postgres.connection_settings import with_keepalive
from testhide.processes import core
from testhide.settings import Settings
from tests.faults.proxy import Proxy


async def test_the_kernel_looks_after_a_waiting_connection(database: str) -> None:
    folder = conninfo_to_dict(database)["host"]
    proxy = Proxy([Path(str(folder), ".s.PGSQL.5432")], random.Random(0))
    await proxy.start()
    through = make_conninfo(database, host="127.0.0.1", port=proxy.port)
    settings = Settings(database_url=through, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with core(settings) as parts, await psycopg.AsyncConnection.connect(parts.conninfo) as connection:
        with socket.socket(fileno=connection.fileno()) as way:
            looks = [
                way.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            ]
            way.detach()
        assert looks == [10, 5, 3, 20_000]
    await proxy.close()


def test_the_operators_word_counts() -> None:
    given = with_keepalive(
        "postgresql://u@h/d?keepalives_idle=60&options=-c%20tcp_keepalives_idle%3D90%20-c%20work_mem%3D9MB"
    )
    found = conninfo_to_dict(given)
    assert (found["keepalives_idle"], found["keepalives_interval"]) == ("60", "5")
    assert str(found["options"]).endswith("-c tcp_keepalives_idle=90 -c work_mem=9MB")


async def test_the_session_is_told_too(database: str) -> None:
    query = "SELECT setting FROM pg_settings WHERE name = 'tcp_keepalives_idle' AND source = 'client'"
    async with await psycopg.AsyncConnection.connect(with_keepalive(database)) as connection:
        assert await (await connection.execute(query)).fetchone() is not None
