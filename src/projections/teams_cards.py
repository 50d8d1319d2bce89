"""Cards for Teams channels: a function for each notification type fills a card."""

from collections.abc import Sequence

import msgspec

from domain.adaptive_cards import Card, Tone
from domain.notifications import NotificationMessage
from projections.build_views import BuildMessage
from projections.nodes import NodeView
from projections.webhook_views import FlakyTest, QuarantinedTest

OUTCOMES: dict[str, tuple[str, Tone]] = {
    "passed": ("passed", "good"),
    "failed": ("failed", "attention"),
    "aborted": ("was aborted", "warning"),
}


class CardContext(msgspec.Struct, frozen=True):
    """Content of a card that is not in its message."""

    project: str = ""
    job: str = ""
    tests: Sequence[str] = ()
    """The first tests that the event is about, a line for each."""
    number: int = 0
    """Number of all tests that the event is about."""
    mention: str = ""
    """Email address of the user whom a card of a failed build mentions; empty for nobody."""
    base_url: str = ""
    """URL of this server. If it is empty, cards have no button."""


def make_card(message: NotificationMessage, context: CardContext) -> Card:
    """Returns the card for a message. Raises LookupError for a notification type without cards."""
    match message.type:
        case "build.finished" | "build.failed":
            return _build(msgspec.json.decode(message.data, type=BuildMessage), context)
        case "test.flaky":
            return _flaky(msgspec.json.decode(message.data, type=FlakyTest), context)
        case "test.quarantined":
            return _quarantined(msgspec.json.decode(message.data, type=QuarantinedTest), context)
        case "node.offline":
            return _offline(msgspec.json.decode(message.data, type=NodeView))
        case _:
            raise LookupError(f"there is no card of {message.type}")


def describe_failure(node_id: str, *, known_issue: bool, quarantined: bool) -> str:
    """Returns the line for a failed test. The line of a failure that does not fail the build begins with the reason,
    since the end of a long line is cut off.
    """
    reason = "known issue: " if known_issue else "in quarantine: " if quarantined else ""
    return reason + node_id


def make_test_card(channel: str, project: str) -> Card:
    """Returns the card that the server sends when a user tries out the channel."""
    return Card(title="Testhide can post here", facts={"Channel": channel, "Project": project})


def _build(build: BuildMessage, context: CardContext) -> Card:
    outcome, tone = OUTCOMES[build.status]
    reason = "" if build.status == "passed" else (build.reason or "").replace("_", " ")
    counts = f"{build.passed:,} passed, {build.failed:,} failed, {build.skipped:,} skipped" if build.total_tests else ""
    return Card(
        title=f"Build {build.id} {outcome}",
        tone=tone,
        mention=context.mention if build.status == "failed" else "",
        facts={
            "Project": context.project,
            "Job": context.job,
            "Branch": build.branch,
            "Commit": (build.commit_sha or "")[:12],
            "Tests": counts,
            "Duration": _duration(build.duration_s),
            "Reason": ": ".join(filter(None, (reason, build.detail))),
        },
        heading="Failed tests",
        lines=list(context.tests),
        more=context.number - len(context.tests),
        link=_link(context, build.id),
    )


def _flaky(test: FlakyTest, context: CardContext) -> Card:
    return Card(
        title="A test turned flaky",
        tone="warning",
        facts={
            "Project": context.project,
            "Job": context.job,
            "Build": str(test.build_id),
            "Flaky": f"{test.flaky_runs:,} of {test.runs:,} runs",
        },
        heading="Test",
        lines=[test.node_id],
        link=_link(context, test.build_id),
    )


def _quarantined(entry: QuarantinedTest, context: CardContext) -> Card:
    return Card(
        title="A test was quarantined" if context.number == 1 else f"{context.number:,} tests were quarantined",
        tone="warning",
        facts={
            "Project": context.project,
            "Job": context.job,
            "Reason": entry.reason,
            "Owner": entry.owner or "",
            "Until": f"{entry.expires_at:%Y-%m-%d %H:%M} UTC" if entry.expires_at else "",
        },
        heading="Tests",
        lines=list(context.tests),
        more=context.number - len(context.tests),
    )


def _offline(node: NodeView) -> Card:
    return Card(
        title="A node went offline",
        tone="attention",
        facts={"Node": node.name, "Host": node.hostname, "Builds on it": str(node.running_builds)},
    )


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _link(context: CardContext, build_id: int) -> str:
    return f"{context.base_url}/api/v3/builds/{build_id}" if context.base_url else ""
