"""Who leads dispatch."""

from typing import Any

import hypothesis

from commands.dispatch import TakeLeadership
from domain import dispatch
from domain.core.events import Event
from domain.dispatch import LEADER, LeadershipTaken
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

MINE, ANOTHERS = LeadershipTaken(leader="me"), LeadershipTaken(leader="another")


def test_leadership_is_taken() -> None:
    given().when(TakeLeadership("me")).then(MINE)
    given(ANOTHERS).when(TakeLeadership("me")).then(MINE)
    given(ANOTHERS, MINE, ANOTHERS).when(TakeLeadership("me")).then(MINE)


def test_who_leads_already_does_not_take_it_again() -> None:
    given(ANOTHERS, MINE).when(TakeLeadership("me")).then_nothing()


def test_the_last_one_leads() -> None:
    assert LEADER.at("leader").fold([MINE, ANOTHERS]) == "another"
    assert MINE.stream == LEADER.at("leader").name


@hypothesis.given(commands(TakeLeadership), histories(*dispatch.EVENTS))
def test_deciding_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


@hypothesis.given(histories(*dispatch.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(LEADER, history)
