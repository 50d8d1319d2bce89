"""The buffer of a table knows which rows it would have to read from the database."""

import pytest

from projections.engine.buffers import BufferedTable, LoadConnection, NotInMemory
from projections.engine.engine import ensure_tables
from projections.engine.schemas import connect
from testhide.processes import Core
from tests.projections.toys import TOYS, ToyRow


async def test_no_row_is_missing_above_the_highest_key(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.engine.buffers.CACHED_ROWS", 1)
    async with await connect(parts.conninfo, "beside") as connection:
        await ensure_tables(connection, [TOYS])
        toys = BufferedTable(LoadConnection(connection), ToyRow, is_complete=True)
        for number in (2, 3, 5):
            assert toys.get(number) is None
            toys.store(ToyRow(number, 1, 1, ""))
        await toys.write()

        assert toys.get(5) == ToyRow(5, 1, 1, "")
        assert toys.get(6) is None
        assert toys.get_many([7, 5]) == [None, ToyRow(5, 1, 1, "")]
        for evicted_or_unknown in (2, 4):
            with pytest.raises(NotInMemory):
                toys.get(evicted_or_unknown)
        with pytest.raises(NotInMemory):
            toys.get_many([6, 2])
