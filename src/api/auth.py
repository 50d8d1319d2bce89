"""Signing in and out, the caller's API tokens and rights, and the configuration of the server."""

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, get_args

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from msgspec import Meta

from api.http.authentication import API_TOKEN_PREFIX, BAD_TOKEN, PUBLIC, SESSION_LIFETIME, session_token
from api.http.idempotency import SHOWN_ONCE
from api.http.networks import find_network
from api.http.paging import Paged, paginate
from api.http.permissions import ANY_USER, CAN_CHANGE_ACCOUNT, CAN_READ, UNLIMITED, Level, User
from api.http.request_context import RequestContext
from api.http.services import Services
from api.http.types import Id, Name, fields_of, to_view
from commands import build_assignment
from commands.auth import CreateApiToken, OpenSession, RevokeApiToken, RevokeSession
from commands.validation import Time
from domain.auth import API_TOKEN as API_TOKENS
from domain.auth import Scope
from domain.core.errors import Conflict, Invalid, TooManyRequests, Unauthenticated, Unavailable
from domain.jobs import DEFAULT_TIMEOUT_MINUTES
from domain.licenses import CAPABILITIES
from domain.projects import PROJECT
from domain.users import Role
from projections import auth, projects
from store.clock import utcnow
from store.crypto import passwords
from store.crypto.secrets import new_token, token_hash
from store.tables.login_attempts import LoginAttempts
from store.tables.token_uses import fetch_last_token_uses

MAX_FAILED_SIGN_INS = 10
"""Largest number of failed attempts to sign in to one account from one address within
`login_attempts.ATTEMPT_WINDOW_S`. Further attempts are refused for the rest of this time.
"""
MAX_FAILED_SIGN_INS_OF_ADDRESS = 50
"""Largest number of failed attempts from one address to sign in to any account within
`login_attempts.ATTEMPT_WINDOW_S`. This limit is higher than that for one account, because a whole office may share one
address.
"""
MAX_FAILED_SIGN_INS_AT_ACCOUNT = 100
"""Largest number of failed attempts to sign in to one account within `login_attempts.ATTEMPT_WINDOW_S`, from all
unknown addresses together. An address is unknown if nobody has signed in to the account from there in the last
`login_attempts.KNOWN_ADDRESS_DAYS`. The number is the limit of NIST SP 800-63B.
"""


class Login(msgspec.Struct):
    username: Annotated[str, Meta(min_length=1, max_length=320)]
    """Email address of the account."""
    password: Annotated[str, Meta(max_length=1_000)]
    """Password of the account."""


class OpenedSession(msgspec.Struct):
    token: str
    """Bearer token of the session."""
    expires_at: datetime
    user_id: int


class Permissions(msgspec.Struct):
    can_start_builds: bool
    can_manage_nodes: bool
    is_admin: bool
    projects: dict[str, Level]
    """Level of access to each project, by the project's id."""


class Me(msgspec.Struct):
    id: int
    email: str
    """Email address with which the user signs in."""
    role: Annotated[str, Meta(extra_json_schema={"enum": list(get_args(Role))})]
    """Global role, which limits what memberships grant."""
    projects: list[int]
    """Ids of the projects that the user sees."""
    permissions: Permissions
    """Rights of the user."""


class AiAssist(msgspec.Struct):
    enabled: bool


class GlobalOptions(msgspec.Struct):
    ai_assist: AiAssist
    """Assistance by language models."""
    max_parallel_builds: int
    """Largest number of builds that run on the server at the same time."""


class MailConfig(msgspec.Struct):
    enabled: bool
    """Whether the server mails invitations and links for resetting a password."""


class Integrations(msgspec.Struct):
    """Kinds of outside systems that can be connected to the server."""

    webhooks: bool = True
    """Whether webhooks can be registered."""
    ms_teams: bool = True
    """Whether channels of MS Teams can be registered."""


class PipelineOptions(msgspec.Struct):
    default_timeout_minutes: int
    """Time limit, in minutes, of builds whose job sets no limit."""
    max_attempts: int
    """Largest number of attempts of a build. A build is tried again when its node is lost."""


class ServerConfig(msgspec.Struct):
    version: str
    global_options: GlobalOptions
    """Options for all projects."""
    mail: MailConfig
    """Whether the server sends mails."""
    features: dict[str, bool]
    """Gated features by name: true if the licence includes the feature now."""
    integrations: Integrations
    """Kinds of outside systems that can be connected to the server."""
    pipeline: PipelineOptions
    """Options that apply to builds of all projects."""


class NewApiToken(msgspec.Struct):
    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)] | None = None
    """Scopes that limit the token to a part of its user's rights: `read`; `build`: start and stop builds; `report`:
    send results and artifacts; `admin`: everything. Null for no limit; an empty list is refused.
    """
    project_ids: Annotated[list[Id], Meta(min_length=1, max_length=1_000)] | None = None
    """Ids of the projects that the token is limited to; null for all projects of its user."""
    expires_at: Time | None = None
    """Time at which the token expires; null for never."""


