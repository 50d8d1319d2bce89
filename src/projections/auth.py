"""Read model of users, sessions and API tokens: looks up the credentials of a request."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Unpack

import msgspec

from domain.auth import (
    API_TOKEN,
    SESSION,
    ApiTokenCreated,
    ApiTokenEvent,
    ApiTokenRevoked,
    SessionEvent,
    SessionOpened,
    SessionRevoked,
)
from domain.core.events import Event, Recorded, changes_of, copy_fields
from domain.projects import ACCESS_RANK, PROJECT, MemberAdmitted, MemberRemoved
from domain.users import (
    ROLE_RANK,
    USER,
    PasswordLinkIssued,
    UserDeleted,
    UserPasswordSet,
    UserRegistered,
    UserSignedOut,
    UserUpdated,
)
from projections import projects
from projections.auth_changes import ReadCredentials, log_positions
from projections.engine.model import Change, Delete, DeleteWhere, Projection, Row, Rows, Table, row_of
from projections.engine.queries import Window, fetch_all, fetch_one, fetch_value, find_row
from projections.projects import MemberRow
from store.postgres.queries import Source, fetch_rows, text_array

VERSION = 2
DELETED_USER = "deleted user"
"""Text in place of the email address of a deleted user."""


class UserRow(Row, frozen=True):
    table = Table("users", VERSION, indexes=("(lower(email))",))
    id: int
    email: str
    role: str
    password_hash: str
    created_at: datetime
    active: bool = True
    first_name: str = ""
    last_name: str = ""
    can_manage_nodes: bool = False
    last_login: datetime | None = None
    invited_at: datetime | None = None
    """Time of the last invitation; None if there was none, or if the user has set a password since."""


class SessionRow(Row, frozen=True):
    table = Table("sessions", VERSION, indexes=("(user_id)",))
    id: str
    user_id: int
    expires_at: datetime


class ApiTokenRow(Row, frozen=True):
    table = Table("api_tokens", VERSION, indexes=("(token_hash)", "(user_id)"))
    id: int
    user_id: int
    name: str
    token_hash: bytes
    created_at: datetime
    scopes: list[str] = []
    project_ids: list[int] | None = None
    expires_at: datetime | None = None


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case UserRegistered():
            yield copy_fields(UserRow, event, id=event.user_id, created_at=event.at)
        case SessionOpened():
            yield SessionRow(event.session_id, event.user_id, event.expires_at)
            if user := rows.get(UserRow, event.user_id):
                yield msgspec.structs.replace(user, last_login=event.at)
        case SessionRevoked():
            yield Delete(SessionRow, event.session_id)
        case ApiTokenCreated():
            yield copy_fields(ApiTokenRow, event, id=event.token_id, name=event.label, created_at=event.at)
        case ApiTokenRevoked():
            yield Delete(ApiTokenRow, event.token_id)
        case PasswordLinkIssued(purpose="invitation"):
            if user := rows.get(UserRow, event.user_id):
                yield msgspec.structs.replace(user, invited_at=event.at)
        case UserPasswordSet():
            if user := rows.get(UserRow, event.user_id):
                yield msgspec.structs.replace(user, password_hash=event.password_hash, invited_at=None)
            yield DeleteWhere(SessionRow, "user_id", event.user_id)
        case UserSignedOut():
            yield DeleteWhere(SessionRow, "user_id", event.user_id)
        case UserUpdated():
            if user := rows.get(UserRow, event.user_id):
                yield msgspec.structs.replace(user, **changes_of(event))
            if event.active is False:
                yield DeleteWhere(SessionRow, "user_id", event.user_id)
                yield DeleteWhere(ApiTokenRow, "user_id", event.user_id)
        case UserDeleted():
            yield Delete(UserRow, event.user_id)
            yield DeleteWhere(SessionRow, "user_id", event.user_id)
            yield DeleteWhere(ApiTokenRow, "user_id", event.user_id)


def email_column(user_id: str) -> str:
    """Returns an SQL expression for the email address of a user. `user_id` is an SQL expression for the user's id. The
    address is null if the id is null, and DELETED_USER for a deleted user.
    """
    return (
        f"CASE WHEN {user_id} IS NOT NULL THEN"
        f" coalesce((SELECT email FROM {UserRow.table} u WHERE u.id = {user_id}), '{DELETED_USER}') END"
    )


USER_EVENTS = (PasswordLinkIssued, UserDeleted, UserPasswordSet, UserRegistered, UserSignedOut, UserUpdated)

PROJECTION = Projection(
    "auth",
    VERSION,
    (UserRow, SessionRow, ApiTokenRow),
    row_of(UserRow, "user_id", PasswordLinkIssued, SessionOpened, UserPasswordSet, UserUpdated),
    apply,
    handles=(ApiTokenEvent, SessionEvent, *USER_EVENTS),
)


class Credentials(ReadCredentials, frozen=True):
    """The user of a session or API token, and the projects that the user can access."""

    losses = (
        ApiTokenRevoked,
        MemberAdmitted,
        MemberRemoved,
        SessionRevoked,
        UserDeleted,
        UserPasswordSet,
        UserSignedOut,
        UserUpdated,
    )

    user_id: int
    email: str
    role: str
    access: dict[str, str]
    """Project id as text -> `read`, `write` or `admin`."""
    can_manage_nodes: bool
    token_id: int | None = None
    token_hash: bytes = b""
    scopes: list[str] = []
    """Scopes that the API token is limited to; empty if there is no such limit."""
    project_ids: list[int] | None = None
    """Ids of the projects that the API token is limited to; None if there is no such limit."""
    session_id: str | None = None
    used_at: datetime | None = None
    """Time of the last recorded use of a session. None if no use is recorded, and for an API token."""

    @property
    def streams(self) -> list[str]:
        credential = API_TOKEN.at(self.token_id or 0) if self.session_id is None else SESSION.at(self.session_id)
        project_ids = () if self.role == "admin" else self.access  # admins need no access
        return [
            credential.name,
            USER.at(self.user_id).name,
            *(PROJECT.at(project_id).name for project_id in project_ids),
        ]

    def loses_by(self, event: Event) -> bool:
        match event:
            case UserSignedOut() | UserPasswordSet():
                return self.session_id is not None
            case UserUpdated():
                is_lower = event.role is not None and ROLE_RANK[event.role] < ROLE_RANK[self.role]
                is_no_manager = event.can_manage_nodes is False and self.can_manage_nodes
                return is_lower or is_no_manager or event.active is False
            case MemberRemoved():
                return event.user_id == self.user_id
            case MemberAdmitted():
                present = ACCESS_RANK[self.access[str(event.project_id)]]
                return event.user_id == self.user_id and ACCESS_RANK[event.access] < present
            case _:
                return True


_LOG = log_positions([("auth", VERSION), ("projects", projects.VERSION)], Credentials.losses)
_ACCESS = (
    f"coalesce((SELECT jsonb_object_agg(project_id::text, access) FROM {MemberRow.table} WHERE user_id = u.id), '{{}}')"
)


async def fetch_session_credentials(source: Source, session_ids: Sequence[str]) -> list[Credentials | None]:
    """Returns the credentials of each of these sessions, in order; None for a session that was revoked or whose user is
    inactive.

    Does not check whether a session is idle or has expired: the signed session token contains the time of expiry.
    """
    query = (
        f"SELECT head, shown, s.id, used.used_at, u.id, u.email, u.role, {_ACCESS}, u.can_manage_nodes"
        f" FROM {_LOG}, {SessionRow.table} s"
        f" JOIN {UserRow.table} u ON u.id = s.user_id LEFT JOIN session_uses used ON used.session_id = s.id"
        " WHERE s.id = ANY (%s::text[]) AND u.active"
    )
    rows = await fetch_rows(source, query, (text_array(set(session_ids)),))
    found = {
        session_id: Credentials(
            head, shown, user_id, email, role, access, manages_nodes, session_id=session_id, used_at=used_at
        )
        for head, shown, session_id, used_at, user_id, email, role, access, manages_nodes in rows
    }
    return [found.get(session_id) for session_id in session_ids]


async def find_token_credentials(source: Source, token_hash: bytes) -> Credentials | None:
    return await fetch_one(
        source,
        Credentials,
        f"SELECT head, shown, u.id, u.email, u.role, {_ACCESS}, u.can_manage_nodes,"
        " t.id, t.token_hash, t.scopes, t.project_ids"
        f" FROM {_LOG}, {ApiTokenRow.table} t JOIN {UserRow.table} u ON u.id = t.user_id"
        " WHERE t.token_hash = %(hash)s AND u.active AND (t.expires_at IS NULL OR t.expires_at > now())",
        {"hash": token_hash},
    )


async def find(source: Source, user_id: int) -> UserRow | None:
    return await find_row(source, UserRow, user_id)


class UserView(msgspec.Struct):
    id: int
    email: str
    first_name: str
    last_name: str
    role: str
    active: bool
    """Whether the user may sign in."""
    can_manage_nodes: bool
    projects: list[int]
    """Ids of the projects that the user is a member of."""
    last_login: datetime | None
    invited_at: datetime | None


_VIEW = f"""
    SELECT u.id, u.email, u.first_name, u.last_name, u.role, u.active, u.can_manage_nodes,
        ARRAY(SELECT project_id FROM {MemberRow.table} WHERE user_id = u.id ORDER BY project_id),
        u.last_login, u.invited_at
    FROM {UserRow.table} u
