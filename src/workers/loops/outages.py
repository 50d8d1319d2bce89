"""The retry policy of worker loops while the database is away."""

import contextlib
from collections.abc import AsyncIterator

import psycopg
import structlog

from store.log.append import AppendFailed

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def tolerate_outages(activity: str) -> AsyncIterator[None]:
    """Logs and suppresses errors of the connection to the database; the caller's loop tries again in its next round."""
    try:
        yield
    except (psycopg.OperationalError, AppendFailed) as error:
        log.warning(f"{activity}: waiting for the database", error=str(error).strip())
