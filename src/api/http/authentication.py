"""Authenticates callers by bearer tokens: tokens of sessions (JWT), API tokens (`th_live_`) and tokens of agents
(`agt_`).
"""

import hmac
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import jwt
from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from api.http.permissions import Agent, User
from api.http.services import Services
from domain.core.errors import Unauthenticated
from projections import auth, nodes
from projections.auth_changes import RightsBehind, must_show_losses
from store.clock import utcnow
from store.crypto.secrets import Secrets, token_hash
from store.tables.session_uses import RECORDING_INTERVAL, record_session_use
from store.tables.token_uses import record_token_use

API_TOKEN_PREFIX = "th_live_"  # noqa: S105 - the public prefix of a token, not a token
AGENT_TOKEN_PREFIX = "agt_"  # noqa: S105
SESSION_LIFETIME = timedelta(hours=8)
"""Time from a sign-in until the session ends, however often it is used."""
SESSION_KEY_LIFETIME = timedelta(days=7)
"""Time for which one key signs new session tokens. After that, the key still verifies its tokens for SESSION_LIFETIME.
"""
CLOCK_SKEW = timedelta(minutes=5)
"""Largest difference between the clocks of two processes with which they still accept each other's session tokens."""
ALGORITHM = "HS256"
MAX_READ_HEADERS = 100
"""Largest number of headers of session tokens whose key id a process remembers. All tokens that one key signed have the
same header.
"""
MAX_READ_TOKENS = 1_000
"""Largest number of session tokens whose contents a process remembers after it has verified their signatures."""
PUBLIC = {"public": True}
"""Value of `opt` for handlers that need no credentials."""

ANONYMOUS = "Send `Authorization: Bearer <token>`; get a token by POST /api/v3/authenticate."
BAD_TOKEN = "The token is not valid (any more)."  # noqa: S105


class SessionToken(NamedTuple):
    session_id: str
    opened_at: datetime


def session_token(secrets: Secrets, user_id: int, session_id: str, now: datetime) -> str:
    claims = {"sub": str(user_id), "jti": session_id, "iat": now, "exp": now + SESSION_LIFETIME}
    key_id, key = secrets.session_key(session_week(now))
    return jwt.encode(claims, key, ALGORITHM, headers={"kid": key_id})


