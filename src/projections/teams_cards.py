"""What channels of Teams are shown of each thing that they are told."""

from collections.abc import Sequence

import msgspec

from domain.deliveries import Message
from domain.teams_cards import Card, Tone
from projections.builds_views import BuildDetail
from projections.nodes import NodeView
from projections.webhook_views import FlakyTest, QuarantinedTest

ENDS: dict[str, tuple[str, Tone]] = {
    "passed": ("passed", "good"),
    "failed": ("failed", "attention"),
    "aborted": ("was aborted", "warning"),
}


class About(msgspec.Struct, frozen=True):
    """What a card shows besides the message."""

    project: str = ""
    job: str = ""
    tests: Sequence[str] = ()
    """The first tests that it is about."""
    number: int = 0
    """How many tests it is about."""
    mention: str = ""
    """Of the channel: whom it mentions when a build failed."""
    base_url: str = ""
    """Of this server; empty: not known."""


def card_of(message: Message, about: About) -> Card:
    """Raises LookupError for what channels are not told."""
    match message.type:
        case "build.finished" | "build.failed":
            return _build(msgspec.json.decode(message.data, type=BuildDetail), about)
        case "test.flaky":
            return _flaky(msgspec.json.decode(message.data, type=FlakyTest), about)
        case "test.quarantined":
            return _quarantined(msgspec.json.decode(message.data, type=QuarantinedTest), about)
        case "node.offline":
            return _offline(msgspec.json.decode(message.data, type=NodeView))
        case _:
            raise LookupError(f"there is no card of {message.type}")


def trial(channel: str, project: str) -> Card:
    """That the channel can be reached."""
    return Card(title="Testhide can post here", facts={"Channel": channel, "Project": project})


def _build(build: BuildDetail, about: About) -> Card:
    end, tone = ENDS[build.status]
    reason = "" if build.status == "passed" else (build.reason or "").replace("_", " ")
    counts = f"{build.passed:,} passed, {build.failed:,} failed, {build.skipped:,} skipped" if build.total_tests else ""
    return Card(
        title=f"Build {build.id} {end}",
        tone=tone,
        mention=about.mention if build.status == "failed" else "",
        facts={
            "Project": about.project,
            "Job": about.job,
            "Branch": build.branch,
            "Commit": (build.commit_sha or "")[:12],
            "Tests": counts,
            "Duration": _duration(build.duration_s),
            "Reason": ": ".join(filter(None, (reason, build.detail))),
        },
        heading="Failed tests",
        lines=list(about.tests),
        more=about.number - len(about.tests),
        link=_link(about, build.id),
    )


def _flaky(test: FlakyTest, about: About) -> Card:
    return Card(
        title="A test turned flaky",
        tone="warning",
        facts={
            "Project": about.project,
            "Job": about.job,
            "Build": str(test.build_id),
            "Flaky": f"{test.flaky_runs:,} of {test.runs:,} runs",
        },
        heading="Test",
        lines=[test.node_id],
        link=_link(about, test.build_id),
    )


def _quarantined(entry: QuarantinedTest, about: About) -> Card:
    return Card(
        title="A test was quarantined" if about.number == 1 else f"{about.number:,} tests were quarantined",
        tone="warning",
        facts={
            "Project": about.project,
            "Job": about.job,
            "Reason": entry.reason,
            "Owner": entry.owner or "",
            "Until": f"{entry.expires_at:%Y-%m-%d %H:%M} UTC" if entry.expires_at else "",
        },
        heading="Tests",
        lines=list(about.tests),
        more=about.number - len(about.tests),
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


def _link(about: About, build_id: int) -> str:
    return f"{about.base_url}/api/v3/builds/{build_id}" if about.base_url else ""
