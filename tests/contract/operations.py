"""The documented operations (api-v3.json, read out of the public API reference), and which of them are served."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    description: str
    required: bool

    @property
    def default(self) -> float | None:
        found = re.search(r"\(default:? (\d+(?:\.\d+)?)", self.description)
        return float(found[1]) if found else None

    @property
    def maximum(self) -> int | None:
        found = re.search(r"max: (\d+)", self.description)
        return int(found[1]) if found else None

    @property
    def values(self) -> list[str]:
        """Of an enumeration: `queued | running | passed`."""
        found = re.search(r"\w+( \| \w+)+", self.description)
        return found[0].split(" | ") if found else []

    @property
    def is_integer(self) -> bool:
        return self.type in ("int", "integer")


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    auth: bool
    status: int
    sse: bool
    response: Any
    request_example: dict[str, Any] | None
    path_params: tuple[Parameter, ...]
    query: tuple[Parameter, ...]
    body: tuple[Parameter, ...]
    form: tuple[Parameter, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix('/api/v3')}"

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def writes(self) -> bool:
        return self.method != "GET" and self.key not in READING

    @property
    def takes(self) -> frozenset[str]:
        """The names of what it needs to be told."""
        given = (*self.path_params, *self.query, *self.body, *self.form)
        return frozenset(parameter.name for parameter in given if parameter.required)


READING = {
    ("POST", "/api/v3/jobs/{job_id}/export"),
    ("POST", "/api/v3/webhooks/{id}/test"),
    ("POST", "/api/v3/ms-teams/{id}/test"),
}
"""Posts that change nothing."""


def _parameters(documented: dict[str, Any], kind: str) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(item["name"], item["type"], item["description"], required)
        for key, required in ((f"{kind}_required", True), (f"{kind}_optional", False))
        for item in documented.get(key, ())
        if item["name"] != "(payload)"  # the whole body
    )


def _operation(documented: dict[str, Any]) -> Operation:
    path_params = documented.get("path_params", ())
    return Operation(
        **{name: documented[name] for name in ("method", "path", "auth", "status", "sse", "response")},
        request_example=documented["request_example"],
        path_params=tuple(Parameter(item["name"], item["type"], item["description"], True) for item in path_params),
        query=_parameters(documented, "query"),
        body=_parameters(documented, "body"),
        form=_parameters(documented, "form"),
    )


DOCUMENTED = {
    operation.key: operation
    for operation in map(_operation, json.loads(Path(__file__).with_name("api-v3.json").read_text(encoding="utf-8")))
}

APART = {
    (
        "POST",
        "/api/v3/reset-password",
    ): "its answer comes before its event, by design: tests/api/test_password_reset.py",
    **{
        ("POST", f"/api/v3/vcenter/{{id}}/{what}"): "waits for a worker and a vCenter: tests/real/vcenter"
        for what in ("test", "sync", "vm/power")
    },
    **dict.fromkeys(
        (
            ("POST", "/api/v3/docker-agents/{id}/start"),
            ("POST", "/api/v3/docker-agents/{id}/stop"),
            ("DELETE", "/api/v3/docker-agents/{id}"),
            ("GET", "/api/v3/docker-agents/{id}/logs"),
        ),
        "waits for a Docker engine: tests/real/docker/test_documented.py",
    ),
    **{
        ("POST", f"/api/v3/ai/{what}"): "waits for a worker: tests/api/test_chat.py" for what in ("chat", "chat/stream")
    },
    ("POST", "/api/v3/nodes/{node_id}/execute"): "waits for an agent that answers: tests/api/test_node_commands.py",
}
"""Documented operations that are not tried with the others, with the reason."""

OPERATIONS = [operation for key, operation in DOCUMENTED.items() if key not in APART]

OF_A_PROJECT = frozenset({"project_id", "job_id", "build_id", "artifact_id", "test_id"})


def in_a_project(operation: Operation) -> bool:
    """Whether what the operation reaches belongs to a project."""
    return bool(operation.takes & OF_A_PROJECT)
