"""Commands that a worker executes, executed by the test instead."""

import asyncio

from commands.handler import Command, CommandContext, Handler
from store.clock import utcnow
from testhide.processes import core
from tests.support.server import Server


def execute(server: Server, command: Command, actor: str) -> None:
    """Executes a command on the server's log, and waits until the read models show it."""

    async def run() -> None:
        async with core(server.settings, pool_size=1) as parts:
            await Handler(parts.log, utcnow).execute(command, CommandContext(actor))

    asyncio.run(run())
    server.wait_until_projected()
