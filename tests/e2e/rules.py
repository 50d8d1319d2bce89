"""What must hold at every position of the log, whatever users, agents and dispatchers did: rules over recorded events.

They are written down once more here, apart from the server's own states and its scheduler.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from domain.builds import (
    BuildApproved,
    BuildAssigned,
    BuildDeleted,
    BuildEvent,
    BuildExplained,
    BuildFinished,
    BuildMovedToTop,
    BuildPinned,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    BuildUnpinned,
    ReportRecorded,
)
from domain.core.events import Event, Recorded
from domain.jobs import JobCreated
from domain.nodes import NodeConnected, NodeEvent, NodeQuarantined, NodeRegistered, NodeReleased

MAX_ATTEMPTS = 3
SAME_MOMENT = timedelta(seconds=0.1)
"""What a dispatcher decides in one round may come to the log in another order, but soon."""


@dataclass
class Life:
    """Of a build, as far as the log tells it."""

    build_id: int
    job_id: int
    priority: int
    external: bool
    entered: int
    """The position at which it came (back) to the queue."""
    phase: str = "queued"
    status: str = "queued"
    node_id: int | None = None
    attempt: int = 0
    pinned: bool = False
    moves: list[int] = field(default_factory=list)

    def rank(self, known: int) -> tuple[int, int, int]:
        """The lowest goes first, for who knows the log up to this position."""
        top = max((position for position in self.moves if position <= known), default=0)
        return -top, -self.priority, self.build_id


@dataclass
class LogRules:
    project_id: int
    lives: dict[int, Life] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    """How often each kind of event was."""
    actors: set[str] = field(default_factory=set)
    _jobs: dict[int, int] = field(default_factory=dict)
    _nodes: dict[int, int] = field(default_factory=dict)
    _connected: dict[int, int] = field(default_factory=dict)
    _quarantined: dict[int, int] = field(default_factory=dict)
    _releases: defaultdict[tuple[str, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    _times: defaultdict[int, list[tuple[int, datetime]]] = field(default_factory=lambda: defaultdict(list))

    def check(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if isinstance(recorded.event, BuildEvent):
                self._times[recorded.event.build_id].append((recorded.position, recorded.event.at))
        for recorded in events:
            event = recorded.event
            if getattr(event, "project_id", None) == self.project_id:
                self.actors.add(event.actor)
            try:
                self._take(event, recorded.position)
            except AssertionError as error:
                error.add_note(f"at position {recorded.position}: {event}")
                raise

    def _take(self, event: Event, position: int) -> None:
        match event:
            case JobCreated():
                self._jobs[event.job_id] = event.max_parallel
            case NodeEvent():
                self._node(event, position)
            case BuildQueued() if event.project_id == self.project_id:
                assert event.build_id not in self.lives, "queued twice"
                self.seen[event.name] += 1
                self.lives[event.build_id] = Life(
                    event.build_id, event.job_id, event.priority, event.external, position
                )
            case BuildEvent() if event.project_id == self.project_id:
                life = self.lives[event.build_id]
                assert life.phase != "deleted", "something came after its deletion"
                self.seen[event.name] += 1
                self._build(life, event, position)
            case _:
                return

    def _node(self, event: NodeEvent, position: int) -> None:
        match event:
            case NodeRegistered():
                self._nodes[event.node_id] = event.max_parallel
            case NodeConnected():
                self._connected[event.node_id] = position
            case NodeQuarantined():
                self._quarantined[event.node_id] = position
            case NodeReleased():
                self._quarantined.pop(event.node_id, None)
            case _:
                return

    def _build(self, life: Life, event: BuildEvent, position: int) -> None:
        held = (life.node_id, life.attempt)
        match event:
            case BuildAssigned():
                assert life.phase == "queued", f"assigned while {life.phase}"
                assert event.attempt == life.attempt + 1 <= MAX_ATTEMPTS
                self._may_be_assigned(life, event, position)
                life.phase, life.node_id, life.attempt = "assigned", event.node_id, event.attempt
                self._limits_hold(life, event.node_id)
            case BuildStarted(node_id=None):
                assert life.external
                assert life.phase == "queued", f"started while {life.phase}"
                life.phase = life.status = "running"
                life.attempt = event.attempt
            case BuildStarted():
                assert life.phase == "assigned", f"started while {life.phase}"
                assert (event.node_id, event.attempt) == held, f"started by {event.node_id}, held by {held}"
                life.phase = life.status = "running"
            case BuildRequeued():
                assert life.phase in ("assigned", "running"), f"requeued while {life.phase}"
                assert (event.node_id, event.attempt) == held, f"requeued from {event.node_id}, held by {held}"
                self._release(life, position)
                life.phase, life.status, life.node_id, life.entered = "queued", "queued", None, position
            case BuildFinished():
                assert life.phase in ("queued", "assigned", "running"), f"finished while {life.phase}"
                assert event.node_id == life.node_id, f"finished on {event.node_id}, held by {held}"
                assert event.status == "aborted" or life.phase != "queued", "a result without a run"
                self._release(life, position)
                life.phase, life.status = "finished", event.status
            case BuildExplained():
                assert (life.phase, life.status) == ("finished", "failed"), f"explained while {life.phase}"
            case ReportRecorded():
                late = life.phase == "finished" and event.cases == 0 and event.detail is not None
                assert late or life.phase in ("assigned", "running"), f"reported while {life.phase}"
                assert event.attempt == life.attempt, "another attempt's report"
            case BuildApproved():
                assert life.phase == "queued", f"approved while {life.phase}"
            case BuildMovedToTop():
                assert life.phase == "queued", f"moved while {life.phase}"
                life.moves.append(position)
            case BuildPinned() | BuildUnpinned():
                life.pinned = isinstance(event, BuildPinned)
            case BuildDeleted():
                assert life.phase == "finished", f"deleted while {life.phase}"
                assert not life.pinned, "deleted though kept for ever"
                life.phase = "deleted"
            case _:
                return

    def _release(self, life: Life, position: int) -> None:
        if life.node_id is not None:
            self._releases["node", life.node_id].append(position)
            self._releases["job", life.job_id].append(position)

    def _limits_hold(self, life: Life, node_id: int) -> None:
        on_node, of_job = self._active(node_id=node_id), self._active(job_id=life.job_id)
        assert on_node <= self._nodes[node_id], f"{on_node} builds at once on node {node_id}"
        assert of_job <= self._jobs[life.job_id], f"{of_job} builds at once of job {life.job_id}"

    def _active(self, **where: int) -> int:
        """Builds that hold a slot of a node or a job."""
        active = (life for life in self.lives.values() if life.phase in ("assigned", "running") and life.node_id)
        return sum(all(getattr(life, name) == value for name, value in where.items()) for life in active)

    def _may_be_assigned(self, life: Life, event: BuildAssigned, position: int) -> None:
        assert event.node_id in self._connected, "assigned to a node that never connected"
        # The dispatcher cannot have decided without knowing the log up to here.
        known = max(
            life.entered,
            self._connected[event.node_id],
            self._freed("node", event.node_id, self._nodes[event.node_id] - self._active(node_id=event.node_id)),
            self._freed("job", life.job_id, self._jobs[life.job_id] - self._active(job_id=life.job_id)),
        )
        assert not self._quarantined.get(event.node_id, known + 1) <= known, "assigned to a node in quarantine"
        mine = life.rank(position)
        for other in self.lives.values():
            if other.phase != "queued" or other.external or other.build_id == life.build_id:
                continue
            passed_over = other.entered <= known and other.rank(known) < mine
            if other.job_id != life.job_id:
                passed_over = passed_over and self._job_had_room(other.job_id, known)
            assert not passed_over or self._moves_soon(other, position, event.at), (
                f"build {life.build_id} {mine} overtook {other.build_id} {other.rank(known)}"
            )

    def _freed(self, kind: str, number: int, free: int) -> int:
        """The release without which there would have been no room; 0 when there was room anyway."""
        releases = self._releases[kind, number]
        return releases[-free] if 0 < free <= len(releases) else 0

    def _job_had_room(self, job_id: int, known: int) -> bool:
        """Also as it was at this position."""
        unknown = sum(position > known for position in self._releases["job", job_id])
        return self._active(job_id=job_id) + unknown < self._jobs[job_id]

    def _moves_soon(self, life: Life, position: int, at: datetime) -> bool:
        """Whether the next that happens to this build happens in the same moment."""
        return any(other > position and then - at <= SAME_MOMENT for other, then in self._times[life.build_id])
