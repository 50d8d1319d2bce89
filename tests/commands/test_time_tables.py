"""Time tables, with the quirks of changing clocks."""

from datetime import UTC, datetime

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.time_tables import find_faults, find_latest, find_next
from domain.triggers import CronTrigger

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+00:00")


@pytest.mark.parametrize(
    ("expression", "timezone", "fields"),
    [
        ("0 3 * * *", "Mars/Olympus", ["timezone"]),
        ("0 3 * * *", "../etc/passwd", ["timezone"]),
        ("0 3 * *", "UTC", ["expression"]),
        ("0 0 3 * * *", "UTC", ["expression"]),
        ("60 3 * * *", "UTC", ["expression"]),
        ("0 3 31 2 *", "UTC", ["expression"]),
        ("@daily", "UTC", ["expression"]),
        ("a b c d e", "UTC", ["expression"]),
        ("60 3 * * *", "Mars/Olympus", ["timezone", "expression"]),
    ],
)
def test_faults(expression: str, timezone: str, fields: list[str]) -> None:
    assert [field for field, _ in find_faults(CronTrigger(expression, timezone))] == fields


def test_no_fault() -> None:
    for expression in ("30 3 * * 1-5", "*/5 * * * *", "0 0 L * *", "0 0 * * MON#1", "0 0 29 2 *"):
        assert find_faults(CronTrigger(expression, BERLIN)) == []


def test_a_time_zone_counts() -> None:
    table = CronTrigger("30 3 * * *", BERLIN)
    assert find_latest(table, utc("2026-01-15T02:29")) == utc("2026-01-14T02:30")
    assert find_latest(table, utc("2026-01-15T02:30")) == utc("2026-01-15T02:30")
    assert find_latest(table, utc("2026-07-15T02:29")) == utc("2026-07-15T01:30")
    assert find_next(table, utc("2026-07-15T02:29")) == utc("2026-07-16T01:30")


def test_a_skipped_hour_runs_once_after_it() -> None:
    table = CronTrigger("30 2 * * *", BERLIN)  # 02:30 does not exist on 29 March 2026
    times = {
        find_latest(table, at) for at in (utc("2026-03-29T00:59"), utc("2026-03-29T01:00"), utc("2026-03-29T12:00"))
    }
    assert times == {utc("2026-03-28T01:30"), utc("2026-03-29T01:00")}


def test_a_repeated_hour_runs_once() -> None:
    table = CronTrigger("30 2 * * *", BERLIN)  # 02:30 comes twice on 25 October 2026
    minutes = [utc("2026-10-25T00:00").replace(hour=hour, minute=minute) for hour in range(4) for minute in (0, 30)]
    assert {find_latest(table, at) for at in minutes} == {utc("2026-10-24T00:30"), utc("2026-10-25T00:30")}


@hypothesis.given(
    st.sampled_from(["*/7 * * * *", "30 2 * * *", "0 */3 * * *", "15 1,2,3 * * SUN", "0 0 1 * *"]),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)),
)
def test_the_next_time_is_the_latest_once_it_comes(expression: str, timezone: str, after: datetime) -> None:
    table, after = CronTrigger(expression, timezone), after.replace(second=0, microsecond=0, tzinfo=UTC)
    following = find_next(table, after)
    assert following is not None
    assert following > after
    assert find_latest(table, following) == following
    latest = find_latest(table, after)
    assert latest is not None
    assert latest <= after
