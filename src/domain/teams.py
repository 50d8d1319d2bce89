"""Microsoft Teams channels: endpoints to which notifications are sent as cards.

The URL of a channel is a secret, because everybody who knows it can post to the channel.
"""

# Fields here implement properties of the base classes, since msgspec lets a struct inherit fields from one base only.
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from typing import ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from domain.core.data_keys import channel_key
from domain.core.events import Category, Event, copy_fields
from domain.delivery_outcomes import Outcome
from domain.endpoints import (
    Endpoint,
    EndpointDeleted,
    EndpointEvent,
    EndpointFailing,
    EndpointKind,
    EndpointRecovered,
    EndpointRegistered,
    EndpointUpdated,
    evolve_endpoint,
)

CardType = Literal["build.failed", "build.finished", "test.flaky", "test.quarantined", "node.offline"]
"""The notification types for which there are cards."""

CONNECTOR_ERROR = "Webhook message delivery failed"
"""Beginning of the body by which an Office connector reports a failure although the status is 200."""


class ChannelEvent(EndpointEvent, frozen=True):
    kind: ClassVar[EndpointKind] = "teams"
    channel_id: int
    project_id: int

    @property
    def endpoint_id(self) -> int:
        return self.channel_id

    @property
    def stream(self) -> str:
        return f"teams-channel-{self.channel_id}"

    @property
    def data_key(self) -> str | None:
        return channel_key(self.project_id, self.channel_id)


class ChannelRegistered(ChannelEvent, EndpointRegistered, frozen=True):
    name: ClassVar[str] = "teams_channel.registered"
    sealed: ClassVar[tuple[str, ...]] = ("title", "shown_url", "sealed_url", "mention")
    events: list[str]
    title: str = ""
    shown_url: str = ""
    sealed_url: bytes = b""
    mention: str = ""
    """The email of the user whom cards of failed builds mention; empty for nobody."""


class ChannelUpdated(ChannelEvent, EndpointUpdated, frozen=True):
    name: ClassVar[str] = "teams_channel.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "shown_url", "sealed_url", "mention")
    title: str | None = None
    shown_url: str | None = None
    sealed_url: bytes | None = None
    events: list[str] | None = None
    mention: str | None = None
    active: bool | None = None


class ChannelDeleted(ChannelEvent, EndpointDeleted, frozen=True):
    name: ClassVar[str] = "teams_channel.deleted"


class ChannelFailing(ChannelEvent, EndpointFailing, frozen=True):
    name: ClassVar[str] = "teams_channel.failing"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""


class ChannelRecovered(ChannelEvent, EndpointRecovered, frozen=True):
    name: ClassVar[str] = "teams_channel.recovered"


class CardGivenUp(ChannelEvent, frozen=True):
    """A card could not be delivered. It is not tried again."""

    name: ClassVar[str] = "teams_channel.card_given_up"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    delivery_id: str
    type: str
    attempts: int
    error: str = ""

    @property
    def stream(self) -> str:
        return f"teams-card-{self.delivery_id}"


class ChannelsListed(Event, frozen=True):
    """A channel was added to its project. All registrations of a project append to one stream, so that registrations at
    the same time know of each other.
    """

    name: ClassVar[str] = "teams_channel.listed"
    project_id: int
    channel_ids: list[int]
    """Ids of all channels that the project has now, the new one last."""

    @property
    def stream(self) -> str:
        return f"teams_channel_list-{self.project_id}"


class Channel(Endpoint, frozen=True):
    channel_id: int
    project_id: int
    title: str
    shown_url: str
    sealed_url: bytes
    events: list[str]
    mention: str
    active: bool = True
    failing: bool = False
    deleted: bool = False

    @property
    def endpoint_id(self) -> int:
        return self.channel_id


def evolve(state: Channel | None, event: Event) -> Channel | None:
    match event:
        case ChannelRegistered():
            return copy_fields(Channel, event)
        case _:
            return evolve_endpoint(state, event)


def evolve_list(state: tuple[int, ...], event: Event) -> tuple[int, ...]:
    return tuple(event.channel_ids) if isinstance(event, ChannelsListed) else state


def evolve_card(is_given_up: bool, event: Event) -> bool:
    return is_given_up or isinstance(event, CardGivenUp)


def redact_url(url: str) -> str:
    """Returns the part of a channel's URL that may be shown: `https://example.webhook.office.com/…`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def correct_outcome(outcome: Outcome) -> Outcome:
    """Returns a failed outcome for a 2xx answer whose body is an error of an Office connector. Returns any other
    outcome unchanged.
    """
    if outcome.ok and outcome.excerpt.startswith(CONNECTOR_ERROR):
        return msgspec.structs.replace(outcome, ok=False, error=" ".join(outcome.excerpt[:200].split()))
    return outcome


CHANNEL = Category[Channel | None]("teams-channel", None, evolve)
CARD = Category("teams-card", False, evolve_card)
CHANNEL_LIST = Category[tuple[int, ...]]("teams_channel_list", (), evolve_list)
"""Stream whose state is the ids of a project's channels. The state may contain deleted channels, and lacks channels
that older releases registered.
"""
CHANNEL_EVENTS = (ChannelRegistered, ChannelUpdated, ChannelDeleted, ChannelFailing, ChannelRecovered, CardGivenUp)
EVENTS = (*CHANNEL_EVENTS, ChannelsListed)
