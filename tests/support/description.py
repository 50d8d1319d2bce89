"""The description of the API, made without a server, and a check that answers have a status that it lists."""

import re
import warnings
from contextlib import nullcontext
from functools import cache
from typing import Any, cast

import requests
from litestar.exceptions import LitestarDeprecationWarning

from api.app import create_app
from api.description.document import correct_schema
from api.http.services import Services


@cache
def describe() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LitestarDeprecationWarning)
        app = create_app(nullcontext(cast(Services, None)), "0")  # which only a running server enters
    return correct_schema(app, app.openapi_schema.to_schema())


@cache
def path_patterns() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """The operations by method of each path; paths without parameters first."""
    paths = sorted(describe()["paths"].items(), key=lambda item: item[0].count("{"))
    return [(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), item) for path, item in paths]


def find_operation(method: str, path: str) -> Any:
    """Returns the described operation that answers a request; None if there is none."""
    item = next((item for pattern, item in path_patterns() if pattern.fullmatch(path)), {})
    return item.get({"HEAD": "get"}.get(method, method.lower()))


def check_status(answer: requests.Response) -> None:
    """Asserts that the description of the operation lists the status of an answer."""
    request = answer.request
    operation = find_operation(str(request.method), str(request.path_url).partition("?")[0])
    if operation is not None and answer.status_code not in (405, 500):
        listed = operation["responses"]
        assert str(answer.status_code) in listed, (
            f"{request.method} {request.path_url}: {answer.status_code} is not among {', '.join(listed)} that the"
            f" description of {operation['operationId']} lists: {answer.text[:500]}"
        )
