"""Read model of Teams channels. `store.tables.delivery_history` has the outcomes of deliveries."""

from datetime import datetime

from domain import teams
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
    """Email address of the user whom cards of failed builds mention; empty for nobody."""
    created_at: datetime
    updated_at: datetime
    active: bool = True
    failing_since: datetime | None = None
    """Time at which the channel began to fail: many attempts in a row had failed. None while deliveries succeed."""
    failing_error: str | None = None


PROJECTION = endpoint_projection("teams_channels", ChannelRow, teams.CHANNEL_EVENTS)
