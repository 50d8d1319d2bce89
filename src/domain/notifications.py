"""Notifications: which notifications an event causes, and which of them an endpoint gets."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Literal, NamedTuple, get_args

import msgspec

from domain.builds import BuildFinished, BuildStarted
from domain.core.events import Event
from domain.endpoints import EndpointKind
from domain.flakiness import TestTurnedFlaky
from domain.nodes import NodeWentOffline
from domain.quarantine import TestsQuarantined

NotificationType = Literal[
    "build.started",
    "build.finished",
    "build.failed",
    "build.cancelled",
    "test.flaky",
    "test.quarantined",
    "node.offline",
]
TYPES: tuple[NotificationType, ...] = get_args(NotificationType)
PING = "ping"
"""Type of the message that tests an endpoint. A user causes it, and no event does."""

SOURCES: dict[str, tuple[type[Event], ...]] = {
    "build.started": (BuildStarted,),
    "build.finished": (BuildFinished,),
    "build.failed": (BuildFinished,),
    "build.cancelled": (BuildFinished,),
    "test.flaky": (TestTurnedFlaky,),
    "test.quarantined": (TestsQuarantined,),
    "node.offline": (NodeWentOffline,),
}
"""Notification type -> classes of the events that can cause it."""


class Notification(NamedTuple):
    """A notification that an event causes. An event may cause several."""

    type: NotificationType
    ordering_key: str | None
    """Notifications with the same key arrive in the order of their events; None for no order."""
    item: int = 0
    """Index of the test, for an event about several tests; else 0."""


def notifications_of(event: Event) -> Iterator[Notification]:
    match event:
        case BuildStarted():
            yield Notification("build.started", f"build-{event.build_id}")
        case BuildFinished():
            ordering_key = f"build-{event.build_id}"
            yield Notification("build.finished", ordering_key)
            if event.status == "failed":
                yield Notification("build.failed", ordering_key)
            elif event.status == "aborted":
                yield Notification("build.cancelled", ordering_key)
        case TestTurnedFlaky():
            yield Notification("test.flaky", f"build-{event.build_id}")
        case TestsQuarantined():
            for item in range(len(event.node_ids)):
                yield Notification("test.quarantined", None, item)
        case NodeWentOffline():
            yield Notification("node.offline", f"node-{event.node_id}")
        case _:
            return


def select_notifications(kind: EndpointKind, types: Collection[str], event: Event) -> Iterator[Notification]:
    """Yields the notifications that an event causes for an endpoint of kind `kind` that is registered for `types`.

    Teams channels are read by people, so they get no repetitions: one card for a failed build even if the channel is
    registered for `build.finished` and `build.failed`, and one card for all tests that were quarantined together.
    """
    for notification in notifications_of(event):
        is_repeated = kind == "teams" and (
            notification.item > 0 or (notification.type == "build.finished" and _has_failed_type(event, types))
        )
        if notification.type in types and not is_repeated:
            yield notification


def _has_failed_type(event: Event, types: Collection[str]) -> bool:
    return isinstance(event, BuildFinished) and event.status == "failed" and "build.failed" in types


class NotificationMessage(msgspec.Struct, frozen=True):
    """The body of the request that a webhook receives."""

    id: str
    """Id of the notification. It is the same for all endpoints and in replays."""
    type: str
    created_at: datetime
    project_id: int | None
    data: msgspec.Raw
    replay: bool | msgspec.UnsetType = msgspec.UNSET
    """True in a replay, else absent."""


def message_id(position: int, notification_type: str, item: int) -> str:
    return f"evt-{position}-{notification_type}" + (f"-{item}" if item else "")
