"""Records when API tokens were last used. These times are not events. They are written at most once a minute for each
token.
"""

from collections.abc import Sequence
from datetime import datetime

from psycopg import AsyncConnection

from store.postgres.queries import fetch_rows


async def record_token_use(connection: AsyncConnection, token_id: int) -> None:
    """Records that the token is used now. Does nothing if a use in the last minute is recorded."""
    await connection.execute(
        "INSERT INTO token_uses (token_id, used_at) SELECT %(id)s, now() WHERE NOT EXISTS"
        " (SELECT FROM token_uses WHERE token_id = %(id)s AND used_at > now() - interval '1 minute')"
        " ON CONFLICT (token_id) DO UPDATE SET used_at = now()",
        {"id": token_id},
        prepare=True,
    )


async def fetch_last_token_uses(connection: AsyncConnection, token_ids: Sequence[int]) -> dict[int, datetime]:
    """Returns token id -> time of its last use. Leaves out tokens that were never used."""
    rows = await fetch_rows(
        connection,
        "SELECT token_id, used_at FROM token_uses WHERE token_id = ANY (%(ids)s::bigint[])",
        {"ids": list(token_ids)},
    )
    return dict(rows)
