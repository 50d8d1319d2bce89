"""Sessions and API tokens."""

from typing import Any

import pytest
from hypothesis import given

from commands.auth import CreateApiToken, OpenSession, RevokeApiToken, RevokeSession
from domain.auth import API_TOKEN, EVENTS, SESSION, ApiTokenCreated, ApiTokenRevoked, SessionOpened, SessionRevoked
from domain.core.errors import NotFound
from domain.core.events import UNSTAMPED, Event
from tests.support.given import commands, decided, folds, histories, is_decided_once

OPENED = SessionOpened(session_id="s", user_id=7, expires_at=UNSTAMPED)
REVOKED = SessionRevoked(session_id="s", user_id=7)
CREATED = ApiTokenCreated(token_id=1, user_id=7, label="bot", token_hash=b"hash")


def test_a_session_opens_once() -> None:
    command = OpenSession("s", 7, UNSTAMPED)
    assert decided(command) == [OPENED]
    assert decided(command, OPENED) == []
    assert decided(command, OPENED, REVOKED) == []


def test_a_session_is_revoked_once() -> None:
    command = RevokeSession("s", 7)
    assert decided(command) == []
    assert decided(command, OPENED) == [REVOKED]
    assert decided(command, OPENED, REVOKED) == []


def test_a_token_is_created() -> None:
    assert decided(CreateApiToken(1, 7, "bot", b"hash")) == [CREATED]


def test_a_token_is_revoked_by_its_owner() -> None:
    assert decided(RevokeApiToken(1, 7), CREATED) == [ApiTokenRevoked(token_id=1, user_id=7)]


@pytest.mark.parametrize("history", [(), (CREATED, ApiTokenRevoked(token_id=1, user_id=7))])
def test_there_is_no_such_token(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound):
        decided(RevokeApiToken(1, 7), *history)


def test_the_token_of_another_user_does_not_exist() -> None:
    with pytest.raises(NotFound):
        decided(RevokeApiToken(1, 8), CREATED)


@pytest.mark.parametrize("kind", [OpenSession, RevokeSession, CreateApiToken, RevokeApiToken])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @given(commands(kind), histories(*EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@given(histories(*EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(SESSION, history)
    folds(API_TOKEN, history)
