"""An operation as the table of permissions has it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .rules import AUDIT, Rule

Ids = dict[str, Any]
"""What the scene holds, by name."""


@dataclass(frozen=True)
class Operation:
    route: str
    """Method and path, as the server has it."""
    rule: Rule
    body: Callable[[Ids], Any] | None = None
    """Makes the body; for an upload, the fields of the form."""
    query: str = ""
    of: str = ""
    """Other names for the path: `id=shared_pool`."""
    answers: tuple[int, ...] = (200, 202, 204)
    """Statuses for those who may, if no command is carried out."""
    lists: str = ""
    """Access from which on the answer shows what lies in the project; empty where it says nothing about it."""

    def __str__(self) -> str:
        return f"{self.route}{f'?{self.query}' if self.query else ''}{f' ({self.of})' if self.of else ''}"

    @property
    def method(self) -> str:
        return self.route.partition(" ")[0]

    def path(self, ids: Ids) -> str:
        template = self.route.partition(" ")[2]
        renamed = dict(pair.split("=") for pair in self.of.split() if pair)
        names = ids | {"id": ids.get(template.split("/")[1])} | {name: ids[to] for name, to in renamed.items()}
        outside = template.startswith(("/agent/{version}", "/set-password", "/webhook/proj"))
        return ("" if outside else "/api/v3") + template.format(**names)


def op(route: str, rule: Rule, body: Any = None, **more: Any) -> Operation:
    return Operation(route, rule, body if body is None or callable(body) else lambda _: body, **more)


def past(route: str, rule: Rule = AUDIT, **more: Any) -> Operation:
    """The same operation with `?as_of=`: rights of the past are the project admins'."""
    query = f"{more.pop('query')}&as_of={{now}}" if "query" in more else "as_of={now}"
    return op(route, rule, query=query, **more)
