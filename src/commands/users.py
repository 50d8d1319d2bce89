"""What is asked of users, and what follows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Caller, Decision, Handler
from domain.base import AnyStream, Event
from domain.claims import CLAIM, Claim, ClaimTaken
from domain.errors import Conflict
from domain.users import USER, Role, User, UserRegistered
from store import passwords
from store.ids import Ids
from store.secrets import Secrets


@dataclass(frozen=True)
class RegisterUser(Decision):
    """`claim` is that of the email address."""

    user_id: int
    email: str
    role: Role
    password_hash: str
    claim: str
    first_name: str = ""
    last_name: str = ""

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), CLAIM.at(self.claim))

    def decide(self, user: User | None, claim: Claim) -> Iterable[Event]:
        if user is not None:
            return
        owner = f"user-{self.user_id}"
        if claim.owner not in ("", owner):
            raise Conflict(f"There already is a user with the address {self.email}.")
        if not claim.owner:
            yield ClaimTaken(claim=self.claim, owner=owner)
        yield UserRegistered(
            user_id=self.user_id,
            email=self.email,
            role=self.role,
            password_hash=self.password_hash,
            first_name=self.first_name,
            last_name=self.last_name,
        )


async def register_user(
    handler: Handler, ids: Ids, secrets: Secrets, caller: Caller, *, email: str, password: str, role: Role
) -> int:
    """The new user's id. Raises Conflict when the address is taken."""
    user_id = await ids.draw("users")
    await handler.execute(
        RegisterUser(
            user_id=user_id,
            email=email,
            role=role,
            password_hash=await passwords.hashed(password),
            claim=secrets.claim("email", email),
        ),
        caller,
    )
    return user_id
