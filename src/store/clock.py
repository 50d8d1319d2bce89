"""Reads the clock for every room; pure code takes the time as an argument, so that tests choose it."""

from datetime import UTC, datetime


def utcnow() -> datetime:
    return datetime.now(UTC)
