"""Who leads dispatch."""

from typing import Any

from hypothesis import given

from commands.dispatch import TakeLeadership
from domain import dispatch
from domain.core.events import Event
from domain.dispatch import LEADER, LeadershipTaken
from tests.support.given import commands, decided, folds, histories, is_decided_once

MINE, ANOTHERS = LeadershipTaken(leader="me"), LeadershipTaken(leader="another")


def test_leadership_is_taken() -> None:
    assert decided(TakeLeadership("me")) == [MINE]
    assert decided(TakeLeadership("me"), ANOTHERS) == [MINE]
    assert decided(TakeLeadership("me"), ANOTHERS, MINE, ANOTHERS) == [MINE]


def test_who_leads_already_does_not_take_it_again() -> None:
    assert decided(TakeLeadership("me"), ANOTHERS, MINE) == []


def test_the_last_one_leads() -> None:
    assert LEADER.at("leader").fold([MINE, ANOTHERS]) == "another"
    assert MINE.stream == LEADER.at("leader").name


@given(commands(TakeLeadership), histories(*dispatch.EVENTS))
def test_deciding_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


@given(histories(*dispatch.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(LEADER, history)
