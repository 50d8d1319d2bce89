"""Commands that wait for an agent, as rows."""

import hypothesis

from domain import node_commands
from domain.core.events import Event
from domain.node_commands import NodeCommandCompleted, NodeCommandRequested
from domain.nodes import NodeDeleted
from projections.node_commands import PROJECTION, NodeCommandRow
from tests.support.spec import given
from tests.support.strategies import histories

REQUESTED = NodeCommandRequested(command_id=3, node_id=7, kind="restart", timeout_s=10)


def test_a_command_waits_until_it_is_answered() -> None:
    rows = given(REQUESTED).when(PROJECTION)
    assert rows.one(NodeCommandRow) == NodeCommandRow(3, 7, 10, REQUESTED.at)
    assert rows.apply(NodeCommandCompleted(command_id=3, node_id=7)).all(NodeCommandRow) == []


def test_nothing_waits_for_a_deleted_node() -> None:
    assert given(REQUESTED, NodeDeleted(node_id=7)).when(PROJECTION).all(NodeCommandRow) == []


@hypothesis.given(histories(*node_commands.EVENTS, NodeDeleted))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
