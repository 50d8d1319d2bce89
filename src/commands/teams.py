"""Commands on channels of MS Teams only. The commands on any endpoint are in `commands.endpoints`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.endpoints import to_compare
from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project
from domain.teams import CHANNEL, Channel, ChannelRegistered, ChannelUpdated


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
        yield self.event(ChannelRegistered)


@dataclass(frozen=True)
class UpdateChannel(Command, of=CHANNEL):
    """Changes the given fields. A field that is None stays unchanged."""

    channel_id: int
    title: str | None = None
    shown_url: str | None = None
    sealed_url: bytes | None = None
    events: tuple[str, ...] | None = None
    mention: str | None = None
    active: bool | None = None

    def decide(self, channel: Channel | None) -> Iterable[Event]:
        channel = must_exist(channel, f"Teams channel {self.channel_id}")
        yield from self.update(ChannelUpdated, to_compare(channel, self.active), project_id=channel.project_id)
