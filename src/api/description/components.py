"""Parts of the API description that several operations use: header parameters, headers of answers, and problems."""

from typing import Any

from api.http import problems
from api.http.idempotency import HEADER as IDEMPOTENCY_KEY
from api.http.idempotency import MAX_KEY_LENGTH, REPLAYED
from api.http.request_context import AS_OF, MIN_POSITION, POSITION, PROJECTED
from api.http.types import MAX_ID
from domain.core.errors import Rejection

Part = dict[str, Any]

TEXT: Part = {"type": "string"}
POSITION_SCHEMA: Part = {"type": "integer", "minimum": 0, "maximum": MAX_ID}

PARAMETERS: dict[str, tuple[str, str, Part]] = {
    "IdempotencyKey": (
        IDEMPOTENCY_KEY,
        "Carries the request out once: repeated with this key, query and body, it gets the first answer again.",
        TEXT | {"pattern": f"^[ -~]{{1,{MAX_KEY_LENGTH}}}$"},
    ),
    "Prefer": ("Prefer", "Answers before the read models show the change.", TEXT | {"enum": ["respond-async"]}),
    "MinPosition": (
        MIN_POSITION,
        "Waits, 2 s at most, until the read models have reached this position of the log.",
        POSITION_SCHEMA,
    ),
    "LastEventId": ("Last-Event-ID", "Resumes the stream after the message with this id.", TEXT),
    "Range": ("Range", "Asks for a part of the file, such as `bytes=0-1023`.", TEXT),
    "IfNoneMatch": ("If-None-Match", "ETag of the content that the client has.", TEXT),
}
HEADERS: dict[str, tuple[str, Part]] = {
    POSITION: ("Position in the log of the change, or of the state that is shown.", POSITION_SCHEMA),
    PROJECTED: ("`false` when the read models have not reached the position yet.", TEXT | {"enum": ["false"]}),
    AS_OF: ("Position in the log of the state that is shown.", POSITION_SCHEMA),
    REPLAYED: ("`true` for the stored answer to an earlier request.", TEXT | {"enum": ["true"]}),
    "Link": ('The next page, as `rel="next"`; absent on the last one.', TEXT),
    "Testhide-Total": ("`lower-bound` when `total` is the least that there are.", TEXT | {"enum": ["lower-bound"]}),
    "ETag": ("SHA-256 of the content.", TEXT),
    "Content-Range": ("Which bytes of the file these are.", TEXT),
    "WWW-Authenticate": ("`Bearer`.", TEXT),
    "Retry-After": ("Seconds after which to try again.", {"type": "integer", "minimum": 0}),
    "Location": ("Address of the result, or of the page to go on to.", TEXT | {"format": "uri-reference"}),
}
PROBLEM_HEADERS = {
    401: "WWW-Authenticate",
    416: "Content-Range",
    429: "Retry-After",
    503: "Retry-After",
    504: "Location",
}
PROBLEM_CONTENT: Part = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
PROBLEM_TITLES = {
    400: "Malformed body",
    415: "Unsupported media type",
    416: "Range not satisfiable",
    **{kind.status: kind.title for kind in Rejection.__subclasses__()},
}


def refer_to_parameter(name: str) -> Part:
    return {"$ref": f"#/components/parameters/{name}"}


def refer_to_headers(*names: str) -> Part:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def refer_to_problem(status: int) -> Part:
    return {"$ref": f"#/components/responses/Problem{status}"}


def make_components() -> Part:
    """Returns the shared parts as OpenAPI's `components`: kind -> name -> part."""
    return {
        "parameters": {
            key: {"name": name, "in": "header", "description": description, "schema": schema}
            for key, (name, description, schema) in PARAMETERS.items()
        },
        "headers": {
            name: {"description": description, "schema": schema} for name, (description, schema) in HEADERS.items()
        },
        "responses": {
            f"Problem{status}": {
                "description": title,
                "content": PROBLEM_CONTENT,
                "headers": refer_to_headers(*filter(None, [PROBLEM_HEADERS.get(status)])),
            }
            for status, title in sorted(PROBLEM_TITLES.items())
        },
    }
