"""Commands on users: register, delete."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, CommandContext, Handler, must_exist
from domain.claims import CLAIM, Claim, release_claim, take_claim
from domain.core.errors import Conflict, Forbidden
from domain.core.events import AnyStream, Event
from domain.users import USER, Role, UserAccount, UserDeleted, UserPasswordSet, UserRegistered
from store.crypto import passwords
from store.crypto.secrets import Secrets
from store.log.ids import Ids


@dataclass(frozen=True)
class RegisterUser(Command):
    """Registers a user. `claim` is the claim of the email address."""

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
class SetPassword(Command, of=USER):
    """Ends the user's sessions, too; API tokens stay."""

    user_id: int
    password_hash: str

    def decide(self, user: UserAccount | None) -> Iterable[Event]:
        must_exist(user, f"user {self.user_id}")
        yield self.event(UserPasswordSet)


@dataclass(frozen=True)
class DeleteUser(Command):
    """Deletes a user for good. The admin who does it stays, so there always is an admin."""

    user_id: int
    admin_id: int

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), USER.at(self.admin_id))

    def then_reads(self, user: UserAccount | None, admin: UserAccount | None) -> Sequence[AnyStream]:
        return () if user is None or user.deleted else (CLAIM.at(user.claim),)

    def decide(self, user: UserAccount | None, admin: UserAccount | None, *claims: Claim) -> Iterable[Event]:
        # When two admins delete each other at the same time, the second is no admin any more.
        if admin is None or admin.deleted or admin.role != "admin":
            raise Forbidden("Only admins delete users.")
        user = must_exist(user, f"user {self.user_id}")
        if self.user_id == self.admin_id:
            raise Conflict("You cannot delete yourself; another admin can.")
        for claim in claims:
            yield from release_claim(user.claim, claim, USER.at(self.user_id).name)
        yield UserDeleted(user_id=self.user_id)


async def register_user(
    handler: Handler, ids: Ids, secrets: Secrets, caller: CommandContext, *, email: str, password: str, role: Role
) -> int:
    """Registers a user and returns their id. Raises Conflict when the address is taken."""
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
