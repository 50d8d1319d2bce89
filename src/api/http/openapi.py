"""Serves `/api/v3/openapi.json`: Litestar's description of the handlers, corrected where Litestar cannot know.

A handler that reads its body itself declares its form by `opt={"form": {...}}`; one that answers with a file declares
`opt={"download": True}`.
"""

from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.routes import HTTPRoute

from api.http import problems
from api.http.types import MAX_ID

PATH = "/api/v3/openapi.json"

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "A sentence that the caller can act on"},
        "errors": {
            "type": "array",
            "description": "The fields that are not acceptable",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
    "required": ["type", "title", "status", "detail"],
}


class Description(JsonRenderPlugin):
    """Renders the description once, since routes do not change while the server runs."""

    def __init__(self) -> None:
        super().__init__(path="/")
        self._rendered: bytes | None = None

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if self._rendered is None:
            self._rendered = super().render(request, correct_schema(request.app, openapi_schema))
        return self._rendered


class DescriptionRouter(Router):
    """Keeps Litestar from adding its HTML page and a second path of the description below this one."""

    def register(self, value: Any) -> Any:
        if isinstance(value, HTTPRouteHandler) and value.paths & {"/{path:str}", "/openapi.json"}:
            return []
        return super().register(value)


def config(version: str) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Testhide",
        version=version,
        openapi_router=DescriptionRouter(PATH, route_handlers=[], include_in_schema=False),
        render_plugins=[Description()],
        security=[{"bearer": []}],
        components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
        use_handler_docstrings=True,
    )


def correct_schema(app: Litestar, schema: dict[str, Any]) -> dict[str, Any]:
    """Corrects Litestar's schema in place and returns it."""
    components = schema.setdefault("components", {})
    components.setdefault("schemas", {})["Problem"] = PROBLEM
    components["responses"] = {
        "Problem": {
            "description": "Refused",
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }
    for route in app.routes:
        item = schema["paths"].get(getattr(route, "path_format", ""))
        if item is None or not isinstance(route, HTTPRoute):
            continue
        for method, (handler, _) in route.route_handler_map.items():
            if (operation := item.get(method.lower())) is not None:
                _describe(operation, handler)
    return schema


def _describe(operation: dict[str, Any], handler: BaseRouteHandler) -> None:
    responses = operation["responses"]
    responses.pop("400", None)  # Litestar's own form of errors, which this server does not use
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    if handler.opt.get("public"):
        operation["security"] = []
    if (form := handler.opt.get("form")) is not None:
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    if handler.opt.get("download"):
        content = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
        responses["200"] = {"description": "The file", "content": content}
        responses["206"] = {"description": "The part of it that `Range` asks for", "content": content}
        responses["304"] = {"description": "Still what `If-None-Match` names"}
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
        if parameter["in"] == "path" and parameter["schema"].get("type") == "integer":
            parameter["schema"] |= {"minimum": 1, "maximum": MAX_ID}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Removes `null` from an optional parameter's schema: a URL leaves the parameter out instead."""
    if "oneOf" in schema:
        kept = [choice for choice in schema["oneOf"] if choice != {"type": "null"}]
        rest = {name: value for name, value in schema.items() if name != "oneOf"}
        schema = {**rest, **kept[0]} if len(kept) == 1 else {**rest, "oneOf": kept}
    match schema.get("type"):
        case list(types):
            (schema["type"],) = [name for name in types if name != "null"]
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    return schema


def answer_options(request: Request[Any, Any, Any]) -> Response[None]:
    """Answers OPTIONS. Litestar's own answer lacks handlers of the same path that were registered later."""
    template = request.scope["path_template"]
    route = next(route for route in request.app.routes if getattr(route, "path_format", None) == template)
    return Response(None, status_code=204, headers={"Allow": ", ".join(sorted(getattr(route, "methods", ())))})
