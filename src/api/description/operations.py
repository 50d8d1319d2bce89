"""Describes an operation from its handler: names, parameters, body, answers, and possible problems.

A handler declares in `opt` what its types do not show:

- `content`: media type -> schema of a body that the handler reads itself
- `download`: true if the answer is a file
- `headers`: names of further headers of the answer
- `problems`: further types of problems
- `stream`: true if a request can ask for the answer as a stream of server-sent events
"""

from http import HTTPStatus
from types import NoneType
from typing import Any, get_args, get_origin

from litestar import Response
from litestar.handlers import HTTPRouteHandler
from litestar.utils import get_enum_string_value

from api.description.components import (
    PROBLEM_CONTENT,
    Part,
    refer_to_headers,
    refer_to_parameter,
    refer_to_problem,
)
from api.description.examples import complete, load_examples
from api.description.fields import FIELDS
from api.description.schemas import Schemas, adapt, unwrap
from api.http.idempotency import REPLAYED
from api.http.query_parameters import find_bounds, query_parameters
from api.http.request_context import AS_OF, POSITION, PROJECTED
from api.http.types import MAX_ID
from commands.validation import alternatives, struct_members, struct_of

EVENT_STREAM = "text/event-stream"
BINARY: Part = {"schema": {"type": "string", "format": "binary"}}


class OperationForm:
    """An operation: a handler for one HTTP method, and the properties that follow from the handler's declaration."""

    def __init__(self, handler: HTTPRouteHandler, method: str) -> None:
        self.handler = handler
        self.writes = method != "GET"
        self.is_repeatable = method == "POST" and not handler.opt.get("public")
        self.is_public = bool(handler.opt.get("public"))
        self.media_type = get_enum_string_value(handler.media_type or "application/json")
        self.is_json = self.media_type == "application/json" or self.media_type.endswith("+json")
        self.body = _body_type(handler)
        # Agents of newer releases may send unknown fields.
        self.is_strict = not handler.opt.get("agents")
        self.answers = {} if handler.opt.get("download") else _answer_types(handler)

    @property
    def answer_types(self) -> list[Any]:
        """Types of the operation's JSON answers; empty if the operation answers in another format."""
        if not self.is_json:
            return []
        return [kind for kinds in self.answers.values() for kind in kinds if kind not in (NoneType, bytes)]

    def describe(self, operation: Part, schemas: Schemas) -> None:
        """Completes and corrects Litestar's description of the operation in place."""
        name, opt = self.handler.handler_name, self.handler.opt
        operation |= {"operationId": name, "summary": name.replace("_", " ").capitalize()}
        operation["description"] = unwrap(self.handler.fn.__doc__ or "")
        if self.is_public:
            operation["security"] = []
        parameters = [_correct_parameter(parameter) for parameter in operation.get("parameters", ())]
        self._complete_bounds(parameters)
        operation["parameters"] = [*parameters, *map(refer_to_parameter, self._header_parameters())]
        if "content" in opt:
            content = {media_type: {"schema": schema} for media_type, schema in opt["content"].items()}
            operation["requestBody"] = {"required": True, "content": content}
        elif self.body is not None:
            operation["requestBody"]["content"] = {"application/json": {"schema": schemas.of(self.body)}}
        operation["responses"] = self._responses(parameters, schemas)
        self._add_examples(operation, schemas)

    def _complete_bounds(self, parameters: list[Part]) -> None:
        """Adds minimums and maximums of 0 to query parameters, since Litestar leaves out a limit of 0."""
        in_path = frozenset(parameter["name"] for parameter in parameters if parameter["in"] == "path")
        known = query_parameters(self.handler, in_path)
        for parameter in parameters:
            if parameter["in"] == "query" and parameter["schema"].get("type") in ("integer", "number"):
                parameter["schema"] = find_bounds(known[parameter["name"]].expected) | parameter["schema"]

    def _add_examples(self, operation: Part, schemas: Schemas) -> None:
        examples = load_examples().get(self.handler.handler_name, {})
        described = {
            "request": operation.get("requestBody", {}).get("content", {}),
            "response": operation["responses"][str(self.handler.status_code)].get("content", {}),
        }
        for kind, example in examples.items():
            content = next(iter(described[kind].values()))
            content["example"] = complete(example, content["schema"], schemas)

    def _header_parameters(self) -> list[str]:
        names = [] if self.is_public else ["MinPosition"]
        if self.writes:
            names.append("Prefer")
        if self.is_repeatable:
            names.append("IdempotencyKey")
        if self.media_type == EVENT_STREAM:
            names.append("LastEventId")
        if self.handler.opt.get("download"):
            names += ["Range", "IfNoneMatch"]
        return names

    def _responses(self, parameters: list[Part], schemas: Schemas) -> Part:
        responses: dict[int, Part] = {}
        for status, types in self.answers.items():
            headers = refer_to_headers(*self._answer_headers(parameters)) if status < 400 else {}
            spec = (self.handler.responses or {}).get(status)
            description = spec.description if spec is not None else HTTPStatus(status).phrase
            responses[status] = {"description": description, "headers": headers}
            if content := self._content(types, schemas):
                responses[status]["content"] = content
        if self.handler.opt.get("download"):
            file = {"application/octet-stream": BINARY, "*/*": BINARY}
            headers = refer_to_headers(POSITION, PROJECTED, "ETag")
            part_headers = headers | refer_to_headers("Content-Range")
            responses[200] = {"description": "The file", "content": file, "headers": headers}
            responses[206] = {"description": "The part that was asked for", "content": file, "headers": part_headers}
            responses[304] = {"description": "The client has the file", "headers": headers}
        for status in self._problems(parameters):
            if status in responses:
                responses[status]["content"] |= PROBLEM_CONTENT
            else:
                responses[status] = refer_to_problem(status)
        return {str(status): responses[status] for status in sorted(responses)}

    def _content(self, types: list[Any], schemas: Schemas) -> Part:
        if types in ([], [NoneType]):
            return {}
        if types == [bytes]:
            return {"application/octet-stream": BINARY}
        if self.handler.opt.get("stream"):
            return self._json_content(types, schemas) | {EVENT_STREAM: {"schema": {"type": "string"}}}
        if not self.is_json:
            return {self.media_type: {"schema": {"type": "string"}}}
        return self._json_content(types, schemas)

    def _json_content(self, types: list[Any], schemas: Schemas) -> Part:
        schema = schemas.of(types[0]) if len(types) == 1 else {"anyOf": [schemas.of(item) for item in types]}
        return {self.media_type: {"schema": schema}}

    def _answer_headers(self, parameters: list[Part]) -> list[str]:
        query = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
        names = [
            *([] if self.is_public and not self.writes else [POSITION, PROJECTED]),
            *self.handler.opt.get("headers", ()),
        ]
        if self.handler.opt.get("as_of"):
            names.append(AS_OF)
        if self.is_repeatable:
            names.append(REPLAYED)
        if query & {"after", "before"}:
            names.append("Link")
        return names

    def _problems(self, parameters: list[Part]) -> set[int]:
        """Returns the HTTP statuses of the problems that the operation may answer with. They follow from its method,
        parameters and body, or the handler declares them.
        """
        opt = self.handler.opt
        named = {parameter["name"] for parameter in parameters if parameter["required"]}
        if (struct := struct_of(self.body)) is not None:
            named |= struct_members(struct).keys()
        statuses = {422, *(problem.status for problem in opt.get("problems", ()))}
        if self.writes or not self.is_public:
            statuses.add(503)
        if opt.get("counted", True):
            statuses.add(429)
        if not self.is_public:
            statuses.add(401)
        if self.handler.resolve_guards():
            statuses.add(403)
        if self.writes and not self.is_public:
            statuses |= {403, 409, 410}
        if opt.get("as_of"):
            statuses |= {403, 404, 410}
        if any(parameter["in"] == "path" for parameter in parameters) or any(name.endswith("_id") for name in named):
            statuses.add(404)
        if self.body is not None:
            statuses |= {400, 408, 413, 415}
        if "content" in opt:
            statuses |= {404, 408, 413, 415}
        if opt.get("download"):
            statuses.add(416)
        return statuses


