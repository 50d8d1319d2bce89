"""Changes that took rights from a caller and that the read models do not show yet.

Requests are authenticated by read models, which may be behind the log. The queries for credentials therefore also
return two positions: the end of the log, and the position up to which the read models show all losses of rights. Only
if the two differ, the log between them is searched for events that took rights from the caller.
"""

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from domain.core.errors import Unavailable
from domain.core.events import Damaged, Event
from store.log.event_log import EventLog
from store.log.ids import LAST_POSITION

MAX_SEARCHED = 100
"""Largest number of events that the query for credentials itself searches for losses of rights."""


class RightsBehind(Unavailable):
    """The caller has lost rights that the read models still show. `position` is the position of the latest event that
    took rights from the caller.
    """

    def __init__(self, position: int) -> None:
        super().__init__("Your rights have changed, but the read models are behind the log. Try again.")
        self.position = position


def log_positions(projections: Sequence[tuple[str, int]], losses: Sequence[type[Event]]) -> str:
    """Returns SQL for the FROM of a query for credentials: `log`, a single row with the columns `head` and `shown`,
    which ReadCredentials describes.

    `projections` are pairs of name and version: the read models that the query reads. `losses` are the types of the
    events that may take rights. The column `shown` is the position of these read models. It is the end of the log
    instead if the read models lack at most MAX_SEARCHED events, none of which is of a type in `losses`.
    """
    versions = ", ".join(f"('{name}', {version})" for name, version in projections)
    names = ", ".join(f"'{event.name}'" for event in losses)
    head = f"SELECT coalesce(max(notification_id), 0) FROM stored_events WHERE notification_id <= {LAST_POSITION}"
    shown = f"SELECT coalesce(min(position), 0) FROM projection_positions WHERE (name, version) IN ({versions})"
    newer = (
        "SELECT topic FROM stored_events WHERE notification_id > shown AND notification_id <= head"
        f" ORDER BY notification_id LIMIT {MAX_SEARCHED}"
    )
    has_losses = f"EXISTS (SELECT FROM ({newer}) newer WHERE topic IN ({names}))"
    shows_losses = f"head - shown BETWEEN 1 AND {MAX_SEARCHED} AND NOT {has_losses}"
    # OFFSET 0 keeps PostgreSQL from reading the two positions several times.
    return (
        f"(SELECT head, CASE WHEN {shows_losses} THEN head ELSE shown END AS shown"
        f" FROM (SELECT ({head}) AS head, ({shown}) AS shown OFFSET 0) positions OFFSET 0) log"
    )


class ReadCredentials(msgspec.Struct, frozen=True):
    """Credentials of a caller, as read models show them. The query for them selects `head` and `shown` first
    (`log_positions`).
    """

    head: int
    """Position of the end of the log when the credentials were read."""
    shown: int
    """Position up to which the read models show all losses of rights."""

    losses: ClassVar[tuple[type[Event], ...]]
    """Types of the events that may take rights from a caller with credentials of this class."""

    @property
    def streams(self) -> list[str]:
        """Names of all streams whose events may take rights from the caller."""
        raise NotImplementedError

    def loses_by(self, event: Event) -> bool:
        """Returns whether an event takes rights from the caller. The event is of a type in `losses`, and from one of
        the `streams`.
        """
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
