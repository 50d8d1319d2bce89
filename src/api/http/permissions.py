"""Permissions of callers. Memberships grant access to projects, and the role of a user limits that access.

| role | limit |
|---|---|
| viewer | read |
| developer | write; admin of the projects that they are admin of |
| admin | everything |

An object that a caller cannot see does not exist for the caller: the answer is 404, not 403. The scopes and projects of
an API token limit it to a part of its user's rights. Every route declares its requirements by `guards=`. The server
does not start if a route declares none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from domain.auth import Scope
from domain.core.errors import Forbidden, NotFound
from domain.users import Role

Level = Literal["read", "write", "admin"]
RANK: dict[str, int] = {"read": 1, "write": 2, "admin": 3}


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
        """Id of the only user whose templates with secrets this user may attach to jobs, which is their own id. None
        for an admin, who may attach any template.
        """
        return None if self.is_admin else self.user_id

    @property
    def projects(self) -> list[int] | None:
        """Ids of the projects that the user sees. None if the user sees all projects."""
        if self.role == "admin":
            return None if self.token_projects is None else sorted(self.token_projects)
        return sorted(project_id for project_id in self.access if self.may("read", project_id))

    def has_scope(self, scope: Scope) -> bool:
        """Returns whether the user's credentials allow this scope. Credentials without a list of scopes allow every
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
        return RANK.get(self.access.get(project_id, ""), 0) >= RANK[level]

    def is_stranger(self, project_id: int) -> bool:
        """Returns whether the user cannot see the project only because they are not a member of it."""
        is_in_reach = self.token_projects is None or project_id in self.token_projects
        return is_in_reach and self.role != "admin" and project_id not in self.access

    def must_access(self, level: Level, project_id: int, what: str | None = None) -> None:
        """Raises NotFound for a project that the user cannot see, and Forbidden if their access is lower than `level`.

        If the requested object is not the project itself but something in it, `what` names the object in the message of
        NotFound.
        """
        if not self.may("read", project_id):
            raise NotFound(f"There is no {what or f'project {project_id}'}.")
        if not self.may(level, project_id):
            self.must_be_developer()
            raise Forbidden(f"This needs {level} access to project {project_id}; ask one of its admins.")

    def must_be_developer(self) -> None:
        if self.role == "viewer":
            raise Forbidden("Viewers can only read; ask an admin for the developer role.")

    def must_manage_nodes(self) -> None:
        if not self.is_admin and not (self.can_manage_nodes and not self.is_limited):
            raise Forbidden("Only admins, and users whom they let manage nodes, do this.")


@dataclass(frozen=True)
class Agent:
    """The agent of a node, identified by the node's token. It may only call the operations of agents, and only on
    builds that are assigned to its node.
    """

    node_id: int
    replaces_old_token: bool = False
    """Whether the agent called with its new token for the first time, while the previous token is still accepted."""

    @property
    def actor(self) -> str:
        return f"node:{self.node_id}"


@dataclass(frozen=True)
class Needs:
    """Requirements that a route has on its callers. Every route declares one object of this class, which is a guard of
    Litestar.

    The guard checks role and token before the handler runs. Which project the caller needs access to depends on the
    request, so the handler checks that, by `RequestContext.must_access`. That method uses the `level` declared here.
    """

    level: Level = "read"
    """Level of access to the subject's project that the request needs."""
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
        connection.state.needs = self
        if isinstance(connection.user, User):
            self.check(connection.user)

    def check(self, user: User) -> None:
        """Raises Forbidden if the user may not call the route for any subject, because of their role or their API
        token.
        """
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
    """Raises Forbidden if the caller is not an agent, as a Litestar guard."""
    if not isinstance(connection.user, Agent):
        raise Forbidden("This operation is for agents; it takes the agent_token of a node.")


def check_declarations(handlers: Iterable[HTTPRouteHandler]) -> None:
    """Raises TypeError if a handler does not declare its requirements on callers, or declares them twice."""
    for handler in handlers:
        if handler.http_methods == {"OPTIONS"}:
            continue
        guards = handler.resolve_guards()
        declared = [guard for guard in guards if isinstance(guard, Needs) or guard is agents_only]
        if len(declared) + bool(handler.opt.get("public")) != 1:
            raise TypeError(f"{handler} must declare who may call it: one of api.http.permissions, in `guards=`")
