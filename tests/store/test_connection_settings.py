"""A connection that is lost without a word is noticed by both ends."""

import asyncio
import random
import socket
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from domain.core.events import EventMetadata
from domain.dispatch import LeadershipTaken
from store.clock import utcnow
from store.log.append import AppendFailed
from store.log.event_log import Write
from store.postgres.cancellation import cancel_and_wait
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


async def test_a_process_that_is_cancelled_while_its_last_append_waits_closes_its_connections(database: str) -> None:
    url = make_conninfo(database, application_name="cancelled")
    settings = Settings(database_url=url, redis_url="", secret_key=b"s" * 32, data_dir="")
    waiting = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'cancelled' AND wait_event_type = 'Lock'"
    left = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'cancelled'"
    appending: list[asyncio.Task[Any]] = []

    async def run() -> None:
        async with core(settings) as parts:
            append = parts.log.append([Write(1, LeadershipTaken(leader="first"))], EventMetadata(utcnow(), "user:1"))
            appending.append(asyncio.create_task(append))
            await until(locking, waiting, 1)
            leaving.set()

    async with await psycopg.AsyncConnection.connect(database) as locking:
        await locking.execute("SELECT pg_advisory_xact_lock(hashtextextended('public.stored_events', 0))")
        leaving = asyncio.Event()
        running = asyncio.create_task(run())
        await leaving.wait()
        await cancel_and_wait(running)
        with pytest.raises(AppendFailed):
            await appending[0]
        await until(locking, left, 0)


async def until(connection: psycopg.AsyncConnection, query: str, rows: int) -> None:
    """Waits until the query returns this number of rows."""
    async with asyncio.timeout(15):
        while (await connection.execute(query.encode())).rowcount != rows:
            await connection.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(0.01)  # between two looks


async def test_the_session_is_told_too(database: str) -> None:
    query = "SELECT setting FROM pg_settings WHERE name = 'tcp_keepalives_idle' AND source = 'client'"
    async with await psycopg.AsyncConnection.connect(with_keepalive(database)) as connection:
        assert await (await connection.execute(query)).fetchone() is not None
