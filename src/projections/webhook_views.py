"""Messages of webhooks: the content of the field `data` for each notification type, and the messages' JSON Schemas."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from domain.core.events import copy_fields
from domain.flakiness import TestTurnedFlaky
from domain.notifications import PING, TYPES, NotificationType
from domain.quarantine import TestsQuarantined
from projections.build_views import BuildMessage
from projections.nodes import NodeRow, NodeView


class WebhookView(msgspec.Struct):
    """A webhook without its secret."""

    id: int
    url: str
    """URL with `***` in place of parts that may be a token."""
    events: list[NotificationType]
    active: bool
    project_id: int | None
    has_secret: bool
    """Whether deliveries are signed."""
    created_at: datetime
    updated_at: datetime
    failing_since: datetime | None
    """Time at which so many attempts in a row had failed that the webhook counts as failing. Since then deliveries
    wait, and only one at a time is tried. Null while the webhook does not count as failing.
    """
    failing_error: str | None


class FlakyTest(msgspec.Struct):
    """A test that turned flaky."""

    test_case_id: int
    node_id: str
    suite: str
    job_id: int
    build_id: int
    result_id: int
    runs: int
    flaky_runs: int


class QuarantinedTest(msgspec.Struct):
    """A test that was just quarantined. It has the fields of an entry of `GET /quarantine`."""

    id: int
    node_id: str
    reason: str
    quarantined_at: datetime
    expires_at: datetime | None
    owner: str | None
    job_id: int
    quarantined_by: str
    status: str
    status_since: datetime
    passed_builds: int


DATA: Mapping[str, type[msgspec.Struct]] = {
    "build.started": BuildMessage,
    "build.finished": BuildMessage,
    "build.failed": BuildMessage,
    "build.cancelled": BuildMessage,
    "test.flaky": FlakyTest,
    "test.quarantined": QuarantinedTest,
    "node.offline": NodeView,
    PING: WebhookView,
}


def flaky_test(event: TestTurnedFlaky) -> FlakyTest:
    return copy_fields(FlakyTest, event)


def quarantined_test(event: TestsQuarantined, item: int) -> QuarantinedTest:
    return copy_fields(
        QuarantinedTest,
        event,
        id=event.first_id + item,
        # An erased event has no node ids.
        node_id=event.node_ids[item] if item < len(event.node_ids) else "",
        quarantined_at=event.at,
        quarantined_by=event.actor,
        status="active",
        status_since=event.at,
        passed_builds=0,
    )


def offline_node(row: NodeRow) -> NodeView:
    """Returns an offline node as `GET /nodes/{id}` shows it, with a processor load and an uptime of 0."""
    return copy_fields(NodeView, row, cpu_pct=0, uptime_s=0, ram_gb=round(row.ram_gb))


def schema(event_type: str) -> dict[str, Any]:
    """Returns the JSON Schema (2020-12) of messages of this notification type."""
    message = msgspec.defstruct(
        "Message",
        [
            ("id", str),
            ("type", Literal[event_type]),
            ("created_at", Annotated[datetime, Meta(tz=True)]),
            ("project_id", int | None),
            ("data", DATA[event_type]),
            ("replay", bool | UnsetType, UNSET),
        ],
    )
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": event_type, **msgspec.json.schema(message)}


def schemas() -> dict[str, dict[str, Any]]:
    """Returns notification type -> JSON Schema of its messages. Includes the test message, `ping`."""
    return {event_type: schema(event_type) for event_type in (*TYPES, PING)}
