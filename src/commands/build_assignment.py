"""Commands that assign builds to nodes, and that queue a build again when its node loses it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from commands.untrusted_builds import is_admitted
from domain.build_groups import BUILD_GROUP, BuildGroupCommitChosen, ChosenCommit
from domain.build_reasons import LossReason
from domain.builds import (
    BUILD,
    AnyBuild,
    Assigned,
    BuildAssigned,
    BuildFinished,
    BuildRequeued,
    BuildStarted,
    Finished,
    Queued,
    Running,
    status_of,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.dispatch import LEADER, LeadershipTaken
from domain.nodes import NODE, Node
from domain.pools import POOL, Pool
from domain.results import RESULTS, ResultsRecorded, commit_number, count_no_more
from store.tables.build_logs import EMPTY_LOG, LogEnd

MAX_BUILD_ATTEMPTS = 3
"""Number of lost attempts after which a build is aborted instead of being queued again."""


@dataclass(frozen=True)
class TakeLeadership(Command):
    """Makes a dispatcher the leader. The dispatcher that led before can no longer assign builds."""

    leader: str

    def reads(self) -> Sequence[AnyStream]:
        return (LEADER.at("leader"),)

    def decide(self, leader: str) -> Iterable[Event]:
        if leader != self.leader:
            yield LeadershipTaken(leader=self.leader)


@dataclass(frozen=True)
class AssignBuild(Command):
    """Assigns a queued build to a node. Raises Conflict if the dispatcher `leader` is not the leader. The command reads
    the leader stream, so the append fails if another dispatcher becomes the leader meanwhile.

    Does nothing if an untrusted build may not run on the node: the build is not approved, or the node's pool does not
    take untrusted builds.
    """

    build_id: int
    node_id: int
    leader: str
    pool_id: int | None = None
    """Pool of the node, as the dispatcher knows it."""

    def reads(self) -> Sequence[AnyStream]:
        return BUILD.at(self.build_id), LEADER.at("leader")

    def then_reads(self, build: AnyBuild | None, leader: str) -> Sequence[AnyStream]:
        if build is None or not build.queued.untrusted:
            return ()
        return NODE.at(self.node_id), POOL.at(self.pool_id or 0)

    def decide(
        self, build: AnyBuild | None, leader: str, node: Node | None = None, pool: Pool | None = None
    ) -> Iterable[Event]:
        if leader != self.leader:
            raise Conflict("Another dispatcher leads.")
        if not isinstance(build, Queued) or (build.queued.untrusted and not is_admitted(build, node, pool)):
            return
        yield BuildAssigned(**build.ids, node_id=self.node_id, attempt=build.attempt + 1)


@dataclass(frozen=True)
class AcknowledgeBuild(Command, of=BUILD):
    """Records that the agent is about to run the first command of its build. If other builds of its group test another
    commit, queues the build again instead; in the last attempt, fails it. This happens if a push came between the
    checkouts of two agents.
    """

    build_id: int
    node_id: int
    attempt: int
    commit_sha: str | None

    def then_reads(self, build: AnyBuild | None) -> Sequence[AnyStream]:
        return () if build is None or build.queued.group_id is None else (BUILD_GROUP.at(build.queued.group_id),)

    def decide(self, build: AnyBuild | None, group: ChosenCommit | None = None) -> Iterable[Event]:
        held = must_hold(build, self.build_id, self.node_id, self.attempt)
        if not isinstance(held, Assigned):
            return
        # An untrusted build runs the approved commit only. The commit that its agent names does not count, since
        # strangers could control that agent.
        commit_sha = (None if held.queued.untrusted else self.commit_sha) or held.queued.commit_sha
        if commit_sha is not None and not commit_sha.startswith(held.queued.commit_sha or ""):
            raise Conflict(f"Build {self.build_id} is of commit {held.queued.commit_sha}, not of {commit_sha}.")
        if group is not None and commit_sha is not None:
            number = commit_number(commit_sha)
            # If the group's commit is unknown (0), only builds that were queued with a commit have the right one.
            is_right = group.commit_number in (None, number) or (group.commit_number == 0 and held.queued.commit_sha)
            if not is_right:
                yield self._refuse_commit(held, commit_sha, group.commit_sha)
                return
            if group.commit_sha is None:
                group_id = held.queued.group_id or 0
                yield BuildGroupCommitChosen(**held.ids, group_id=group_id, commit_sha=commit_sha, commit_number=number)
        yield self.event(BuildStarted, **held.ids, commit_sha=commit_sha)

    def _refuse_commit(self, build: Assigned, commit_sha: str, of_group: str | None) -> Event:
        if build.attempt < MAX_BUILD_ATTEMPTS:
            return self.event(BuildRequeued, **build.ids, reason="other_commit")
        other = of_group or "another commit, whose build was deleted: start the job again"
        detail = f"The agent checked out commit {commit_sha}, but the other builds of the group test {other}."
        return BuildFinished(
            **build.ids, status="failed", reason="checkout_failed", detail=detail, node_id=self.node_id
        )


@dataclass(frozen=True)
class LoseBuild(Command, of=BUILD):
    """Queues a build again because its node lost it or did not acknowledge it, or because its agent does not run it any
    more. Aborts the build if this was attempt number MAX_BUILD_ATTEMPTS.

    When the build is queued again, the results of the lost attempt no longer count, neither in the build nor in the
    history of its tests.
    """

    build_id: int
    node_id: int
    attempt: int
    reason: str
    log: LogEnd = EMPTY_LOG
    detail: str | None = None
    """Clause that describes how the build was lost, such as `the agent did not run it any more`; None if `reason` says
    enough.
    """

    def then_reads(self, build: AnyBuild | None, **_: None) -> Sequence[AnyStream]:
        if build is None or build.attempt >= MAX_BUILD_ATTEMPTS or not build.counting_reports:
            return ()
        return (RESULTS.at(self.build_id),)

    def decide(self, build: AnyBuild | None, *results: Sequence[ResultsRecorded | None]) -> Iterable[Event]:
        if not isinstance(build, Assigned | Running) or build.node_id != self.node_id or build.attempt != self.attempt:
            return
        if self.reason == "not_acknowledged" and isinstance(build, Running):
            return
        reason: LossReason = "not_acknowledged" if self.reason == "not_acknowledged" else "agent_lost"
        if build.attempt >= MAX_BUILD_ATTEMPTS:
            losses = (*build.losses, reason)
            yield BuildFinished(
                **build.ids,
                status="aborted",
                reason="agent_lost" if "agent_lost" in losses else "not_acknowledged",
                detail=describe_losses(losses) + (f" The last time, {self.detail}." if self.detail else ""),
                log_lines=self.log.lines,
                log_digest=self.log.digest,
                node_id=self.node_id,
            )
            return
        lost = [
            count_no_more(block)
            for report in build.counting_reports
            for stored in results
            for block in stored[report.results_from : report.results_from + report.blocks]
            if block is not None
        ]
        yield from lost
        yield self.event(BuildRequeued, **build.ids, reason=reason, blocks=len(lost), detail=self.detail)


def describe_losses(losses: Sequence[LossReason]) -> str:
    """Returns a sentence that says how many nodes lost a build, and how many did not begin it in time."""
    lost, ignored = losses.count("agent_lost"), losses.count("not_acknowledged")
    if not ignored:
        return f"{lost} nodes lost this build one after the other."
    if not lost:
        return f"{ignored} nodes did not begin this build in time, one after the other."
    return f"Of {len(losses)} nodes one after the other, {lost} lost this build and {ignored} did not begin it in time."


def must_hold(build: AnyBuild | None, build_id: int, node_id: int, attempt: int) -> Assigned | Running:
    """Returns the build if this node runs this attempt of it. Raises Conflict if the node runs another attempt of the
    build or the build ended on this node. Raises NotFound for any other build, whether it exists or not. An agent that
    gets one of these errors drops the build.
    """
    match build:
        case Assigned() | Running() if build.node_id == node_id and build.attempt == attempt:
            return build
        case Assigned() | Running() | Finished() if build.node_id == node_id:
            raise Conflict(
                f"Build {build_id} is {status_of(build)}; this node does not run attempt {attempt} any more."
            )
        case _:
            raise NotFound(f"There is no build {build_id}.")
