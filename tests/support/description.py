"""Makes the description of the API without a server, and checks that answers conform to it."""

import json
import re
import warnings
from contextlib import nullcontext
from functools import cache
from typing import Any, cast

import jsonschema_rs
import requests
from litestar import Litestar
from litestar.exceptions import LitestarDeprecationWarning

from api.app import create_app
from api.description.document import correct_schema
from api.http.services import Services


@cache
def make_app() -> Litestar:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        return create_app(nullcontext(cast(Services, None)), "0")  # the state that only a running server has


@cache
def describe() -> dict[str, Any]:
    app = make_app()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        return correct_schema(app, app.openapi_schema.to_schema())


@cache
def path_patterns() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Returns the pattern of each path, with the path's operations by method. Paths without parameters come first."""
    paths = sorted(describe()["paths"].items(), key=lambda item: item[0].count("{"))
    return [(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), item) for path, item in paths]


def find_operation(method: str, path: str) -> Any:
    """Returns the described operation that answers a request; None if there is none."""
    item = next((item for pattern, item in path_patterns() if pattern.fullmatch(path)), {})
    return item.get({"HEAD": "get"}.get(method, method.lower()))


def check_answer(answer: requests.Response) -> None:
    """Asserts that the description of the operation lists the status and the headers of an answer, and its form."""
    request, status = answer.request, str(answer.status_code)
    operation = find_operation(str(request.method), str(request.path_url).partition("?")[0])
    if operation is None or status in ("405", "500"):
        return
    name = f"{request.method} {request.path_url}, {operation['operationId']}: {status}"
    assert status in operation["responses"], f"{name} is not described: {answer.text[:500]}"
    described = resolve(operation["responses"][status])
    if answer.ok:
        shared = [header for header in describe()["components"]["headers"] if header in answer.headers]
        assert set(shared) <= described["headers"].keys(), f"{name}: a header is not described"
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    content = described.get("content", {})
    if request.method == "HEAD" or status in ("204", "303", "304") or "*/*" in content:
        return
    assert media_type in content, f"{name}: {media_type} is not described"
    if media_type.endswith(("/json", "+json")):
        schema = content[media_type]["schema"]
        wrong = next(make_validator(json.dumps(schema)).iter_errors(answer.json()), None)
        assert wrong is None, f"{name}: {wrong}"


def resolve(part: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of the description that a reference leads to. Returns a part that is no reference unchanged."""
    kind, _, name = part.get("$ref", "").removeprefix("#/components/").partition("/")
    found: dict[str, Any] = describe()["components"][kind][name] if kind else part
    return found


@cache
def make_validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    # Validators that have the components in common take 0.1 ms to make instead of 7 ms.
    schema = schema.replace('"#/components/', '"urn:described#/components/')
    return jsonschema_rs.Draft202012Validator(json.loads(schema), registry=_components())


@cache
def _components() -> jsonschema_rs.Registry:
    return jsonschema_rs.Registry([("urn:described", {"components": describe()["components"]})])
