"""Who may do what, as the table "Who may" of the API's contract has it: written down here, not read out of the server.

A rule returns the status that refuses a caller, and 0 for one who may.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Credential = Literal["session", "token", "read", "build", "report", "admin", "here", "elsewhere"]
"""A session, an API token without limits, tokens of one scope, and tokens of the project or of another one."""
CREDENTIALS: tuple[Credential, ...] = ("session", "token", "read", "build", "report", "admin", "here", "elsewhere")
ACCESS = {"none": 0, "read": 1, "write": 2, "admin": 3}


@dataclass(frozen=True)
class Person:
    role: Literal["viewer", "developer", "admin"]
    access: str = "none"
    """Access to the project."""
    manages_nodes: bool = False
    wrote: str = ""
    """Name of the template that they made."""

    def __str__(self) -> str:
        more = " who manages nodes" if self.manages_nodes else f" who made the {self.wrote}" if self.wrote else ""
        return f"{self.role} with access {self.access}{more}"


PEOPLE = (
    *(Person(role, access) for role in ("viewer", "developer", "admin") for access in ACCESS),
    *(Person("developer", access, manages_nodes=True) for access in ("none", "write", "admin")),
    Person("developer", wrote="template"),
    Person("viewer", wrote="viewers_template"),
)


@dataclass(frozen=True)
class Caller:
    person: Person
    credential: Credential

    def __str__(self) -> str:
        return f"{self.person}, by {self.credential}"

    def has_scope(self, scope: str | None) -> bool:
        limited = self.credential in ("read", "build", "report")
        return scope is None or not limited or self.credential == scope

    @property
    def is_limited(self) -> bool:
        return self.credential not in ("session", "token")

    @property
    def has_all_projects(self) -> bool:
        return self.credential not in ("here", "elsewhere")

    @property
    def is_admin(self) -> bool:
        return self.person.role == "admin" and self.has_all_projects

    @property
    def access(self) -> int:
        """Access to the project, as ACCESS numbers it."""
        if self.credential == "elsewhere":
            return 0
        if self.person.role == "admin":
            return 3
        return min(ACCESS[self.person.access], 1 if self.person.role == "viewer" else 3)


ALL_CALLERS = [Caller(person, credential) for person in PEOPLE for credential in CREDENTIALS]
TYPICAL_CALLERS = [
    caller
    for caller in ALL_CALLERS
    if caller.credential == "session"
    or (caller.person.access == "admin" and caller.person.role != "viewer" and not caller.person.manages_nodes)
]
"""Everybody by a session, and two who may much by each credential."""

Rule = Callable[[Caller], int]


def public(_: Caller) -> int:
    return 0


def agents(_: Caller) -> int:
    return 403


def signed_in(scope: str | None) -> Rule:
    return lambda who: 0 if who.has_scope(scope) else 403


def project(access: str, scope: str) -> Rule:
    """What is of the project: it does not exist for those who cannot see it."""

    def rule(who: Caller) -> int:
        if not who.has_scope(scope):
            return 403
        if not who.access:
            return 404
        return 0 if who.access >= ACCESS[access] else 403

    return rule


READ, AUDIT = project("read", "read"), project("admin", "read")
BUILD, REPORT, WRITE = project("write", "build"), project("write", "report"), project("write", "admin")
MANAGE = project("admin", "admin")


def admins(scope: str = "admin") -> Rule:
    return lambda who: 0 if who.has_scope(scope) and who.is_admin else 403


def admins_see(scope: str = "admin") -> Rule:
    """What is of no project and exists for admins only."""
    return lambda who: 403 if not who.has_scope(scope) else 0 if who.is_admin else 404


def auditors(who: Caller) -> int:
    """Admins of any project; each of these is one of the project, and admins are admins of another one, too."""
    may = who.access == 3 or who.person.role == "admin"
    return 0 if may and who.has_scope("read") else 403


def whole_log(who: Caller) -> int:
    return 403 if not who.has_scope("read") else 0 if who.is_admin else 422


def developers(who: Caller) -> int:
    """What belongs to no project is closed to tokens of some projects."""
    return 0 if who.person.role != "viewer" and who.has_scope("admin") and who.has_all_projects else 403


def node_managers(who: Caller) -> int:
    if not who.has_scope("admin"):
        return 403
    return 0 if who.is_admin or (who.person.manages_nodes and not who.is_limited) else 403


def admins_who_manage_nodes(who: Caller) -> int:
    """Admins of the project, for what concerns other projects, too."""
    return MANAGE(who) or node_managers(who)


def admins_of_the_server(who: Caller) -> int:
    """Admins, for what is of the project; its own admins see it and may not."""
    return MANAGE(who) or admins()(who)


def shared_pool(who: Caller) -> int:
    """Everybody sees it, and admins of its project change it."""
    return 0 if who.has_scope("admin") and who.access == 3 else 403


def node_managers_of_shared_pool(who: Caller) -> int:
    """Admins of its project, if they also manage nodes."""
    return shared_pool(who) or node_managers(who)


def account_owners(who: Caller) -> int:
    return 0 if who.has_scope("admin") and who.has_all_projects else 403


def of_somebody_else(scope: str) -> Rule:
    """What is another user's does not exist, for admins neither."""
    return lambda who: 404 if who.has_scope(scope) else 403


def unlimited(who: Caller) -> int:
    return 403 if who.is_limited else 0


def creator(template: str) -> Rule:
    def rule(who: Caller) -> int:
        is_creator = who.person.wrote == template
        return 0 if developers(who) == 0 and (who.is_admin or is_creator) else 403

    return rule


def oneself(scope: str) -> Rule:
    """The request is about the author of the template."""

    def rule(who: Caller) -> int:
        may_change = scope == "read" or who.has_all_projects
        is_theirs = who.is_admin or who.person.wrote == "template"
        return 0 if who.has_scope(scope) and may_change and is_theirs else 403

    return rule
