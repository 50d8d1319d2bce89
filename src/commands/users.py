"""Commands on users: register, invite, set a password, update, delete."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from commands.handler import Command, CommandContext, Handler, must_exist
from commands.projects import must_be_open
from domain.claims import CLAIM, Claim, release_claim, take_claim
from domain.core.errors import Conflict, Forbidden, Invalid
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Access, MemberAdmitted, MemberRemoved, Project
from domain.users import (
    USER,
    LinkPurpose,
    PasswordLinkIssued,
    Role,
    UserAccount,
    UserDeleted,
    UserPasswordSet,
    UserRegistered,
    UserSignedOut,
    UserUpdated,
)
from store.crypto import passwords
from store.crypto.secrets import Secrets
from store.log.ids import Ids


@dataclass(frozen=True)
class RegisterUser(Command):
    """Registers a user. `claim` is the id of the claim that keeps the email address unique."""

    user_id: int
    email: str
    role: Role
    password_hash: str
    claim: str
    first_name: str = ""
    last_name: str = ""

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), CLAIM.at(self.claim))

    def decide(self, user: UserAccount | None, claim: Claim) -> Iterable[Event]:
        if user is not None:
            return
        refusal = f"There already is a user with the address {self.email}."
        yield from take_claim(self.claim, claim, USER.at(self.user_id).name, refusal)
        yield self.event(UserRegistered)


@dataclass(frozen=True)
class InviteUser(Command):
    """Registers a user without a password, makes them a member of projects, and issues the link to set a password."""

    user_id: int
    email: str
    role: Role
    claim: str
    link_id: str
    expires_at: datetime
    first_name: str = ""
    last_name: str = ""
    access: Mapping[int, Access] = field(default_factory=dict)
    """Project id -> access that the user gets."""

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), CLAIM.at(self.claim), *map(PROJECT.at, self.access))

    def decide(self, user: UserAccount | None, claim: Claim, *projects: Project | None) -> Iterable[Event]:
        if user is not None:
            return
        refusal = f"There already is a user with the address {self.email}."
        yield from take_claim(self.claim, claim, USER.at(self.user_id).name, refusal)
        yield self.event(UserRegistered, password_hash="")
        for (project_id, access), project in zip(self.access.items(), projects, strict=True):
            must_be_open(project, project_id)
            yield MemberAdmitted(project_id=project_id, user_id=self.user_id, access=access)
        yield self.event(PasswordLinkIssued, purpose="invitation")


@dataclass(frozen=True)
class IssuePasswordLink(Command, of=USER):
    """Issues a link with which a user can set a password. Links that were issued earlier become invalid."""

    user_id: int
    purpose: LinkPurpose
    link_id: str
    expires_at: datetime

    def decide(self, user: UserAccount | None) -> Iterable[Event]:
        user = must_exist(user, f"user {self.user_id}")
        if not user.active:
            raise Conflict(f"User {self.user_id} is not active; activate the account first.")
        if self.purpose == "invitation" and user.password_hash:
            raise Conflict(f"User {self.user_id} has accepted the invitation already.")
        if user.link is None or user.link.link_id != self.link_id:
            yield self.event(PasswordLinkIssued)


@dataclass(frozen=True)
class UsePasswordLink(Command, of=USER):
    """Sets a user's password by means of a link, and ends all sessions of the user. A link works only once. Raises
    Invalid for a link that was used or replaced, or that has expired.
    """

    user_id: int
    link_id: str
    password_hash: str
    now: datetime

    def decide(self, user: UserAccount | None) -> Iterable[Event]:
        if (
            user is None
            or user.deleted
            or user.link is None
            or user.link.link_id != self.link_id
            or user.link.expires_at <= self.now
        ):
            raise Invalid.field("token", "is not valid (any more): ask for a new link")
        yield self.event(UserPasswordSet)


@dataclass(frozen=True)
class SetPassword(Command, of=USER):
    """Sets the password and ends the user's sessions. API tokens stay valid."""

    user_id: int
    password_hash: str
    current_hash: str | None = None
    """Hash of the password that the user proved to know; None if an operator sets the password."""

    def decide(self, user: UserAccount | None) -> Iterable[Event]:
        user = must_exist(user, f"user {self.user_id}")
        if self.current_hash not in (None, user.password_hash):  # read models may not show the newest password yet
            raise Conflict("The password has changed meanwhile; sign in again.")
        yield self.event(UserPasswordSet)


