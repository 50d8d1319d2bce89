"""Users, sessions and tokens as rows."""

from datetime import UTC, datetime

import hypothesis
import msgspec

from domain import auth as events
from domain import users
from domain.auth import ApiTokenCreated, ApiTokenRevoked, SessionOpened, SessionRevoked
from domain.core.events import Event
from domain.users import UserRegistered
from projections.auth import PROJECTION, ApiTokenRow, SessionRow, UserRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
REGISTERED = UserRegistered(at=NOW, user_id=7, email="a@example.com", role="admin", password_hash="hash")
OPENED = SessionOpened(at=NOW, session_id="s", user_id=7, expires_at=NOW)


def test_a_login_is_noted() -> None:
    rows = given(REGISTERED).when(PROJECTION)
    assert rows.one(UserRow).last_login is None
    rows.apply(OPENED)
    assert rows.one(UserRow).last_login == NOW
    assert rows.one(SessionRow) == SessionRow("s", 7, NOW)


def test_a_revoked_session_is_gone() -> None:
    rows = given(REGISTERED, OPENED, SessionRevoked(session_id="s", user_id=7)).when(PROJECTION)
    assert rows.all(SessionRow) == []


def test_tokens_come_and_go() -> None:
    created = ApiTokenCreated(at=NOW, token_id=1, user_id=7, label="bot", token_hash=b"hash")
    rows = given(REGISTERED, created, msgspec.structs.replace(created, token_id=2)).when(PROJECTION)
    assert rows.all(ApiTokenRow)[0] == ApiTokenRow(1, 7, "bot", b"hash", NOW)
    rows.apply(ApiTokenRevoked(token_id=1, user_id=7))
    assert rows.one(ApiTokenRow).id == 2


@hypothesis.given(histories(*events.EVENTS, *users.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