"""
_MATCHES = (
    "(%(search)s::text IS NULL"
    " OR position(lower(%(search)s) IN lower(concat_ws(' ', u.email, u.first_name, u.last_name))) > 0)"
)


async def find_view(source: Source, user_id: int) -> UserView | None:
    return await fetch_one(source, UserView, f"{_VIEW} WHERE u.id = %(id)s", {"id": user_id})


async def fetch_page(source: Source, *, search: str | None, **window: Unpack[Window]) -> list[UserView]:
    """Returns a page of users, ordered by id. `search` limits the page to users whose name or email address contains
    this text, ignoring case.
    """
    query = f"{_VIEW} WHERE u.id > %(after)s AND {_MATCHES} ORDER BY u.id OFFSET %(offset)s LIMIT %(limit)s"
    return await fetch_all(source, UserView, query, {"search": search, **window})


async def count(source: Source, search: str | None) -> int:
    query = f"SELECT count(*) FROM {UserRow.table} u WHERE {_MATCHES}"
    return int(await fetch_value(source, query, {"search": search}))


async def count_active(source: Source) -> int:
    """Returns the number of active users, including those who have not accepted their invitation yet."""
    return int(await fetch_value(source, f"SELECT count(*) FROM {UserRow.table} WHERE active", {}))


class MemberView(msgspec.Struct):
    id: int
    """Id of the user."""
    email: str
    first_name: str
    last_name: str
    role: str
    """Global role of the user, which limits what the membership grants."""
    access: str


_MEMBER_VIEW = f"""
    SELECT u.id, u.email, u.first_name, u.last_name, u.role, m.access
    FROM {MemberRow.table} m JOIN {UserRow.table} u ON u.id = m.user_id
