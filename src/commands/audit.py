"""Commands on the audit log. They record that somebody read the log, that it was restored, or that the secret key was
rotated. They change the key that signs checkpoints. They also require a MAC for each later row, and allow the sealer to
seal a single row without a valid MAC.
"""

import secrets as random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from psycopg_pool import AsyncConnectionPool

from commands.handler import Command, CommandContext, Handler
from domain.audit import (
    AUDIT_READ,
    RESTORES,
    ROTATIONS,
    ROWS,
    SIGNING_KEY,
    AuditRead,
    LogRestored,
    RowAccepted,
    RowMacsRequired,
    RowRules,
    SecretKeyRotated,
    SigningKeyChanged,
    StoredRootKey,
    What,
)
from domain.core.errors import Conflict
from domain.core.events import AnyStream, Event
from store.audit.checkpoints import keep_key
from store.audit.signed_notes import SigningKey, VerifierKey
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog


@dataclass(frozen=True)
class NoteReading(Command, of=AUDIT_READ):
    """Records that somebody read the audit log."""

    read_id: int
    what: What
    filter: Mapping[str, str] = field(default_factory=dict)
    shown: int | None = None
    project_id: int | None = None

    def decide(self, noted: AuditRead | None) -> Iterable[Event]:
        if noted is None:
            yield self.event(AuditRead)


@dataclass(frozen=True)
class NoteRestore(Command):
    """Records that the log was restored from a backup. `position` is the position of the last event in the backup."""

    position: int

    def reads(self) -> Sequence[AnyStream]:
        return (RESTORES,)

    def decide(self, last: int) -> Iterable[Event]:
        if last != self.position:
            yield self.event(LogRestored)


@dataclass(frozen=True)
class NoteRotation(Command):
    """Records that the secret key was rotated."""

    is_leaked: bool
    operator: str
    opener: str
    root_keys: tuple[StoredRootKey, ...]

    def reads(self) -> Sequence[AnyStream]:
        return (ROTATIONS,)

    def decide(self, last: tuple[StoredRootKey, ...]) -> Iterable[Event]:
        if last != self.root_keys:
            yield self.event(SecretKeyRotated)


@dataclass(frozen=True)
class RequireRowMacs(Command):
    def reads(self) -> Sequence[AnyStream]:
        return (ROWS,)

    def decide(self, rules: RowRules) -> Iterable[Event]:
        if not rules.are_macs_required:
            yield RowMacsRequired()


@dataclass(frozen=True)
class AcceptRow(Command):
    position: int
    leaf: str
    reason: str
    operator: str

    def reads(self) -> Sequence[AnyStream]:
        return (ROWS,)

    def decide(self, rules: RowRules) -> Iterable[Event]:
        if rules.accepted.get(self.position) != self.leaf:
            yield self.event(RowAccepted)


@dataclass(frozen=True)
class ChangeSigningKey(Command):
    public_key: str
    instead_of: str | None
    """Public key that the command replaces; None if the log has no signing key yet."""

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
    """Creates a key and makes it the signing key; returns its public part. The first key also fixes the name (origin)
    of the log.
    """
    current = await log.load_state(SIGNING_KEY)
    origin = VerifierKey.parse(current).name if current else f"testhide/{random.token_hex(8)}"
    key = SigningKey.new(origin)
    await keep_key(pool, secrets, key)
    await handler.execute(ChangeSigningKey(str(key.verifier), current), caller)
    return key.verifier
