"""What people keep of a build and what they let go: comments, pins, deletion."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from commands.builds import ids_of
from commands.handler import Command
from domain.builds import (
    BUILD,
    AnyBuild,
    BuildCommented,
    BuildDeleted,
    BuildPinned,
    BuildUnpinned,
    Deleted,
    Finished,
    status_of,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event


@dataclass(frozen=True)
class CommentOnBuild(Command):
    build_id: int
    comment_id: int
    text: str
    author: int

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        build = must_exist(build, self.build_id)
        if self.comment_id not in build.comments:
            yield BuildCommented(**ids_of(build), comment_id=self.comment_id, text=self.text, author=self.author)


@dataclass(frozen=True)
class PinBuild(Command):
    build_id: int
    pinned: bool

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        build = must_exist(build, self.build_id)
        if build.pinned != self.pinned:
            yield BuildPinned(**ids_of(build)) if self.pinned else BuildUnpinned(**ids_of(build))


@dataclass(frozen=True)
class DeleteBuild(Command):
    """For good: the data key of the build goes in the same commit."""

    build_id: int
    reason: Literal["requested", "retention"] = "requested"

    def reads(self) -> Sequence[AnyStream]:
        return (BUILD.at(self.build_id),)

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        build = must_exist(build, self.build_id)
        if not isinstance(build, Finished):
            raise Conflict(f"Build {self.build_id} is {status_of(build)}; stop it first.")
        if build.pinned:
            raise Conflict(
                f"Build {self.build_id} is kept for ever;"
                f" first take that back by DELETE /api/v3/builds/{self.build_id}/keep-forever."
            )
        results = [(report.first_result_id, report.cases) for report in build.reports]
        yield BuildDeleted(**ids_of(build), results=results, reason=self.reason)


def must_exist(build: AnyBuild | None, build_id: int) -> AnyBuild:
    if build is None or isinstance(build, Deleted):
        raise NotFound(f"There is no build {build_id}.")
    return build
