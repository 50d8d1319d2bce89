"""Commands on channels of MS Teams only. The commands on any endpoint are in `commands.endpoints`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.endpoints import list_existing, to_compare
from commands.handler import Command, must_exist
from commands.projects import must_be_open
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Project
from domain.teams import CHANNEL, CHANNEL_LIST, Channel, ChannelRegistered, ChannelsListed, ChannelUpdated


@dataclass(frozen=True)
class RegisterChannel(Command):
    channel_id: int
    project_id: int
    title: str
    shown_url: str
    sealed_url: bytes
    events: tuple[str, ...]
    mention: str = ""
    others: tuple[int, ...] = ()
    """Ids of channels of the project, as the caller knows them. Some may be missing, and some may be deleted."""

    def reads(self) -> Sequence[AnyStream]:
        return CHANNEL.at(self.channel_id), PROJECT.at(self.project_id), CHANNEL_LIST.at(self.project_id)

    def then_reads(
        self, channel: Channel | None, project: Project | None, listed: Sequence[int] = ()
    ) -> Sequence[AnyStream]:
        others = dict.fromkeys((*self.others, *listed)) if channel is None else ()
        return [CHANNEL.at(channel_id) for channel_id in others if channel_id != self.channel_id]

    def decide(
        self,
        channel: Channel | None,
        project: Project | None,
        listed: Sequence[int] = (),
        *others: Channel | None,
    ) -> Iterable[Event]:
        if channel is not None:
            return
        must_be_open(project, self.project_id)
        existing = list_existing("teams", self.project_id, others)
        yield self.event(ChannelRegistered)
        yield ChannelsListed(project_id=self.project_id, channel_ids=[*existing, self.channel_id])


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
