"""Guards that are missing or too weak: each of them must make a difference in the matrix."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from api import endpoints, pools, templates, users
from api.http import as_of
from api.http.permissions import Level, Needs, User, agents_only
from api.http.request_context import RequestContext
from domain.users import Role

from .matrix import Matrix
from .operation import Operation
from .rules import ALL_CALLERS, Caller, Person
from .table import OPERATIONS

STRANGER, MANAGER = Caller(Person("developer"), "session"), Caller(Person("developer", "admin"), "session")
BATCH_SIZE = 16
"""Callers whose requests are sent before it is looked whether one is answered otherwise, as one often is."""
WEAKER: dict[str, Level] = {"write": "read", "admin": "write"}


class Mutant(NamedTuple):
    name: str
    made: contextlib.AbstractContextManager[Any]
    operations: list[Operation]
    """Operations of which at least one must be answered otherwise to somebody."""


class MutantSearch:
    """Finds out which mutants somebody notices. Callers who noticed the last ones, and who are to be refused, come
    first: a weaker guard lets somebody through, so few requests show most mutants.
    """

    def __init__(self, matrix: Matrix, callers: Sequence[Caller] = ALL_CALLERS) -> None:
        self._matrix = matrix
        self._callers = list(callers)

    async def is_noticed(self, mutant: Mutant) -> bool:
        """Returns whether somebody is answered otherwise than the rules say."""
        with mutant.made:
            # A few callers of each operation first, instead of all callers of operations that it does not concern.
            for begin in range(0, len(self._callers), BATCH_SIZE):
                for operation in mutant.operations:
                    callers = sorted(self._callers, key=lambda caller: operation.rule(caller) == 0)
                    async for caller, _ in self._matrix.differences(operation, callers[begin : begin + BATCH_SIZE]):
                        if caller is not None:
                            self._callers.remove(caller)
                            self._callers.insert(0, caller)
                        return True
        return False


def mutants(matrix: Matrix) -> Iterator[Mutant]:
    yield from _of_declarations(matrix)
    yield from _of_project_checks()
    yield from _of_functions()


def _of_declarations(matrix: Matrix) -> Iterator[Mutant]:
    """Yields each declaration of a route without one of its requirements, and without all of them."""
    for route in matrix.app.routes:
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            guards = handler.resolve_guards()
            for method in handler.http_methods - {"OPTIONS", "HEAD"}:
                name = f"{method} {route.path_format.removeprefix('/api/v3')}"
                affected = [operation for operation in OPERATIONS if operation.route == name]
                for index, guard in enumerate(guards):
                    for change, weaker in _weaken(guard):
                        yield Mutant(f"{name}: {change}", _replaced(handler, index, weaker), affected)


def _weaken(guard: Any) -> Iterator[tuple[str, Any]]:
    if guard is agents_only:
        yield "not for agents only", Needs(scope=None)
    if not isinstance(guard, Needs):
        return
    if guard.level in WEAKER:
        yield f"{WEAKER[guard.level]} access will do", replace(guard, level=WEAKER[guard.level])
    if guard.scope is not None:
        yield "any scope will do", replace(guard, scope=None)
    if guard.role != "viewer":
        weaker: Role = "viewer" if guard.role == "developer" else "developer"
        yield f"{weaker}s may", replace(guard, role=weaker)
    if guard.manages_nodes:
        yield "everybody manages nodes", replace(guard, manages_nodes=False)
    if guard.unlimited:
        yield "limited tokens may", replace(guard, unlimited=False)
    if guard.all_projects:
        yield "tokens of some projects may", replace(guard, all_projects=False)
    if guard != Needs(scope=None):
        yield "nothing is needed", Needs(scope=None)


@contextlib.contextmanager
def _replaced(handler: HTTPRouteHandler, index: int, guard: Any) -> Iterator[None]:
    guards = handler.resolve_guards()
    before, guards[index] = guards[index], guard
    try:
        yield
    finally:
        guards[index] = before


def _of_project_checks() -> Iterator[Mutant]:
    """Yields, for each operation on what lies in a project, a server that does not check the project."""
    for operation in OPERATIONS:
        if operation.rule(STRANGER) == 404 and not operation.rule(MANAGER):
            yield Mutant(f"{operation}: no check of the project", patch.object(User, "must_access", _pass), [operation])
        if operation.lists:
            everything: dict[str, Any] = {"projects": property(lambda _: None), "may": lambda *_: True}
            yield Mutant(f"{operation}: no filter", patch.multiple(User, **everything), [operation])


def _of_functions() -> Iterator[Mutant]:
    """Yields servers in which one function that refuses callers refuses nobody."""
    for owner, name in (
        (User, "must_be_developer"),
        (User, "must_manage_nodes"),
        (RequestContext, "must_access"),
        (users, "must_be_admin_or"),
        (templates, "check_ownership"),
        (pools, "check_may_change"),
        (as_of, "_check_access"),
        (endpoints, "must_access"),
    ):
        yield Mutant(f"{owner.__name__}.{name} refuses nobody", patch.object(owner, name, _pass), list(OPERATIONS))


def _pass(*_: object, **__: object) -> None:
    pass