"""


async def find_member(source: Source, project_id: int, user_id: int) -> MemberView | None:
    query = f"{_MEMBER_VIEW} WHERE m.project_id = %(project)s AND m.user_id = %(user)s"
    return await fetch_one(source, MemberView, query, {"project": project_id, "user": user_id})


async def fetch_members(source: Source, project_id: int, **window: Unpack[Window]) -> list[MemberView]:
    """Returns a page of a project's members, ordered by user id."""
    query = (
        f"{_MEMBER_VIEW} WHERE m.project_id = %(project)s AND u.id > %(after)s"
        " ORDER BY u.id OFFSET %(offset)s LIMIT %(limit)s"
    )
    return await fetch_all(source, MemberView, query, {"project": project_id, **window})


async def find_by_email(source: Source, email: str) -> UserRow | None:
    query = f"SELECT * FROM {UserRow.table} WHERE lower(email) = lower(%(email)s)"
    return await fetch_one(source, UserRow, query, {"email": email})


async def fetch_admin_ids(source: Source) -> list[int]:
    """Returns the ids of up to two active admins. Admins with a password come first."""
    query = f"SELECT id FROM {UserRow.table} WHERE role = 'admin' AND active ORDER BY password_hash = '', id LIMIT 2"
    return [user_id for (user_id,) in await fetch_rows(source, query)]


async def fetch_tokens(source: Source, user_id: int) -> list[ApiTokenRow]:
    query = f"SELECT * FROM {ApiTokenRow.table} WHERE user_id = %(user)s ORDER BY id"
    return await fetch_all(source, ApiTokenRow, query, {"user": user_id})
