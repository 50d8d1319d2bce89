"""The server's own description against the server itself, by schemathesis: `./dev long schemathesis` runs it."""

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Err, Ok
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.support.http import Client
from tests.support.saml_idp import ENTITY_ID, SSO_URL, signing_key
from tests.support.server import Server

from .schema_limits import is_explained, write_whole_numbers
from .text_formats import register_formats

Described = schemathesis.APIOperation[Any, Any, Any, Any]

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    missing_required_header,
    unsupported_method,
    allow_header_conformance,
]
"""All but four, of which `fuzz` also does one, `ignored_auth`, for one successful request to each operation.

`positive_data_acceptance` has exceptions, in `schema_limits`. `use_after_free`, `ensure_resource_availability` and
`object_level_authorization` follow an object through several requests: of requests that stand alone, as these do, they
check nothing. `test_lifecycles` does the first two for all kinds of objects, and tests/permissions the third for all
operations and callers.
"""
ENDLESS = {
    "GET /api/v3/agent/next": "a long poll: 20 s without an answer are its normal case",
    "GET /api/v3/builds/{build_id}/stream": "server-sent events: a stream lasts as long as its build",
    "GET /api/v3/events/stream": "server-sent events: this stream has no end of its own",
    "POST /api/v3/ai/chat": "waits for what a worker answers",
    "POST /api/v3/ai/chat/stream": "waits for what a worker answers",
    "POST /api/v3/vcenter/{id}/test": "waits for what a worker answers",
    "POST /api/v3/vcenter/{id}/sync": "waits for what a worker answers",
    "POST /api/v3/vcenter/{id}/vm/power": "waits for what a worker answers",
    "POST /api/v3/vcenter/{id}/vms": "waits for what a worker answers",
    "POST /api/v3/vcenter/{id}/vms/{vm_id}/revert": "waits for what a worker answers",
    "DELETE /api/v3/vcenter/{id}/vms/{vm_id}": "waits for what a worker answers",
    "POST /api/v3/nodes/{node_id}/execute": "waits for what an agent answers, as long as the caller says",
    "POST /api/v3/users/{user_id}/sign-out": "made-up ids are small numbers: it would end the session that asks",
}
"""What is left out, with the reason. The contract tests ask them."""
WITHOUT_AN_AGENT = {"POST /api/v3/nodes/{node_id}/restart"}
"""Answered by 503 while no agent is connected, which is the documented answer."""
CALLING_OUT = {
    "POST /api/v3/identity-providers",
    "PUT /api/v3/identity-providers/{id}",
    "GET /api/v3/docker-agents/{id}/logs",
    "GET /api/v3/scm/{id}/branches",
    "GET /api/v3/scm/{id}/commits",
    "POST /api/v3/gitops/sync",
}
"""Answered by 502, 503 or 504 if a made-up URL leads nowhere or no Docker engine is there: the documented answers."""
LEFT_OUT = (
    {"$ref": "#/components/parameters/MinPosition"},  # a made-up one lies far ahead, and each request would wait for it
    {"$ref": "#/components/parameters/Prefer"},  # servers ignore preferences that they do not know (RFC 7240)
)
"""Parameters that no request has."""
TIMEOUT_S = 10
MAX_REPEATS = 20
"""Times a request is sent again while the read models are behind, after the time that the answer says."""
PROCESSES = ("serve", "project", "dispatch", "work")
OUTGOING = "127.0.0.0/8"


