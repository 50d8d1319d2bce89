"""The retry policy of worker loops while the database cannot be reached, or a table is lost."""

import contextlib
from collections.abc import AsyncIterator

import psycopg
import structlog

from store.log.append import AppendFailed

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def tolerate_outages(activity: str) -> AsyncIterator[None]:
    """Logs and suppresses lost connections to the database, and lost tables and columns.

    The caller's loop tries again in its next round.
    """
    try:
        yield
    except (psycopg.OperationalError, AppendFailed) as error:
        log.warning(f"{activity}: waiting for the database", error=str(error).strip())
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        log.error(f"{activity}: waiting for a lost table", error=str(error).strip())
