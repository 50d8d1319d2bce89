"""People."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import msgspec
import pytest

from commands.users import (
    DeleteUser,
    InviteUser,
    IssuePasswordLink,
    RegisterUser,
    SetPassword,
    UpdateUser,
    UsePasswordLink,
)
from domain import claims, projects, users
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.data_keys import user_key
from domain.core.errors import Conflict, Forbidden, Invalid, NotFound
from domain.core.events import Event
from domain.projects import MemberAdmitted, MemberRemoved, ProjectClosed, ProjectCreated, ProjectDeleted
from domain.users import USER, PasswordLinkIssued, UserDeleted, UserPasswordSet, UserRegistered, UserUpdated
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

REGISTER = RegisterUser(7, "a@example.com", "admin", "hash", "email-1", "Ada", "L")
REGISTERED = UserRegistered(
    user_id=7,
    email="a@example.com",
    claim="email-1",
    role="admin",
    password_hash="hash",
    first_name="Ada",
    last_name="L",
)
TAKEN = ClaimTaken(claim="email-1", owner="user-7")


def test_register() -> None:
    given().when(REGISTER).then(TAKEN, REGISTERED)
    given(TAKEN, REGISTERED).when(REGISTER).then_nothing()


def test_an_address_is_taken_once() -> None:
    with pytest.raises(Conflict, match=r"a@example\.com"):
        given(ClaimTaken(claim="email-1", owner="user-6")).when(REGISTER)


def test_a_free_address_can_be_taken_again() -> None:
    left = (ClaimTaken(claim="email-1", owner="user-6"), ClaimReleased(claim="email-1", owner="user-6"))
    given(*left).when(REGISTER).then(TAKEN, REGISTERED)


ADMIN = UserRegistered(user_id=1, role="admin", email="admin@example.com", claim="email-9")
DELETED = UserDeleted(user_id=7)


def test_deleting_gives_the_address_back() -> None:
    released = ClaimReleased(claim="email-1", owner="user-7")
    given(ADMIN, TAKEN, REGISTERED).when(DeleteUser(7, 1)).then(released, DELETED)
    assert DELETED.erases == REGISTERED.data_key == user_key(7)


def test_a_password_is_set_for_who_is_there() -> None:
    given(REGISTERED).when(SetPassword(7, "new")).then(UserPasswordSet(user_id=7, password_hash="new"))
    given(REGISTERED).when(SetPassword(7, "new", "hash")).then(UserPasswordSet(user_id=7, password_hash="new"))
    with pytest.raises(Conflict, match="changed meanwhile"):
        given(REGISTERED).when(SetPassword(7, "new", "an older hash"))
    for history in ((), (REGISTERED, DELETED)):
        with pytest.raises(NotFound, match="no user 7"):
            given(*history).when(SetPassword(7, "new"))


def test_only_who_is_there_is_deleted() -> None:
    for history in ((), (REGISTERED, DELETED)):
        with pytest.raises(NotFound, match="no user 7"):
            given(ADMIN, *history).when(DeleteUser(7, 1))


def test_only_an_admin_who_stays_deletes() -> None:
    """So the last one cannot go: nor can two who delete each other at the same time."""
    with pytest.raises(Conflict, match="cannot delete yourself"):
        given(ADMIN).when(DeleteUser(1, 1))
    developer = UserRegistered(user_id=1, role="developer")
    for history in ((), (developer,), (ADMIN, UserDeleted(user_id=1))):
        with pytest.raises(Forbidden):
            given(REGISTERED, *history).when(DeleteUser(7, 1))


NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
LATER = NOW + timedelta(days=7)
INVITE = InviteUser(7, "a@example.com", "developer", "email-1", "link-1", LATER, "Ada", "L", {3: "write"})
INVITED = UserRegistered(
    user_id=7, email="a@example.com", claim="email-1", role="developer", first_name="Ada", last_name="L"
)
LINK = PasswordLinkIssued(user_id=7, purpose="invitation", link_id="link-1", expires_at=LATER)
PROJECT_3 = ProjectCreated(project_id=3)
MEMBER_OF_3 = MemberAdmitted(project_id=3, user_id=7, access="write")


def test_an_invitation_is_an_account_its_memberships_and_a_link() -> None:
    given(PROJECT_3).when(INVITE).then(TAKEN, INVITED, MEMBER_OF_3, LINK)
    with pytest.raises(Conflict, match=r"a@example\.com"):
        given(PROJECT_3, ClaimTaken(claim="email-1", owner="user-6")).when(INVITE)
    for history in ((), (PROJECT_3, ProjectDeleted(project_id=3))):
        with pytest.raises(NotFound, match="no project 3"):
            given(*history).when(INVITE)
    with pytest.raises(Conflict, match="is being deleted"):
        given(PROJECT_3, ProjectClosed(project_id=3)).when(INVITE)


def test_an_invitation_can_be_repeated_until_it_is_accepted() -> None:
    again = IssuePasswordLink(7, "invitation", "link-2", LATER)
    given(INVITED, LINK).when(again).then(msgspec.structs.replace(LINK, link_id="link-2"))
    accepted = (INVITED, LINK, UserPasswordSet(user_id=7, password_hash="hash"))
    with pytest.raises(Conflict, match="accepted the invitation already"):
        given(*accepted).when(again)
    reset = IssuePasswordLink(7, "reset", "link-2", LATER)
    given(*accepted).when(reset).then(msgspec.structs.replace(LINK, purpose="reset", link_id="link-2"))
    with pytest.raises(Conflict, match="not active"):
        given(*accepted, UserUpdated(user_id=7, active=False)).when(reset)


def test_a_link_works_once_and_in_its_time() -> None:
    use = UsePasswordLink(7, "link-1", "hash", NOW)
    password_set = UserPasswordSet(user_id=7, password_hash="hash")
    given(INVITED, LINK).when(use).then(password_set)
    for history, command in (
        ((INVITED,), use),
        ((INVITED, LINK, password_set), use),
        ((INVITED, LINK, msgspec.structs.replace(LINK, link_id="link-2")), use),
        ((INVITED, LINK, UserUpdated(user_id=7, active=False), UserUpdated(user_id=7, active=True)), use),
        ((INVITED, LINK, DELETED), use),
        ((INVITED, LINK), replace(use, now=LATER)),
        ((INVITED, LINK), replace(use, link_id="link-2")),
    ):
        with pytest.raises(Invalid, match="token: is not valid"):
            given(*history).when(command)


def test_an_update_holds_what_changes() -> None:
    update = UpdateUser(7, 1, role="viewer", active=False, first_name="Ada", last_name="Lovelace")
    changed = UserUpdated(user_id=7, role="viewer", active=False, last_name="Lovelace")
    given(ADMIN, INVITED).when(update).then(changed)
    given(ADMIN, INVITED, changed).when(update).then_nothing()
    with pytest.raises(NotFound, match="no user 7"):
        given(ADMIN).when(update)


def test_memberships_are_replaced() -> None:
    project_4, project_5 = ProjectCreated(project_id=4), ProjectCreated(project_id=5)
    history = (ADMIN, INVITED, PROJECT_3, project_4, project_5, MEMBER_OF_3, replaced(MEMBER_OF_3, project_id=5))
    update = UpdateUser(7, 1, access={4: "read", 5: "admin"}, member_of=[3, 5])
    given(*history).when(update).then(
        MemberRemoved(project_id=3, user_id=7),
        MemberAdmitted(project_id=4, user_id=7, access="read"),
        MemberAdmitted(project_id=5, user_id=7, access="admin"),
    )
    given(*history).when(UpdateUser(7, 1, access={3: "write", 5: "write"}, member_of=[3, 5])).then_nothing()
    given(*history).when(UpdateUser(7, 1, member_of=[3, 5])).then_nothing()
    # What the read model still lists of a deleted project is no membership any more.
    gone = (*history, ProjectDeleted(project_id=3))
    given(*gone).when(UpdateUser(7, 1, access={5: "write"}, member_of=[3, 5])).then_nothing()
    with pytest.raises(NotFound, match="no project 3"):
        given(*gone).when(UpdateUser(7, 1, access={3: "write"}, member_of=[3, 5]))


def test_only_an_admin_who_stays_one_changes_users() -> None:
    for update in (UpdateUser(1, 1, role="developer"), UpdateUser(1, 1, active=False)):
        with pytest.raises(Conflict, match="your own admin role or account"):
            given(ADMIN).when(update)
    given(ADMIN).when(UpdateUser(1, 1, role="admin", first_name="Eve")).then(UserUpdated(user_id=1, first_name="Eve"))
    for change in (
        UserUpdated(user_id=1, role="developer"),
        UserUpdated(user_id=1, active=False),
        UserDeleted(user_id=1),
    ):
        for command in (UpdateUser(7, 1, role="viewer"), DeleteUser(7, 1)):
            with pytest.raises(Forbidden):
                given(ADMIN, change, INVITED).when(command)


def replaced(event: MemberAdmitted, **fields: Any) -> MemberAdmitted:
    return msgspec.structs.replace(event, **fields)


@pytest.mark.parametrize("kind", [RegisterUser, InviteUser, IssuePasswordLink, UsePasswordLink, UpdateUser, DeleteUser])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*users.EVENTS, *claims.EVENTS, *projects.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*users.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(USER, history)