Role = Literal["admin", "developer", "viewer", "outsider", "stranger"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Who asks: an admin; a developer and a viewer of the project; a developer of no project; somebody without
credentials."""


@dataclass
class Fuzzed:
    """What a run goes through: the description, who asks, and ids that something has."""

    url: str
    session: Client
    """The administrator's."""
    marker: str
    """Part of every name and title in the project; only its members may read it."""
    api_token: str
    """For signing out: with it that is refused, and the session stays."""
    agent_token: str
    ids: Mapping[str, int | str]
    own_ids: Mapping[str, int | str]
    """What `id` is, by the beginning of the path, or of method and path."""
    tokens: dict[Role, str] = field(default_factory=dict)
    schema: schemathesis.BaseSchema = field(init=False)

    def __post_init__(self) -> None:
        described = self.session.get("/api/v3/openapi.json").json()
        for item in described["paths"].values():
            for operation in item.values():
                operation["parameters"] = [known for known in operation["parameters"] if known not in LEFT_OUT]
        _loosen_tuples(described)
        register_formats()
        self.schema = schemathesis.openapi.from_dict(described)
        # The caller of a round makes all of its requests; otherwise a part of them would go with made-up credentials.
        self.schema.config.generation.with_security_parameters = False
        self.schema.config.generation.allow_x00 = False  # PostgreSQL stores no such text, as the description says

    def credentials(self, operation: Described, role: Role) -> dict[str, str]:
        if role == "stranger":
            return {}
        token = self.session.token if role == "admin" else self.tokens[role]
        if role == "admin" and operation.path.startswith("/api/v3/agent/"):
            token = self.agent_token
        if role == "admin" and operation.label == "POST /api/v3/logout":
            token = self.api_token
        return {"Authorization": f"Bearer {token}"}

    def add_users(self, server: Server) -> None:
        """Adds a user for each role between admin and stranger. They sign in without a request, since made-up requests
        may have used up the sign-ins of this address.
        """
        project_id = int(self.ids["project_id"])
        self.tokens = {
            "developer": server.make_user("developer", {project_id: "write"}).token,
            "viewer": server.make_user("viewer", {project_id: "read"}).token,
            "outsider": server.make_user("developer").token,
        }

    def ids_of(self, operation: Described) -> dict[str, int | str]:
        label, path = operation.label, operation.path
        found = (value for begin, value in self.own_ids.items() if label.startswith(begin) or path.startswith(begin))
        own_id = next(found, 0)
        return {**self.ids, "id": own_id}

    def operations(self) -> Iterator[Described]:
        """Deletions last: made-up ids are small numbers, and what they hit is gone."""
        results = list(self.schema.get_all_operations())
        assert not [result.err() for result in results if isinstance(result, Err)]
        found = [result.ok() for result in results if isinstance(result, Ok)]
        for operation in sorted(found, key=lambda operation: operation.method.upper() == "DELETE"):
            if operation.label not in ENDLESS:
                yield operation


def a_small_world(session: Client, name: str = "fuzzed") -> Fuzzed:
    """A project, a pool, a node, a job and a build, for half of the requests to be about."""

    def make(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = session.post(f"/api/v3{path}", json=body)
        assert answer.ok, answer.text
        made: dict[str, Any] = answer.json()
        return made

    marker = f"hidden-{uuid.uuid4().hex}"
    project = make("/projects", {"name": marker})["id"]
    pool = make("/node-pools", {"name": name, "project_id": project})["id"]
    node = make("/nodes", {"name": name, "pool_id": pool})
    job = make("/jobs", {"name": marker, "project_id": project})["id"]
    configuration = {"command": "true", "setup": [], "env": {}, "artifacts": []}
    session.put(f"/api/v3/jobs/{job}/configuration", json=configuration).raise_for_status()
    matrix_job = make("/jobs", {"name": marker, "project_id": project})["id"]
    with_matrix = configuration | {"matrix": {"axes": {"n": ["1", "2"]}}}
    session.put(f"/api/v3/jobs/{matrix_job}/configuration", json=with_matrix).raise_for_status()
    group = make("/builds/start", {"job_id": matrix_job})["group_id"]
    notified = {"project_id": project, "branch": "main", "commit_sha": "c0ffee" * 6 + "c0ff"}
    change = make("/builds/git-notify", notified)["change_id"]
    template = make("/pipeline-templates", {"name": name, "setup": [], "env": {}})["id"]
    build = make("/builds/start", {"job_id": job, "external": True})["id"]
    report = f'<testsuite name="{marker}"><testcase name="{marker}"/></testsuite>'.encode()
    files = {"file": ("report.xml", report)}
    upload = session.post("/api/v3/artifacts/upload", data={"build_id": build}, files=files)
    artifact = upload.json()["id"]
    result = session.get("/api/v3/tests", params={"build_id": build}).json()["results"][0]
    # Nobody listens there, and nothing leaves the machine.
    webhook = make("/webhooks", {"url": "http://127.0.0.1:9/", "events": ["build.failed"]})["id"]
    channel_fields = {
        "name": marker,
        "project_id": project,
        "events": ["build.failed"],
        "webhook_url": "http://127.0.0.1:9/",
    }
    channel = make("/ms-teams", channel_fields)["id"]
    repository = {"type": "git", "repo": "http://127.0.0.1:9/shop.git", "token": None}
    endpoint = make("/scm", repository | {"name": marker, "project_id": project})["id"]
    jira_fields = {"name": marker, "host": "http://127.0.0.1:9", "email": "x@example.com", "api_token": "t"}
    jira = make("/jira", jira_fields | {"project_key": "BACK", "testhide_project_id": project})["id"]
    vcenter_fields = {"name": name, "host": "127.0.0.1:9", "username": "x", "password": "x", "datacenter": "x"}
    vcenter = make("/vcenter", vcenter_fields)["id"]
    session.post(f"/api/v3/vcenter/{vcenter}/test").then(200)
    (operation,) = session.get(f"/api/v3/vcenter/{vcenter}/operations").then(200)
    agent = make("/docker-agents/spawn", {"host": "build-host-01", "image": "testhide/agent:3.14"})["id"]
    issue = {"project_id": project, "title": marker, "classification": "infra", "pattern": "never"}
    known_issue = make("/known-issues", issue)["id"]
    entity_id, certificate = f"{ENTITY_ID}/{name.replace(' ', '-')}", signing_key("idp").certificate.decode()
    provider_fields = {"name": name, "entity_id": entity_id, "sso_url": SSO_URL, "certificates": [certificate]}
    provider = make("/identity-providers", provider_fields)["id"]
    evaluation = make("/evals/runs", {"suite": "health", "sample_size": 3})["id"]
    user = session.get("/api/v3/me").json()["id"]
    ids: dict[str, int | str] = {
        "project_id": project,
        "pool_id": pool,
        "node_pool_id": pool,
        "node_id": node["id"],
        "job_id": job,
        "build_id": build,
        "group_id": group,
        "change_id": change,
        "artifact_id": artifact,
        "test_id": result["id"],
        "test_case_id": result["test_case_id"],
        "template_id": template,
        "known_issue_id": known_issue,
        "scm_endpoint_id": endpoint,
        "user_id": user,
        "stream": f"job-{job}",
        "event_type": "build.failed",
        "operation_id": operation["id"],
        "q": "hidden",
        "vcenter_id": vcenter,
    }
    api_token = make("/api-tokens", {"name": "fuzz"})["secret"]
    own_ids: dict[str, int | str] = {
        "/api/v3/node-pools": pool,
        "/api/v3/webhooks": webhook,
        "/api/v3/ms-teams": channel,
        "/api/v3/scm": endpoint,
        "/api/v3/jira": jira,
        "GET /api/v3/docker-agents": agent,
        "/api/v3/docker-agents": "da-0",  # there is none: operations on one would wait for a Docker engine
        "/api/v3/vcenter": vcenter,
        "/api/v3/identity-providers": provider,
        "/api/v3/ai/tests": result["test_case_id"],
        "/api/v3/evals": evaluation,
    }
    return Fuzzed(session.url, session, marker, api_token, node["agent_token"], ids, own_ids)


def fuzz(fuzzed: Fuzzed, operation: Described, examples: int, number: int, role: Role = "admin") -> Counter[int]:
    """Sends about `examples` requests; how often it was answered with which status.

    Raises what schemathesis finds, with the shortest example, and also where somebody reads of a project who is no
    member of it.
    """
    answers: Counter[int] = Counter()
    authenticated: list[str] = []
    # Deleting what others are about would leave nothing to look at.
    real = st.booleans() if operation.method.upper() != "DELETE" else st.just(False)
    # Made once: each is compiled anew from the schema.
    cases = {mode: operation.as_strategy(mode) for mode in schemathesis.GenerationMode}
    modes = st.sampled_from(list(cases))

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        case = data.draw(cases[data.draw(modes)])
        is_about = data.draw(real) and _about(case, fuzzed.ids_of(operation))
        write_whole_numbers(case)
        headers = fuzzed.credentials(operation, role)
        answer = case.call(fuzzed.url, headers=headers, timeout=TIMEOUT_S)
        for _ in range(MAX_REPEATS):
            if answer.status_code != 503 or b"the read models are behind" not in answer.content:
                break
            time.sleep(float(answer.headers["retry-after"][0]))  # as a client is told to
            answer = case.call(fuzzed.url, headers=headers, timeout=TIMEOUT_S)
        answers[answer.status_code] += 1
        if role in ("outsider", "stranger"):
            assert fuzzed.marker not in answer.text, f"{role} reads of a project: {answer.text}"
        if answer.status_code == 503 and operation.label in WITHOUT_AN_AGENT:
            assert "retry-after" in answer.headers
            return
        if answer.status_code in (502, 503, 504) and operation.label in CALLING_OUT:
            return
        # A real id may take the place of what alone was wrong, and the check does not know 413 as a refusal.
        is_exempt = is_about or answer.status_code == 413
        checks = [check for check in CHECKS if not (is_exempt and check is negative_data_rejection)]
        if is_explained(operation.label, case, answer):
            checks.remove(positive_data_acceptance)
        media_type = answer.headers.get("content-type", [""])[0]
        if media_type.startswith("text/event-stream"):  # its schema is that of the whole text
            checks.remove(response_schema_conformance)
        case.validate_response(answer, checks, headers=headers, transport_kwargs={"base_url": fuzzed.url})
        if role != "stranger" and not authenticated and 200 <= answer.status_code < 300:
            # Sends the request without credentials and with made-up ones.
            case.validate_response(answer, [ignored_auth], headers=headers, transport_kwargs={"base_url": fuzzed.url})
            authenticated.append(operation.label)

    run()
    return answers


def _about(case: schemathesis.Case[Any], ids: Mapping[str, int | str]) -> bool:
    """Puts real ids in the places of made-up ones. Returns whether there were any."""
    has_replaced = False
    for parameters in (case.path_parameters, case.query, case.body):
        if isinstance(parameters, dict):
            for name in parameters.keys() & ids.keys():
                made_up = parameters[name]
                if made_up in ("true", "false") or isinstance(made_up, str) != isinstance(ids[name], str):
                    continue  # of the same name, but no id of that kind
                parameters[name] = ids[name]
                has_replaced = True
    return has_replaced


def _loosen_tuples(described: Any) -> None:
    """Tuples as lists of as many items.

    schemathesis 4.32 makes a list of `items` of an answer's `prefixItems`, and takes that for the description's fault.
    """
    match described:
        case list():
            for item in described:
                _loosen_tuples(item)
        case dict():
            if (items := described.pop("prefixItems", None)) is not None:
                described |= {"items": {"anyOf": items}, "minItems": len(items), "maxItems": len(items)}
            for item in described.values():
                _loosen_tuples(item)
