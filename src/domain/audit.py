"""The audit log: who read it, which key signs its checkpoints, when it was restored from a backup, when the secret key
was rotated, and which rows an operator accepted.

Each `audit.read` begins a stream of its own, so recording one never conflicts with another. The log itself contains
all signing keys as events. When a new key is recorded, the previous key signs one more checkpoint, which covers the
event with the new key. So whoever trusts one key can verify all later keys.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.events import Category, Event

What = Literal["events", "stream", "export", "replay"]


class AuditRead(Event, frozen=True):
    """A user read a part of the audit log, or the result of a simulation over it."""

    name: ClassVar[str] = "audit.read"
    read_id: int
    what: What
    filter: dict[str, str] = {}
    """The filters of the request: name of the query parameter -> value."""
    shown: int | None = None
    """The number of events in the answer; None for a simulation, and for an export, which is streamed."""
    project_id: int | None = None
    """The project to which the request limited the answer; None without this limit."""

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
    """A new key signs checkpoints from now on. Only the first checkpoint that covers this event is still signed by the
    previous key.
    """

    name: ClassVar[str] = "audit.signing_key_changed"
    public_key: str
    """The public key in the form of a verifier key: NAME+ID+KEY."""

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
    """Log position of the last event in the backup."""

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
    """Description of a root key in the database after a rotation. It does not contain the key."""

    id: int
    used_since: datetime
    last_position: int | None
    """The last log position at which a row may have a MAC by this root key; None for the newest key, which still makes
    MACs.
    """
    is_leaked: bool
    wrap: str
    """SHA-256 of the root key after its encryption under the new secret key, in hex."""


class SecretKeyRotated(Event, frozen=True):
    """The server's secret key was replaced. From now on the newest of `root_keys` seals and signs."""

    name: ClassVar[str] = "secret_key.rotated"
    is_leaked: bool
    """Whether somebody else may have the old key. If so, all sessions and links became invalid."""
    operator: str
    """Operating system account of the person who rotated the key."""
    opener: str
    """Name of the new secret key in the key ring. The name reveals nothing about the key."""
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
    """Every row of the log after this event must have a MAC. Only logs that begin with rows of an older release have
    this event, since older releases made no MACs.
    """

    name: ClassVar[str] = "audit.row_macs_required"

    @property
    def stream(self) -> str:
        return ROWS.name


class RowAccepted(Event, frozen=True):
    """An operator allowed the sealer to seal a row that has no MAC or a wrong one. Such a row may have been written by
    somebody else than this server.
    """

    name: ClassVar[str] = "audit.row_accepted"
    position: int
    leaf: str
    """The hash of the row's leaf in the audit tree. If the row changes after this, it is no longer accepted."""
    reason: str
    operator: str
    """Operating system account of the person who accepted the row."""

    @property
    def stream(self) -> str:
        return ROWS.name


class RowRules(msgspec.Struct, frozen=True):
    are_macs_required: bool = False
    accepted: Mapping[int, str] = {}
    """Log position of each accepted row -> hash of its leaf in the audit tree."""


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
"""Stream of the restores from backups. Its state is the last log position that the latest restore brought back; 0
before the first restore.
"""
ROTATIONS = Category[tuple[StoredRootKey, ...]]("secret-key", (), evolve_rotations).at("rotations")
"""Stream of the rotations of the secret key. Its state is all root keys after the last rotation, the oldest first."""
ROWS = Category("rows", RowRules(), evolve_row_rules).at("log")
"""Stream of the events that say which rows of the log the sealer may seal."""
EVENTS = (AuditRead, SigningKeyChanged, LogRestored, SecretKeyRotated, RowMacsRequired, RowAccepted)
