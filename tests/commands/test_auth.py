"""Sessions and API tokens."""

from typing import Any

import hypothesis
import pytest

from commands.auth import CreateApiToken, OpenSession, RevokeApiToken, RevokeSession
from domain import users
from domain.auth import API_TOKEN, EVENTS, SESSION, ApiTokenCreated, ApiTokenRevoked, SessionOpened, SessionRevoked
from domain.core.errors import NotFound, Unauthenticated
from domain.core.events import UNSTAMPED, Event
from domain.users import UserDeleted, UserPasswordSet, UserRegistered, UserUpdated
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

OPENED = SessionOpened(session_id="s", user_id=7, expires_at=UNSTAMPED)
REVOKED = SessionRevoked(session_id="s", user_id=7)
CREATED = ApiTokenCreated(token_id=1, user_id=7, label="bot", token_hash=b"hash")


USER = UserRegistered(user_id=7, role="viewer", email="a@example.com", claim="email-1", password_hash="one")


def test_a_session_opens_once() -> None:
    command = OpenSession("s", 7, UNSTAMPED)
    given(USER).when(command).then(OPENED)
    given(USER, OPENED).when(command).then_nothing()
    given(USER, OPENED, REVOKED).when(command).then_nothing()


def test_a_proof_that_counts_no_more_opens_nothing() -> None:
    """The read models that the password was checked against may be behind, and a reset is to end all sessions."""
    other, inactive = UserPasswordSet(user_id=7, password_hash="two"), UserUpdated(user_id=7, active=False)
    by_password = OpenSession("s", 7, UNSTAMPED, "one")
    given(USER).when(by_password).then(OPENED)
    given(USER, other).when(OpenSession("s", 7, UNSTAMPED)).then(OPENED)
    for history in ((USER, other), (USER, inactive), (USER, UserDeleted(user_id=7)), ()):
        with pytest.raises(Unauthenticated):
            given(*history).when(by_password)


def test_a_token_of_nobody() -> None:
    for history in ((USER, UserUpdated(user_id=7, active=False)), (USER, UserDeleted(user_id=7)), ()):
        with pytest.raises(Unauthenticated):
            given(*history).when(CreateApiToken(1, 7, "bot", b"hash"))


def test_a_session_is_revoked_once() -> None:
    command = RevokeSession("s", 7)
    given().when(command).then_nothing()
    given(OPENED).when(command).then(REVOKED)
    given(OPENED, REVOKED).when(command).then_nothing()


def test_a_token_is_created() -> None:
    given(USER).when(CreateApiToken(1, 7, "bot", b"hash")).then(CREATED)


def test_a_token_is_revoked_by_its_owner() -> None:
    given(CREATED).when(RevokeApiToken(1, 7)).then(ApiTokenRevoked(token_id=1, user_id=7))


@pytest.mark.parametrize("history", [(), (CREATED, ApiTokenRevoked(token_id=1, user_id=7))])
def test_there_is_no_such_token(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound):
        given(*history).when(RevokeApiToken(1, 7))


def test_the_token_of_another_user_does_not_exist() -> None:
    with pytest.raises(NotFound):
        given(CREATED).when(RevokeApiToken(1, 8))


@pytest.mark.parametrize("kind", [OpenSession, RevokeSession, CreateApiToken, RevokeApiToken])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*EVENTS, *users.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(SESSION, history)
    folds(API_TOKEN, history)
