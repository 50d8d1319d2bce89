"""A process refuses a blob store that is not the one of its database."""

import asyncio
from pathlib import Path

import pytest

from integrations.blobs import open_blobs
from testhide.artifact_store import refuse_other_store
from testhide.operator_errors import Fault
from testhide.processes import Core


async def start(parts: Core, folder: Path) -> None:
    url = folder.as_uri()
    await refuse_other_store(parts.pool, open_blobs(url), url)


async def test_the_first_store_is_the_one_of_the_database(parts: Core, tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    await asyncio.gather(start(parts, first), start(parts, first))
    store_id = (first / "store-id").read_text()
    for content, wrong in ((None, "has no file store-id"), ("0" * 32, "has another id in its file store-id")):
        if content is not None:
            (other / "store-id").write_text(content)
        with pytest.raises(Fault) as refused:
            await start(parts, other)
        assert f"not at {other.as_uri()}, which {wrong}. All machines need the same folder" in str(refused.value)
        assert str(refused.value).endswith(f"write {store_id} into that file.")
    (other / "store-id").write_text(f"{store_id}\n")  # as an operator does who has moved the artifacts
    await start(parts, other)


async def test_an_id_that_only_the_store_has_is_taken(parts: Core, tmp_path: Path) -> None:
    """As after a restore of a backup that an older release made, or when the table was lost."""
    await start(parts, tmp_path / "first")
    store_id = (tmp_path / "first" / "store-id").read_text()
    async with parts.pool.connection() as connection:
        await connection.execute("DELETE FROM blob_store")
    await start(parts, tmp_path / "first")
    assert (tmp_path / "first" / "store-id").read_text() == store_id
    with pytest.raises(Fault):
        await start(parts, tmp_path / "other")
