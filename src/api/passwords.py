"""Sets passwords of accounts: users change their password, or set one through a link from an invitation or a reset."""

from datetime import timedelta
from typing import Annotated, Any

import msgspec
import structlog
from litestar import Controller, Request, Response, post
from litestar.background_tasks import BackgroundTask
from msgspec import Meta

from api.auth import counting_attempts
from api.http.authentication import PUBLIC
from api.http.networks import find_network
from api.http.permissions import UNLIMITED
from api.http.request_context import RequestContext
from api.http.services import Services
from api.http.types import Email
from commands.handler import CommandContext
from commands.users import IssuePasswordLink, SetPassword, UsePasswordLink
from domain.core.errors import Conflict, Invalid, TooManyRequests, Unavailable
from projections import auth
from store.clock import utcnow
from store.crypto import passwords
from store.crypto.secrets import new_token
from store.tables.login_attempts import LoginAttempts

log = structlog.get_logger()

MAX_RESETS = 3
"""Largest number of links to reset the password of one account that can be requested within
`login_attempts.ATTEMPT_WINDOW_S`, so that nobody floods a mailbox.
"""
MAX_RESETS_OF_ADDRESS = 20
"""Largest number of links to reset passwords that one network address can request within
`login_attempts.ATTEMPT_WINDOW_S`.
"""
RESET_LINK_LIFETIME = timedelta(minutes=30)
"""Time for which a link to reset a password is valid."""


class ResetRequest(msgspec.Struct):
    email: Email


class ResetRequested(msgspec.Struct):
    detail: str
    """Sentence that does not depend on whether the address has an account."""


class NewPassword(msgspec.Struct):
    token: Annotated[str, Meta(min_length=1, max_length=1_000)]
    """Token of the link: the part after its `#`."""
    new_password: Annotated[str, Meta(min_length=8, max_length=1_000)]


class PasswordChange(msgspec.Struct):
    current_password: Annotated[str, Meta(max_length=1_000)]
    """Password that the account has now."""
    new_password: Annotated[str, Meta(min_length=8, max_length=1_000)]


class PasswordSet(msgspec.Struct):
    detail: str
    """Sentence that confirms the change."""


class PasswordController(Controller):
    tags = ["Authentication"]

    @post("/reset-password", status_code=202, opt={**PUBLIC, "problems": (TooManyRequests,)})
    async def request_reset(
        self, request: Request[Any, Any, Any], ctx: RequestContext, data: ResetRequest
    ) -> Response[ResetRequested]:
        """Mails the user a link to set a new password. The link works once, within 30 minutes. No mail is sent if
        nobody has the address, if the account is not active, or if the account has no password yet; the answer does not
        show this.

        Within 5 minutes, 3 links can be requested for one email address, and 20 from one network address.
        """
        services, network = ctx.services, find_network(request)
        limits = {services.secrets.claim("reset-account", data.email): MAX_RESETS}
        if network is not None:
            limits[services.secrets.claim("reset-address", str(network))] = MAX_RESETS_OF_ADDRESS
        if wait_s := await LoginAttempts(services.pool).reserve(limits):
            raise TooManyRequests(f"Too many links were asked for; try again in {wait_s} s.", wait_s)
        # Runs after the answer, so that neither the answer nor its time shows which accounts exist.
        return Response(
            ResetRequested("Reset link sent if the account exists."),
            background=BackgroundTask(issue_reset_link, services, data.email),
        )

    @post("/reset-password/confirm", status_code=200, opt=PUBLIC)
    async def confirm_password(self, ctx: RequestContext, data: NewPassword) -> PasswordSet:
        """Sets a user's password. The token comes from a link in an invitation or a reset, and works only once. Ends
        all sessions of the user.
        """
        link = ctx.services.secrets.read_link_token(data.token)
        if link is None:
            raise Invalid.field("token", "is not valid (any more): ask for a new link")
        must_be_strong(data.new_password)
        user_id, link_id = link
        password_hash = await passwords.hash_password(data.new_password)
        await ctx(UsePasswordLink(user_id, link_id, password_hash, utcnow()), actor=f"user:{user_id}")
        return PasswordSet("Password updated successfully.")

    @post("/me/password", status_code=200, opt={"problems": (TooManyRequests, Unavailable)}, guards=[UNLIMITED])
    async def change_password(
        self, request: Request[Any, Any, Any], ctx: RequestContext, data: PasswordChange
    ) -> PasswordSet:
        """Changes the caller's password. Ends all sessions of the user; API tokens stay valid. A wrong
        `current_password` counts as a failed attempt to sign in.
        """
        must_be_strong(data.new_password)
        user = await ctx.find(auth.find, "user", ctx.user.user_id)
        if not user.password_hash:
            raise Conflict("Your account has no password: you sign in at an identity provider.")
        async with counting_attempts(request, ctx.services, user.email):
            if not await passwords.verify_password(user.password_hash, data.current_password):
                raise Invalid.field("current_password", "is not the password of your account")
        await ctx(SetPassword(user.id, await passwords.hash_password(data.new_password), user.password_hash))
        return PasswordSet("Password updated successfully.")


def must_be_strong(new_password: str) -> None:
    """Raises Invalid if the password is easy to guess."""
    if why := passwords.find_weakness(new_password):
        raise Invalid.field("new_password", f"is {why}: choose another one")


async def issue_reset_link(services: Services, email: str) -> None:
    """Issues a link to reset the password of the user with this address. Does nothing if the user is inactive or has no
    password. Runs after the response was sent, so a failure is only logged.
    """
    try:
        user = await auth.find_by_email(services.pool, email)
        if user is None or not user.active or not user.password_hash:
            return
        command = IssuePasswordLink(user.id, "reset", new_token(""), utcnow() + RESET_LINK_LIFETIME)
        await services.handler.execute(command, CommandContext("anonymous"))
    except Exception as error:
        log.error("no link to reset a password was issued", error=repr(error))