class ApiTokenItem(msgspec.Struct):
    id: int
    name: str
    created_at: datetime
    last_used: datetime | None
    """Time of the last request with the token, to the minute."""
    scopes: list[str]
    """Scopes that limit the token to a part of its user's rights; without scopes there is no limit."""
    project_ids: list[int] | None
    """Ids of the projects that the token is limited to; null for all projects of its user."""
    expires_at: datetime | None


class CreatedApiToken(msgspec.Struct):
    id: int
    name: str
    secret: str
    """The token itself, which no other answer shows."""
    created_at: datetime
    scopes: list[Scope]
    """Scopes that limit the token to a part of its user's rights; without scopes there is no limit."""
    project_ids: list[int] | None
    """Ids of the projects that the token is limited to; null for all projects of its user."""
    expires_at: datetime | None


class AuthController(Controller):
    tags = ["Authentication"]

    @post("/authenticate", status_code=200, opt={**PUBLIC, "problems": (Unauthenticated, TooManyRequests, Unavailable)})
    async def authenticate(self, request: Request[Any, Any, Any], ctx: RequestContext, data: Login) -> OpenedSession:
        """Opens a session. Within 5 minutes, the server accepts 10 failed attempts from one address at one account, 50
        from one address at all accounts together, and 100 at one account from all unknown addresses together. An
        address is unknown if nobody has signed in to the account from there in the last 30 days.
        """
        async with counting_attempts(request, ctx.services, data.username):
            user = await auth.find_by_email(ctx.source, data.username)
            # Verify a password for unknown addresses too: the time that it takes must not show which accounts exist.
            proved = await passwords.verify_password(user.password_hash if user else "", data.password)
            if user is None or not proved or not user.active:
                raise Unauthenticated("The user name or the password is wrong.")
        return await open_session(ctx, user.id, user.password_hash)

    @post("/logout", status_code=204, guards=[ANY_USER])
    async def logout(self, ctx: RequestContext) -> None:
        """Ends the session whose token authenticates the request."""
        if ctx.user.session_id is None:
            raise Conflict("An API token has no session to end; revoke it by DELETE /api/v3/api-tokens/{id}.")
        await ctx(RevokeSession(ctx.user.session_id, ctx.user.user_id))

    @get("/me", guards=[ANY_USER])
    async def get_me(self, ctx: RequestContext) -> Me:
        """Returns the caller's account and rights."""
        user = ctx.user
        visible = user.projects
        if visible is None:
            visible = [project.id for project in await projects.fetch_visible(ctx.source, None)]
        return Me(user.user_id, user.email, user.role, visible, permissions(user, visible))

    @get("/config", guards=[ANY_USER])
    async def get_config(self, ctx: RequestContext) -> ServerConfig:
        """Returns the version of the server, and the options that clients need to know."""
        services = ctx.services
        now = utcnow()
        return ServerConfig(
            services.version,
            GlobalOptions(AiAssist(enabled=False), services.max_parallel_builds),
            MailConfig(services.sends_mail),
            {name: services.license.has(name, now) for name in CAPABILITIES},
            Integrations(),
            PipelineOptions(DEFAULT_TIMEOUT_MINUTES, build_assignment.MAX_BUILD_ATTEMPTS),
        )

    @get("/api-tokens", guards=[CAN_READ])
    async def list_api_tokens(self, ctx: RequestContext, paged: Paged) -> Response[list[ApiTokenItem]]:
        """Returns a page of the caller's API tokens, ordered by id, without the tokens themselves."""
        async with ctx.reading() as connection:
            tokens = await auth.fetch_tokens(connection, ctx.user.user_id)
            shown = [token for token in tokens if token.id > paged.after][paged.offset :][: paged.limit]
            used = await fetch_last_token_uses(connection, [token.id for token in shown])
        items = [to_view(ApiTokenItem, token, last_used=used.get(token.id)) for token in shown]
        return paginate(ctx.request, paged, items)

    @post("/api-tokens", opt=SHOWN_ONCE, guards=[UNLIMITED])
    async def create_api_token(self, ctx: RequestContext, data: NewApiToken) -> CreatedApiToken:
        """Creates an API token of the caller. Only this answer shows the token itself. Scopes and projects limit the
        token to a part of the caller's rights. If the token of this request expires, the new token must not expire
        later.
        """
        now = utcnow()
        if data.expires_at is not None and data.expires_at <= now:
            raise Invalid.field("expires_at", "must be in the future")
        if (latest := await find_expiry(ctx)) is not None and (data.expires_at is None or data.expires_at > latest):
            at = latest.isoformat().replace("+00:00", "Z")
            raise Invalid.field("expires_at", f"must be {at} or earlier, when the token of this request expires")
        for project_id in data.project_ids or ():
            project = await ctx.log.load_state(PROJECT.at(project_id))
            if project is None or project.deleted or not ctx.user.may("read", project_id):
                raise Invalid.field("project_ids", f"there is no project {project_id}")
        token_id = await ctx.services.ids.draw("api_tokens")
        secret = new_token(API_TOKEN_PREFIX)
        fields = fields_of(data, name="label")
        fields["scopes"] = data.scopes or []
        command = CreateApiToken(token_id, ctx.user.user_id, token_hash=token_hash(secret), **fields)
        created = (await ctx(command)).existing(API_TOKENS.at(token_id))
        return to_view(CreatedApiToken, created, id=token_id, name=created.label, secret=secret, created_at=created.at)

    @delete("/api-tokens/{token_id:int}", guards=[CAN_CHANGE_ACCOUNT])
    async def revoke_api_token(self, ctx: RequestContext, token_id: int) -> None:
        """Revokes an API token. The server refuses it from now on."""
        await ctx(RevokeApiToken(token_id, ctx.user.user_id))


