"""Generates the events of the company of `bench.history.company` that are not about builds."""

from datetime import timedelta
from typing import Any

from bench.history.world import BEGIN, Commits, Job, World
from domain.audit import AuditRead
from domain.auth import ApiTokenCreated, ApiTokenRevoked, SessionOpened, SessionRevoked
from domain.claims import ClaimReleased, ClaimTaken
from domain.dispatch import LeadershipTaken
from domain.jobs import Configuration, JobConfigured, JobDeleted, JobUpdated
from domain.known_issues import KnownIssueCreated, KnownIssueDeleted, KnownIssueUpdated
from domain.node_commands import NodeCommandCompleted, NodeCommandRequested
from domain.nodes import (
    NodeConnected,
    NodeDeleted,
    NodeQuarantined,
    NodeRegistered,
    NodeReleased,
    NodeUpdated,
    NodeWentOffline,
)
from domain.pools import PoolCreated, PoolDeleted, PoolUpdated
from domain.projects import (
    MemberAdmitted,
    ProjectClosed,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    WebhookSecretRotated,
)
from domain.quarantine import QuarantineBecameHealthy, QuarantineExpired, QuarantineLifted, TestsQuarantined
from domain.templates import TemplateCreated, TemplateDeleted, TemplateUpdated
from domain.users import UserDeleted, UserRegistered
from domain.webhooks import WebhookDeleted, WebhookFailing, WebhookRecovered, WebhookRegistered, WebhookUpdated

PROJECTS, JOBS, NODES, PEOPLE = 12, 10, 40, 60


