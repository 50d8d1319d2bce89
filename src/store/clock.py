"""Reads the clock, for all rooms. Pure functions do not read the clock: they get the time as an argument, so that tests
choose the time.
"""

from datetime import UTC, datetime


def utcnow() -> datetime:
    return datetime.now(UTC)