@dataclass(frozen=True)
class SignOutUser(Command, of=USER):
    """Ends all sessions of the user."""

    user_id: int

    def decide(self, user: UserAccount | None) -> Iterable[Event]:
        must_exist(user, f"user {self.user_id}")
        yield self.event(UserSignedOut)


@dataclass(frozen=True)
class UpdateUser(Command):
    """Changes the given fields of a user. A field that is None stays unchanged. Admins can neither demote nor disable
    themselves, so that there always is an admin.

    `access` replaces all memberships of the user. `member_of` lists the projects that the user is a member of, as the
    read model has them.
    """

    user_id: int
    admin_id: int
    role: Role | None = None
    active: bool | None = None
    can_manage_nodes: bool | None = None
    first_name: str | None = None
    last_name: str | None = None
    access: Mapping[int, Access] | None = None
    """Project id -> access that the user gets. None leaves the memberships unchanged."""
    member_of: Sequence[int] = ()

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), USER.at(self.admin_id), *map(PROJECT.at, self._project_ids))

    @property
    def _project_ids(self) -> list[int]:
        return [] if self.access is None else sorted({*self.access, *self.member_of})

    def decide(self, user: UserAccount | None, admin: UserAccount | None, *projects: Project | None) -> Iterable[Event]:
        # When two admins demote each other at the same time, the second one is no longer an admin.
        if admin is None or not admin.is_active_admin:
            raise Forbidden("Only admins change users.")
        user = must_exist(user, f"user {self.user_id}")
        if self.user_id == self.admin_id and (self.role not in (None, "admin") or self.active is False):
            raise Conflict("You cannot take your own admin role or account away; another admin can.")
        yield from self.update(UserUpdated, user)
        for project_id, project in zip(self._project_ids, projects, strict=True):
            yield from self._change_membership(project_id, project)

    def _change_membership(self, project_id: int, project: Project | None) -> Iterable[Event]:
        assert self.access is not None
        access = self.access.get(project_id)
        if access is not None:
            must_be_open(project, project_id)
        now = project.members.get(self.user_id) if project is not None and not project.deleted else None
        if access is None and now is not None:
            yield MemberRemoved(project_id=project_id, user_id=self.user_id)
        elif access is not None and access != now:
            yield MemberAdmitted(project_id=project_id, user_id=self.user_id, access=access)


@dataclass(frozen=True)
class DeleteUser(Command):
    """Deletes a user for good. Admins cannot delete their own account, so there always is an admin."""

    user_id: int
    admin_id: int

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), USER.at(self.admin_id))

    def then_reads(self, user: UserAccount | None, admin: UserAccount | None) -> Sequence[AnyStream]:
        return () if user is None or user.deleted else tuple(CLAIM.at(claim) for claim in _claims_of(user))

    def decide(self, user: UserAccount | None, admin: UserAccount | None, *claims: Claim) -> Iterable[Event]:
        # When two admins delete each other at the same time, the second one is no longer an admin.
        if admin is None or not admin.is_active_admin:
            raise Forbidden("Only admins delete users.")
        user = must_exist(user, f"user {self.user_id}")
        if self.user_id == self.admin_id:
            raise Conflict("You cannot delete yourself; another admin can.")
        for name, claim in zip(_claims_of(user), claims, strict=False):
            yield from release_claim(name, claim, USER.at(self.user_id).name)
        yield UserDeleted(user_id=self.user_id)


def _claims_of(user: UserAccount) -> list[str]:
    return [user.claim, *(identity.claim for identity in user.identities)]


async def register_user(
    handler: Handler, ids: Ids, secrets: Secrets, caller: CommandContext, *, email: str, password: str, role: Role
) -> int:
    """Registers a user and returns the user's id. Raises Conflict if the email address is taken."""
    user_id = await ids.draw("users")
    await handler.execute(
        RegisterUser(
            user_id=user_id,
            email=email,
            role=role,
            password_hash=await passwords.hash_password(password),
            claim=secrets.claim("email", email),
        ),
        caller,
    )
    return user_id
