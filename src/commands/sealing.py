"""New keys for the audit log's checkpoints."""

import secrets as random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg_pool import AsyncConnectionPool

from commands.handler import Command, CommandContext, Handler
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from domain.sealing import SIGNING_KEY, SigningKeyChanged
from store.audit.checkpoints import keep_key
from store.audit.signed_notes import SigningKey, VerifierKey
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog


@dataclass(frozen=True)
class ChangeSigningKey(Command):
    public_key: str
    instead_of: str | None
    """None for the first one."""

    def reads(self) -> Sequence[AnyStream]:
        return (SIGNING_KEY,)

    def decide(self, current: str | None) -> Iterable[Event]:
        if current == self.public_key:
            return
        if current != self.instead_of:
            raise Conflict("The signing key was changed meanwhile; look at it and try again.")
        yield SigningKeyChanged(public_key=self.public_key)


async def new_signing_key(
    handler: Handler, log: EventLog, pool: AsyncConnectionPool, secrets: Secrets, caller: CommandContext
) -> VerifierKey:
    """Makes a key and hands signing over to it. The first one also gives the log its name, for ever."""
    current = await log.load_state(SIGNING_KEY)
    origin = VerifierKey.parse(current).name if current else f"testhide/{random.token_hex(8)}"
    key = SigningKey.new(origin)
    await keep_key(pool, secrets, key)
    await handler.execute(ChangeSigningKey(str(key.verifier), current), caller)
    return key.verifier
