"""`testhide repair` reads what the log has of a lost table, and sends nothing again."""

import pytest

from testhide.processes import Core
from testhide.repair import repair
from testhide.settings import Settings
from tests.integrations.receiving import messages, receiving
from tests.workers.hooks import open_hooks


@pytest.mark.parametrize("tables", ["webhook_endpoints", "reaction_positions", "webhook_endpoints, reaction_positions"])
async def test_webhooks_go_on_without_their_tables(parts: Core, tables: str) -> None:
    settings = Settings(database_url=parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with open_hooks(parts) as hooks, receiving() as receiver, receiving() as former:
        await hooks.register(receiver.url, ("build.finished",))
        deleted = await hooks.register(former.url, ("build.finished",))
        await hooks.delete(deleted)
        await hooks.build(1, "passed")
        await hooks.deliver()
        async with parts.pool.connection() as connection:
            await connection.execute(f"DROP TABLE {tables}".encode())
        assert {table.name for table in await repair(settings)} == set(tables.split(", "))
        await hooks.build(2, "passed")
        await hooks.deliver()
        assert messages(receiver) == [("build.finished", 1), ("build.finished", 2)]
        assert messages(former) == []
