"""A small world for the documented requests: a person of each kind, a project, and builds in each state."""

import asyncio
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from commands.flakiness import RecordChangedFlakiness
from commands.inquiries import AnswerInquiry
from domain.assistant.answers import Answer
from domain.delivery_outcomes import Outcome
from domain.flakiness import FlakinessEmerged
from store.clock import utcnow
from store.tables.delivery_history import record_ping
from testhide.processes import core
from tests.support.commands import execute
from tests.support.containers import ENDED, KILLED, RUNNING, observe_containers
from tests.support.evals import record_evals
from tests.support.git_repository import GitRepository
from tests.support.http import Client
from tests.support.saml_idp import ENTITY_ID, SSO_URL, Response, signed, signing_key
from tests.support.semantic_index import index_words
from tests.support.server import ADMIN, Server

PATIENCE_S = 30
TESTS = 60  # more than a page of tests
LINES = 510  # more than a page of a log
RUNS = 27  # more than a page of builds, and than a test's history
SESSION = "contract-tests-session"
CONFIGURATION: dict[str, Any] = {
    "command": "pytest tests/",
    "setup": ["pip install -r requirements.txt"],
    "env": {"ENV": "staging"},
    "artifacts": ["reports/*.xml"],
}


def junit(cases: list[tuple[str, str, str]]) -> bytes:
    """A report of cases: (suite, name, passed | failed | skipped)."""
    inner = {
        "passed": "",
        "failed": '<failure message="AssertionError: got 401">trace</failure>',
        "skipped": "<skipped/>",
    }
    suites = "".join(
        f'<testsuite name="{suite}">'
        + "".join(
            f'<testcase classname="tests.{suite}" name="{name}" time="1.23">{inner[status]}</testcase>'
            for of, name, status in cases
            if of == suite
        )
        + "</testsuite>"
        for suite in dict.fromkeys(suite for suite, _, _ in cases)
    )
    return f"<testsuites>{suites}</testsuites>".encode()


FLAKY = b"""<testsuite name="checkout">
<testcase classname="tests.checkout" name="test_pays" time="1"><failure message="refused"/></testcase>
<testcase classname="tests.checkout" name="test_ships" time="1"><flakyFailure message="x">late</flakyFailure></testcase>
</testsuite>"""

CASES = [
    ("auth" if number % 3 else "cart", f"test_{number}", ("passed", "failed", "passed", "skipped")[number % 4])
    for number in range(TESTS)
]


