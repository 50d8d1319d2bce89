"""The HTTP application: its routes, and the hooks and middleware around each request."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.routes import HTTPRoute

from api.agents import AgentController
from api.ai_jobs import AiJobController
from api.artifacts import ArtifactController
from api.audit import AuditController
from api.audit_proofs import AuditLogController
from api.auth import AuthController
from api.autoscaling import AutoscalingController
from api.build_actions import BuildActionController
from api.build_groups import BuildGroupController
from api.build_logs import BuildLogController
from api.builds import BuildController
from api.caches import CacheController
from api.changes import RepositoryChangeController
from api.chat import ChatController
from api.classification_rules import ClassificationRuleController
from api.description import document
from api.diagnoses import DiagnosisController
from api.docker_agents import DockerAgentController
from api.emerging import EmergingController
from api.evals import EvalController
from api.events import EventController
from api.gitops import GitopsController
from api.health import HealthController, ProjectionController, ReactionController
from api.hooks import ChangeController, HookController, ProjectHookController
from api.http import problems
from api.http.authentication import Authentication
from api.http.bodies import JsonRequest, refuse_compressed_body, refuse_unexpected_body, refuse_unstorable
from api.http.body_limits import MAX_BYTES, PublicBodies, limit_body
from api.http.head import answer_head
from api.http.idempotency import IdempotencyMiddleware
from api.http.paging import provide_paged
from api.http.permissions import check_declarations
from api.http.query_parameters import check_query
from api.http.rate_limits import count_unrouted
from api.http.repeated_checks import check_after, check_after_slow_body
from api.http.request_context import add_position, provide_request_context, wait_for_min_position
from api.http.response_headers import answer_preflight, complete_headers
from api.http.services import Services
from api.identity_providers import IdentityProviderController
from api.jira import JiraController
from api.job_bundles import JobBundleController
from api.jobs import JobController
from api.known_issues import KnownIssueController
from api.language_model import LanguageModelController
from api.licenses import LicenseController
from api.live.agent_polls import AgentPolls
from api.live.streams import Streams
from api.members import MemberController
from api.node_commands import NodeCommandController
from api.nodes import AgentDownloadController, NodeController
from api.password_page import PasswordPageController
from api.passwords import PasswordController
from api.pools import PoolController
from api.projects import ProjectController
from api.quarantine import QuarantineController
from api.registrations import RegistrationController
from api.scm import ScmController
from api.search import SearchController
from api.semantic_search import SemanticSearchController
from api.simulations import SimulationController
from api.splitting import SplittingController
from api.sso import SsoController
from api.teams import TeamsController
from api.templates import TemplateController
from api.test_cases import TestCaseController
from api.test_health import TestHealthController
from api.tests import TestController
from api.trends import TrendController
from api.triage import TriageController
from api.triggers import TriggerController
from api.users import UserController
from api.vcenter import VcenterController
from api.vcenter_operations import VcenterOperationController
from api.webhooks import WebhookController

CONTROLLERS = (
    HealthController,
    AuthController,
    PasswordController,
    SsoController,
    IdentityProviderController,
    UserController,
    MemberController,
    LicenseController,
    ProjectController,
    JobController,
    JobBundleController,
    TriggerController,
    HookController,
    ChangeController,
    RepositoryChangeController,
    TemplateController,
    PoolController,
    NodeController,
    NodeCommandController,
    AutoscalingController,
    DockerAgentController,
    BuildController,
    BuildLogController,
    BuildActionController,
    BuildGroupController,
    EventController,
    ArtifactController,
    TestController,
    TestHealthController,
    TestCaseController,
    EmergingController,
    EvalController,
    DiagnosisController,
    TrendController,
    SplittingController,
    TriageController,
    ClassificationRuleController,
    KnownIssueController,
    QuarantineController,
    ProjectionController,
    ReactionController,
    AuditController,
    SimulationController,
    AuditLogController,
    WebhookController,
    TeamsController,
    SearchController,
    SemanticSearchController,
    LanguageModelController,
    ChatController,
    AiJobController,
    ScmController,
    JiraController,
    VcenterController,
    VcenterOperationController,
    GitopsController,
    AgentController,
    RegistrationController,
    CacheController,
)


async def before_request(request: Request[Any, Any, Any]) -> Response[None] | None:
    refuse_unstorable(request)
    if request.method == "OPTIONS":
        return document.answer_options(request)
    if request.scope.get("user") is None:  # also if the operation needs no credentials
        await request.app.state.services.rate_limits.count(request, None)
    check_query(request)
    refuse_compressed_body(request)
    await refuse_unexpected_body(request)
    await check_after(request, wait_for_min_position(request))
    return None


class ApiRouter(Router):
    """Router that Litestar cannot copy. Litestar copies every router that it registers, with all routes. For a router
    with all operations, the copy would take half of the time in which an application is made.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "ApiRouter":
        return self


class Application(Litestar):
    services: AbstractAsyncContextManager[Services]
    """Context manager that makes the services. It must be set before the server starts. The application enters it at
    the start, and leaves it when the server stops.
    """

    def __init__(self, **options: Any) -> None:
        self._public_bodies = PublicBodies()
        super().__init__(lifespan=[self._open], **options)

    @asynccontextmanager
    async def _open(self, app: Litestar) -> AsyncIterator[None]:
        async with self.services as made:
            self.state.services = made
            self.state.polls = AgentPolls(made)
            self.state.streams = Streams(made)
            async with self.state.streams.open():
                yield

    def _create_asgi_handler(self) -> Any:
        handler: Any = super()._create_asgi_handler()  # turns exceptions of the router into responses
        handler.app = count_unrouted(handler.app)
        return handler

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        origins = self.state.services.cors_origins
        send = complete_headers(scope, send, origins)
        if await answer_preflight(scope, send, origins):
            return
        if scope["method"] == "HEAD":
            await answer_head(super().__call__, scope, send)
        else:
            with self._public_bodies.hold(scope) as count:
                receive = check_after_slow_body(scope, limit_body(scope, receive, count))
                await super().__call__(scope, receive, send)


def create_app(services: AbstractAsyncContextManager[Services], version: str) -> Application:
    """Returns an application that enters the context manager `services` when the server starts, and leaves it when the
    server stops.
    """
    app = make_app(version)
    app.services = services
    return app


def make_app(version: str) -> Application:
    """Returns an application whose `services` are not set yet."""
    app = Application(
        route_handlers=[
            ApiRouter("/api/v3", route_handlers=list(CONTROLLERS)),
            AgentDownloadController,
            ProjectHookController,
            PasswordPageController,
        ],
        state=State({}),
        request_class=JsonRequest,
        dependencies={
            "ctx": Provide(provide_request_context, sync_to_thread=False),
            "paged": Provide(provide_paged, sync_to_thread=False),
        },
        middleware=[
            DefineMiddleware(Authentication, exclude=f"^{document.PATH}", exclude_from_auth_key="public"),
            IdempotencyMiddleware(),
        ],
        before_request=before_request,
        before_send=[add_position],
        exception_handlers=problems.handlers(),
        openapi_config=document.config(version),
        logging_config=None,
        request_max_body_size=MAX_BYTES,
    )
    for route in app.routes:
        if isinstance(route, HTTPRoute) and not route.path.startswith(document.PATH):
            check_declarations(route.route_handlers)
    return app
