"""What a first start makes in an empty database."""

from pathlib import Path

import msgspec
import pytest

from testhide.operator_errors import Fault
from testhide.preparation import register_local_node
from testhide.settings import Settings


async def test_the_local_node_belongs_to_one_data_folder(database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path / "first"))
    token = await register_local_node(settings)
    file = tmp_path / "first" / "agent" / "token"
    file.parent.mkdir(parents=True)
    file.write_text(token)
    assert await register_local_node(settings) == token
    with pytest.raises(Fault, match="start with --no-agent, or delete the node"):
        await register_local_node(msgspec.structs.replace(settings, data_dir=str(tmp_path / "second")))
