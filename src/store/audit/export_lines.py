"""Lines of an export of the log: the server writes them, and the offline verifier reads them."""

import hashlib
from datetime import datetime
from operator import attrgetter

import msgspec

from store.audit.leaves import EventLeaf, Leaf, UnreadableLeaf, sha256
from store.audit.merkle import HASH
from store.log.codec import SALT_BYTES

WITH_CREDENTIALS = frozenset(
    (
        *("user.registered", "user.password_set", "api_token.created", "node.registered", "node.token_rotated"),
        *("project.created", "project.webhook_secret_rotated", "webhook.registered", "webhook.updated"),
        *("teams_channel.registered", "teams_channel.updated", "scm_endpoint.created", "scm_endpoint.updated"),
        *("jira_integration.created", "jira_integration.updated", "docker_agent.requested", "docker_agent.registered"),
        *("vcenter.created", "vcenter.updated"),
        *("vcenter.machine_registered",),
        *("job.configured", "template.created", "template.updated", "build.queued"),
    )
)
"""Types of events whose sealed fields may contain credentials."""


class ExportHeader(msgspec.Struct, frozen=True, omit_defaults=True):
    origin: str
    """The log's name in its checkpoints."""
    size: int
    """The last exported position, equal to the size of `checkpoint`."""
    after: int
    """The last position before the export."""
    filter: dict[str, str]
    """Query parameters that chose the events; empty for the whole log."""
    checkpoint: str
    """The signed note of the checkpoint by which the export is verified."""
    handovers: list[str]
    """Signed notes of checkpoints. For each signing key except the first, the list has the first checkpoint that covers
    the event by which the log announces the key. An earlier key signed this checkpoint.
    """
    keys: list[str]
    """Verifier keys of the log, oldest first."""
    hashes: list[str]
    """Hashes of the subtrees that cover positions 1 to `after`, in hex."""
    asked_at: datetime | None = None
    """Time of the request by the server's clock. No signature covers `asked_at` and `head`."""
    head: int = 0
    """The log's newest position at `asked_at`."""


class ExportLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of an export: the header (`export`), a range that a filter left out (`skipped`), a gap, an event, data
    keys that were erased later, or the end.
    """

    export: ExportHeader | None = None
    end: int | None = None
    later_erasures: list[str] | None = None
    """Data keys that events after the export's last position destroyed."""
    skipped: tuple[int, int] | None = None
    hashes: list[str] | None = None
    gap: int | None = None
    position: int | None = None
    stream: str | None = None
    version: int | None = None
    type: str | None = None
    class_version: int | None = None
    at_us: int | None = None
    actor: str | None = None
    correlation_id: str | None = None
    causation: int | None = None
    key: str | None = None
    """Name of the data key that encrypts the sealed fields."""
    clear: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The clear fields as canonical JSON."""
    sealed: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The decrypted sealed fields as canonical JSON, with hashes in place of credentials. Unset if the event has none,
    or if they were erased or withheld.
    """
    salt: str | None = None
    commitment: str | None = None
    stored: str | None = None
    withheld: bool = False
    """True if the sealed fields are left out because their commitment covers credentials, not hashes of credentials. A
    reader could not verify the commitment without the credentials.
    """
    unreadable: str | None = None
    """Reason why the row, or only its sealed fields, cannot be read; None if both can be read."""
    leaf: str | None = None
    """Hash that the tree has for this position, in hex."""


_leaf_values = attrgetter(*EventLeaf.__struct_fields__)
_CLEAR = EventLeaf.__struct_fields__.index("clear")


def leaf_of_line(position: int, line: ExportLine) -> Leaf | None:
    """Rebuilds the leaf of a row from the row's line. Returns None if the line lacks values of the leaf."""
    if line.stream is None or line.version is None or line.stored is None:
        return None
    if line.clear is msgspec.UNSET:
        return UnreadableLeaf(position, line.stream, line.version, line.type, line.stored)
    try:
        values = list(_leaf_values(line))
        values[_CLEAR] = sha256(bytes(line.clear))
        return msgspec.convert(values, EventLeaf)
    except msgspec.ValidationError:
        return None


_NOTHING_ELSE = (None,) * 6


def is_unambiguous(line: ExportLine) -> bool:
    """Returns whether the line has only the fields that its kind of line may have. The verifier does not check other
    fields, but another program that reads the export might believe them.
    """
    if line.position is None:
        kinds = (("export",), ("end",), ("later_erasures",), ("skipped", "hashes"), ("gap", "leaf"))
        return any(_has_only(line, *names) for names in kinds)
    if (line.export, line.end, line.later_erasures, line.skipped, line.hashes, line.gap) != _NOTHING_ELSE:
        return False
    if line.clear is not msgspec.UNSET:
        if line.withheld and (line.sealed is not msgspec.UNSET or line.type not in WITH_CREDENTIALS):
            return False
        return line.salt is None or line.sealed is not msgspec.UNSET
    return _has_only(line, "position", "stream", "version", "type", "stored", "unreadable", "leaf")


def _has_only(line: ExportLine, *names: str) -> bool:
    return line == ExportLine(**{name: getattr(line, name) for name in names})


def parse_hash(text: str) -> bytes:
    """Parses a hash from hex. Raises ValueError for text that is not hex of 32 bytes."""
    found = _from_hex(text)
    if len(found) != HASH:
        raise ValueError("a hash has 32 bytes")
    return found


def commitment_of(salt: str | None, sealed: bytes) -> str | None:
    """Returns the commitment to `sealed` (JSON), in hex. Returns None if `salt` is not the hex of a salt."""
    try:
        salt_bytes = _from_hex(salt or "")
    except ValueError:
        return None
    return hashlib.sha256(salt_bytes + sealed).hexdigest() if len(salt_bytes) == SALT_BYTES else None


def _from_hex(text: str) -> bytes:
    """Parses hex in lower case without spaces. Raises ValueError for any other text, so that bytes have only one
    spelling.
    """
    found = bytes.fromhex(text)
    if found.hex() != text:
        raise ValueError("not in lower case, or with spaces in it")
    return found