def _body_type(handler: HTTPRouteHandler) -> Any:
    field = handler.parsed_data_field
    kinds = [] if field is None else [kind for kind in alternatives(field.annotation) if kind is not NoneType]
    return kinds[0] if kinds else None


def _answer_types(handler: HTTPRouteHandler) -> dict[int, list[Any]]:
    """Returns HTTP status -> types of the answers with that status. An answer that can have several forms has several
    types.
    """
    found: dict[int, list[Any]] = {}
    for status, spec in (handler.responses or {}).items():
        answered: Any = spec.data_container or NoneType
        found[status] = list(alternatives(answered))
    annotation = handler.parsed_fn_signature.return_type.annotation
    plain = get_args(annotation)[0] if get_origin(annotation) is Response else annotation
    declared = {kind for kinds in found.values() for kind in kinds}
    kinds = list(alternatives(plain))
    return {handler.status_code: [kind for kind in kinds if kind not in declared] or kinds} | found


def _correct_parameter(parameter: Part) -> Part:
    """Returns a corrected copy of Litestar's description of a parameter. The copy does not allow null: a URL cannot
    contain null, so a caller leaves the parameter out.
    """
    schema = dict(parameter["schema"])
    schema.pop("description", None)
    if "oneOf" in schema:
        kept = [choice for choice in schema.pop("oneOf") if choice != {"type": "null"}]
        schema |= kept[0] if len(kept) == 1 else {"oneOf": kept}
    match schema.get("type"):
        case list(types):
            (schema["type"],) = [name for name in types if name != "null"]
    if "enum" in schema:
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    if parameter["in"] == "path" and schema.get("type") == "integer":
        schema |= {"minimum": 1, "maximum": MAX_ID}
    adapt(schema)
    name = parameter["name"]
    corrected = {"name": name, "in": parameter["in"], "required": parameter["required"], "schema": schema}
    description = parameter.get("description") or FIELDS.get(name)
    return corrected | ({"description": description} if description else {})
