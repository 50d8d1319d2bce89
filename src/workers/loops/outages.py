"""The retry policy of worker loops while the database is away, or a read model missing or broken."""

import contextlib
from collections.abc import AsyncIterator

import psycopg
import structlog

from store.log.append import AppendFailed

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def tolerate_outages(activity: str) -> AsyncIterator[None]:
    """Logs and suppresses errors of the connection to the database, and lost tables and columns of read models; the
    caller's loop tries again in its next round.
    """
    try:
        yield
    except (psycopg.OperationalError, AppendFailed) as error:
        log.warning(f"{activity}: waiting for the database", error=str(error).strip())
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        log.error(f"{activity}: waiting for a read model", error=str(error).strip())
