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

SERVED = (
    ("GET", "/api/v3/healthz"),
    ("POST", "/api/v3/authenticate"),
    ("POST", "/api/v3/sso"),
    ("POST", "/api/v3/logout"),
    ("GET", "/api/v3/me"),
    ("GET", "/api/v3/config"),
    ("GET", "/api/v3/license/status"),
    ("GET", "/api/v3/api-tokens"),
    ("POST", "/api/v3/api-tokens"),
    ("DELETE", "/api/v3/api-tokens/{token_id}"),
    ("POST", "/api/v3/reset-password"),
    ("POST", "/api/v3/reset-password/confirm"),
    ("GET", "/api/v3/users"),
    ("POST", "/api/v3/users"),
    ("GET", "/api/v3/users/{user_id}"),
    ("PUT", "/api/v3/users/{user_id}"),
    ("GET", "/api/v3/users/{user_id}/permissions"),
    ("GET", "/api/v3/projects"),
    ("POST", "/api/v3/projects"),
    ("GET", "/api/v3/projects/{project_id}"),
    ("PUT", "/api/v3/projects/{project_id}"),
    ("POST", "/api/v3/projects/{project_id}/rotate-webhook-secret"),
    ("GET", "/api/v3/jobs"),
    ("POST", "/api/v3/jobs"),
    ("GET", "/api/v3/jobs/{job_id}"),
    ("PUT", "/api/v3/jobs/{job_id}"),
    ("DELETE", "/api/v3/jobs/{job_id}"),
    ("GET", "/api/v3/jobs/{job_id}/configuration"),
    ("PUT", "/api/v3/jobs/{job_id}/configuration"),
    ("POST", "/api/v3/jobs/{job_id}/export"),
    ("POST", "/api/v3/jobs/import"),
    ("GET", "/api/v3/pipeline-templates"),
    ("POST", "/api/v3/pipeline-templates"),
    ("PUT", "/api/v3/pipeline-templates/{template_id}"),
    ("DELETE", "/api/v3/pipeline-templates/{template_id}"),
    ("POST", "/api/v3/builds/start"),
    ("POST", "/api/v3/builds/git-notify"),
    ("POST", "/api/v3/gitops/webhook"),
    ("GET", "/api/v3/builds"),
    ("GET", "/api/v3/builds/{build_id}"),
    ("POST", "/api/v3/builds/{build_id}/restart"),
    ("POST", "/api/v3/builds/{build_id}/stop"),
    ("DELETE", "/api/v3/builds/{build_id}"),
    ("POST", "/api/v3/builds/{build_id}/push_to_top"),
    ("POST", "/api/v3/builds/{build_id}/keep-forever"),
    ("GET", "/api/v3/builds/{build_id}/pipeline_logs"),
    ("GET", "/api/v3/builds/{build_id}/stream"),
    ("POST", "/api/v3/builds/{build_id}/comment"),
    ("POST", "/api/v3/builds/{build_id}/retry-flaky"),
    ("GET", "/api/v3/artifacts"),
    ("GET", "/api/v3/artifacts/tree"),
    ("POST", "/api/v3/artifacts/upload"),
    ("DELETE", "/api/v3/artifacts/{artifact_id}"),
    ("GET", "/api/v3/artifacts/{artifact_id}/download"),
    ("GET", "/api/v3/report/{build_id}"),
    ("GET", "/api/v3/tests"),
    ("GET", "/api/v3/tests/{test_id}/history"),
    ("POST", "/api/v3/tests/{test_id}/classification"),
    ("POST", "/api/v3/tests/{test_id}/defect"),
    ("POST", "/api/v3/tests/{test_id}/resolution"),
    ("POST", "/api/v3/tests/{test_id}/known-issue"),
    ("GET", "/api/v3/quarantine"),
    ("POST", "/api/v3/quarantine"),
    ("POST", "/api/v3/quarantine/bulk"),
    ("GET", "/api/v3/quarantine/stats"),
    ("GET", "/api/v3/quarantine/nodeids"),
    ("GET", "/api/v3/nodes"),
    ("POST", "/api/v3/nodes"),
    ("GET", "/api/v3/nodes/find"),
    ("GET", "/api/v3/nodes/{node_id}"),
    ("PUT", "/api/v3/nodes/{node_id}"),
    ("DELETE", "/api/v3/nodes/{node_id}"),
    ("GET", "/api/v3/nodes/{node_id}/health"),
    ("POST", "/api/v3/nodes/{node_id}/quarantine"),
    ("POST", "/api/v3/nodes/{node_id}/restart"),
    ("POST", "/api/v3/nodes/{node_id}/execute"),
    ("GET", "/api/v3/nodes/agent/latest"),
    ("GET", "/api/v3/node-pools"),
    ("POST", "/api/v3/node-pools"),
    ("PUT", "/api/v3/node-pools/{id}"),
    ("DELETE", "/api/v3/node-pools/{id}"),
    ("GET", "/api/v3/docker-agents"),
    ("POST", "/api/v3/docker-agents/spawn"),
    ("POST", "/api/v3/docker-agents/{id}/start"),
    ("POST", "/api/v3/docker-agents/{id}/stop"),
    ("DELETE", "/api/v3/docker-agents/{id}"),
    ("GET", "/api/v3/docker-agents/{id}/logs"),
    ("GET", "/api/v3/webhooks"),
    ("POST", "/api/v3/webhooks"),
    ("PUT", "/api/v3/webhooks/{id}"),
    ("DELETE", "/api/v3/webhooks/{id}"),
    ("POST", "/api/v3/webhooks/{id}/test"),
    ("GET", "/api/v3/webhooks/{id}/history"),
    ("POST", "/api/v3/webhooks/bulk-delete"),
    ("GET", "/api/v3/ms-teams"),
    ("POST", "/api/v3/ms-teams"),
    ("PUT", "/api/v3/ms-teams/{id}"),
    ("DELETE", "/api/v3/ms-teams/{id}"),
    ("POST", "/api/v3/ms-teams/{id}/test"),
    ("GET", "/api/v3/scm"),
    ("POST", "/api/v3/gitops/sync"),
    ("POST", "/api/v3/scm"),
    ("GET", "/api/v3/scm/{id}"),
    ("PUT", "/api/v3/scm/{id}"),
    ("DELETE", "/api/v3/scm/{id}"),
    ("GET", "/api/v3/scm/{id}/branches"),
    ("GET", "/api/v3/scm/{id}/commits"),
    ("GET", "/api/v3/jira"),
    ("POST", "/api/v3/jira"),
    ("PUT", "/api/v3/jira/{id}"),
    ("DELETE", "/api/v3/jira/{id}"),
    ("GET", "/api/v3/vcenter"),
    ("POST", "/api/v3/vcenter"),
    ("GET", "/api/v3/vcenter/{id}"),
    ("POST", "/api/v3/vcenter/{id}/test"),
    ("POST", "/api/v3/vcenter/{id}/sync"),
    ("POST", "/api/v3/vcenter/{id}/vm/power"),
    ("GET", "/api/v3/ai/tests/health"),
    ("GET", "/api/v3/ai/tests/{id}/health"),
    ("GET", "/api/v3/ai/emerging/latest"),
    ("GET", "/api/v3/ai/emerging/history"),
    ("GET", "/api/v3/evals"),
    ("GET", "/api/v3/evals/{id}"),
    ("POST", "/api/v3/evals/runs"),
    ("GET", "/api/v3/evals/regressions"),
    ("POST", "/api/v3/ai/diagnose"),
    ("GET", "/api/v3/ai/insights"),
    ("GET", "/api/v3/ai/summary/{build_id}"),
    ("POST", "/api/v3/ai/chat"),
    ("POST", "/api/v3/ai/chat/stream"),
    ("POST", "/api/v3/ai/job/stream"),
    ("GET", "/api/v3/ai/job/{job_id}/result"),
    ("POST", "/api/v3/ai/job/{job_id}/cancel"),
    ("GET", "/api/v3/search"),
    ("GET", "/api/v3/ai/search"),
    ("GET", "/api/v3/ai/llm/status"),
    ("GET", "/api/v3/ai/quota"),
)
"""The documented operations that the server serves so far; `test_served` keeps this list honest."""

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
"""Served, but not to be tried with the others, with the reason."""

OPERATIONS = [DOCUMENTED[key] for key in SERVED if key not in APART]

OF_A_PROJECT = frozenset({"project_id", "job_id", "build_id", "artifact_id", "test_id"})


def in_a_project(operation: Operation) -> bool:
    """Whether what the operation reaches belongs to a project."""
    return bool(operation.takes & OF_A_PROJECT)
