"""The audit log: who read it, which key signs its checkpoints, when it was restored from a backup, when the secret key
was rotated, and which rows an operator accepted.

Each `audit.read` begins a stream of its own, so that recording it never waits for another one. The log itself contains
all signing keys as events. When a new key is recorded, the previous key signs one more checkpoint, which covers the
event with the new key. So whoever trusts one key can verify all later keys.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.events import Category, Event

What = Literal["events", "stream", "export"]


class AuditRead(Event, frozen=True):
    """A user was shown a part of the audit log."""

    name: ClassVar[str] = "audit.read"
    read_id: int
    what: What
    filter: dict[str, str] = {}
    """The filters of the request, by parameter."""
    shown: int | None = None
    """The number of events in the answer; None for an answer that is streamed."""
    project_id: int | None = None
    """The project that the reading was limited to; None when it was not limited."""

    @property
    def stream(self) -> str:
        return f"audit-read-{self.read_id}"


def evolve_reading(state: AuditRead | None, event: Event) -> AuditRead | None:
    match event:
        case AuditRead():
            return event
        case _:
            return state


class SigningKeyChanged(Event, frozen=True):
    """A new key signs checkpoints from now on. One exception: the first checkpoint that covers this event is signed by
    the previous key.
    """

    name: ClassVar[str] = "audit.signing_key_changed"
    public_key: str
    """The key as a verifier key: NAME+ID+KEY."""

    @property
    def stream(self) -> str:
        return SIGNING_KEY.name


def evolve_signing_key(state: str | None, event: Event) -> str | None:
    match event:
        case SigningKeyChanged():
            return event.public_key
        case _:
            return state


class LogRestored(Event, frozen=True):
    """The log was restored from a backup. Events after the last position of the backup are lost.

    The positions and ids of the lost events are not used again (`store.log.ids.skip_lost_ids`).
    """

    name: ClassVar[str] = "audit.log_restored"
    position: int
    """The last position of the backup."""

    @property
    def stream(self) -> str:
        return RESTORES.name


def evolve_restores(state: int, event: Event) -> int:
    match event:
        case LogRestored():
            return event.position
        case _:
            return state


class StoredRootKey(msgspec.Struct, frozen=True):
    """A root key as the database has it after a rotation."""

    id: int
    used_since: datetime
    last_position: int | None
    """The last position at which a row may have a MAC by this root key; None for the newest."""
    is_leaked: bool
    wrap: str
    """SHA-256 of the root key as it is wrapped by the new secret key, in hex."""


class SecretKeyRotated(Event, frozen=True):
    """The server's secret key was replaced. From now on the newest of `root_keys` seals and signs."""

    name: ClassVar[str] = "secret_key.rotated"
    is_leaked: bool
    """Whether somebody else may have the old key, so that sessions and links ended."""
    operator: str
    """The account of the operating system that rotated it."""
    opener: str
    """Name of the new secret key in the key ring, which says nothing about the key."""
    root_keys: tuple[StoredRootKey, ...]
    """All root keys, the oldest first."""

    @property
    def stream(self) -> str:
        return ROTATIONS.name


def evolve_rotations(state: tuple[StoredRootKey, ...], event: Event) -> tuple[StoredRootKey, ...]:
    match event:
        case SecretKeyRotated():
            return event.root_keys
        case _:
            return state


class RowMacsRequired(Event, frozen=True):
    """Every row of the log after this event must have a MAC. Only a log that begins with rows of an older release,
    which made no MACs, has this event.
    """

    name: ClassVar[str] = "audit.row_macs_required"

    @property
    def stream(self) -> str:
        return ROWS.name


class RowAccepted(Event, frozen=True):
    """An operator allowed the sealer to seal a row that has no MAC or a wrong one, so that this server may not have
    written it.
    """

    name: ClassVar[str] = "audit.row_accepted"
    position: int
    leaf: str
    """The hash of the row's leaf in the audit tree: another row at this position is not accepted."""
    reason: str
    operator: str
    """The account of the operating system that accepted it."""

    @property
    def stream(self) -> str:
        return ROWS.name


class RowRules(msgspec.Struct, frozen=True):
    are_macs_required: bool = False
    accepted: Mapping[int, str] = {}
    """Position -> hash of the leaf of the row that was accepted there."""


def evolve_row_rules(state: RowRules, event: Event) -> RowRules:
    match event:
        case RowMacsRequired():
            return msgspec.structs.replace(state, are_macs_required=True)
        case RowAccepted():
            return msgspec.structs.replace(state, accepted={**state.accepted, event.position: event.leaf})
        case _:
            return state


AUDIT_READ = Category[AuditRead | None]("audit-read", None, evolve_reading)
SIGNING_KEY = Category[str | None]("audit", None, evolve_signing_key).at("signing-keys")
RESTORES = Category[int]("log", 0, evolve_restores).at("restores")
"""Stream of the restores. Its state is the last position of the newest restored backup."""
ROTATIONS = Category[tuple[StoredRootKey, ...]]("secret-key", (), evolve_rotations).at("rotations")
"""Stream of the rotations of the secret key. Its state is the root keys after the last one."""
ROWS = Category("rows", RowRules(), evolve_row_rules).at("log")
"""Stream of the rules that say which rows may be sealed."""
EVENTS = (AuditRead, SigningKeyChanged, LogRestored, SecretKeyRotated, RowMacsRequired, RowAccepted)
