"""Histories as hypothesis makes them up: lists of steps, each an action of `lifecycle.World` and its choices."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

ROLES = ("admin", "writer", "reader", "stranger")
TESTS = 6


@dataclass(frozen=True)
class Step:
    what: str
    given: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.what}({', '.join(f'{name}={value!r}' for name, value in self.given.items())})"


def _step(what: str, **choices: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(what), st.fixed_dictionaries(choices))


def histories(length: int) -> st.SearchStrategy[list[Step]]:
    anyone = st.sampled_from((*ROLES, "admin", "writer", "writer"))
    number, flag = st.integers(-5, 5), st.booleans()  # the newest are the last
    machine = st.integers(0, 2)
    starts = _step(
        "start",
        who=anyone,
        job=number,
        priority=st.sampled_from((1, 5, 5, 9)),
        external=st.sampled_from((False,) * 5 + (True,)),
    )
    polls = _step("poll", machine=machine, free=st.integers(0, 3))
    works = _step(
        "work",
        machine=machine,
        which=number,
        until=st.sampled_from((0, 1, 2, 3, 3, 3)),
        passed=st.integers(0, TESTS),
        failed=st.sampled_from((0, 0, 1, 2)),
        exit_code=st.sampled_from((0, 0, 1, 2, None)),
    )
    people = [
        _step("stop", who=anyone, build=number),
        _step("push_to_top", who=anyone, build=number),
        _step("keep", who=anyone, build=number, kept=flag),
        _step("finish_external", who=anyone, build=number, status=st.sampled_from(("passed", "failed", "aborted"))),
        _step("restart", who=anyone, build=number, failed_only=flag),
        _step("delete", who=st.sampled_from((*ROLES, "admin", "admin")), build=number),
        _step("look", who=anyone, build=number),
        _step("quarantine", who=anyone, job=number, test=st.integers(0, 2)),
        _step(
            "quarantine_node",
            who=st.sampled_from(("admin", *ROLES, "admin")),
            machine=machine,
            inside=st.sampled_from((True, True, False)),
        ),
        _step("all_at_once", build=number, machine=machine),
    ]
    machines = [
        _step("add_job", max_parallel=st.integers(1, 3)),
        _step("add_machine", max_parallel=st.integers(1, 2)),
        _step("beat", machine=machine),
        _step("rival", machine=machine),
        _step("vanish", machine=machine),
        _step("ghost", machine=machine, which=number, until=st.integers(0, 2)),
    ]
    kinds = [*[starts] * 8, *[works] * 10, *people, *machines, *[polls] * 5]
    return st.lists(st.integers(0, len(kinds) - 1).flatmap(kinds.__getitem__), min_size=length, max_size=length)
