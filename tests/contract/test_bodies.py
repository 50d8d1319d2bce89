"""Documented bodies: what is required, and which types are taken."""

from dataclasses import replace
from typing import Any

import pytest

from .operations import OPERATIONS, Operation, Parameter
from .problems import problem_of
from .requests_of import Call, call_of, caller_of
from .sample import Sample
from .world import World

BODIES = [operation for operation in OPERATIONS if operation.body]
FIELDS = [(operation, field) for operation in BODIES for field in operation.body]
FORMS = [operation for operation in OPERATIONS if operation.form]

WRONG: dict[str, list[Any]] = {
    "string": [5, True, ["x"], {}],
    "integer": ["x", "5", 1.5, True, [], -1, 2**53 + 1, 2**64],
    "boolean": ["x", 5, []],
    "float": ["x", "2.0", True, [], -1.0, 1e12],
    "object": ["x", 5, []],
    "array[string]": ["x", 5, {}, [5]],
    "array[integer]": ["x", 5, {}, ["x"], [1.5], [-1]],
}
MALFORMED = (b"{", b"{'name': 1}", b'{"name": }', b'{"a": 1} trailing', b"\xff\xfe", b'{"a": NaN}')
NO_OBJECTS = (b"[]", b"5", b'"text"')
OTHER_MEDIA_TYPES = ("text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data")
TYPES = {
    "int": "integer",
    "bool": "boolean",
    "string[]": "array[string]",
    "int[]": "array[integer]",
    "array[int]": "array[integer]",
}


def named(value: Any) -> str:
    return value.name if isinstance(value, Parameter) else str(value)


def documented_body(operation: Operation, world: World) -> tuple[Call, dict[str, Any]]:
    call = call_of(operation, world)
    assert call.body is not None
    return call, call.body


@pytest.mark.parametrize(
    ("operation", "field"), [(operation, field) for operation, field in FIELDS if field.required], ids=named
)
def test_a_required_field(world: World, operation: Operation, field: Parameter) -> None:
    call, body = documented_body(operation, world)
    rest = {name: value for name, value in body.items() if name != field.name}
    problem = problem_of(replace(call, body=rest).send(world.admin), 422)
    assert problem["errors"] == [{"field": field.name, "message": "is required"}]
    assert field.name in problem["detail"]
    problem = problem_of(replace(call, body={**rest, field.name: None}).send(world.admin), 422)
    assert [error["field"] for error in problem["errors"]] == [field.name]


@pytest.mark.parametrize(("operation", "field"), FIELDS, ids=named)
def test_another_type(world: World, sample: Sample, operation: Operation, field: Parameter) -> None:
    call, body = documented_body(operation, world)
    for value in sample(WRONG[TYPES.get(field.type, field.type)]):
        answer = replace(call, body={**body, field.name: value}).send(world.admin)
        problem = problem_of(answer, 422)
        assert [error["field"].partition("[")[0] for error in problem["errors"]] == [field.name], value


@pytest.mark.parametrize("operation", BODIES, ids=str)
def test_optional_fields_may_be_left_out(world: World, operation: Operation) -> None:
    call, body = documented_body(operation, world)
    required = {name: value for name, value in body.items() if name in operation.takes}
    if "project_id" in required:  # a job without a pool, say, does not belong among those that other tests look at
        required["project_id"] = world.other_project
    answer = replace(call, body=required).send(caller_of(operation, world))
    assert answer.status_code == operation.status, answer.text


@pytest.mark.parametrize("operation", BODIES, ids=str)
def test_unknown_fields_are_named(world: World, operation: Operation) -> None:
    call, body = documented_body(operation, world)
    answer = replace(call, body={**body, "x_unknown": {"a": [1]}}).send(caller_of(operation, world))
    problem = problem_of(answer, 422)
    assert [error["field"] for error in problem["errors"]] == ["x_unknown"]


@pytest.mark.parametrize("operation", BODIES, ids=str)
def test_malformed(world: World, sample: Sample, operation: Operation) -> None:
    call = replace(call_of(operation, world), body=None)
    json_type = {"Content-Type": "application/json"}
    for malformed in sample(MALFORMED):
        problem_of(call.send(world.admin, data=malformed, headers=json_type), 400)
    for no_object in sample(NO_OBJECTS):
        problem_of(call.send(world.admin, data=no_object, headers=json_type), 422)
    if any(field.required for field in operation.body):
        problem_of(call.send(world.admin, data=b"null", headers=json_type), 422)
        problem_of(call.send(world.admin), 422)


@pytest.mark.parametrize("operation", BODIES, ids=str)
def test_other_media_types(world: World, sample: Sample, operation: Operation) -> None:
    call = replace(call_of(operation, world), body=None)
    for media_type in sample(OTHER_MEDIA_TYPES):
        problem_of(call.send(world.admin, data=b"{}", headers={"Content-Type": media_type}), 415)


@pytest.mark.parametrize("operation", FORMS, ids=str)
def test_forms(world: World, operation: Operation) -> None:
    call = call_of(operation, world)
    assert call.body is not None
    assert call.file is not None
    form = call.body
    without = {name: value for name, value in form.items() if name != "build_id"}
    assert problem_of(replace(call, body=without).send(world.admin), 422)["errors"][0]["field"] == "build_id"
    for wrong in ("x", "", "-1", "0", "1.5", "9" * 40):
        answer = replace(call, body={**form, "build_id": wrong}).send(world.admin)
        assert problem_of(answer, 422)["errors"][0]["field"] == "build_id"
    fields = {name: (None, value) for name, value in form.items()}
    answer = world.admin.post(operation.path, files=fields)
    assert problem_of(answer, 422)["errors"][0]["field"] == "file"
    problem_of(world.admin.post(operation.path, json=form), 415)
    problem_of(world.admin.post(operation.path, data=form), 415)
    optional = {name: value for name, value in form.items() if name != "path"}
    assert replace(call, body=optional).send(world.admin).status_code == operation.status
