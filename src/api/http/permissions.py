"""Decides who may do what: memberships grant access to projects, roles limit it.

| role | limit |
|---|---|
| viewer | read |
| developer | write; admin of the projects that they are admin of |
| admin | everything |

What callers cannot see does not exist for them: 404, not 403. Operations that one role or agents alone may call declare
it on the route, by `guards=`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from domain.core.errors import Forbidden, NotFound

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

    @property
    def actor(self) -> str:
        return f"user:{self.user_id}"

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"

    @property
    def projects(self) -> list[int] | None:
        """The ids of the projects that the user sees; None for all."""
        return None if self.is_admin else sorted(self.access)

    def may(self, level: Level, project_id: int) -> bool:
        if self.is_admin:
            return True
        if self.role == "viewer" and level != "read":
            return False
        return RANK.get(self.access.get(project_id, ""), 0) >= RANK[level]

    def must(self, level: Level, project_id: int, what: str | None = None) -> None:
        """Raises NotFound for a project that the user cannot see, Forbidden for one that they can only see.

        `what` names in the NotFound what they asked for, if it is not the project itself but lies in it.
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
        if not self.is_admin:
            raise Forbidden("Only admins manage nodes.")


@dataclass(frozen=True)
class Agent:
    """The program on a build machine, identified by its node's token. It may call the agents' operations, on the builds
    that are assigned to its node.
    """

    node_id: int

    @property
    def actor(self) -> str:
        return f"node:{self.node_id}"


def admins_only(do: str) -> Guard:
    """Returns a guard of Litestar that refuses callers who are no admins, with "Only admins {do}."."""

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        if not connection.user.is_admin:
            raise Forbidden(f"Only admins {do}.")

    return guard


async def developers_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuses viewers. A guard of Litestar."""
    connection.user.must_be_developer()


async def agents_only(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Refuses callers who are no agents. A guard of Litestar."""
    if not isinstance(connection.user, Agent):
        raise Forbidden("This operation is for agents; it takes the agent_token of a node.")
