"""What is asked of channels of Teams, and what follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from commands.handler import Command
from commands.projects import must_be_open
from domain.core.errors import NotFound
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project
from domain.teams import (
    CARD,
    CHANNEL,
    UPDATABLE,
    CardGivenUp,
    Channel,
    ChannelDeleted,
    ChannelFailing,
    ChannelRecovered,
    ChannelRegistered,
    ChannelUpdated,
)


@dataclass(frozen=True)
class RegisterChannel(Command):
    channel_id: int
    project_id: int
    title: str
    shown_url: str
    sealed_url: bytes
    events: tuple[str, ...]
    mention: str = ""

    def reads(self) -> Sequence[AnyStream]:
        return CHANNEL.at(self.channel_id), PROJECT.at(self.project_id)

    def decide(self, channel: Channel | None, project: Project | None) -> Iterable[Event]:
        if channel is not None:
            return
        must_be_open(project, self.project_id)
        yield ChannelRegistered(
            channel_id=self.channel_id,
            project_id=self.project_id,
            title=self.title,
            shown_url=self.shown_url,
            sealed_url=self.sealed_url,
            events=list(self.events),
            mention=self.mention,
        )


@dataclass(frozen=True)
class UpdateChannel(Command):
    """None leaves a field as it is."""

    channel_id: int
    title: str | None = None
    shown_url: str | None = None
    sealed_url: bytes | None = None
    events: tuple[str, ...] | None = None
    mention: str | None = None
    active: bool | None = None

    def reads(self) -> Sequence[AnyStream]:
        return (CHANNEL.at(self.channel_id),)

    def decide(self, channel: Channel | None) -> Iterable[Event]:
        if channel is None or channel.deleted:
            raise NotFound(f"There is no Teams channel {self.channel_id}.")
        given: dict[str, Any] = {name: getattr(self, name) for name in UPDATABLE}
        given["events"] = None if self.events is None else list(self.events)
        changed = {name: value for name, value in given.items() if value not in (None, getattr(channel, name))}
        if changed:
            yield ChannelUpdated(channel_id=self.channel_id, project_id=channel.project_id, **changed)


@dataclass(frozen=True)
class DeleteChannel(Command):
    channel_id: int

    def reads(self) -> Sequence[AnyStream]:
        return (CHANNEL.at(self.channel_id),)

    def decide(self, channel: Channel | None) -> Iterable[Event]:
        if channel is not None and not channel.deleted:
            yield ChannelDeleted(channel_id=self.channel_id, project_id=channel.project_id)


@dataclass(frozen=True)
class GiveCardUp(Command):
    channel_id: int
    delivery_id: str
    type: str
    attempts: int
    error: str

    def reads(self) -> Sequence[AnyStream]:
        return CHANNEL.at(self.channel_id), CARD.at(self.delivery_id)

    def decide(self, channel: Channel | None, given_up: bool) -> Iterable[Event]:
        if channel is not None and not channel.deleted and not given_up:
            yield CardGivenUp(
                channel_id=self.channel_id,
                project_id=channel.project_id,
                delivery_id=self.delivery_id,
                type=self.type,
                attempts=self.attempts,
                error=self.error,
            )


@dataclass(frozen=True)
class NoteChannelHealth(Command):
    """With what it says when it fails; None when it answers again."""

    channel_id: int
    error: str | None

    def reads(self) -> Sequence[AnyStream]:
        return (CHANNEL.at(self.channel_id),)

    def decide(self, channel: Channel | None) -> Iterable[Event]:
        if channel is None or channel.deleted or channel.failing == (self.error is not None):
            return
        about: dict[str, Any] = {"channel_id": self.channel_id, "project_id": channel.project_id}
        yield ChannelRecovered(**about) if self.error is None else ChannelFailing(**about, error=self.error)
