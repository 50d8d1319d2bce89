"""What is told to endpoints outside, and to whom: webhooks, and channels of Teams.

What is told of which event (`occasions`) and to whom (`wants`) is decided here. Attempts are no events.
"""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Literal, NamedTuple, get_args

import msgspec

from domain.builds import BuildFinished, BuildStarted
from domain.core.events import Event
from domain.flakiness import TestTurnedFlaky
from domain.nodes import NodeWentOffline
from domain.quarantine import TestsQuarantined

Kind = Literal["webhook", "teams"]
"""Of endpoints: what a message looks like, and which events say how it went."""

Type = Literal[
    "build.started",
    "build.finished",
    "build.failed",
    "build.cancelled",
    "test.flaky",
    "test.quarantined",
    "node.offline",
]
TYPES: tuple[Type, ...] = get_args(Type)
PING = "ping"
MAX_EXCERPT = 1_000
ASKS_TO_WAIT = (429, 503)
"""Answers whose `Retry-After` counts."""
MAX_RETRY_AFTER_S = 3_600

SOURCES: dict[str, tuple[type[Event], ...]] = {
    "build.started": (BuildStarted,),
    "build.finished": (BuildFinished,),
    "build.failed": (BuildFinished,),
    "build.cancelled": (BuildFinished,),
    "test.flaky": (TestTurnedFlaky,),
    "test.quarantined": (TestsQuarantined,),
    "node.offline": (NodeWentOffline,),
}
"""Of which of our events each type tells."""


class NotificationType(NamedTuple):
    """One thing to tell of an event."""

    type: Type
    lane: str | None
    """What is told of one lane arrives in the order in which it happened; None: in any order."""
    item: int = 0
    """Which of the event's things it is about."""


def occasions(event: Event) -> Iterator[NotificationType]:
    match event:
        case BuildStarted():
            yield NotificationType("build.started", f"build-{event.build_id}")
        case BuildFinished():
            lane = f"build-{event.build_id}"
            yield NotificationType("build.finished", lane)
            if event.status == "failed":
                yield NotificationType("build.failed", lane)
            elif event.status == "aborted":
                yield NotificationType("build.cancelled", lane)
        case TestTurnedFlaky():
            yield NotificationType("test.flaky", f"build-{event.build_id}")
        case TestsQuarantined():
            for item in range(len(event.node_ids)):
                yield NotificationType("test.quarantined", None, item)
        case NodeWentOffline():
            yield NotificationType("node.offline", f"node-{event.node_id}")
        case _:
            return


def chosen(kind: Kind, events: Collection[str], event: Event) -> Iterator[NotificationType]:
    """What an endpoint that asked for these types is told of an event.

    A channel is read by people: it is told once of a build that failed, also when it asked for both types, and once of
    tests that were quarantined together.
    """
    for occasion in occasions(event):
        is_said = kind == "teams" and (occasion.item or (occasion.type == "build.finished" and _failed(event, events)))
        if occasion.type in events and not is_said:
            yield occasion


def _failed(event: Event, events: Collection[str]) -> bool:
    return isinstance(event, BuildFinished) and event.status == "failed" and "build.failed" in events


def wants(project_id: int | None, of_project: int | None) -> bool:
    """Whether an endpoint of this project, or of all for None, is told what happens in that one."""
    return project_id is None or project_id == of_project


class Message(msgspec.Struct, frozen=True):
    """The body of a delivery. `id` names what happened: it is the same for all who are told, and when it is told
    again.
    """

    id: str
    type: str
    created_at: datetime
    project_id: int | None
    data: msgspec.Raw
    replay: bool | msgspec.UnsetType = msgspec.UNSET
    """Only there, and true, where the past is told once more."""


class Outcome(msgspec.Struct, frozen=True):
    """Of an attempt. Status 0: there was no answer."""

    ok: bool
    status: int
    error: str
    """Empty when it is ok."""
    ms: int
    excerpt: str = ""
    """The beginning of the answer's body."""
    retry_after_s: int = 0
    """The receiver asks not to be tried earlier."""


def outcome(status: int, ms: int, excerpt: str, retry_after_s: int = 0) -> Outcome:
    ok = 200 <= status < 300
    error = "" if ok else f"answered {status}"
    wait_s = min(retry_after_s, MAX_RETRY_AFTER_S) if status in ASKS_TO_WAIT else 0
    if wait_s:
        error += f", asked to wait {wait_s} s"
    return Outcome(ok, status, error, ms, excerpt[:MAX_EXCERPT].replace("\0", "\N{REPLACEMENT CHARACTER}"), wait_s)


def message_id(position: int, occasion_type: str, item: int) -> str:
    return f"evt-{position}-{occasion_type}" + (f"-{item}" if item else "")
