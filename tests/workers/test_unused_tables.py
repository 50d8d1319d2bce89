"""Tables that no event reaches any more: they are dropped as soon as they hold what was deleted."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest

from commands.handler import CommandContext, Handler
from commands.users import DeleteUser, RegisterUser
from projections.auth import PROJECTION, UserRow
from projections.engine.schemas import connect, lock_staging
from projections.rebuild.rebuild import build_staging
from projections.rebuild.switch import switch
from store.clock import utcnow
from store.tables.alarms import fetch_alarms
from testhide.processes import Core
from tests.projections.claims import projecting
from tests.projections.claims import serve as make_tables
from workers.unused_tables import UnusedTables

OPERATOR = CommandContext("system:tests")
SOON, AN_HOUR, A_DAY = (timedelta(minutes=minutes) for minutes in (1, 61, 24 * 60 + 1))


@dataclass
class Rebuilt:
    """A server whose users were rebuilt and switched, and built once more; and which has tables of other releases."""

    parts: Core

    async def sweep(self, later: timedelta = SOON) -> list[str]:
        """Returns the schemas and versions that still have a table of users."""
        await UnusedTables(self.parts.pool, self.parts.log, [PROJECTION], lambda: utcnow() + later).sweep()
        async with self.parts.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT schemaname || ' ' || tablename FROM pg_tables WHERE tablename LIKE 'users\\_v%' ORDER BY 1"
            )
            return [name for (name,) in await cursor.fetchall()]

    async def delete_user(self) -> None:
        await Handler(self.parts.log, utcnow).execute(DeleteUser(2, 1), OPERATOR)


LIVE = [f"public {UserRow.table}"]
OTHERS = ["public users_v1", "public users_v99"]
STAGING, RETIRED = [f"beside {UserRow.table}"], [f"previous {UserRow.table}"]


@pytest.fixture
async def rebuilt(parts: Core) -> AsyncIterator[Rebuilt]:
    await make_tables(parts, [PROJECTION])
    async with projecting(parts, [PROJECTION]) as waiter:
        for user_id in (1, 2):
            user = RegisterUser(user_id, f"{user_id}@example.com", "admin", "a hash", f"email-{user_id}")
            await Handler(parts.log, utcnow).execute(user, OPERATOR)
        assert await waiter.wait(await parts.log.read_head())
        await build_staging(parts.conninfo, parts.log, [PROJECTION])
        await switch(parts.conninfo, parts.log, [PROJECTION])
        await build_staging(parts.conninfo, parts.log, [PROJECTION])
        async with parts.pool.connection() as connection:
            for version in (1, 99):
                await connection.execute(f"CREATE TABLE users_v{version} (id int)".encode())
                await connection.execute(
                    "INSERT INTO projection_positions (name, version, position, tables)"
                    f" SELECT name, {version}, position, '{{users_v{version}}}' FROM projection_positions"
                    f" WHERE version = {PROJECTION.version}".encode()
                )
        yield Rebuilt(parts)


async def test_what_no_deletion_reaches_is_dropped(rebuilt: Rebuilt) -> None:
    assert await rebuilt.sweep(A_DAY) == STAGING + RETIRED + sorted(LIVE + OTHERS)
    await rebuilt.delete_user()
    assert await rebuilt.sweep() == STAGING + sorted(LIVE + OTHERS), "retired tables serve nobody"
    assert await rebuilt.sweep(AN_HOUR) == sorted(LIVE + OTHERS), "an operator may still have wanted the staging tables"
    assert await rebuilt.sweep(A_DAY) == sorted([*LIVE, OTHERS[1]]), "a newer release may be about to begin"


async def test_tables_that_a_process_moves_are_kept(rebuilt: Rebuilt) -> None:
    await rebuilt.delete_user()
    async with lock_staging(rebuilt.parts.conninfo, [PROJECTION]):
        assert await rebuilt.sweep(AN_HOUR) == STAGING + sorted(LIVE + OTHERS)
    await build_staging(rebuilt.parts.conninfo, rebuilt.parts.log, [PROJECTION])
    assert await rebuilt.sweep(AN_HOUR) == STAGING + sorted(LIVE + OTHERS), "it has the deletion now"


async def test_a_query_that_keeps_them_is_an_alarm(rebuilt: Rebuilt) -> None:
    await rebuilt.delete_user()
    async with await connect(rebuilt.parts.conninfo) as reading, reading.transaction():
        await reading.execute(f"SELECT FROM previous.{UserRow.table}".encode())
        assert RETIRED[0] in await rebuilt.sweep()
        async with rebuilt.parts.pool.connection() as connection:
            (alarm,) = await fetch_alarms(connection)
        assert f"auth version {PROJECTION.version} (previous)" in alarm
    assert RETIRED[0] not in await rebuilt.sweep()
    async with rebuilt.parts.pool.connection() as connection:
        assert await fetch_alarms(connection) == []
