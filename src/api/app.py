"""The HTTP application: routes, and what wraps each request."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from api import problems
from api.acting import add_position, provide_acting, wait_for_min_position
from api.agents import AgentController
from api.artifacts import ArtifactController
from api.auth import AuthController
from api.builds import BuildController
from api.health import HealthController
from api.jobs import JobController
from api.nodes import AgentDownloadController, NodeController
from api.polling import AgentPolls
from api.pools import PoolController
from api.projects import ProjectController
from api.security import Authentication
from api.services import Services
from api.tests import TestController
from api.types import JsonRequest, storable

CONTROLLERS = (
    HealthController,
    AuthController,
    ProjectController,
    JobController,
    PoolController,
    NodeController,
    BuildController,
    ArtifactController,
    TestController,
    AgentController,
)


def create_app(services: AbstractAsyncContextManager[Services], version: str) -> Litestar:
    """`services` is entered when the server starts and left when it stops."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with services as made:
            app.state.services = made
            app.state.polls = AgentPolls(made)
            yield

    return Litestar(
        route_handlers=[Router("/api/v3", route_handlers=list(CONTROLLERS)), AgentDownloadController],
        lifespan=[lifespan],
        state=State({}),
        request_class=JsonRequest,
        guards=[storable],
        dependencies={
            "act": Provide(provide_acting, sync_to_thread=False),
        },
        middleware=[DefineMiddleware(Authentication, exclude="^/api/v3/openapi", exclude_from_auth_key="public")],
        before_request=wait_for_min_position,
        before_send=[add_position],
        exception_handlers=problems.handlers(),
        openapi_config=OpenAPIConfig(
            title="Testhide",
            version=version,
            path="/api/v3/openapi.json",
            render_plugins=[JsonRenderPlugin(path="/")],
            security=[{"bearer": []}],
            components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
            use_handler_docstrings=True,
        ),
        logging_config=None,
        request_max_body_size=16 * 1024 * 1024,
    )
