"""Tests of changing the key that signs the checkpoints of the audit log, and of noting restores."""

from typing import Any

import hypothesis
import pytest

from commands.audit import ChangeSigningKey, NoteRestore
from domain import audit
from domain.audit import RESTORES, SIGNING_KEY, LogRestored, SigningKeyChanged
from domain.core.errors import Conflict
from domain.core.events import Event
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

FIRST = SigningKeyChanged(public_key="a")


def test_the_first_key_is_instead_of_none() -> None:
    given().when(ChangeSigningKey("a", None)).then(FIRST)
    with pytest.raises(Conflict, match="look at it and try again"):
        given(FIRST).when(ChangeSigningKey("b", None))


def test_a_key_is_changed_from_the_one_that_was_seen() -> None:
    second = SigningKeyChanged(public_key="b")
    given(FIRST).when(ChangeSigningKey("b", "a")).then(second)
    given(FIRST, second).when(ChangeSigningKey("b", "a")).then_nothing()
    with pytest.raises(Conflict):
        given(FIRST, second).when(ChangeSigningKey("c", "a"))
    assert SIGNING_KEY.fold([FIRST, second]) == "b"


def test_every_restore_is_noted_once() -> None:
    first = LogRestored(position=70)
    given().when(NoteRestore(70)).then(first)
    given(first).when(NoteRestore(70)).then_nothing()
    given(first).when(NoteRestore(900)).then(LogRestored(position=900))


@hypothesis.given(commands(ChangeSigningKey) | commands(NoteRestore), histories(*audit.EVENTS))
def test_deciding_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


@hypothesis.given(histories(*audit.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(SIGNING_KEY.category, history)
    folds(RESTORES.category, history)
