"""Channels of Microsoft Teams: they are told what happens, by cards.

The address of a channel is a secret, since who knows it may post there.
"""

from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from domain.core.data_keys import channel_key
from domain.core.events import Category, Event
from domain.deliveries import Outcome

Type = Literal["build.failed", "build.finished", "test.flaky", "test.quarantined", "node.offline"]
"""What channels may be told."""

TROUBLE = "Webhook message delivery failed"
"""How Office connectors begin an answer of 200 to what did not arrive."""


class ChannelEvent(Event, frozen=True):
    channel_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"teams-channel-{self.channel_id}"

    @property
    def data_key(self) -> str | None:
        return channel_key(self.project_id, self.channel_id)


class ChannelRegistered(ChannelEvent, frozen=True):
    name: ClassVar[str] = "teams_channel.registered"
    sealed: ClassVar[tuple[str, ...]] = ("title", "shown_url", "sealed_url", "mention")
    events: list[str]
    title: str = ""
    shown_url: str = ""
    sealed_url: bytes = b""
    mention: str = ""
    """The email of whom cards of failed builds mention; empty for nobody."""


class ChannelUpdated(ChannelEvent, frozen=True):
    """Only what changed; None is unchanged."""

    name: ClassVar[str] = "teams_channel.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "shown_url", "sealed_url", "mention")
    title: str | None = None
    shown_url: str | None = None
    sealed_url: bytes | None = None
    events: list[str] | None = None
    mention: str | None = None
    active: bool | None = None


UPDATABLE = ("title", "shown_url", "sealed_url", "events", "mention", "active")


class ChannelDeleted(ChannelEvent, frozen=True):
    """With what was still to be delivered."""

    name: ClassVar[str] = "teams_channel.deleted"

    @property
    def erases(self) -> str | None:
        return self.data_key


class ChannelFailing(ChannelEvent, frozen=True):
    """Many attempts in a row failed. It is tried less often from here on, and nothing is lost."""

    name: ClassVar[str] = "teams_channel.failing"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""


class ChannelRecovered(ChannelEvent, frozen=True):
    name: ClassVar[str] = "teams_channel.recovered"


class CardGivenUp(ChannelEvent, frozen=True):
    """A card did not arrive, however often it was tried."""

    name: ClassVar[str] = "teams_channel.card_given_up"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    delivery_id: str
    type: str
    attempts: int
    error: str = ""

    @property
    def stream(self) -> str:
        return f"teams-card-{self.delivery_id}"


class Channel(msgspec.Struct, frozen=True):
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


def changes(event: ChannelUpdated) -> dict[str, Any]:
    return {field: value for field in UPDATABLE if (value := getattr(event, field)) is not None}


def evolve(state: Channel | None, event: Event) -> Channel | None:
    match event:
        case ChannelRegistered():
            return Channel(
                channel_id=event.channel_id,
                project_id=event.project_id,
                title=event.title,
                shown_url=event.shown_url,
                sealed_url=event.sealed_url,
                events=event.events,
                mention=event.mention,
            )
        case ChannelUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes(event))
        case ChannelFailing() | ChannelRecovered() if state is not None:
            return msgspec.structs.replace(state, failing=isinstance(event, ChannelFailing))
        case ChannelDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


def evolve_card(given_up: bool, event: Event) -> bool:
    return given_up or isinstance(event, CardGivenUp)


def shown_url(url: str) -> str:
    """What may be seen of a channel's address: `https://example.webhook.office.com/…`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/…"


def heard(outcome: Outcome) -> Outcome:
    """An attempt as it really went: Office connectors answer 200 and say in the body what went wrong."""
    if outcome.ok and outcome.excerpt.startswith(TROUBLE):
        return msgspec.structs.replace(outcome, ok=False, error=" ".join(outcome.excerpt[:200].split()))
    return outcome


CHANNEL = Category[Channel | None]("teams-channel", None, evolve)
CARD = Category("teams-card", False, evolve_card)
EVENTS = (ChannelRegistered, ChannelUpdated, ChannelDeleted, ChannelFailing, ChannelRecovered, CardGivenUp)
