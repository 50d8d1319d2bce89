"""Users, sessions and tokens as rows."""

from datetime import UTC, datetime

import hypothesis
import msgspec

from domain import auth as events
from domain import users
from domain.auth import ApiTokenCreated, ApiTokenRevoked, SessionOpened, SessionRevoked
from domain.core.events import Event
from domain.projects import MemberAdmitted, MemberRemoved
from domain.users import PasswordLinkIssued, UserPasswordSet, UserRegistered, UserUpdated
from projections.auth import PROJECTION, ApiTokenRow, Credentials, SessionRow, UserRow
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


def test_an_invitation_is_open_until_there_is_a_password() -> None:
    link = PasswordLinkIssued(at=NOW, user_id=7, purpose="invitation", link_id="1", expires_at=NOW)
    rows = given(REGISTERED, link).when(PROJECTION)
    assert rows.one(UserRow).invited_at == NOW
    rows.apply(UserPasswordSet(user_id=7, password_hash="new"), msgspec.structs.replace(link, purpose="reset"))
    assert rows.one(UserRow).invited_at is None
    assert rows.one(UserRow).password_hash == "new"


def test_who_is_made_inactive_loses_sessions_and_tokens() -> None:
    token = ApiTokenCreated(at=NOW, token_id=1, user_id=7, label="bot", token_hash=b"hash")
    rows = given(REGISTERED, OPENED, token, UserUpdated(user_id=7, role="viewer", first_name="Ada")).when(PROJECTION)
    assert (rows.one(UserRow).role, rows.one(UserRow).first_name, rows.one(UserRow).active) == ("viewer", "Ada", True)
    assert len(rows.all(SessionRow)) == len(rows.all(ApiTokenRow)) == 1
    rows.apply(UserUpdated(user_id=7, active=False), UserUpdated(user_id=7, active=True))
    assert rows.one(UserRow).active
    assert rows.all(SessionRow) == []
    assert rows.all(ApiTokenRow) == []


@hypothesis.given(histories(*events.EVENTS, *users.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)


def test_each_event_may_take_rights_or_is_known_to_take_none() -> None:
    take_none = {
        ApiTokenCreated,
        PasswordLinkIssued,
        SessionOpened,
        UserRegistered,
        users.IdentityLinked,
        users.IdentityUnlinked,
    }
    may_take = {*Credentials.losses} - {MemberAdmitted, MemberRemoved}
    assert may_take | take_none == {*events.EVENTS, *users.EVENTS}
