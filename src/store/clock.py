"""Reads the clock, for all rooms. Pure functions do not call it: they get the time as an argument, so that tests choose
it.
"""

from datetime import UTC, datetime


def utcnow() -> datetime:
    return datetime.now(UTC)
