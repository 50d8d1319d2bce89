"""Every operation that the server serves, with a request that would change something, and the rule who may send it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .rules import (
    AUDIT,
    BUILD,
    MANAGE,
    READ,
    REPORT,
    WRITE,
    Rule,
    account_owners,
    admins,
    admins_of_the_server,
    admins_see,
    admins_who_manage_nodes,
    agents,
    auditors,
    creator,
    developers,
    node_managers,
    oneself,
    public,
    shared_pool,
    signed_in,
    unlimited,
    whole_log,
)

Ids = dict[str, Any]
"""What the scene holds, by name."""
MARKER = "walled-in"
"""Part of the name of all that lies in the project."""
ANYBODY, READER = signed_in(None), signed_in("read")
SINGLE_SIGN_ON = (
    ("GET", ""),
    ("POST", ""),
    ("GET", "/metadata"),
    ("GET", "/login/{provider_id}"),
    ("POST", "/acs"),
    ("POST", "/session"),
)
VCENTER = {"name": "x", "host": "vcenter.example.com", "username": "x", "password": "x", "datacenter": "x"}
CONFIGURATION = {"command": "true", "setup": [], "env": {}, "artifacts": []}


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


ACCOUNTS = (
    op("GET /healthz", public),
    op("GET /readyz", public),
    op("POST /authenticate", public),
    op("POST /reset-password", public),
    op("POST /reset-password/confirm", public),
    op("GET /set-password", public),
    op("GET /gitops/schema", public),
    op("GET /webhooks/schemas", public),
    op("GET /webhooks/schemas/{event_type}", public),
    op("GET /agent/{version}/{platform}", public),
    op("POST /logout", ANYBODY, answers=(409,)),
    op("GET /me", ANYBODY),
    op("POST /me/password", unlimited, {"current_password": "x", "new_password": "password"}, answers=(422,)),
    op("GET /config", ANYBODY),
    op("GET /license/status", ANYBODY),
    op("GET /api-tokens", READER),
    op("POST /api-tokens", unlimited, {"name": "x"}),
    op("DELETE /api-tokens/{token_id}", account_owners),
    *(op(f"{method} /sso{path}", public) for method, path in SINGLE_SIGN_ON),
    op("GET /identity-providers", admins("read")),
    op("POST /identity-providers", admins(), {"name": "x"}, answers=(422,)),
    op("GET /identity-providers/{id}", admins("read"), answers=(404,)),
    op("PUT /identity-providers/{id}", admins(), {"name": "x"}, answers=(404,)),
    op("DELETE /identity-providers/{id}", admins()),
    op("POST /identity-providers/{id}/refresh", admins(), answers=(404,)),
    op("GET /identity-providers/{id}/identities", admins("read"), answers=(404,)),
    op("POST /identity-providers/{id}/identities", admins(), {"user_id": 1, "name_id": "x"}),
    op("DELETE /identity-providers/{id}/identities/{user_id}", admins(), answers=(404,)),
    op("GET /users", admins("read")),
    op("POST /users", admins(), {"email": "new@example.com", "role": "viewer"}),
    op("GET /users/{user_id}", oneself("read")),
    op("PUT /users/{user_id}", admins(), {"first_name": "x"}),
    op("POST /users/{user_id}/invite", admins()),
    op("POST /users/{user_id}/sign-out", oneself("admin")),
    op("GET /users/{user_id}/permissions", oneself("read")),
    past("GET /users/{user_id}/permissions", admins("read")),
    op("DELETE /users/{user_id}", admins()),
)
PROJECTS = (
    op("GET /projects", READER, lists="read"),
    op("POST /projects", developers, {"name": "x"}),
    op("GET /projects/{project_id}", READ),
    op("PUT /projects/{project_id}", MANAGE, {"name": "x"}),
    op("POST /projects/{project_id}/rotate-webhook-secret", MANAGE),
    op("DELETE /projects/{project_id}", MANAGE),
    op("GET /projects/{project_id}/members", READ),
    op("POST /projects/{project_id}/members", MANAGE, lambda at: {"email": at["email"], "access": "read"}),
    op("PUT /projects/{project_id}/members/{user_id}", MANAGE, {"access": "admin"}, of="user_id=member"),
    op("DELETE /projects/{project_id}/members/{user_id}", MANAGE, of="user_id=member"),
    op("GET /jobs", READER, lists="read"),
    op("POST /jobs", WRITE, lambda at: {"name": "x", "project_id": at["project_id"]}),
    op(
        "POST /jobs/import",
        WRITE,
        lambda at: {
            "project_id": at["project_id"],
            "bundle": {"export_version": "1", "job": {"name": "x"}, "configuration": {}},
        },
    ),
    op("GET /jobs/{job_id}", READ),
    past("GET /jobs/{job_id}"),
    op("PUT /jobs/{job_id}", WRITE, {"enabled": False}),
    op("DELETE /jobs/{job_id}", MANAGE),
    op("GET /jobs/{job_id}/configuration", READ),
    past("GET /jobs/{job_id}/configuration"),
    op("PUT /jobs/{job_id}/configuration", WRITE, CONFIGURATION),
    op("POST /jobs/{job_id}/export", READ),
    op("GET /jobs/{job_id}/triggers", READ),
    past("GET /jobs/{job_id}/triggers"),
    op("PUT /jobs/{job_id}/triggers", WRITE, {"branches": ["main"]}),
    op("POST /jobs/{job_id}/triggers/explain", READ, {"branch": "main"}),
)
TEMPLATE = {"name": "x", "setup": [], "env": {}}
TEMPLATES = (
    op("GET /pipeline-templates", READER),
    op("POST /pipeline-templates", developers, TEMPLATE),
    op("GET /pipeline-templates/{template_id}", READER),
    *(
        op(f"{method} /pipeline-templates/{{template_id}}", creator(name), body, of=f"template_id={name}")
        for name in ("template", "viewers_template")
        for method, body in (("PUT", {"name": "x"}), ("DELETE", None))
    ),
)
BUILDS = (
    op("POST /builds/start", BUILD, lambda at: {"job_id": at["job_id"]}),
    op(
        "POST /builds/git-notify",
        BUILD,
        lambda at: {"project_id": at["project_id"], "branch": "main", "commit_sha": "c0ffee"},
    ),
    op("GET /changes/{change_id}", READ),
    op("POST /gitops/webhook", public, answers=(401,)),  # not signed
    op("POST /webhook/proj/{project_id}", public, answers=(401,)),
    op("GET /builds", READER, lists="read"),
    past("GET /builds", auditors, lists="admin"),
    op("GET /builds/{build_id}", READ),
    past("GET /builds/{build_id}"),
    op("GET /build-groups/{group_id}", READ),
    op("POST /build-groups/{group_id}/abort", BUILD),
    op("POST /build-groups/{group_id}/restart", BUILD),
    op("POST /builds/{build_id}/stop", BUILD, of="build_id=running_build"),
    op("POST /builds/{build_id}/finish", REPORT, {"status": "passed"}, of="build_id=running_build"),
    op("GET /builds/{build_id}/pipeline_logs", READ),
    op("GET /builds/{build_id}/pipeline_logs/raw", READ),
    op("POST /builds/{build_id}/log", REPORT, {"offset": 0, "text": "a\n"}, of="build_id=running_build"),
    op("GET /builds/{build_id}/stream", READ),
    op("POST /builds/{build_id}/restart", BUILD),
    op("POST /builds/{build_id}/retry-flaky", BUILD),
    op("POST /builds/{build_id}/push_to_top", BUILD),
    op("POST /builds/{build_id}/approve", WRITE),
    op("POST /builds/{build_id}/keep-forever", BUILD),
    op("DELETE /builds/{build_id}/keep-forever", BUILD),
    op("POST /builds/{build_id}/comment", BUILD, {"text": "x"}),
    op("DELETE /builds/{build_id}", MANAGE),
    op("GET /events/stream", READER),
    op("GET /events/stream", READ, query="project_id={project_id}"),
    op("GET /artifacts", READ, query="build_id={build_id}"),
    op("GET /artifacts/tree", READ, query="build_id={build_id}"),
    op("POST /artifacts/upload", REPORT, lambda at: {"build_id": str(at["running_build"])}),
    op("GET /artifacts/{artifact_id}/download", READ),
    op("DELETE /artifacts/{artifact_id}", WRITE),
)
ISSUE = {"title": "x", "classification": "infra", "pattern": "refused"}
TESTS = (
    op("GET /report/{build_id}", READ),
    past("GET /report/{build_id}"),
    op("GET /tests", READ, query="build_id={build_id}"),
    past("GET /tests", query="build_id={build_id}"),
    op("GET /tests/{test_id}", READ),
    op("GET /tests/{test_id}/history", READ),
    op("POST /tests/{test_id}/classification", WRITE, {"classification": "infra"}),
    op("POST /tests/{test_id}/defect", WRITE, {"defect_key": "X-1", "defect_url": "https://example.com/X-1"}),
    op("POST /tests/{test_id}/resolution", WRITE, {"resolution": "x"}),
    op("POST /tests/{test_id}/known-issue", WRITE, lambda at: {"known_issue_id": at["known_issue_id"]}),
    op("GET /known-issues", READ, query="project_id={project_id}"),
    op("POST /known-issues", WRITE, lambda at: ISSUE | {"project_id": at["project_id"]}),
    op("GET /known-issues/{known_issue_id}", READ),
    op("PUT /known-issues/{known_issue_id}", WRITE, {"title": "x"}),
    op("DELETE /known-issues/{known_issue_id}", WRITE),
    op("GET /quarantine", READ, query="job_id={job_id}"),
    past("GET /quarantine", query="job_id={job_id}"),
    op("POST /quarantine", WRITE, lambda at: {"job_id": at["job_id"], "node_id": "x", "reason": "flaky"}),
    op(
        "POST /quarantine/bulk",
        WRITE,
        lambda at: {"job_id": at["job_id"], "node_ids": ["x"], "action": "add"},
    ),
    op("GET /quarantine/stats", READ, query="job_id={job_id}"),
    op("GET /quarantine/nodeids", READ, query="job_id={job_id}"),
    op("DELETE /quarantine/{quarantine_id}", WRITE),
)
NODES = (
    op("GET /nodes", READER),
    op("POST /nodes", node_managers, lambda at: {"name": "x", "pool_id": at["node-pools"]}),
    op("GET /nodes/find", READER, query="name={node_name}"),
    op("GET /nodes/agent/latest", READER),
    op("GET /nodes/{node_id}", READER),
    past("GET /nodes/{node_id}", admins("read")),
    op("PUT /nodes/{node_id}", node_managers, {"tags": ["x"]}),
    op("DELETE /nodes/{node_id}", node_managers),
    op("GET /nodes/{node_id}/health", READER),
    op("POST /nodes/{node_id}/quarantine", node_managers),
    op("DELETE /nodes/{node_id}/quarantine", node_managers),
    op("POST /nodes/{node_id}/restart", node_managers),
    op("POST /nodes/{node_id}/rotate-token", node_managers),
    op("POST /nodes/{node_id}/execute", admins(), {"command": "true"}),
    op("GET /nodes/{node_id}/commands/{command_id}", admins(), answers=(404,)),
    op("GET /docker-agents", READER),
    op(
        "POST /docker-agents/spawn",
        node_managers,
        lambda at: {"host": "build-host-01", "image": "testhide/agent:1", "pool_id": at["node-pools"]},
    ),
    op("GET /docker-agents/{id}", READER),
    op("GET /docker-agents/{id}/logs", READER, of="id=no_docker_agent", answers=(404,)),
    op("POST /docker-agents/{id}/start", node_managers),
    op("POST /docker-agents/{id}/stop", node_managers, of="id=stopped_docker_agent"),
    op("DELETE /docker-agents/{id}", node_managers, of="id=no_docker_agent", answers=(404,)),
    op("GET /vcenter", READER),
    op("POST /vcenter", node_managers, VCENTER),
    op("GET /vcenter/{id}", READER),
    op("PUT /vcenter/{id}", node_managers, {"name": "x"}),
    op("DELETE /vcenter/{id}", node_managers),
    op("POST /vcenter/{id}/test", node_managers),
    op("POST /vcenter/{id}/sync", node_managers),
    op("POST /vcenter/{id}/vm/power", node_managers, {"vm_id": "vm-1042", "action": "power_on"}),
    op("GET /vcenter/{id}/vms", READER),
    op("POST /vcenter/{id}/vms", node_managers, {"template_id": "vm-1042"}),
    op("POST /vcenter/{id}/vms/{vm_id}/revert", node_managers),
    op("DELETE /vcenter/{id}/vms/{vm_id}", node_managers),
    op("GET /vcenter/{id}/operations", READER),
    op("GET /vcenter/{id}/operations/{operation_id}", READER, answers=(404,)),
    op("GET /node-pools", READER, lists="read"),
    op("POST /node-pools", MANAGE, lambda at: {"name": "x", "project_id": at["project_id"]}),
    op(
        "POST /node-pools",
        admins_who_manage_nodes,
        lambda at: {"name": "x", "project_id": at["project_id"], "shared": True},
        query="",
        of="id=shared_pool",
    ),
    op("GET /node-pools/{id}", READ),
    op("GET /node-pools/{id}", READER, of="id=shared_pool"),
    op("PUT /node-pools/{id}", MANAGE, {"name": "x"}),
    op("PUT /node-pools/{id}", shared_pool, {"name": "x"}, of="id=shared_pool"),
    op("PUT /node-pools/{id}", admins_who_manage_nodes, {"shared": True}, of="id=node-pools"),
    op("PUT /node-pools/{id}", admins_of_the_server, {"untrusted": True}, of="id=node-pools"),
    op("DELETE /node-pools/{id}", MANAGE),
    op("DELETE /node-pools/{id}", shared_pool, of="id=shared_pool"),
    op("POST /agent/register", public),
    *(
        op(f"{method} /agent/{path}", agents)
        for method, path in (
            ("POST", "connect"),
            ("POST", "disconnect"),
            ("POST", "heartbeat"),
            ("GET", "next"),
            ("POST", "builds/{build_id}/started"),
            ("POST", "builds/{build_id}/log"),
            ("POST", "builds/{build_id}/report"),
            ("POST", "builds/{build_id}/finished"),
            ("GET", "builds/{build_id}/caches/{digest}"),
            ("PUT", "builds/{build_id}/caches/{digest}"),
            ("POST", "commands/{command_id}/result"),
        )
    ),
)
WEBHOOK = {"url": "https://hooks.example.com/", "events": ["build.failed"]}
CHANNEL = {"name": "x", "webhook_url": "https://teams.example.com/x", "events": ["build.failed"]}
JIRA = {
    "name": "x",
    "host": "https://jira.example.com",
    "email": "x@example.com",
    "api_token": "t",
    "project_key": "BACK",
}
SCM = {"type": "github", "name": "x", "repo": "acme/shop", "token": "t", "host": "https://scm.example.com"}
ENDPOINTS = (
    op("GET /webhooks", READER, lists="read"),
    op("POST /webhooks", MANAGE, lambda at: WEBHOOK | {"project_id": at["project_id"]}),
    op("POST /webhooks", admins(), WEBHOOK, of="id=unscoped_webhook"),
    op("GET /webhooks/{id}", READ),
    op("GET /webhooks/{id}", admins_see("read"), of="id=unscoped_webhook"),
    op("PUT /webhooks/{id}", MANAGE, {"active": False}),
    op("PUT /webhooks/{id}", admins_see(), {"active": False}, of="id=unscoped_webhook"),
    op("DELETE /webhooks/{id}", MANAGE),
    op("DELETE /webhooks/{id}", admins_see(), of="id=unscoped_webhook"),
    # Skips webhooks that the caller cannot see.
    op(
        "POST /webhooks/bulk-delete",
        lambda who: 0 if who.has_scope("admin") and who.access in (0, 3) else 403,
        lambda at: {"ids": [at["webhooks"]]},
    ),
    op("POST /webhooks/{id}/test", MANAGE),
    op("GET /webhooks/{id}/history", READ),
    # A webhook has few replays under way, and many callers ask for one.
    op("POST /webhooks/{id}/replay", MANAGE, {"position": 1}, answers=(202, 429)),
    op("POST /webhooks/{id}/history/{delivery_id}/redeliver", MANAGE, answers=(404,)),
    op("GET /ms-teams", READER, lists="read"),
    op("POST /ms-teams", MANAGE, lambda at: CHANNEL | {"project_id": at["project_id"]}),
    op("GET /ms-teams/{id}", READ),
    op("PUT /ms-teams/{id}", MANAGE, {"name": "x"}),
    op("DELETE /ms-teams/{id}", MANAGE),
    op("POST /ms-teams/{id}/test", MANAGE),
    op("GET /scm", READER, lists="read"),
    op("POST /scm", MANAGE, lambda at: SCM | {"project_id": at["project_id"]}),
    op("GET /scm/{id}", READ),
    op("PUT /scm/{id}", MANAGE, {"name": "x"}),
    op("DELETE /scm/{id}", MANAGE),
    op("GET /scm/{id}/branches", READ, answers=(503, 504)),
    op("GET /scm/{id}/commits", READ, answers=(503, 504)),
    op("POST /scm/{id}/test", MANAGE),
    op("GET /jira", READER, lists="read"),
    op("POST /jira", MANAGE, lambda at: JIRA | {"testhide_project_id": at["project_id"]}),
    op("POST /jira", admins(), JIRA, of="id=unscoped_jira"),
    op("GET /jira/{id}", READ),
    op("GET /jira/{id}", admins_see("read"), of="id=unscoped_jira"),
    op("PUT /jira/{id}", MANAGE, {"auto_create": False}),
    op("PUT /jira/{id}", admins_see(), {"auto_create": False}, of="id=unscoped_jira"),
    op("DELETE /jira/{id}", MANAGE),
    op("DELETE /jira/{id}", admins_see(), of="id=unscoped_jira"),
    op("POST /jira/{id}/test", MANAGE),
    op("POST /gitops/sync", WRITE, lambda at: {"project_id": at["project_id"]}, answers=(503, 504)),
    op("GET /gitops/status", READ, query="project_id={project_id}"),
)
AUDIT_LOG = (
    op("GET /projections", READER),
    op("GET /reactions", READER),
    op("GET /audit/events", auditors, query="type=job.created", lists="admin"),
    op("GET /audit/events", AUDIT, query="project_id={project_id}"),
    op("GET /audit/streams/{stream}", AUDIT),
    op("GET /audit/streams/{stream}", admins_see("read"), of="stream=user_stream"),
    op("GET /audit/checkpoints", auditors),
    op("GET /audit/consistency", auditors, query="first={sealed}&second={sealed}"),
    op("GET /audit/proof/{position}", AUDIT),
    op("GET /audit/proof/{position}", admins_see("read"), of="position=user_position"),
    op("GET /audit/export", whole_log, query="size={sealed}&after={after}"),
    op("GET /audit/export", AUDIT, query="size={sealed}&after={after}&project_id={project_id}"),
    op("GET /audit/export", AUDIT, query="size={sealed}&stream={stream}"),
    # One replay runs at a time, and the callers are sent together.
    op(
        "POST /audit/replay",
        AUDIT,
        lambda at: {"project_id": at["project_id"], "known_issues": [ISSUE]},
        answers=(200, 429),
    ),
    op("POST /audit/replay", whole_log, {"known_issues": [ISSUE]}, answers=(200, 429)),
)
OPERATIONS = (*ACCOUNTS, *PROJECTS, *TEMPLATES, *BUILDS, *TESTS, *NODES, *ENDPOINTS, *AUDIT_LOG)
UNDECLARED = {"GET /openapi.json": "the description is public, and no route of a controller"}