async def open_session(ctx: RequestContext, user_id: int, password_hash: str | None = None) -> OpenedSession:
    """Opens a session for a user who has proved who they are. `password_hash` is the hash of the password that the user
    gave, or None if they signed in in another way.
    """
    now = utcnow().replace(microsecond=0)  # times in a JWT are whole seconds
    session_id = new_token("")
    expires_at = now + SESSION_LIFETIME
    await ctx(OpenSession(session_id, user_id, expires_at, password_hash), actor=f"user:{user_id}")
    return OpenedSession(session_token(ctx.services.secrets, user_id, session_id, now), expires_at, user_id)


async def find_expiry(ctx: RequestContext) -> datetime | None:
    """Returns the time at which the caller's API token expires. Returns None if the token does not expire, or if the
    caller has a session instead. Raises Unauthenticated if the token has been revoked since the request came.
    """
    if ctx.user.token_id is None:
        return None
    async with ctx.reading() as connection:
        tokens = await auth.fetch_tokens(connection, ctx.user.user_id)
    for token in tokens:
        if token.id == ctx.user.token_id:
            return token.expires_at
    raise Unauthenticated(BAD_TOKEN)


def find_level(user: User, project_id: int) -> Level:
    """Returns the user's level of access to a project. The user must be able to see the project."""
    return "admin" if user.may("admin", project_id) else "write" if user.may("write", project_id) else "read"


def permissions(user: User, visible: list[int]) -> Permissions:
    levels: dict[str, Level] = {str(project_id): find_level(user, project_id) for project_id in visible}
    return Permissions(
        can_start_builds=user.has_scope("build") and any(level != "read" for level in levels.values()),
        can_manage_nodes=user.is_admin or user.can_manage_nodes,
        is_admin=user.is_admin,
        projects=levels,
    )


@contextlib.asynccontextmanager
async def counting_attempts(
    request: Request[Any, Any, Any], services: Services, account: str | None = None
) -> AsyncIterator[None]:
    """Counts an attempt to sign in, which the block of `async with` makes. The attempt has failed if the block raises
    an exception other than Unavailable.

    Raises TooManyRequests, before the block runs, if there were too many failed attempts. Three kinds of attempts have
    a limit: those from this address at this account, those from this address at all accounts together, and those at
    this account from all unknown addresses together. An address is unknown if nobody has signed in to the account from
    there in the last `KNOWN_ADDRESS_DAYS`. So nobody who guesses passwords at other addresses can keep the owner of an
    account from signing in at a known address.

    Attempts at accounts that do not exist count as well, so that the answer does not show which accounts exist. If
    `account` is None, as for a sign-in by an identity provider, only the limit for the address applies.
    """
    attempts, address, secrets = LoginAttempts(services.pool), find_network(request), services.secrets
    pair = None if account is None else secrets.claim("login-pair", f"{address} {account}")
    limits: dict[str, int] = {}
    if address is not None:
        limits[secrets.claim("login-address", str(address))] = MAX_FAILED_SIGN_INS_OF_ADDRESS
    if account is not None and pair is not None:
        limits[pair] = MAX_FAILED_SIGN_INS
        if not await attempts.is_known(pair):
            limits[secrets.claim("login-account", account)] = MAX_FAILED_SIGN_INS_AT_ACCOUNT
    if wait_s := await attempts.reserve(limits):
        raise TooManyRequests(f"Too many attempts to sign in; try again in {wait_s} s.", wait_s)
    try:
        yield
    except Unavailable:
        await attempts.release(limits)
        raise
    await attempts.release(limits)
    if pair is not None:
        await attempts.succeed(pair)
