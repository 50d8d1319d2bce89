"""Checks that nobody has changed the key ring in the database. Compares the key ring with the root keys that this
process knows, and with the event of the last rotation of the secret key.

Somebody who can write to the database could change `root_keys`, so that the server accepts MACs by an old root key
again. They could also delete a wrap, so that the server does not start.
"""

from datetime import datetime
from typing import NamedTuple

from domain.audit import ROTATIONS, SecretKeyRotated
from store.audit.row_checks import fetch_written_positions
from store.crypto.secrets import RootKey, Secrets
from store.log.event_log import EventLog
from store.postgres.queries import Source, fetch_rows

RESTORE_RING = "put back the rows of root_keys and root_key_wraps from a backup, before a process is started anew"


class RootKeyRow(NamedTuple):
    """One root key as the tables `root_keys` and `root_key_wraps` have it."""

    used_since: datetime | None
    last_position: int | None
    is_leaked: bool
    wraps: dict[str, str]
    """Name of a key that opens the root key -> SHA-256, in hex, of the wrap that this key opens."""


async def find_ring_damage(source: Source, log: EventLog, secrets: Secrets) -> str | None:
    """Returns a sentence that names the first root key whose rows were changed, and says what to do. Returns None if no
    rows were changed.
    """
    rows = await fetch_rows(
        source,
        "SELECT id::int, used_since, last_position, is_leaked,"
        " ARRAY(SELECT opener FROM root_key_wraps WHERE root_id = id ORDER BY opener),"
        " ARRAY(SELECT encode(sha256(wrapped), 'hex') FROM root_key_wraps WHERE root_id = id ORDER BY opener)"
        " FROM root_keys",
    )
    stored = {
        root_id: RootKeyRow(used_since, last_position, is_leaked, dict(zip(openers, hashes, strict=True)))
        for root_id, used_since, last_position, is_leaked, openers, hashes in rows
    }
    rotation = await _find_rotation(source, log, secrets)
    for root in secrets.roots.values():
        if (defect := _find_defect(root, stored.get(root.id), rotation)) is not None:
            return f"the root key {root.id} {defect}: {RESTORE_RING}"
    return None


async def _find_rotation(source: Source, log: EventLog, secrets: Secrets) -> SecretKeyRotated | None:
    """Returns the newest event `secret_key.rotated` whose MAC the newest root key made. Returns None if there is no
    such event, for example while a rotation is not complete.

    Ignores an event whose MAC an older root key made: somebody may have got hold of the older key.
    """
    written = await fetch_written_positions(source, ROTATIONS.name, lambda _: [secrets.rows_key])
    recorded = (await log.load([ROTATIONS.name]))[ROTATIONS.name]
    events = [item.event for item in reversed(recorded) if item.position in written]
    return next((event for event in events if isinstance(event, SecretKeyRotated)), None)


def _find_defect(root: RootKey, stored: RootKeyRow | None, rotation: SecretKeyRotated | None) -> str | None:
    if stored is None:
        return "is missing in root_keys"
    if not stored.wraps:
        return "is missing in root_key_wraps"
    is_limit_changed = root.last_position is not None and root.last_position != stored.last_position
    if is_limit_changed or (root.is_in_use and stored.used_since is None) or (root.is_leaked and not stored.is_leaked):
        return "is not in root_keys as it was"
    recorded = next((item for item in rotation.root_keys if item.id == root.id), None) if rotation else None
    if rotation is None or recorded is None:
        return None
    if (recorded.used_since, recorded.last_position) != (stored.used_since, stored.last_position):
        return "is not in root_keys as the last rotation recorded it"
    if recorded.is_leaked and not stored.is_leaked:
        return "is not in root_keys as the last rotation recorded it"
    if stored.wraps.get(rotation.opener) != recorded.wrap:
        return "is not in root_key_wraps as the last rotation recorded it"
    return None
