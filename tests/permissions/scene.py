"""A project with one of everything, and callers of every kind."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from api.http.authentication import API_TOKEN_PREFIX, SESSION_LIFETIME, session_token
from commands.auth import CreateApiToken, OpenSession
from commands.handler import CommandContext, Handler
from commands.projects import AdmitMember
from commands.templates import CreateTemplate
from commands.users import RegisterUser, UpdateUser
from domain.auth import Scope
from domain.projects import Access
from store.clock import utcnow
from store.crypto.secrets import new_token, token_hash
from testhide.processes import Core, core
from tests.support.builders import finish, given_build, given_job, given_node, given_pool, given_project, upload
from tests.support.containers import ENDED, RUNNING, record_states
from tests.support.sealing import seal_log
from tests.support.server import Server

from .operation import Ids
from .rules import CREDENTIALS, PEOPLE, Caller, Credential, Person
from .table import AUTOSCALING, CHANNEL, CONFIGURATION, ISSUE, JIRA, MARKER, SCM, VCENTER, WEBHOOK

REPORT = b"""<testsuite name="s"><testcase classname="c" name="a"><failure message="refused"/></testcase>
<testcase classname="c" name="b"><flakyFailure message="x">late</flakyFailure></testcase></testsuite>"""


@dataclass(frozen=True)
class Scene:
    ids: Ids
    tokens: dict[Caller, str]
    agent_token: str


async def make_scene(server: Server) -> Scene:
    ids, agent_token = _fill_project(server)
    async with core(server.settings, pool_size=2) as parts:
        people = _People(server, parts, ids)
        stopped = str(ids["stopped_docker_agent"])
        await record_states(people.handler, {str(ids["docker-agents"]): RUNNING, stopped: ENDED})
        tokens: dict[Caller, str] = {}
        for person in PEOPLE:
            tokens |= await people.register(person)
        server.wait_until_projected()
        await seal_log(parts)
        ids["sealed"] = ids["now"] = await parts.log.read_head()
        ids["after"] = ids["sealed"] - 5
    return Scene(ids, tokens, agent_token)


class _People:
    def __init__(self, server: Server, parts: Core, ids: Ids) -> None:
        self.parts, self.ids = parts, ids
        self.handler, self.caller = Handler(parts.log, utcnow), CommandContext("system:tests")
        self.elsewhere, self.admin_id = given_project(server), int(server.admin.fetch("/me")["id"])

    async def register(self, person: Person) -> dict[Caller, str]:
        """Returns the tokens of a new user, by credential."""
        ids, user_id = self.ids, await self.parts.ids.draw("users")
        email = f"permissions-{user_id}@example.com"
        claim = self.parts.secrets.claim("email", email)
        await self._do(RegisterUser(user_id, email, person.role, "", claim))
        if person.access != "none":
            await self._do(AdmitMember(ids["project_id"], user_id, cast(Access, person.access)))
            ids |= {"member": user_id, "email": email}
        if person.manages_nodes:
            await self._do(UpdateUser(user_id, self.admin_id, can_manage_nodes=True))
        if person.wrote:
            ids[person.wrote] = ids["template_id"] = await self.parts.ids.draw("templates")
            await self._do(CreateTemplate(ids[person.wrote], user_id, person.wrote))
        if person.wrote == "template":
            receipt = await self.handler.execute(UpdateUser(user_id, self.admin_id, first_name="Ann"), self.caller)
            ids |= {"user_id": user_id, "user_stream": f"user-{user_id}", "user_position": receipt.position}
        return {Caller(person, one): await self._sign_in(user_id, one) for one in CREDENTIALS}

    async def _sign_in(self, user_id: int, credential: Credential) -> str:
        if credential == "session":
            session_id, now = new_token(""), utcnow()
            await self._do(OpenSession(session_id, user_id, now + SESSION_LIFETIME))
            return session_token(self.parts.secrets, user_id, session_id, now - timedelta(seconds=1))
        secret, limits = new_token(API_TOKEN_PREFIX), {"here": [self.ids["project_id"]], "elsewhere": [self.elsewhere]}
        scopes = () if credential == "token" or credential in limits else (cast(Scope, credential),)
        self.ids["token_id"] = token_id = await self.parts.ids.draw("api_tokens")
        await self._do(
            CreateApiToken(token_id, user_id, credential, token_hash(secret), scopes, limits.get(credential))
        )
        return secret

    async def _do(self, command: Any) -> None:
        await self.handler.execute(command, self.caller)


def _fill_project(server: Server) -> tuple[Ids, str]:
    """Returns the ids of what is in the project, and the token of a node's agent."""
    admin = server.admin
    project = given_project(server, name=f"{MARKER} project")
    job = given_job(server, project, name=f"{MARKER} job", default_branch=MARKER)
    admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    build, running = given_build(server, job, branch=MARKER), given_build(server, job, branch=MARKER)
    artifact = upload(admin, build, REPORT).then(201)
    finish(server, build, "failed")
    group = _start_group(server, project)
    pool = given_pool(server, project, name=MARKER)
    node = given_node(server, pool_id=pool)
    in_project = {"project_id": project}
    issue = admin.create("/known-issues", **ISSUE, **in_project)
    entry = admin.create("/quarantine", job_id=job, node_id="q", reason="flaky")
    webhook = admin.create("/webhooks", **WEBHOOK | {"url": f"https://{MARKER}.example.com/"}, **in_project)
    unscoped = admin.create("/webhooks", **WEBHOOK)
    channel = admin.create("/ms-teams", **CHANNEL | {"name": MARKER}, **in_project)
    endpoint = admin.create("/scm", **SCM | {"name": MARKER}, **in_project)
    integration = admin.create("/jira", **JIRA | {"name": MARKER, "testhide_project_id": project})
    unscoped_jira = admin.create("/jira", **JIRA)
    test = admin.fetch("/tests", build_id=build)["results"][0]
    event = admin.fetch(f"/audit/streams/build-{build}")[0]
    ids: Ids = {
        **in_project,
        "job_id": job,
        "build_id": build,
        "running_build": running,
        "group_id": group,
        "change_id": _report_change(server, project),
        "artifact_id": artifact["id"],
        "test_id": test["id"],
        "ai": test["test_case_id"],
        "known_issue_id": issue["id"],
        "quarantine_id": entry["id"],
        "node_id": node["id"],
        "node_name": node["name"],
        "command_id": 1,
        "vcenter": admin.create("/vcenter", **VCENTER)["id"],
        "operation_id": 10**6,
        "evals": admin.when("POST", "/evals/runs", json={"suite": "health", "sample_size": 1}).then(202)["id"],
        "vm_id": "vm-1042",
        "node-pools": pool,
        "shared_pool": given_pool(server, project, shared=True),
        "webhooks": webhook["id"],
        "unscoped_webhook": unscoped["id"],
        "ai_job": admin.when("POST", "/ai/job/stream", json={"type": "project_audit", **in_project}).then(202)[
            "job_id"
        ],
        "delivery_id": "d-1",
        "digest": "0" * 64,
        "ms-teams": channel["id"],
        "scm": endpoint["id"],
        "jira": integration["id"],
        "unscoped_jira": unscoped_jira["id"],
        "event_type": "build.failed",
        "version": "1",
        "platform": "linux-amd64",
        "stream": f"build-{build}",
        "position": event["position"],
    }
    admin.when("PUT", f"/node-pools/{pool}/autoscaling", json=AUTOSCALING).then(200)
    ids |= _spawn_agents(server, pool)
    ids["identity-providers"] = ids["provider_id"] = 10**6  # nobody has this id; who may is decided before
    return ids, node["agent_token"]


def _spawn_agents(server: Server, pool: int) -> Ids:
    """Returns the ids of Docker agents without containers."""
    body = {"host": "build-host-01", "image": "testhide/agent:1", "pool_id": pool}
    running, stopped = (server.admin.create("/docker-agents/spawn", **body)["id"] for _ in range(2))
    return {"docker-agents": running, "stopped_docker_agent": stopped, "no_docker_agent": "da-0"}


def _start_ai_job(server: Server, project: int) -> str:
    body = {"type": "project_audit", "project_id": project}
    return str(server.admin.when("POST", "/ai/job/stream", json=body).then(202)["job_id"])


def _report_change(server: Server, project: int) -> int:
    change = {"project_id": project, "branch": MARKER, "commit_sha": "c0ffee"}
    return int(server.admin.when("POST", "/builds/git-notify", json=change).then(200)["change_id"])


def _start_group(server: Server, project: int) -> int:
    """Returns the id of a group of builds that no node can run."""
    job = given_job(server, project, name="matrix", required_tags=[MARKER])
    matrix = {"axes": {"os": ["linux", "mac"]}}
    server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION | {"matrix": matrix}).then(200)
    return int(server.admin.create("/builds/start", job_id=job)["group_id"])
