"""Documented query parameters: what they select, their defaults, their bounds, and what they refuse."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from .operations import DOCUMENTED, OPERATIONS, Operation, Parameter
from .problems import problem_of
from .requests_of import call_of, caller_of
from .sample import Sample
from .test_served import own_parameters
from .world import LINES, RUNS, TESTS, World

QUERIES = [(operation, parameter) for operation in OPERATIONS for parameter in operation.query]
INTEGERS = [(operation, parameter) for operation, parameter in QUERIES if parameter.is_integer]
CHOICES = [(operation, parameter) for operation, parameter in QUERIES if parameter.values]


def named(value: Any) -> str:
    return value.name if isinstance(value, Parameter) else str(value)


def get(world: World, operation: Operation, **query: Any) -> Any:
    call = call_of(operation, world)
    call.query.update(query)
    answer = call.send(caller_of(operation, world))
    assert answer.status_code == 200, answer.text
    return answer.json()


class Filter(NamedTuple):
    path: str
    name: str
    value: Callable[[World], Any]
    fits: Callable[[World, dict[str, Any]], bool]
    """Whether an item is one of those that are asked for."""


def _is(key: str, value: Any) -> tuple[Callable[[World], Any], Callable[[World, dict[str, Any]], bool]]:
    return lambda world: value, lambda world, item: item[key] == value


STATUSES = ("queued", "running", "passed", "failed", "aborted")
FILTERS = (
    Filter("/jobs", "project_id", lambda w: w.project, lambda w, job: job["project_id"] == w.project),
    Filter("/jobs", "search", lambda w: "egression SU", lambda w, job: job["id"] == w.job),
    Filter("/jobs", "enabled", lambda w: "true", lambda w, job: job["enabled"]),
    Filter("/jobs", "enabled", lambda w: "false", lambda w, job: not job["enabled"]),
    Filter("/builds", "job_id", lambda w: w.waiting_job, lambda w, build: build["job_id"] == w.waiting_job),
    *(
        Filter("/builds", "status", *_is("status", status))
        for status in ("queued", "running", "passed", "failed", "aborted")
    ),
    Filter("/builds", "branch", *_is("branch", "release")),
    *(Filter("/artifacts", "type", *_is("type", kind)) for kind in ("report", "log", "screenshot", "binary")),
    Filter("/artifacts", "search", lambda w: "page", lambda w, artifact: "page" in artifact["name"]),
    *(Filter("/tests", "status", *_is("status", status)) for status in ("passed", "failed", "skipped")),
    Filter("/tests", "suite", *_is("suite", "cart")),
    Filter("/tests", "search", lambda w: "TEST_3", lambda w, test: "test_3" in test["node_id"]),
    Filter("/nodes", "pool_id", lambda w: w.pool, lambda w, node: node["pool_id"] == w.pool),
    Filter("/nodes", "status", *_is("status", "online")),
    Filter("/nodes", "status", *_is("status", "offline")),
    *(Filter("/docker-agents", "status", *_is("status", status)) for status in ("running", "stopped", "error")),
    Filter("/docker-agents", "project_id", lambda w: w.project, lambda w, agent: agent["pool_id"] == w.pool),
    *(Filter("/evals", "status", *_is("status", status)) for status in ("pending", "running", "complete", "failed")),
    Filter("/webhooks", "project_id", lambda w: w.project, lambda w, hook: hook["project_id"] == w.project),
    Filter("/webhooks", "active", lambda w: "true", lambda w, hook: hook["active"]),
    Filter("/webhooks", "active", lambda w: "false", lambda w, hook: not hook["active"]),
    Filter("/webhooks/{id}/history", "status", lambda w: "ok", lambda w, one: one["ok"]),
    Filter("/webhooks/{id}/history", "status", lambda w: "failed", lambda w, one: not one["ok"]),
    Filter("/users", "search", lambda w: "DMIN@", lambda w, user: "dmin@" in user["email"]),
    Filter("/node-pools", "project_id", lambda w: w.project, lambda w, pool: pool["project_id"] == w.project),
)
EMPTY = {("/nodes", "status", "quarantined")}
"""Choices that nothing in this world has: they are only accepted."""
ELSEWHERE = {
    ("/api/v3/scm/{id}/branches", "q"),
    ("/api/v3/scm/{id}/commits", "branch"),
    ("/api/v3/ai/tests/health", "days"),
    ("/api/v3/ai/tests/health", "min_runs"),
    ("/api/v3/ai/tests/{id}/health", "days"),
    ("/api/v3/ai/emerging/latest", "threshold"),
    ("/api/v3/ai/emerging/latest", "window"),
    ("/api/v3/ai/emerging/history", "days"),
    ("/api/v3/ai/emerging/history", "test_id"),
    ("/api/v3/evals/regressions", "baseline_id"),
    ("/api/v3/evals/regressions", "current_id"),
    ("/api/v3/ai/insights", "days"),
    ("/api/v3/search", "types"),
    ("/api/v3/search", "project_id"),
    ("/api/v3/ai/search", "type"),
}
"""Filters of lists whose items have no ids, or ids of several kinds, which tests of the area in tests/api try."""
SELECTS = {"page", "limit", "offset"}
"""Which part of the answer; tests of their own below."""


@pytest.mark.parametrize("filtered", FILTERS, ids=lambda item: f"{item.path}-{item.name}")
def test_a_filter_selects(world: World, filtered: Filter) -> None:
    world.beat()
    operation = DOCUMENTED["GET", f"/api/v3{filtered.path}"]
    required = {parameter.name for parameter in operation.query if parameter.required}
    call = call_of(operation, world)
    base = {name: value for name, value in call.query.items() if name in required}

    def items(**query: Any) -> list[dict[str, Any]]:
        """All of them, page by page."""
        found: list[dict[str, Any]] = []
        page: list[dict[str, Any]] = []
        while len(page) == 200 or not found:
            where = {"limit": 200} | ({"page": len(found) // 200 + 1} if found else {})
            answer = caller_of(operation, world).get(call.path.format(**call.ids), params=base | query | where)
            assert answer.status_code == 200, answer.text
            page = answer.json() if isinstance(answer.json(), list) else answer.json()["results"]
            found += page
            if not page:
                break
        return found

    everything = items()
    chosen = items(**{filtered.name: filtered.value(world)})
    assert chosen
    assert all(filtered.fits(world, item) for item in chosen)
    assert [item["id"] for item in everything if filtered.fits(world, item)] == [item["id"] for item in chosen]
    assert len(chosen) < len(everything)


def test_every_documented_filter_is_tried() -> None:
    tried = {(f"/api/v3{item.path}", item.name) for item in FILTERS} | ELSEWHERE
    for operation, parameter in QUERIES:
        if parameter.name not in SELECTS and not parameter.required and not operation.writes:
            assert (operation.path, parameter.name) in tried, f"{operation}?{parameter.name}"


@pytest.mark.parametrize(("operation", "parameter"), CHOICES, ids=named)
def test_every_choice_is_taken_and_no_other(world: World, operation: Operation, parameter: Parameter) -> None:
    for value in parameter.values:
        get(world, operation, **{parameter.name: value})
    call = call_of(operation, world)
    call.query[parameter.name] = "odd"
    assert problem_of(call.send(caller_of(operation, world)), 422)["errors"][0]["field"] == parameter.name


@pytest.mark.parametrize(("operation", "parameter"), QUERIES, ids=named)
def test_another_type_is_refused(world: World, sample: Sample, operation: Operation, parameter: Parameter) -> None:
    call = call_of(operation, world)
    wrong: list[str] = ["1.5", "x", "", "9" * 30] if parameter.is_integer else ["a\0b"]
    if parameter.type == "boolean":
        wrong += ["maybe", "2"]
    for value in sample(wrong):
        call.query[parameter.name] = value
        problem = problem_of(call.send(caller_of(operation, world)), 422)
        if "\0" not in value:
            assert [error["field"] for error in problem["errors"]] == [parameter.name]


@pytest.mark.parametrize(("operation", "parameter"), INTEGERS, ids=named)
def test_bounds_hold(world: World, described: dict[str, Any], operation: Operation, parameter: Parameter) -> None:
    schema = own_parameters(described, operation)[parameter.name]["schema"]
    call = call_of(operation, world)
    for beyond in (int(schema["minimum"]) - 1, int(schema["maximum"]) + 1):
        call.query[parameter.name] = beyond
        problem = problem_of(call.send(caller_of(operation, world)), 422)
        assert [error["field"] for error in problem["errors"]] == [parameter.name]
    if parameter.name in SELECTS:
        for within in (int(schema["minimum"]), int(schema["maximum"])):
            get(world, operation, **{parameter.name: within})


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if any(q.required for q in o.query)], ids=str)
def test_what_is_required_is_named(world: World, operation: Operation) -> None:
    for parameter in operation.query:
        if parameter.required:
            call = call_of(operation, world)
            del call.query[parameter.name]
            problem = problem_of(call.send(caller_of(operation, world)), 422)
            assert problem["errors"] == [{"field": parameter.name, "message": "is required"}]


@pytest.mark.parametrize(("path", "default", "total"), [("/builds", 25, RUNS), ("/tests", 50, TESTS)])
def test_pages(world: World, path: str, default: int, total: int) -> None:
    """`page` and `limit` with their defaults: nothing is left out, nothing is told twice."""
    operation = DOCUMENTED["GET", f"/api/v3{path}"]
    narrow = {"branch": "release"} if path == "/builds" else {}

    def ids(answer: Any) -> list[int]:
        assert answer["total"] == total
        return [item["id"] for item in answer["results"]]

    first = ids(get(world, operation, **narrow))
    assert len(first) == default < total
    assert first == ids(get(world, operation, page=1, limit=default, **narrow))
    second = ids(get(world, operation, page=2, **narrow))
    assert len(second) == total - default
    everything = ids(get(world, operation, limit=200, **narrow))
    assert everything == first + second
    by_seven = [ids(get(world, operation, page=page, limit=7, **narrow)) for page in range(1, total // 7 + 2)]
    assert [one for page in by_seven for one in page] == everything
    assert ids(get(world, operation, page=1000, **narrow)) == []


def test_log_lines(world: World) -> None:
    operation = DOCUMENTED["GET", "/api/v3/builds/{build_id}/pipeline_logs"]
    first = get(world, operation)
    assert first["total_lines"] == LINES
    assert len(first["lines"]) == 500
    rest = get(world, operation, offset=500)
    assert len(rest["lines"]) == LINES - 500
    assert get(world, operation, offset=498, limit=4)["lines"] == first["lines"][498:] + rest["lines"][:2]
    assert get(world, operation, offset=LINES)["lines"] == []
    assert first["lines"][0] == "[22:13:20] line 0"


def test_history(world: World) -> None:
    """Newest first; 20 unless told otherwise."""
    operation = DOCUMENTED["GET", "/api/v3/tests/{test_id}/history"]
    tests = world.member.get(f"/api/v3/tests?build_id={world.build}&search=test_1&limit=200")
    often = next(test for test in tests.json()["results"] if test["node_id"].endswith("test_1"))
    call = call_of(operation, world)
    call.ids["test_id"] = often["id"]
    history = call.send(world.member).json()
    assert history["node_id"] == often["node_id"]
    assert len(history["history"]) == 20
    runs = world.member.get(f"/api/v3/tests/{often['id']}/history", params={"limit": 200}).json()["history"]
    assert len(runs) >= RUNS + 1
    assert runs[:20] == history["history"]
    builds = [run["build_id"] for run in runs]
    assert builds == sorted(builds, reverse=True)
    assert {run["status"] for run in runs} == {"passed", "failed"}


def test_find_is_exact(world: World) -> None:
    operation = DOCUMENTED["GET", "/api/v3/nodes/find"]
    assert get(world, operation)["id"] == world.node
    call = call_of(operation, world)
    call.query["name"] = world.node_name[:-1]
    problem_of(call.send(caller_of(operation, world)), 404)
