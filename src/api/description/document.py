"""Serves `/api/v3/openapi.json`. Litestar makes a description from the handlers and their parameters. This module
completes that description from the handlers' types and docstrings.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme
from litestar.routes import HTTPRoute

from api.description.components import Part, make_components
from api.description.operations import OperationForm
from api.description.schemas import Schemas, unwrap
from api.http.head import format_allowed

PATH = "/api/v3/openapi.json"

OVERVIEW = """\
CI with test analytics. Requests carry `Authorization: Bearer <token>`, with the token of a session or an API token.

A write is answered when reads show it, with its position in the log as `Testhide-Position`. A POST with an
`Idempotency-Key` can be sent again without being carried out twice. Lists have pages; `Link` leads to the next one. A
refused request is answered with a problem (RFC 9457) whose `detail` says what to do.

Texts contain no character U+0000, and times are of the years 1970 to 8999. A body may have only the fields that are
described, but a PUT may have all fields that GET answers.
"""

PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "description": "Why a request was refused (RFC 9457)",
    "properties": {
        "type": {"type": "string", "description": "Name of the kind of problem, as a URN"},
        "title": {"type": "string", "description": "The kind of problem in words"},
        "status": {"type": "integer", "description": "Status of the answer"},
        "detail": {"type": "string", "description": "A sentence that the caller can act on"},
        "errors": {
            "type": "array",
            "description": "The fields that are not acceptable",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string", "description": "Path of the field in the body, or name of a parameter"},
                    "message": {"type": "string", "description": "What is wrong, and what is possible"},
                },
                "required": ["field", "message"],
            },
        },
    },
    "required": ["type", "title", "status", "detail"],
}


class Description(JsonRenderPlugin):
    """Renderer of the API description. Renders it only once, since the routes do not change while the server runs."""

    def __init__(self) -> None:
        super().__init__(path="/")
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._rendered is None:
            self._rendered = super().render(request, correct_schema(request.app, openapi_schema))
        return self._rendered


class DescriptionRouter(Router):
    """Router for the API description. Leaves out two routes that Litestar would add: an HTML page, and a second path of
    the description.
    """

    def register(self, value: Any) -> Any:
        if isinstance(value, HTTPRouteHandler) and value.paths & {"/{path:str}", "/openapi.json"}:
            return []
        return super().register(value)


def config(version: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Testhide",
        description=unwrap(OVERVIEW),
        license=License(name="Apache License 2.0", identifier="Apache-2.0"),
        version=version,
        openapi_router=DescriptionRouter(PATH, route_handlers=[], include_in_schema=False),
        render_plugins=[Description()],
        security=[{"bearer": []}],
        components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
        use_handler_docstrings=True,
    )


def correct_schema(app: Litestar, schema: dict[str, Any]) -> dict[str, Any]:
    """Completes and corrects the description that Litestar has made. Changes `schema` in place and returns it."""
    forms = list(_described_forms(app, schema))
    schemas = Schemas(
        [form.body for form, _ in forms if form.body is not None and form.is_strict],
        [form.body for form, _ in forms if form.body is not None and not form.is_strict],
        [kind for form, _ in forms for kind in form.answer_types],
    )
    for form, operation in forms:
        form.describe(operation, schemas)
    schema["tags"] = list(_describe_tags(forms))
    schema["components"] |= {**make_components(), "schemas": {**schemas.components, "Problem": PROBLEM}}
    return schema


def _described_forms(app: Litestar, schema: dict[str, Any]) -> Iterator[tuple[OperationForm, Part]]:
    for route in app.routes:
        item = schema["paths"].get(getattr(route, "path_format", ""))
        if item is None or not isinstance(route, HTTPRoute):
            continue
        item.pop("head", None)  # left out: every path with GET also has HEAD
        for method, (handler, _) in route.route_handler_map.items():
            if (operation := item.get(method.lower())) is not None:
                yield OperationForm(handler, method), operation


def _describe_tags(forms: list[tuple[OperationForm, Part]]) -> Iterator[dict[str, str]]:
    """Yields each tag with its description: the docstrings of its controllers, joined. For a controller without a
    docstring, takes the docstring of the controller's module.
    """
    docstrings: dict[str, dict[str, None]] = defaultdict(dict)
    for form, operation in forms:
        module = sys.modules[form.handler.fn.__module__]
        controller = getattr(module, form.handler.fn.__qualname__.partition(".")[0])
        docstring = vars(controller).get("__doc__") or module.__doc__ or ""
        for tag in operation["tags"]:
            docstrings[tag][unwrap(docstring).partition("\n\n")[0]] = None
    for tag, texts in docstrings.items():
        yield {"name": tag, "description": " ".join(texts)}


def answer_options(request: Request[Any, Any, Any]) -> Response[None]:
    """Answers an OPTIONS request with all methods of the path. Replaces Litestar's own answer, which lacks the methods
    of handlers that were registered later for the same path.
    """
    template = request.scope["path_template"]
    route = next(route for route in request.app.routes if getattr(route, "path_format", None) == template)
    return Response(None, status_code=204, headers={"Allow": format_allowed(getattr(route, "methods", ()))})
