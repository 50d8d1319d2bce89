"""The server serves every documented operation, and its own description says so."""

from typing import Any

import pytest

from .operations import DOCUMENTED, Operation


def own_operations(described: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (method.upper(), path)
        for path, item in described["paths"].items()
        for method in item
        if method in ("get", "post", "put", "patch", "delete")
    }


def own_parameters(described: dict[str, Any], operation: Operation) -> dict[str, dict[str, Any]]:
    parameters = described["paths"][operation.path][operation.method.lower()].get("parameters", [])
    return {parameter["name"]: parameter for parameter in parameters if "$ref" not in parameter}


def _plain(path: str) -> str:
    """`/node-pools/{id}` and `/node-pools/{pool_id}` are one path."""
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


def test_every_documented_operation_is_served(described: dict[str, Any]) -> None:
    assert len(DOCUMENTED) == 137
    described_here = {(method, _plain(path)) for method, path in own_operations(described)}
    assert [key for key in DOCUMENTED if (key[0], _plain(key[1])) not in described_here] == []


@pytest.mark.parametrize("operation", DOCUMENTED.values(), ids=str)
def test_every_documented_parameter_is_described(described: dict[str, Any], operation: Operation) -> None:
    described_here = own_parameters(described, operation)
    for parameter in operation.query:
        assert parameter.name in described_here, f"{operation} has no {parameter.name}"
        assert described_here[parameter.name]["required"] is parameter.required
        schema = described_here[parameter.name]["schema"]
        names = {"int": "integer", "bool": "boolean", "float": "number"}
        assert schema.get("type") == names.get(parameter.type, parameter.type)
        if parameter.default is not None:
            assert schema["default"] == parameter.default
        if parameter.maximum is not None:
            assert schema["maximum"] == parameter.maximum
        for value in parameter.values:
            assert value in schema["enum"]


@pytest.mark.parametrize("operation", [operation for operation in DOCUMENTED.values() if operation.body], ids=str)
def test_every_documented_field_is_described(described: dict[str, Any], operation: Operation) -> None:
    request = described["paths"][operation.path][operation.method.lower()]["requestBody"]
    schema = request["content"]["application/json"]["schema"]
    schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert {field.name for field in operation.body} <= schema["properties"].keys()
    assert {field.name for field in operation.body if field.required} == set(schema.get("required", ()))
