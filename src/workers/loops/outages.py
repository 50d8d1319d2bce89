"""Loops of the workers outlive a database that is away."""

import contextlib
from collections.abc import AsyncIterator

import psycopg
import structlog

from store.log.append import AppendFailed

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def patient(what: str) -> AsyncIterator[None]:
    """What fails for want of the database is said, and left to the next round."""
    try:
        yield
    except (psycopg.OperationalError, AppendFailed) as error:
        log.warning(f"{what} wait for the database", error=str(error).strip())
