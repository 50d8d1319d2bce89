"""The read model of Teams channels. How deliveries went is worker state: see `store.tables.delivery_history`."""

from datetime import datetime

from domain import teams
from domain.core.events import Event
from domain.teams import ChannelRegistered
from projections.endpoints import endpoint_projection
from projections.engine.model import Row, Table

VERSION = 1


class ChannelRow(Row, frozen=True):
    table = Table("teams_channels", VERSION, indexes=("(project_id)",))
    id: int
    project_id: int
    title: str
    shown_url: str
    sealed_url: bytes
    events: list[str]
    mention: str
    """The email of the user whom cards of failed builds mention; empty for nobody."""
    created_at: datetime
    updated_at: datetime
    active: bool = True
    failing_since: datetime | None = None
    """The time since when many attempts in a row have failed."""
    failing_error: str | None = None


def new_row(event: Event) -> ChannelRow:
    assert isinstance(event, ChannelRegistered)
    return ChannelRow(
        id=event.channel_id,
        project_id=event.project_id,
        title=event.title,
        shown_url=event.shown_url,
        sealed_url=event.sealed_url,
        events=event.events,
        mention=event.mention,
        created_at=event.at,
        updated_at=event.at,
    )


PROJECTION = endpoint_projection("teams_channels", ChannelRow, new_row, teams.EVENTS)