@dataclass
class World:
    server: Server
    admin: Client
    project: int = 0
    other_project: int = 0
    pool: int = 0
    empty_pool: int = 0
    """Without nodes: what is queued for it stays queued."""
    node: int = 0
    offline_node: int = 0
    node_name: str = ""
    job: int = 0
    """Its builds ran: on the node, and elsewhere."""
    waiting_job: int = 0
    disabled_job: int = 0
    build: int = 0
    """Ran on the node: log, report, finished."""
    queued_build: int = 0
    running_build: int = 0
    aborted_build: int = 0
    artifact: int = 0
    test: int = 0
    test_case: int = 0
    """Of the test that has failed lately; the rise is recorded."""
    token: int = 0
    known_issue: int = 0
    template: int = 0
    webhook: int = 0
    """One attempt arrived, one did not."""
    channel: int = 0
    scm_endpoint: int = 0
    jira: int = 0
    docker_agent: str = ""
    """Its container runs, as the log says; there is no Docker engine."""
    vcenter: int = 0
    evaluation: str = ""
    """Complete, as an earlier one is. One of its cases failed that passed before."""
    is_idp_known: bool = False
    repository: GitRepository = field(init=False)
    """Repository of the SCM endpoint."""
    agent: Client = field(init=False)
    member: Client = field(init=False)
    """Admin of the project, reader of the other one."""
    member_id: int = 0
    writer: Client = field(init=False)
    reader: Client = field(init=False)
    viewer: Client = field(init=False)
    """A viewer whose membership says write: the role caps it."""
    stranger: Client = field(init=False)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def unique(self, name: str) -> str:
        return f"{name} {next(self.numbers)}"

    # What tests may destroy.

    def new_project(self) -> int:
        return int(self.admin.post("/api/v3/projects", json={"name": self.unique("Fresh")}).then(201)["id"])

    def new_job(self, **more: Any) -> int:
        """Configured, in the pool without nodes unless told otherwise."""
        body = {"name": self.unique("Fresh"), "project_id": self.project, "node_pool_id": self.empty_pool, **more}
        job_id = int(self.admin.post("/api/v3/jobs", json=body).then(201)["id"])
        self.admin.put(f"/api/v3/jobs/{job_id}/configuration", json=CONFIGURATION).then(200)
        return job_id

    def new_build(self, job_id: int, **more: Any) -> int:
        return int(
            self.admin.post("/api/v3/builds/start", json={"job_id": job_id, "branch": "main", **more}).then(201)["id"]
        )

    def new_result(self) -> int:
        """A build that ended, with a test that failed and one that is flaky; run again, it stays queued."""
        build_id = self.new_build(self.waiting_job, external=True)
        self.upload(build_id, "report.xml", FLAKY)
        self.admin.post(f"/api/v3/builds/{build_id}/finish", json={"status": "failed"}).then(200)
        return build_id

    def new_node(self, pool_id: int) -> dict[str, Any]:
        body = {"name": self.unique("node").replace(" ", "-"), "pool_id": pool_id}
        node: dict[str, Any] = self.admin.post("/api/v3/nodes", json=body).then(201)
        return node

    def new_pool(self) -> int:
        body = {"name": self.unique("Fresh"), "project_id": self.project}
        return int(self.admin.post("/api/v3/node-pools", json=body).then(201)["id"])

    def new_template(self) -> int:
        body = {"name": "Fresh", "description": "Standard", "setup": [], "env": {"NODE_ENV": "test"}}
        return int(self.admin.post("/api/v3/pipeline-templates", json=body).then(201)["id"])

    def new_webhook(self, **more: Any) -> int:
        body = {"url": "https://hooks.example.com/", "events": ["build.failed"], "project_id": self.project, **more}
        return int(self.admin.post("/api/v3/webhooks", json=body).then(201)["id"])

    def new_channel(self) -> int:
        body = {"name": "CI Alerts", "webhook_url": "https://teams.example.com/hook", "events": ["build.failed"]}
        answer = self.admin.post("/api/v3/ms-teams", json=body | {"project_id": self.project})
        return int(answer.then(201)["id"])

    def new_scm_endpoint(self) -> int:
        body = {"type": "github", "name": "Main GitHub", "repo": "acme/backend", "token": "ghp_x"}
        return int(self.admin.post("/api/v3/scm", json=body | {"project_id": self.project}).then(201)["id"])

    def new_jira_integration(self) -> int:
        body: dict[str, Any] = {"name": "ACME Jira", "host": "https://acme.atlassian.net", "email": "user@example.com"}
        body |= {"api_token": "ATATT", "project_key": "BACK", "auto_create": True}
        return int(self.admin.post("/api/v3/jira", json=body | {"testhide_project_id": self.project}).then(201)["id"])

    def new_docker_agent(self, **fields: Any) -> str:
        body = {"host": "build-host-01", "image": "testhide/agent:3.14", "pool_id": self.pool} | fields
        return str(self.admin.post("/api/v3/docker-agents/spawn", json=body).then(201)["id"])

    def new_ai_job(self, owner: Client, is_complete: bool = False) -> str:
        """Starts an audit of the project. With `is_complete`, also ends it, as a worker does."""
        body = {"type": "project_audit", "project_id": self.project}
        job_id = str(owner.post("/api/v3/ai/job/stream", json=body).then(202)["job_id"])
        if is_complete:
            result = {"audit_score": 74, "recommendations": ["Quarantine 8 chronic flakes"]}
            execute(self.server, AnswerInquiry(job_id, Answer(), result=result), "system:assistant")
        return job_id

    def new_vcenter(self) -> int:
        body = {"name": "Prod vCenter", "host": "vcenter.corp.local", "username": "svc-testhide", "password": "s3cr3t"}
        body |= {"datacenter": "DC-East", "cluster": "Compute-01"}
        return int(self.admin.post("/api/v3/vcenter", json=body).then(201)["id"])

    def commit_pipelines(self) -> None:
        """Commits a file of pipelines that no sync has seen yet."""
        content = f"jobs: {{nightly: {{command: make nightly, env: {{NUMBER: {next(self.numbers)}}}}}}}"
        self.repository.write(".testhide.yml", content)

    def new_user(self) -> dict[str, Any]:
        body = {"email": f"fresh-{next(self.numbers)}@example.com", "role": "developer"}
        invited: dict[str, Any] = self.admin.post("/api/v3/users", json=body).then(201)
        return invited

    def new_saml_response(self) -> str:
        """Of somebody whom an identity provider of ours asserts."""
        if not self.is_idp_known:
            certificate = signing_key("idp").certificate.decode()
            body = {"name": "Company", "entity_id": ENTITY_ID, "sso_url": SSO_URL, "certificates": [certificate]}
            self.admin.post("/api/v3/identity-providers", json=body).then(201)
            self.is_idp_known = True
        url = f"{self.server.url}/api/v3/sso"
        return signed(Response(url, f"{url}/metadata", name_id=f"saml-{next(self.numbers)}@example.com"))

    def new_token(self) -> int:
        return int(self.admin.post("/api/v3/api-tokens", json={"name": "Fresh"}).then(201)["id"])

    def session(self) -> Client:
        return self.server.client(*ADMIN)

    def upload(self, build_id: int, path: str, content: bytes) -> dict[str, Any]:
        answer = self.admin.post(
            "/api/v3/artifacts/upload",
            data={"build_id": str(build_id), "path": path},
            files={"file": (path.rpartition("/")[2], io.BytesIO(content))},
        )
        uploaded: dict[str, Any] = answer.then(201)
        return uploaded

    def beat(self) -> None:
        """The node's agent is there (again)."""
        connection = {
            "session": SESSION,
            "version": "1.0",
            "platform": "linux-amd64",
            "hostname": "box",
            "cpu_cores": 8,
            "ram_gb": 16,
        }
        self.agent.post("/api/v3/agent/connect", json=connection).then(200)
        gauges = {"session": SESSION, "cpu_pct": 61.7, "ram_pct": 48.2, "disk_free_gb": 120.4, "uptime_s": 86_400}
        self.agent.post("/api/v3/agent/heartbeat", json=gauges).then(200)

    def run_a_build(self) -> int:
        """As the node's agent: takes a build and reports a log and tests."""
        build_id = self.new_build(self.job, branch="main", commit_sha="a1b2c3d4")
        deadline = time.monotonic() + PATIENCE_S
        assignment = None
        while assignment is None:
            assert time.monotonic() < deadline, "no build was assigned"
            answer = self.agent.get(f"/api/v3/agent/next?session={SESSION}&free=1")
            assignment = answer.json() if answer.status_code == 200 else None
        assert assignment["build"]["id"] == build_id
        at = f"/api/v3/agent/builds/{build_id}"
        attempt = {"attempt": assignment["build"]["attempt"]}
        self.agent.post(f"{at}/started", params=attempt, json={"commit_sha": "a1b2c3d4"}).then(200)
        lines = [[1_700_000_000_000 + number, f"line {number}"] for number in range(LINES)]
        self.agent.post(f"{at}/log", params=attempt, json={"offset": 0, "lines": lines}).then(200)
        self.agent.post(f"{at}/report", params={**attempt, "path": "report.xml"}, data=junit(CASES)).then(200)
        finished = {"exit_code": 1, "reason": None, "detail": None, "log_lines": LINES}
        self.agent.post(f"{at}/finished", params=attempt, json=finished).then(200)
        return build_id


