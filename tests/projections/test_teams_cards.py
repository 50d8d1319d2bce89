"""What cards show, and that no text makes one too large or anything else than text."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.adaptive_cards import MAX_BYTES, MAX_LINE, MAX_LINES, Card, escape_markdown, render_card, shorten
from domain.notifications import NotificationMessage
from projections.build_views import BuildMessage, message
from projections.builds import BuildRow
from projections.teams_cards import CardContext, describe_failure, make_card

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
ABOUT = CardContext(project="Web", job="Smoke", tests=["t::a", "t::b"], number=12, mention="ann@example.com")


def notification(event_type: str, data: Any) -> NotificationMessage:
    return NotificationMessage("evt-1", event_type, NOW, 1, msgspec.Raw(msgspec.json.encode(data)))


def build(**more: Any) -> BuildMessage:
    row = BuildRow(
        id=8,
        job_id=5,
        project_id=1,
        status="failed",
        branch="main",
        commit_sha="a1b2c3d4e5f6a7b8",
        priority=0,
        created_at=NOW,
        created_by="user:1",
        external=False,
        configuration={},
    )
    return msgspec.structs.replace(message(row, [], None), **more)


def test_a_failed_build() -> None:
    shown = build(reason="tests_failed", passed=1_200, failed=12, total_tests=1_212, duration_s=65)
    card = make_card(notification("build.failed", shown), ABOUT)
    assert card == Card(
        title="Build 8 failed",
        tone="attention",
        mention="ann@example.com",
        facts={
            "Project": "Web",
            "Job": "Smoke",
            "Branch": "main",
            "Commit": "a1b2c3d4e5f6",
            "Tests": "1,200 passed, 12 failed, 0 skipped",
            "Duration": "1 min 5 s",
            "Reason": "tests failed",
        },
        heading="Failed tests",
        lines=["t::a", "t::b"],
        more=10,
    )
    with_url = make_card(
        notification("build.failed", shown), msgspec.structs.replace(ABOUT, base_url="https://ci.example.com")
    )
    assert with_url.link == "https://ci.example.com/api/v3/builds/8"


@pytest.mark.parametrize(
    ("known_issue", "quarantined", "shown"),
    [
        (False, False, "t::a"),
        (False, True, "in quarantine: t::a"),
        (True, False, "known issue: t::a"),
    ],
)
def test_a_failure_that_does_not_count_is_marked(known_issue: bool, quarantined: bool, shown: str) -> None:
    assert describe_failure("t::a", known_issue=known_issue, quarantined=quarantined) == shown


def test_what_is_not_known_is_left_out() -> None:
    """As of a build that was erased."""
    shown = build(status="passed", branch="", commit_sha=None, reason="tests_failed", duration_s=7_260)
    card = render_card(make_card(notification("build.finished", shown), CardContext()))["attachments"][0]["content"]
    assert [part["type"] for part in card["body"]] == ["Container", "FactSet"]
    assert card["body"][1]["facts"] == [{"title": "Duration", "value": "2 h 1 min"}]
    assert card["body"][0]["style"] == "good"


def test_what_channels_are_not_told() -> None:
    with pytest.raises(LookupError, match=r"build\.started"):
        make_card(notification("build.started", build()), CardContext())


@given(st.text(), st.integers(1, 300))
def test_a_text_is_cut_to_one_line(text: str, most: int) -> None:
    short = shorten(text, most)
    assert len(short) <= most
    assert short.isprintable()
    assert shorten(short, most) == short


@pytest.mark.parametrize("character", ["\\", "*", "\N{PILE OF POO}", "ß", "\x01", '"', "\n"])
def test_the_longest_card_is_small_enough(character: str) -> None:
    long = character * 100_000
    facts = {f"Fact {number}": long for number in range(7)}
    mention = "a" * 240 + "@example.com"
    card = Card(title="Build 8 failed", mention=mention, facts=facts, heading="Tests", lines=[long] * 100)
    text = msgspec.json.encode(render_card(card)).decode()
    assert max(len(text.encode()), len(text.encode("utf-16-le"))) <= MAX_BYTES


def test_lines_are_shortened_and_counted() -> None:
    body = render_card(Card(title="t", heading="Tests", lines=["x" * 999] * 10, more=5))["attachments"][0]["content"][
        "body"
    ]
    runs = [part["inlines"][0] for part in body if part["type"] == "RichTextBlock"]
    assert {run["text"] for run in runs} == {"x" * (MAX_LINE - 1) + "…"}
    assert (len(runs), body[-1]["text"]) == (MAX_LINES, f"and {15 - MAX_LINES} more")


def test_marks_are_escaped() -> None:
    """What this does to readers of markdown, tests/real/teams asks one of them."""
    assert escape_markdown("[a](b) <at>x</at>") == r"\[a\](b) \<at\>x\</at\>"
    assert [escape_markdown(text) for text in ("- a-b", "12. a", "feature/a-b.c")] == [
        r"\- a-b",
        r"12\. a",
        "feature/a-b.c",
    ]
