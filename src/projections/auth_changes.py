"""Changes that took rights from a caller and that the read models do not show yet.

Requests are authenticated by read models, which may be behind the log. The queries for credentials therefore also
return the end of the log, and the position of the read models that they read. Only if these differ, the log is searched
for events that took rights from the caller in between.
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from domain.core.errors import Unavailable
from domain.core.events import Damaged, Event
from store.log.event_log import EventLog
from store.log.ids import LAST_POSITION


class RightsBehind(Unavailable):
    """The caller has lost rights that the read models still show. `position` is the position of the latest event that
    took some.
    """

    def __init__(self, position: int) -> None:
        super().__init__("Your rights have changed, but the read models are behind the log. Try again.")
        self.position = position


def log_columns(projections: Sequence[tuple[str, int]]) -> str:
    """Returns two SQL columns: the end of the log, and the position that all of the projections have reached.
    `projections` are pairs of name and version.
    """
    versions = ", ".join(f"('{name}', {version})" for name, version in projections)
    return (
        f"(SELECT coalesce(max(notification_id), 0) FROM stored_events WHERE notification_id <= {LAST_POSITION}),"
        f" (SELECT coalesce(min(position), 0) FROM projection_positions WHERE (name, version) IN ({versions}))"
    )


class ReadCredentials(msgspec.Struct, frozen=True):
    """Credentials of a caller, as read models show them. The query selects `log_columns` first."""

    head: int
    """Position of the end of the log when the credentials were read."""
    shown: int
    """Position of the read models from which the credentials were read."""

    losses: ClassVar[tuple[type[Event], ...]]
    """Types of the events that may take rights from such a caller."""

    @property
    def streams(self) -> list[str]:
        """Names of all streams whose events may take rights from the caller."""
        raise NotImplementedError

    def loses_by(self, event: Event) -> bool:
        """Returns whether an event of these streams and types takes rights from the caller."""
        raise NotImplementedError


async def must_show_losses(log: EventLog, credentials: ReadCredentials) -> None:
    """Raises RightsBehind if the caller has lost rights by an event that the read models did not show when the
    credentials were read. An event that cannot be read counts as a loss.
    """
    if credentials.head <= credentials.shown:
        return
    names = [event.name for event in credentials.losses]
    positions = await log.find_positions(credentials.streams, credentials.head, names, credentials.shown)
    events = await log.read_at(positions) if positions else []
    losses = [item.position for item in events if isinstance(item.event, Damaged) or credentials.loses_by(item.event)]
    if losses:
        raise RightsBehind(max(losses))
