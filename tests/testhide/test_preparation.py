"""What a first start makes in an empty database."""

from pathlib import Path

import msgspec
import pytest

from domain.nodes import NODE, NodeUpdated
from testhide.operator_errors import Fault
from testhide.preparation import register_local_node
from testhide.processes import Core
from testhide.settings import Settings


async def test_the_local_node_belongs_to_one_data_folder(database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path / "first"))
    token = await register_local_node(settings, admins_only=True)
    file = tmp_path / "first" / "agent" / "token"
    file.parent.mkdir(parents=True)
    file.write_text(token)
    assert await register_local_node(settings, admins_only=True) == token
    with pytest.raises(Fault, match="start with --no-agent, or delete the node"):
        await register_local_node(
            msgspec.structs.replace(settings, data_dir=str(tmp_path / "second")), admins_only=True
        )


async def test_each_start_says_whose_builds_the_local_node_runs(parts: Core, database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path))
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "token").write_text(await register_local_node(settings, admins_only=True))
    for admins_only in (True, False, False, True):
        await register_local_node(settings, admins_only=admins_only)
        node = await parts.log.load_state(NODE.at(1))
        assert node is not None
        assert node.admins_only == admins_only
    changes = await parts.log.read(0, 10, [NodeUpdated.name])
    assert [recorded.event.admins_only for recorded in changes if isinstance(recorded.event, NodeUpdated)] == [
        False,
        True,
    ]
