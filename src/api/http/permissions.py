"""Permissions of callers. Memberships grant access to projects, and the role of a user limits that access.

| role | limit |
|---|---|
| viewer | read |
| developer | none: in each project what the membership grants |
| admin | everything |

For a caller who cannot see an object, the object does not exist: the answer is 404, not 403. Scopes and projects of an
API token limit the token to a part of its user's rights. Every route declares by `guards=` who may call it, or by
`opt=PUBLIC` that everybody may; the server does not start if a route declares neither.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from domain.auth import Scope
from domain.core.errors import Forbidden, NotFound
from domain.projects import ACCESS_RANK
from domain.users import Role

Level = Literal["read", "write", "admin"]


@dataclass(frozen=True)
class User:
    """A person, identified by a session or an API token."""

    user_id: int
    email: str
    role: str
    access: Mapping[int, str] = field(default_factory=dict)
    session_id: str | None = None
    token_id: int | None = None
    scopes: frozenset[str] | None = None
    """Scopes of the API token; None if the token has no scopes, or if the user has a session instead."""
    token_projects: frozenset[int] | None = None
    """Ids of the projects that the API token is limited to; None for all projects of the user."""
    can_manage_nodes: bool = False

    @property
    def actor(self) -> str:
        return f"user:{self.user_id}"

    @property
    def is_admin(self) -> bool:
        """Whether the user may do everything in all projects."""
        return self.role == "admin" and self.token_projects is None

    @property
    def is_limited(self) -> bool:
        """Whether an API token limits the user to a part of their rights."""
        return self.scopes is not None or self.token_projects is not None

    @property
    def borrower_id(self) -> int | None:
        """Id of this user, who may attach only their own templates with secrets to jobs. None for an admin, who may
        attach anybody's templates.
        """
        return None if self.is_admin else self.user_id

    @property
    def projects(self) -> list[int] | None:
        """Ids of the projects that the user sees. None if the user sees all projects."""
        if self.role == "admin":
            return None if self.token_projects is None else sorted(self.token_projects)
        return sorted(project_id for project_id in self.access if self.may("read", project_id))

    def has_scope(self, scope: Scope) -> bool:
        """Returns whether the user's credentials allow this scope. A session, and a token without scopes, allow every
        scope.
        """
        return self.scopes is None or bool({scope, "admin"} & self.scopes)

    def may(self, level: Level, project_id: int) -> bool:
        if self.token_projects is not None and project_id not in self.token_projects:
            return False
        if self.role == "admin":
            return True
        if self.role == "viewer" and level != "read":
            return False
        return ACCESS_RANK.get(self.access.get(project_id, ""), 0) >= ACCESS_RANK[level]

    def is_stranger(self, project_id: int) -> bool:
        """Returns True if the user cannot see the project only because they are not a member of it. Returns False if
        they can see the project, or if their API token excludes it.
        """
        is_in_reach = self.token_projects is None or project_id in self.token_projects
        return is_in_reach and self.role != "admin" and project_id not in self.access

    def must_access(self, level: Level, project_id: int, what: str | None = None) -> None:
        """Raises NotFound if the user cannot see the project, and Forbidden if the user's access is lower than `level`.
        `what` names the requested object in the message of NotFound; None if it is the project itself.
        """
        if not self.may("read", project_id):
            raise NotFound(f"There is no {what or f'project {project_id}'}.")
        if not self.may(level, project_id):
            self.must_be_developer()
            raise Forbidden(f"This needs {level} access to project {project_id}; ask one of its admins.")

    def must_be_developer(self) -> None:
        if self.role == "viewer":
            raise Forbidden("Viewers can only read; ask an admin for the developer role.")

    @property
    def may_manage_nodes(self) -> bool:
        return self.is_admin or (self.can_manage_nodes and not self.is_limited)

    def must_manage_nodes(self) -> None:
        if not self.may_manage_nodes:
            raise Forbidden("Only admins, and users whom they let manage nodes, do this.")


@dataclass(frozen=True)
class Agent:
    """The agent of a node, identified by the node's token. An agent may call only the operations for agents, and only
    for builds that are assigned to its node.
    """

    node_id: int
    replaces_old_token: bool = False
    """Whether the agent called with its new token for the first time, while the previous token is still accepted."""

    @property
    def actor(self) -> str:
        return f"node:{self.node_id}"


@dataclass(frozen=True)
class Needs:
    """Requirements of a route on its callers. Every route for users declares one object of this class as a guard of
    Litestar.

    The guard checks the role and the token before the handler runs. Only the handler knows the project of the request:
    it calls `RequestContext.must_access`, which checks the access to the project against `level`.
    """

    level: Level = "read"
    """Level of access that the caller needs to the project of the requested object."""
    scope: Scope | None = "admin"
    """Scope that an API token with scopes must have; None if any token will do."""
    role: Role = "viewer"
    do: str = "do this"
    """End of the sentence "Only admins ...", for callers whose role is too low."""
    manages_nodes: bool = False
    unlimited: bool = False
    """Whether an API token that is limited to scopes or projects is refused."""
    all_projects: bool = False
    """Whether an API token that is limited to projects is refused, since the route changes objects that belong to no
    project.
    """

    async def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        connection.scope["state"]["needs"] = self
        if isinstance(connection.user, User):
            self.check(connection.user)

    def check(self, user: User) -> None:
        """Raises Forbidden if the user's role or API token does not allow them to call the route at all."""
        if self.scope is not None and not user.has_scope(self.scope):
            raise Forbidden(f"This API token has no scope `{self.scope}`, which this needs.")
        if self.unlimited and user.is_limited:
            raise Forbidden("A limited API token cannot do this: sign in, or use one without scopes and projects.")
        if self.all_projects and user.token_projects is not None:
            raise Forbidden("An API token of some projects cannot do this, since it belongs to no project.")
        if self.manages_nodes:
            user.must_manage_nodes()
        elif self.role == "admin" and not user.is_admin:
            raise Forbidden(f"Only admins {self.do}.")
        elif self.role == "developer":
            user.must_be_developer()