class Activity:
    """Generates the commits that do not belong to a build. A commit is a list of events that are appended together."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._deleted_jobs = 0

    def found_company(self) -> Commits:
        """Yields the commits that create users, projects, jobs, pools, known issues and nodes."""
        rng = self.world.rng
        yield [LeadershipTaken(leader="dispatcher")]
        for _ in range(PEOPLE):
            user = next(self.world.ids["users"])
            self.world.people.append(user)
            registered = UserRegistered(
                user_id=user,
                role="developer",
                email=f"person{user}@example.com",
                password_hash="$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$" + "h" * 43,
                first_name=f"First{user}",
                last_name=f"Last{user}",
            )
            yield [ClaimTaken(claim=f"email-{user:032x}", owner=f"user-{user}"), registered]
        for _ in range(PROJECTS):
            project = next(self.world.ids["projects"])
            yield [
                ClaimTaken(claim=f"slug-{project:032x}", owner=f"project-{project}"),
                ProjectCreated(
                    project_id=project,
                    title=f"Project {project}",
                    slug=f"project-{project}",
                    sealed_webhook_secret=rng.randbytes(60),
                ),
            ]
            for user in self.world.people[:8]:
                yield [MemberAdmitted(project_id=project, user_id=user, access="write")]
            pool = next(self.world.ids["node_pools"])
            self.world.pools.append((pool, project))
            yield [PoolCreated(pool_id=pool, project_id=project, title=f"pool {pool}", labels={"os": "linux"})]
            issue = next(self.world.ids["known_issues"])
            self.world.issues[project] = issue
            yield [
                KnownIssueCreated(
                    known_issue_id=issue,
                    project_id=project,
                    title="The database was away",
                    classification="infra",
                    kind="pattern",
                    value="connection (refused|reset)",
                    defect_key=f"OPS-{issue}",
                )
            ]
            yield from (self.world.new_job(project, 5.0 if number == 0 else 0.55) for number in range(JOBS))
        for _ in range(NODES):
            node = next(self.world.ids["nodes"])
            self.world.nodes.append(node)
            claim = f"node-name-{node:032x}"
            yield [
                ClaimTaken(claim=claim, owner=f"node-{node}"),
                NodeRegistered(node_id=node, title=f"node-{node}", claim=claim, token_hash=rng.randbytes(32)),
            ]
            yield [self._connect(node)]

    def generate(self, progress: float) -> Commits:
        """Yields the commits of one random activity. `progress` is the share of the history that is written already,
        from 0 to 1.
        """
        rng, user = self.world.rng, self.world.rng.choice(self.world.people)
        job, node, (pool, project) = (
            rng.choice(self.world.jobs),
            rng.choice(self.world.nodes),
            rng.choice(self.world.pools),
        )
        issue = self.world.issues[project]
        match rng.choices(range(14), (30, 20, 3, 8, 10, 6, 3, 2, 3, 6, 2, 0.3, 0.5, 3))[0]:
            case 0:
                session = f"{rng.getrandbits(128):032x}"
                self.world.sessions.append((session, user))
                yield [SessionOpened(session_id=session, user_id=user, expires_at=BEGIN + timedelta(days=900))]
            case 1 if len(self.world.sessions) > PEOPLE:
                session, user = self.world.sessions.pop(rng.randrange(len(self.world.sessions)))
                yield [SessionRevoked(session_id=session, user_id=user)]
            case 2:
                token = next(self.world.ids["api_tokens"])
                yield [
                    ApiTokenCreated(token_id=token, user_id=user, label=f"token {token}", token_hash=rng.randbytes(32))
                ]
                if rng.random() < 0.5:
                    yield [ApiTokenRevoked(token_id=token, user_id=user)]
            case 3:
                yield [NodeWentOffline(node_id=node, session="s", reason="agent_stopped")]
                yield [self._connect(node)]
            case 4:
                command = next(self.world.ids["node_commands"])
                yield [NodeCommandRequested(command_id=command, node_id=node, kind="execute", command="df -h")]
                yield [
                    NodeCommandCompleted(command_id=command, node_id=node, exit_code=0, stdout="/dev/sda1 40G\n" * 8)
                ]
            case 5:
                yield [JobUpdated(**job.ids, timeout_minutes=rng.randrange(10, 120))]
                yield [JobConfigured(**job.ids, configuration=job.configuration)]
            case 6:
                yield [ProjectUpdated(project_id=project, description=f"{rng.random()}", retention_builds=1_000)]
                yield [WebhookSecretRotated(project_id=project, sealed_webhook_secret=rng.randbytes(60))]
                yield [PoolUpdated(pool_id=pool, project_id=project, max_parallel=rng.randrange(1, 9))]
            case 7:
                yield from self._create_template(user)
            case 8:
                yield [NodeQuarantined(node_id=node)]
                yield [NodeReleased(node_id=node), NodeUpdated(node_id=node, tags=["linux", f"t{rng.randrange(9)}"])]
            case 9:
                yield from self._quarantine_test(job)
            case 10:
                value = f"connection (refused|reset|closed {rng.randrange(99)})"
                yield [KnownIssueUpdated(known_issue_id=issue, project_id=project, kind="pattern", value=value)]
            case 11:
                yield from self._create_and_delete_parts(project)
            case 12:
                yield from self._create_and_delete_project()
            case 13:
                yield [AuditRead(read_id=next(self.world.ids["audit_reads"]), what="events", shown=50)]
            case _:
                return
        if progress > 0.3 + 0.2 * self._deleted_jobs:
            yield from self._replace_job(job)

    def _create_template(self, user: int) -> Commits:
        template = next(self.world.ids["templates"])
        configuration = Configuration(command="tox", setup=["pip install tox"])
        yield [
            TemplateCreated(
                template_id=template, creator_id=user, title=f"Template {template}", configuration=configuration
            )
        ]
        yield [TemplateUpdated(template_id=template, description="For every library.")]
        if self.world.rng.random() < 0.5:
            yield [TemplateDeleted(template_id=template)]

    def _quarantine_test(self, job: Job) -> Commits:
        first = next(self.world.ids["quarantine"])
        node_ids = [f"tests/area_0/test_j{job.job_id}_0.py::TestArea::test_case_{self.world.rng.randrange(8)}_{first}"]
        yield [TestsQuarantined(**job.ids, first_id=first, node_ids=node_ids, reason="flaky")]
        if self.world.rng.random() < 0.3:
            yield [QuarantineExpired(**job.ids, ids=[first])]
        elif self.world.rng.random() < 0.1:
            yield [QuarantineBecameHealthy(**job.ids, ids=[first], failures=[0])]
        if self.world.rng.random() < 0.7:
            yield [QuarantineLifted(**job.ids, ids=[first], node_ids=node_ids)]

    def _create_and_delete_parts(self, project: int) -> Commits:
        """Yields the commits that create a pool, a node and a known issue, and delete all three."""
        pool, node = next(self.world.ids["node_pools"]), next(self.world.ids["nodes"])
        yield [PoolCreated(pool_id=pool, project_id=project, title=f"pool {pool}")]
        claim = f"node-name-{node:032x}"
        yield [
            ClaimTaken(claim=claim, owner=f"node-{node}"),
            NodeRegistered(node_id=node, title=f"node-{node}", claim=claim, token_hash=b"t" * 32, pool_id=pool),
        ]
        yield [ClaimReleased(claim=claim, owner=f"node-{node}"), NodeDeleted(node_id=node)]
        yield [PoolDeleted(pool_id=pool, project_id=project)]
        issue = next(self.world.ids["known_issues"])
        yield [
            KnownIssueCreated(
                known_issue_id=issue,
                project_id=project,
                title="Passing",
                classification="flaky",
                kind="fail_id",
                value=f"F-{issue}",
            )
        ]
        yield [KnownIssueDeleted(known_issue_id=issue, project_id=project)]

    def _create_and_delete_project(self) -> Commits:
        """Yields the commits that create and delete a user, and a project with a webhook that is never active."""
        project, webhook, user = (next(self.world.ids[kind]) for kind in ("projects", "webhooks", "users"))
        slug = ClaimTaken(claim=f"slug-{project:032x}", owner=f"project-{project}")
        yield [slug, ProjectCreated(project_id=project, title="Trial", slug="trial", sealed_webhook_secret=b"s" * 60)]
        hook: dict[str, Any] = {"webhook_id": webhook, "project_id": project}
        yield [WebhookRegistered(**hook, events=["build.finished"], url="https://ci.example/hook", active=False)]
        yield [WebhookUpdated(**hook, events=["build.finished", "build.started"])]
        yield [WebhookFailing(**hook, error="no answer")]
        yield [WebhookRecovered(**hook)]
        yield [WebhookDeleted(**hook)]
        yield [ProjectClosed(project_id=project), ProjectDeleted(project_id=project)]
        yield [UserRegistered(user_id=user, role="viewer", email=f"guest{user}@example.com", password_hash="hash")]
        yield [UserDeleted(user_id=user)]

    def _replace_job(self, job: Job) -> Commits:
        self._deleted_jobs += 1
        job.deleted = True
        self.world.jobs.remove(job)
        yield [JobDeleted(**job.ids)]
        yield self.world.new_job(job.project_id, job.weight)

    def _connect(self, node: int) -> NodeConnected:
        machine: dict[str, Any] = {
            "version": "1.0",
            "platform": "linux",
            "hostname": f"host-{node}",
            "cpu_cores": 8,
            "ram_gb": 32.0,
        }
        return NodeConnected(node_id=node, session=f"{self.world.rng.getrandbits(64):016x}", **machine)
