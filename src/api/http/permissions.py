"""Who may what: the one place. Roles cap, memberships grant.

| role | caps at |
|---|---|
| viewer | read |
| developer | write; admin of the projects that he is admin of |
| admin | everything |

What a caller cannot see does not exist for him: 404, not 403.
"""

from dataclasses import dataclass, field
from typing import Literal

from domain.core.errors import Forbidden, NotFound

Level = Literal["read", "write", "admin"]
RANK: dict[str, int] = {"read": 1, "write": 2, "admin": 3}


@dataclass(frozen=True)
class User:
    """A person, by session or API token."""

    user_id: int
    email: str
    role: str
    access: dict[int, str] = field(default_factory=dict)
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
        """The projects that this user sees; None for all."""
        return None if self.is_admin else sorted(self.access)

    def may(self, level: Level, project_id: int) -> bool:
        if self.is_admin:
            return True
        if self.role == "viewer" and level != "read":
            return False
        return RANK.get(self.access.get(project_id, ""), 0) >= RANK[level]

    def must(self, level: Level, project_id: int, what: str) -> None:
        """Raises NotFound when the caller cannot see the project, Forbidden when seeing is all he may."""
        if not self.may("read", project_id):
            raise NotFound(f"There is no {what}.")
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
    """The program on a build machine, by its node's token. It reaches agent operations and the builds leased to it."""

    node_id: int

    @property
    def actor(self) -> str:
        return f"node:{self.node_id}"
