"""`./dev long tampering` changes every table that the server has."""

from bench.support.tampering.kind import SEALED
from bench.support.tampering.kinds import KINDS

from projections.registry import PROJECTIONS
from store.log.ids import KINDS as IDS
from store.migrations.lost_tables import TABLES

CACHES = {"agent_gauges", "queue_reasons", "token_uses", "login_failures", "shared_caches"}
"""Tables that may be lost without harm: the server fills them again."""
IN_PROGRESS = {name for name in TABLES if name.startswith(("beside.", "previous."))}
"""Tables of rebuilds: `testhide projections diff` compares them before a switch."""


def test_each_table_has_a_kind_of_change() -> None:
    stored = set(TABLES) - CACHES - IN_PROGRESS - {f"{kind}_ids" for kind in IDS}
    shown = {str(row.table) for projection in PROJECTIONS for row in projection.rows}
    changed = {table for kind in KINDS for table in kind.tables}.union(SEALED)
    assert (stored | shown) - changed == set(), "add a kind to bench/support/tampering"


def test_a_kind_that_nobody_notices_says_why() -> None:
    assert [kind.what for kind in KINDS if not kind.noticed_by and not kind.because] == []
    assert len({(kind.area, kind.what) for kind in KINDS}) == len(KINDS)
