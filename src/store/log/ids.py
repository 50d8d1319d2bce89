"""Allocates the ids of builds, jobs and so on from sequences. The caller allocates before making the command, so that
`decide` needs no database.
"""

from collections.abc import Mapping
from functools import cache
from typing import Literal, get_args

from psycopg_pool import AsyncConnectionPool

from domain.core.errors import Unavailable
from store.postgres.queries import Source, execute, fetch_rows

Kind = Literal[
    "users",
    "api_tokens",
    "projects",
    "jobs",
    "node_pools",
    "nodes",
    "node_commands",
    "templates",
    "builds",
    "comments",
    "artifacts",
    "test_cases",
    "known_issues",
    "quarantine",
    "results",
    "webhooks",
    "audit_reads",
    "identity_providers",
    "scm_endpoints",
    "changes",
    "jira",
    "vcenter",
    "vcenter_operations",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of ids. Each has a sequence `<kind>_ids`, which a migration creates."""

SKIPPED = 10_000
"""Number of positions, and of ids of each kind except results, that a restore leaves unused. Events after the backup
are lost, and may have used them.
"""
SKIPPED_RESULTS = 1_000 * SKIPPED
"""Number of ids of results that a restore leaves unused. It is higher than SKIPPED, since one report has many results.
"""
MAX_GAP = 100_000
"""Largest number of adjacent positions that a rollback or a restore leaves without an event."""
POSITION_SEQUENCE = "public.stored_events_notification_id_seq"
LAST_POSITION = f"(SELECT coalesce(pg_sequence_last_value('{POSITION_SEQUENCE}'::regclass), 0))"
"""SQL expression for the last position that the server's sequence has allocated. Readers stop here: a row beyond it was
inserted by somebody else, and the server's next events get smaller positions.
"""
APPEND_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('public.stored_events', 0))"
"""SQL query that takes the lock of the append function. It waits until appends under way have ended; then no event is
appended until the transaction ends.
"""


STREAMS: dict[Kind, tuple[str, ...]] = {
    "users": ("user",),
    "api_tokens": ("api-token",),
    "projects": ("project",),
    "jobs": ("job",),
    "node_pools": ("node-pool",),
    "nodes": ("node",),
    "node_commands": ("node-command",),
    "templates": ("template",),
    "builds": ("build",),
    "artifacts": ("artifact",),
    "known_issues": ("known_issue",),
    "webhooks": ("webhook", "teams-channel"),
    "scm_endpoints": ("scm",),
    "audit_reads": ("audit-read",),
    "changes": ("change",),
    "jira": ("jira",),
    "vcenter": ("vcenter", "vcenter-vms"),
    "vcenter_operations": ("vcenter-operation",),
    "identity_providers": ("identity-provider",),
}
"""Kind of id -> categories of the streams that have such ids in their names. Comments, test cases, results and
quarantine entries have no streams.
"""


class Ids:
    """Allocates ids that are not in use.

    Raises Unavailable if the next id is in use, because somebody has set the sequence back. Without this check, a
    command that creates a build would find the stream of an older build. It would take this stream for the result of
    its own earlier try.
    """

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool
        self._last: dict[Kind, int] = {}
        """The highest id of each kind that this process has allocated."""

    async def draw(self, kind: Kind) -> int:
        last = self._last.get(kind, 0)
        ((number, is_used),) = await fetch_rows(self._pool, _select_next(kind))
        return self._check(kind, number, number, is_used or number <= last)

    async def draw_range(self, kind: Kind, count: int) -> int:
        """Reserves `count` consecutive ids. Returns the first of them."""
        last = self._last.get(kind, 0)
        rows = await fetch_rows(self._pool, "SELECT draw_ids(%s::regclass, %s)", (f"{kind}_ids", count))
        first = int(rows[0][0])
        names = [f"{prefix}-{first + n}" for prefix in STREAMS.get(kind, ()) for n in range(count)]
        is_used = names and await fetch_rows(
            self._pool, "SELECT FROM stored_events WHERE originator_id = ANY (%s) LIMIT 1", (names,)
        )
        return self._check(kind, first, first + count - 1, bool(is_used) or first <= last)

    async def find_last(self, kind: Kind) -> int:
        """Returns the highest id of a kind that any process has allocated; 0 if none was allocated."""
        query = "SELECT coalesce(pg_sequence_last_value(%s::regclass), 0)"
        return int((await fetch_rows(self._pool, query, (f"public.{kind}_ids",)))[0][0])

    def _check(self, kind: Kind, first: int, last: int, is_used: bool) -> int:
        if is_used:
            raise Unavailable(
                f"The id {first} is in use already: the sequence {kind}_ids was set back. Nothing was stored. An"
                " operator can repair it by `testhide repair`."
            )
        self._last[kind] = max(last, self._last.get(kind, 0))
        return first


async def fetch_last_position(source: Source) -> int:
    """Returns the highest position that was ever allocated, even if no event is stored there; 0 if none was
    allocated.
    """
    return int((await fetch_rows(source, f"SELECT {LAST_POSITION}"))[0][0])


async def use_positions(pool: AsyncConnectionPool, up_to: int) -> bool:
    """Moves the sequence of positions forward to `up_to`, so that later events get larger positions. Returns False, and
    changes nothing, if the sequence has already reached `up_to`.
    """
    async with pool.connection() as connection, connection.transaction():
        await execute(connection, APPEND_LOCK)
        if await fetch_last_position(connection) >= up_to:
            return False
        await execute(connection, "SELECT setval(%s::regclass, %s)", (POSITION_SEQUENCE, up_to))
        return True


async def skip_lost_ids(pool: AsyncConnectionPool) -> None:
    """Moves the sequences of positions and ids forward after a restore, because lost events may have used the next
    numbers.

    In a backup, the sequences may be ahead of the events: the server appended events while the backup was made. The gap
    in the positions still never exceeds MAX_GAP.
    """
    counts = [SKIPPED_RESULTS if kind == "results" else SKIPPED for kind in KINDS]
    await execute(
        pool,
        "SELECT setval(name::regclass, nextval(name::regclass) + count) FROM unnest(%s::text[], %s::bigint[])"
        " AS sequences(name, count)",
        ([f"{kind}_ids" for kind in KINDS], counts),
    )
    await execute(
        pool,
        "SELECT setval(name, least(nextval(name) + %s, %s + (SELECT coalesce(max(notification_id), 0) FROM"
        " stored_events))) FROM pg_get_serial_sequence('stored_events', 'notification_id') AS name",
        (SKIPPED, MAX_GAP),
    )


async def raise_ids(source: Source, used: Mapping[str, int]) -> None:
    """Moves sequences of ids forward, so that new ids are higher than the ids in use. `used` maps the name of a
    sequence to the highest id in use.
    """
    await execute(
        source,
        "SELECT setval(name::regclass, greatest(used, nextval(name::regclass)))"
        " FROM unnest(%s::text[], %s::bigint[]) AS sequences(name, used)",
        (list(used), list(used.values())),
    )


@cache
def _select_next(kind: Kind) -> str:
    """Returns a query that allocates the next id of a kind. The query returns the id, and whether the log already has a
    stream with this id, such as `build-1025`. This happens if the sequence has fallen behind the log.
    """
    names = ", ".join(f"'{prefix}-' || number" for prefix in STREAMS.get(kind, ()))
    is_used = f"EXISTS (SELECT FROM stored_events WHERE originator_id IN ({names}))" if names else "false"
    # Without parameters, so that PostgreSQL plans the query once.
    return f"SELECT number, {is_used} FROM (SELECT nextval('public.{kind}_ids') AS number) AS drawn"
