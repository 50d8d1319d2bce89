"""Untrusted builds: builds of pull requests from forks, whose commits anybody may have written.

A build is untrusted if its change comes from a fork (`builds.StartBuild.is_untrusted`). An untrusted build gets no
secrets, and its caches are apart from those of trusted builds (`build_caches.py`). It runs only after a writer of the
project has approved it, and only on nodes of pools for untrusted builds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from commands.handler import Command
from domain.builds import BUILD, AnyBuild, BuildApproved, BuildQueued, DeletedBuild, Queued, status_of
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import Configuration
from domain.nodes import BUILD_ACCOUNTS, Node
from domain.pools import Pool


@dataclass(frozen=True)
class ApproveBuild(Command, of=BUILD):
    """Lets an untrusted build and the other builds of its group run. The approval holds for the build's commit only: a
    newer commit gets a new build, which needs another approval.
    """

    build_id: int
    commit_sha: str | None = None
    """Commit that the approving person has read; None if the caller does not name it."""
    others: Sequence[int] = ()
    """Ids of the other builds of the group."""

    def then_reads(self, build: AnyBuild | None) -> Sequence[AnyStream]:
        return [BUILD.at(build_id) for build_id in dict.fromkeys(self.others) if build_id != self.build_id]

    def decide(self, build: AnyBuild | None, *others: AnyBuild | None) -> Iterable[Event]:
        if build is None or isinstance(build, DeletedBuild):
            raise NotFound(f"There is no build {self.build_id}.")
        queued = build.queued
        if self.commit_sha is not None and self.commit_sha.lower() != (queued.commit_sha or "").lower():
            raise Conflict(f"Build {self.build_id} is of commit {queued.commit_sha}, not {self.commit_sha}.")
        if not queued.untrusted:
            raise Conflict(f"Build {self.build_id} is of no pull request from a fork, so it needs no approval.")
        if build.approved_by is None and not isinstance(build, Queued):
            raise Conflict(f"Build {self.build_id} is {status_of(build)}, so it waits for no approval.")
        for one in (build, *others):
            if (
                isinstance(one, Queued)
                and one.approved_by is None
                and one.queued.untrusted
                and (one.queued.group_id, one.queued.commit_sha) == (queued.group_id, queued.commit_sha)
            ):
                yield BuildApproved(**one.ids, commit_sha=queued.commit_sha)


def withhold_secrets(configuration: Configuration) -> Configuration:
    """Returns the configuration of an untrusted build, without the secrets of its job and template. The build's event
    does not contain them, so nothing that reads the event can give them away.
    """
    return msgspec.structs.replace(configuration, secrets={}, needed_secrets=[])


def may_have_token(queued: BuildQueued, node: Node | None) -> bool:
    """Returns whether git gets the token of the project's SCM endpoint for the checkout of a build on a node.

    For an untrusted build, git gets the token only if all builds of the machine run under accounts of their own, so
    that no build can read the token. And git gets no token if an untrusted build checks out submodules, since
    `.gitmodules` of a fork may name any repository.
    """
    checkout = queued.configuration.checkout
    has_submodules = checkout is not None and checkout.submodules
    return not queued.untrusted or (node is not None and BUILD_ACCOUNTS in node.features and not has_submodules)


def is_admitted(build: AnyBuild, node: Node | None, pool: Pool | None) -> bool:
    """Returns whether an untrusted build may be assigned to `node`: the build is approved, the node is in `pool`, and
    the pool takes untrusted builds. `node` and `pool` are their current states.
    """
    if build.approved_by is None or node is None or pool is None:
        return False
    return node.pool_id == pool.pool_id and pool.untrusted and not pool.deleted
