"""Seals the log at once. `testhide work` seals every ten seconds."""

from commands.handler import Handler
from integrations.checkpoints import CheckpointFolder
from store.clock import utcnow
from testhide.processes import Core
from workers.sealer import Sealer


async def seal_log(parts: Core, folder: CheckpointFolder | None = None) -> None:
    handler = Handler(parts.log, utcnow)
    sealer = Sealer(parts.conninfo, parts.pool, parts.log, handler, parts.secrets, utcnow, folder)
    async with sealer.hold_lock() as connection:
        await sealer.seal(connection)