def session_week(at: datetime) -> str:
    """Returns the number of the week, counted from 1970, that contains the time `at`. The session tokens of each week
    are signed with another key.
    """
    return str(int(at.timestamp() // SESSION_KEY_LIFETIME.total_seconds()))


class Authentication(AbstractAuthenticationMiddleware):
    """Middleware that sets `request.user` to a User or an Agent."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        limits = connection.app.state.services.rate_limits
        try:
            user = await find_caller(connection)
        except Unauthenticated:
            await limits.count(connection, None)
            raise
        await limits.count(connection, user)
        is_for_agents = bool(connection.route_handler.opt.get("agents"))
        if isinstance(user, Agent) and not is_for_agents:
            raise Unauthenticated("An agent's token only reaches the agent operations.")
        return AuthenticationResult(user=user, auth=None)


async def find_caller(connection: ASGIConnection[Any, Any, Any, Any]) -> User | Agent:
    """Returns the user or agent who calls, with their present access. Raises Unauthenticated if the request has no
    valid token. Open streams call this function repeatedly, to notice changes of the access.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated(ANONYMOUS)
    services: Services = connection.app.state.services
    return await identify(services, token.strip())


async def identify(services: Services, token: str) -> User | Agent:
    """Returns the user or agent to whom the token belongs. Raises Unauthenticated if the token is unknown, expired or
    revoked. Raises Unavailable if the read models are so far behind the log that they lack the token, or still show
    rights that its user, agent or session has lost.
    """
    # Checked before any query, so that a forged token waits for nothing.
    session = None if token.startswith((AGENT_TOKEN_PREFIX, API_TOKEN_PREFIX)) else _session_of(services.secrets, token)
    try:
        caller = await _look_up(services, token, session)
    except RightsBehind as error:
        await services.waiter.wait_reached(error.position)
        caller = await _look_up(services, token, session)
    if caller is None:
        await services.wait_for_missing()
        caller = await _look_up(services, token, session)
    if caller is None:
        raise Unauthenticated(BAD_TOKEN if session is None else "The session has ended; sign in again.")
    return caller


async def _look_up(services: Services, token: str, session: SessionToken | None) -> User | Agent | None:
    """Returns the user or agent to whom the token belongs, or None if the read models do not have the token. Raises
    RightsBehind if the read models still show rights that the caller has lost.
    """
    if session is not None:
        found = await services.sessions(session.session_id)
        if found is None:
            return None
        await must_show_losses(services.log, found)
        if services.session_idle:
            await _use(services, session, found.used_at)
        return _user(found, session.session_id)
    hashed = token_hash(token)
    if token.startswith(AGENT_TOKEN_PREFIX):
        node = await nodes.find_by_token(services.pool, hashed)
        if node is None:
            return None
        is_new, old = hmac.compare_digest(node.token_hash, hashed), node.old_token_hash
        if not is_new and not hmac.compare_digest(old or b"", hashed):
            return None
        await must_show_losses(services.log, node)
        return Agent(node.node_id, replaces_old_token=is_new and old is not None)
    async with services.pool.connection() as connection:
        found = await auth.find_token_credentials(connection, hashed)
        if found is None or found.token_id is None or not hmac.compare_digest(found.token_hash, hashed):
            return None
        await must_show_losses(services.log.on(connection), found)
        await record_token_use(connection, found.token_id)
    return _user(found, None)


async def _use(services: Services, session: SessionToken, used_at: datetime | None) -> None:
    """Records the use of a session, at most once a minute. Raises Unauthenticated if the session was not used for
    `services.session_idle`. It then records no use, so that the session stays ended.
    """
    unused = utcnow() - (used_at or session.opened_at)
    if unused > services.session_idle:
        minutes = services.session_idle // timedelta(minutes=1)
        raise Unauthenticated(f"The session has ended, since it was not used for {minutes} minutes; sign in again.")
    if unused > RECORDING_INTERVAL:
        await record_session_use(services.pool, session.session_id, SESSION_LIFETIME)


def _session_of(secrets: Secrets, token: str) -> SessionToken:
    now = utcnow()
    try:
        key_id = _find_key_id(token.partition(".")[0])
        # A session may have begun under the previous key, and clocks of processes differ a little. Tokens of older
        # releases, which had no key for each week, name no key: their sessions go on for 8 hours after the upgrade.
        weeks = {session_week(at) for at in (now - SESSION_LIFETIME, now, now + CLOCK_SKEW)}
        if key_id is not None and str(key_id).rpartition(".")[2] not in weeks:
            raise Unauthenticated(BAD_TOKEN)
        if (key := secrets.find_session_key(key_id, SESSION_LIFETIME + CLOCK_SKEW)) is None:
            raise Unauthenticated(BAD_TOKEN)
        session = _read_signed(token, key)
    except jwt.InvalidTokenError:
        raise Unauthenticated(BAD_TOKEN) from None
    if session.opened_at + SESSION_LIFETIME <= now:
        raise Unauthenticated("The session has expired; sign in again.")
    return session


@lru_cache(MAX_READ_HEADERS)
def _find_key_id(header: str) -> str | None:
    """Returns the id of the signing key that the header of a session token names, or None if it names none. Raises
    jwt.InvalidTokenError if the header cannot be read.
    """
    key_id: str | None = jwt.get_unverified_header(f"{header}..").get("kid")
    return key_id


@lru_cache(MAX_READ_TOKENS)
def _read_signed(token: str, key: bytes) -> SessionToken:
    """Returns the contents of a session token, even if the session has expired. Raises jwt.InvalidTokenError if `key`
    did not sign the token.

    Remembers its results: to verify a signature takes longer than all other checks of a caller together. A result only
    depends on the arguments. Whether the key is still accepted, and the session still open, is looked up each time.
    """
    claims = jwt.decode(token, key, [ALGORITHM], options={"require": ["exp", "jti", "sub"], "verify_exp": False})
    return SessionToken(str(claims["jti"]), datetime.fromtimestamp(claims["exp"], UTC) - SESSION_LIFETIME)


def _user(found: auth.Credentials, session_id: str | None) -> User:
    access = {int(project): level for project, level in found.access.items()}
    return User(
        found.user_id,
        found.email,
        found.role,
        access,
        session_id,
        found.token_id,
        frozenset(found.scopes) or None,
        None if found.project_ids is None else frozenset(found.project_ids),
        found.can_manage_nodes,
    )