def build_world(server: Server) -> World:
    world = World(server, server.admin)
    _people_and_places(world)
    world.template = world.new_template()
    more = {"node_pool_id": world.pool, "max_parallel": 2, "default_branch": "release"}
    world.job = world.new_job(name="Regression Suite", **more)
    other_pool = world.admin.post("/api/v3/node-pools", json={"name": "x", "project_id": world.other_project}).then(
        201
    )["id"]
    world.waiting_job = world.new_job(name="Smoke Tests", max_parallel=50)
    world.disabled_job = world.new_job(name="Paused Tests")
    world.admin.put(f"/api/v3/jobs/{world.disabled_job}", json={"enabled": False}).then(200)
    world.new_job(project_id=world.other_project, node_pool_id=other_pool)
    world.repository = repository = GitRepository(Path(server.settings.local_repositories, "contract.git"))
    world.commit_pipelines()
    endpoint = {"type": "git", "name": "Main", "project_id": world.project, "repo": str(repository.path), "token": None}
    world.scm_endpoint = world.admin.post("/api/v3/scm", json=endpoint).then(201)["id"]
    _builds(world)
    tests = world.admin.get("/api/v3/tests", params={"build_id": world.build, "limit": 1}).then(200)
    world.test = tests["results"][0]["id"]
    _emerging(world)
    issue = {"project_id": world.project, "title": "Refused", "classification": "infra", "pattern": "refused"}
    world.known_issue = world.admin.post("/api/v3/known-issues", json=issue).then(201)["id"]
    entry = {"job_id": world.job, "node_id": "tests/test_auth.py::test_token_refresh", "reason": "flaky"}
    world.admin.post("/api/v3/quarantine", json=entry).then(201)
    _webhooks(world)
    world.jira = world.new_jira_integration()
    world.docker_agent, stopped, failed = (world.new_docker_agent() for _ in range(3))
    world.new_docker_agent(pool_id=None)
    observe_containers(server, {world.docker_agent: RUNNING, stopped: ENDED, failed: KILLED})
    world.vcenter = world.new_vcenter()
    world.evaluation = record_evals(server)
    shared = {"scm_endpoint_id": world.scm_endpoint}
    world.admin.put(f"/api/v3/projects/{world.other_project}", json=shared).then(200)
    server.wait_until_projected()
    index_words(server)
    return world


