"""Keeps the loops of workers running while the database cannot be reached, or while a table is lost."""

import contextlib
from collections.abc import AsyncIterator

import psycopg
import structlog

from store.log.append import AppendFailed

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def tolerate_outages(activity: str) -> AsyncIterator[None]:
    """Context manager that logs and suppresses errors of its block, if they mean a lost database connection, table or
    column.

    So the caller's loop can try again in its next round. `activity` names the work in the log.
    """
    try:
        yield
    except (psycopg.OperationalError, AppendFailed) as error:
        log.warning(f"{activity}: waiting for the database", error=str(error).strip())
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
        log.error(f"{activity}: waiting for a lost table", error=str(error).strip())
