"""Decides which rows of the log the sealer may seal: those with a right MAC, and those that an operator accepted.

Older releases made no MACs. If the log began with such a release, rows without a MAC are allowed until the event
`audit.row_macs_required`. They are allowed for one more hour after that event, since processes of the older release may
still run during an upgrade.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from eventsourcing.persistence import StoredEvent

from domain.audit import ROWS, RowAccepted, RowMacsRequired
from domain.core.events import Recorded
from store.audit.leaves import MAPPER, EventLeaf, hash_of, leaf_of, row_of
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.log.row_macs import has_right_mac
from store.postgres.queries import Source, fetch_row, fetch_rows

UPGRADE_TIME = timedelta(hours=1)
"""Time for which processes of a release that makes no MACs may still run after the event `audit.row_macs_required`."""


@dataclass(frozen=True)
class RowChecks:
    secrets: Secrets
    clock: Callable[[], datetime]
    events: Sequence[Recorded]
    """The events `audit.row_macs_required` and `audit.row_accepted` that have a right MAC, so that this server wrote
    them.
    """
    is_older_log: bool
    """Whether the log began with a release that made no MACs."""

    @property
    def required(self) -> Recorded | None:
        """The event `audit.row_macs_required`. None if it was not recorded."""
        return next((item for item in self.events if isinstance(item.event, RowMacsRequired)), None)

    def allow(self, position: int, row: StoredEvent | None) -> bool:
        """Returns whether the row at this position may be sealed. A position without a row (`row` is None) may always
        be sealed.
        """
        if row is None or has_right_mac(self.secrets.rows_keys(position), row):
            return True
        leaf = leaf_of(position, row)
        if isinstance(leaf, EventLeaf) and not MAPPER.has_mac(row.state) and self._allow_without_mac(position):
            return True
        accepted = [item.event for item in self.events if isinstance(item.event, RowAccepted)]
        return any(event.position == position and event.leaf == hash_of(leaf).hex() for event in accepted)

    def _allow_without_mac(self, position: int) -> bool:
        if (required := self.required) is None:
            return self.is_older_log
        return position < required.position or self.clock() < required.event.at + UPGRADE_TIME


async def load_row_checks(source: Source, log: EventLog, secrets: Secrets, clock: Callable[[], datetime]) -> RowChecks:
    """Loads the events that decide which rows may be sealed. Raises StreamDamaged if one of them cannot be read."""
    recorded = (await log.load([ROWS.name]))[ROWS.name]
    written = await fetch_written_positions(source, ROWS.name, secrets.rows_keys)
    first = await fetch_row(
        source, "SELECT state FROM stored_events WHERE notification_id > 0 ORDER BY notification_id LIMIT 1"
    )
    is_older_log = first is not None and not MAPPER.has_mac(first[0] or b"")
    return RowChecks(secrets, clock, [item for item in recorded if item.position in written], is_older_log)


async def fetch_written_positions(source: Source, stream: str, keys_at: Callable[[int], list[bytes]]) -> set[int]:
    """Returns the positions of the rows of a stream that have a right MAC. `keys_at(position)` returns the keys that
    may have made the MAC at this position.
    """
    rows = await fetch_rows(
        source,
        "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
        " WHERE originator_id = %s",
        (stream,),
    )
    return {position for position, *columns in rows if has_right_mac(keys_at(position), row_of(*columns))}
