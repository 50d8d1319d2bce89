"""Webhooks: addresses that are told what happens, by signed HTTP requests.

What is told of which event (`occasions`) and to whom (`wants`) is decided here. Attempts are no events; that a
delivery was given up is, and that an address does not answer for a while.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import msgspec

from domain.base import Category, Event
from domain.builds import BuildFinished, BuildStarted
from domain.flakiness import TestTurnedFlaky
from domain.keys import webhook_key
from domain.nodes import NodeWentOffline
from domain.quarantine import TestsQuarantined

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


class WebhookEvent(Event, frozen=True):
    webhook_id: int
    project_id: int | None
    """None: of all projects."""

    @property
    def stream(self) -> str:
        return f"webhook-{self.webhook_id}"

    @property
    def data_key(self) -> str | None:
        return webhook_key(self.project_id, self.webhook_id)


class WebhookRegistered(WebhookEvent, frozen=True):
    name: ClassVar[str] = "webhook.registered"
    sealed: ClassVar[tuple[str, ...]] = ("url", "sealed_secret")
    events: list[str]
    url: str = ""
    sealed_secret: bytes | None = None
    """None: deliveries are not signed."""
    active: bool = True


class WebhookUpdated(WebhookEvent, frozen=True):
    """Only what changed; None is unchanged."""

    name: ClassVar[str] = "webhook.updated"
    sealed: ClassVar[tuple[str, ...]] = ("url", "sealed_secret")
    url: str | None = None
    events: list[str] | None = None
    sealed_secret: bytes | None = None
    active: bool | None = None


UPDATABLE = ("url", "events", "sealed_secret", "active")


class WebhookDeleted(WebhookEvent, frozen=True):
    """With what was still to be delivered, and the history."""

    name: ClassVar[str] = "webhook.deleted"

    @property
    def erases(self) -> str | None:
        return self.data_key


class WebhookFailing(WebhookEvent, frozen=True):
    """Many attempts in a row failed. It is tried less often from here on, and nothing is lost."""

    name: ClassVar[str] = "webhook.failing"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""


class WebhookRecovered(WebhookEvent, frozen=True):
    name: ClassVar[str] = "webhook.recovered"


class ReplayRequested(WebhookEvent, frozen=True):
    """What happened after one position, up to another, is delivered once more."""

    name: ClassVar[str] = "webhook.replay_requested"
    replay: str
    after: int
    up_to: int


class DeliveryEvent(WebhookEvent, frozen=True):
    """Of one delivery. `attempts` is how many there had been, redeliveries included."""

    delivery_id: str
    attempts: int

    @property
    def stream(self) -> str:
        return f"webhook_delivery-{self.delivery_id}"


class DeliveryGivenUp(DeliveryEvent, frozen=True):
    name: ClassVar[str] = "webhook.delivery_given_up"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    type: str
    error: str = ""


class RedeliveryRequested(DeliveryEvent, frozen=True):
    name: ClassVar[str] = "webhook.redelivery_requested"


class Webhook(msgspec.Struct, frozen=True):
    webhook_id: int
    project_id: int | None
    url: str
    events: list[str]
    sealed_secret: bytes | None
    active: bool
    failing: bool = False
    replay: str | None = None
    """The last one that was asked for."""
    deleted: bool = False


class Delivery(msgspec.Struct, frozen=True):
    """After how many attempts it was last given up, and last asked for again."""

    given_up: int = -1
    requested: int = -1


def changes(event: WebhookUpdated) -> dict[str, Any]:
    return {field: value for field in UPDATABLE if (value := getattr(event, field)) is not None}


def evolve(state: Webhook | None, event: Event) -> Webhook | None:
    match event:
        case WebhookRegistered():
            return Webhook(
                event.webhook_id, event.project_id, event.url, event.events, event.sealed_secret, event.active
            )
        case WebhookUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes(event))
        case WebhookFailing() | WebhookRecovered() if state is not None:
            return msgspec.structs.replace(state, failing=isinstance(event, WebhookFailing))
        case ReplayRequested() if state is not None:
            return msgspec.structs.replace(state, replay=event.replay)
        case WebhookDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


def evolve_delivery(state: Delivery, event: Event) -> Delivery:
    match event:
        case DeliveryGivenUp():
            return msgspec.structs.replace(state, given_up=event.attempts)
        case RedeliveryRequested():
            return msgspec.structs.replace(state, requested=event.attempts)
        case _:
            return state


class Occasion(NamedTuple):
    """One thing to tell of an event."""

    type: Type
    lane: str | None
    """What is told of one lane arrives in the order in which it happened; None: in any order."""
    item: int = 0
    """Which of the event's things it is about."""


def occasions(event: Event) -> Iterator[Occasion]:
    match event:
        case BuildStarted():
            yield Occasion("build.started", f"build-{event.build_id}")
        case BuildFinished():
            lane = f"build-{event.build_id}"
            yield Occasion("build.finished", lane)
            if event.status == "failed":
                yield Occasion("build.failed", lane)
            elif event.status == "aborted":
                yield Occasion("build.cancelled", lane)
        case TestTurnedFlaky():
            yield Occasion("test.flaky", f"build-{event.build_id}")
        case TestsQuarantined():
            for item in range(len(event.node_ids)):
                yield Occasion("test.quarantined", None, item)
        case NodeWentOffline():
            yield Occasion("node.offline", f"node-{event.node_id}")
        case _:
            return


def wants(project_id: int | None, of_project: int | None) -> bool:
    """Whether a webhook of this project, or of all for None, is told what happens in that one."""
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


def outcome(status: int, ms: int, excerpt: str) -> Outcome:
    ok = 200 <= status < 300
    error = "" if ok else f"answered {status}"
    return Outcome(ok, status, error, ms, excerpt[:MAX_EXCERPT].replace("\0", "\N{REPLACEMENT CHARACTER}"))


def message_id(position: int, occasion_type: str, item: int) -> str:
    return f"evt-{position}-{occasion_type}" + (f"-{item}" if item else "")


WEBHOOK = Category[Webhook | None]("webhook", None, evolve)
DELIVERY = Category("webhook_delivery", Delivery(), evolve_delivery)
EVENTS = (
    WebhookRegistered,
    WebhookUpdated,
    WebhookDeleted,
    WebhookFailing,
    WebhookRecovered,
    ReplayRequested,
    DeliveryGivenUp,
    RedeliveryRequested,
)