ANY_USER = Needs(scope=None)
CAN_CHANGE_ACCOUNT = Needs(all_projects=True)
CAN_READ = Needs("read", "read")
CAN_BUILD = Needs("write", "build")
CAN_REPORT = Needs("write", "report")
CAN_AUDIT = Needs("admin", "read")
CAN_WRITE = Needs("write")
PROJECT_ADMINS = Needs("admin")
DEVELOPERS = Needs(role="developer", all_projects=True)
NODE_MANAGERS = Needs(manages_nodes=True)
UNLIMITED = Needs(scope=None, unlimited=True)


def admins_only(do: str, scope: Scope = "admin") -> Needs:
    """Returns the requirement that the caller is an admin. Other callers get the message "Only admins {do}."."""
    return Needs(scope=scope, role="admin", do=do)


async def agents_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Guard of Litestar that raises Forbidden if the caller is not an agent."""
    if not isinstance(connection.user, Agent):
        raise Forbidden("This operation is for agents; it takes the agent_token of a node.")


def check_declarations(handlers: Iterable[HTTPRouteHandler]) -> None:
    """Raises TypeError unless each handler declares exactly once who may call it: users who meet a `Needs`, agents, or
    everybody (`opt=PUBLIC`).
    """
    for handler in handlers:
        if handler.http_methods == {"OPTIONS"}:
            continue
        guards = handler.resolve_guards()
        declared = [guard for guard in guards if isinstance(guard, Needs) or guard is agents_only]
        if len(declared) + bool(handler.opt.get("public")) != 1:
            raise TypeError(f"{handler} must declare who may call it: one of api.http.permissions, in `guards=`")