def _emerging(world: World) -> None:
    newest = world.admin.get("/api/v3/ai/emerging/latest", params={"project_id": world.project}).then(200)["emerging"]
    (found,) = (test for test in newest if test["name"].endswith("test_emerging"))
    world.test_case = found["test_id"]
    emerged = FlakinessEmerged(
        test_case_id=world.test_case,
        project_id=world.project,
        job_id=world.job,
        build_id=world.build,
        first_build_id=found["first_seen_build"],
        runs=RUNS,
        baseline_runs=17,
        baseline_failing=0,
        recent_runs=10,
        recent_failing=3,
    )
    execute(world.server, RecordChangedFlakiness((emerged,)), "system:flakiness")


def _webhooks(world: World) -> None:
    world.webhook, world.channel = world.new_webhook(), world.new_channel()
    world.new_webhook(active=False)
    world.new_webhook(project_id=world.other_project)

    async def note() -> None:
        async with core(world.server.settings, pool_size=1) as parts, parts.pool.connection() as connection:
            for name, outcome in (("d-1", Outcome(True, 200, "", 7)), ("d-2", Outcome(False, 503, "answered 503", 9))):
                await record_ping(connection, world.webhook, name, outcome, utcnow())

    asyncio.run(note())


def _people_and_places(world: World) -> None:
    server = world.server
    world.project = world.new_project()
    world.other_project = world.new_project()
    world.member = server.make_user("developer", {world.project: "admin", world.other_project: "read"})
    world.member_id = world.member.get("/api/v3/me").json()["id"]
    world.writer = server.make_user("developer", {world.project: "write"})
    world.reader = server.make_user("developer", {world.project: "read"})
    world.viewer = server.make_user("viewer", {world.project: "write"})
    world.stranger = server.make_user("developer", {})
    for name in ("pool", "empty_pool"):
        body = {"name": name, "project_id": world.project, "labels": {"arch": "amd64"}, "max_parallel": 10}
        setattr(world, name, world.admin.post("/api/v3/node-pools", json=body).then(201)["id"])
    node = world.new_node(world.pool)
    world.node, world.node_name = node["id"], node["name"]
    # In a pool of its own: the empty pool stays without nodes.
    pool = {"name": "offline", "project_id": world.project}
    offline_pool = world.admin.post("/api/v3/node-pools", json=pool).then(201)["id"]
    world.offline_node = world.new_node(offline_pool)["id"]
    world.agent = server.client()
    world.agent.authorize(node["agent_token"])
    world.beat()
    token = world.member.post("/api/v3/api-tokens", json={"name": "CI Bot"}).then(201)
    world.token = token["id"]
    by_token = server.client()
    by_token.authorize(token["secret"])
    by_token.get("/api/v3/me").then(200)


def _builds(world: World) -> None:
    for number in range(RUNS):
        build_id = world.new_build(world.job, external=True, branch="release")
        emerging = "failed" if number % 2 and number > RUNS - 7 else "passed"
        cases = [("auth", "test_1", "failed" if number % 2 else "passed"), ("auth", "test_emerging", emerging)]
        world.upload(build_id, "reports/report.xml", junit(cases))
        verdict = "failed" if number % 2 else "passed"
        world.admin.post(f"/api/v3/builds/{build_id}/finish", json={"status": verdict}).then(200)
    world.build = world.run_a_build()
    world.running_build = world.new_build(world.job, external=True)
    world.queued_build = world.new_build(world.waiting_job)
    world.aborted_build = world.new_build(world.waiting_job)
    world.admin.post(f"/api/v3/builds/{world.aborted_build}/stop").then(200)
    artifact = world.upload(world.build, "reports/report.xml", junit(CASES))
    world.artifact = artifact["id"]
    for path in ("logs/run.log", "shots/page.png", "bin/core.bin"):
        world.upload(world.build, path, path.encode())
