"""The server describes its operations in full: names for generated clients, texts, and every problem it answers."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.description.fields import FIELDS
from domain.core.errors import Rejection
from tests.support.description import describe, find_operation, resolve
from tests.support.documentation import PAGES, ROOT

from .operations import DOCUMENTED
from .text_formats import FORMATS

DESCRIBED = describe()
OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    for path, item in DESCRIBED["paths"].items()
    for method, operation in item.items()
}
SCHEMAS: dict[str, dict[str, Any]] = DESCRIBED["components"]["schemas"]


def parts_of(described: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields all objects of the description, at any depth."""
    match described:
        case list():
            for number, item in enumerate(described):
                yield from parts_of(item, f"{path}/{number}")
        case dict():
            yield path, described
            for name, item in described.items():
                yield from parts_of(item, f"{path}/{name}")


def test_the_server_serves_it(described: dict[str, Any]) -> None:
    assert {name: item for name, item in described.items() if name != "info"} == {
        name: item for name, item in DESCRIBED.items() if name != "info"
    }


def test_operation_ids_are_names_of_functions() -> None:
    ids = Counter(operation["operationId"] for operation in OPERATIONS.values())
    assert max(ids.values()) == 1
    single = {"authenticate", "logout"}
    assert {name for name in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)} == single
    assert {"start_build", "list_builds", "get_build", "stop_build", "create_job", "upload_artifact"} <= ids.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_texts(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["tags"]
    assert operation["summary"]
    assert operation["description"]
    parameters = [item for item in operation["parameters"] if "$ref" not in item]
    assert [item["name"] for item in parameters if not item.get("description")] == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_answer_has_a_form(name: str) -> None:
    answers = {status: answer for status, answer in OPERATIONS[name]["responses"].items() if status < "304"}
    assert answers
    for status, answer in answers.items():
        contents = answer.get("content", {}).values()
        assert [bool(content["schema"]) for content in contents] == (
            [True] * len(contents) if status not in ("204", "303") else []
        )
        assert status in ("204", "303") or contents


def test_a_replay_says_what_stays_in_order() -> None:
    text = OPERATIONS["POST /api/v3/webhooks/{id}/replay"]["description"]
    assert "The notifications about one build stay in order." in text


def test_every_tag_is_described() -> None:
    tags = {tag["name"]: tag["description"] for tag in DESCRIBED["tags"]}
    assert {tag for operation in OPERATIONS.values() for tag in operation["tags"]} == tags.keys()
    assert all(tags.values())
    assert len(set(tags.values())) == len(tags)


def test_every_schema_has_its_name_as_title() -> None:
    assert {name: schema.get("title") for name, schema in SCHEMAS.items()} == {name: name for name in SCHEMAS}


def test_every_field_is_described() -> None:
    fields = [
        (f"{path}/{name}", field.get("description"))
        for path, part in parts_of(DESCRIBED)
        if part.get("type") == "object" and "example" not in path
        for name, field in part.get("properties", {}).items()
    ]
    assert len(fields) > 700
    assert [name for name, description in fields if not description] == []


def test_the_bounds_of_every_number_in_a_query_are_described() -> None:
    unbounded = [
        f"{name}: {parameter['name']}"
        for name, operation in OPERATIONS.items()
        for parameter in operation["parameters"]
        if parameter.get("in") == "query" and parameter["schema"].get("type") in ("integer", "number")
        if not {"minimum", "maximum"} <= parameter["schema"].keys()
    ]
    assert unbounded == []


def test_a_parameter_that_a_browser_needs_says_so() -> None:
    (ids,) = [
        one
        for one in DESCRIBED["paths"]["/api/v3/builds/{build_id}/stream"]["get"]["parameters"]
        if one.get("name") == "ids"
    ]
    assert "EventSource" in ids["description"]


def test_every_shared_text_is_used() -> None:
    used = {text for _, part in parts_of(DESCRIBED) if isinstance(text := part.get("description"), str)}
    assert {name for name, text in FIELDS.items() if text not in used} == set()


def test_references_lead_somewhere() -> None:
    for path, part in parts_of(DESCRIBED):
        if "$ref" in part:
            target: Any = DESCRIBED
            for step in part["$ref"].removeprefix("#/").split("/"):
                assert step in target, f"{path}: {part['$ref']}"
                target = target[step]


def test_patterns_are_those_of_json_schema() -> None:
    """ECMA 262 has no anchors as letters, no groups of Python's kinds, no flags inside, no possessive quantifiers."""
    patterns = {part["pattern"] for _, part in parts_of(DESCRIBED) if isinstance(part.get("pattern"), str)}
    assert len(patterns) > 5
    assert [item for item in patterns if re.search(r"\\[AZzG]|\(\?[^:=!<]|\(\?<[^=!]|[*+?}]\+", item)] == []


def test_every_pattern_of_failures_has_the_format_of_patterns() -> None:
    texts = {
        name: part
        for name, schema in DESCRIBED["components"]["schemas"].items()
        for _, part in parts_of(schema.get("properties", {}).get("pattern", {}))
        if part.get("type") == "string"
    }
    assert {"NewKnownIssue", "ClassificationRule"} <= texts.keys()
    assert [name for name, part in texts.items() if part.get("format") != "re2" and not name.endswith("View")] == []


def test_every_format_is_documented_and_can_be_made_up() -> None:
    used: set[str] = {part["format"] for _, part in parts_of(DESCRIBED) if isinstance(part.get("format"), str)}
    ours = used - {"date-time", "date", "binary", "uri-reference"}
    documented = re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE)
    assert ours == set(documented) - {"format"}
    assert ours == FORMATS.keys() - {"date-time"}


def test_problems_are_listed_by_status() -> None:
    for name, operation in OPERATIONS.items():
        for status, answer in operation["responses"].items():
            if status >= "400" and "$ref" in answer:
                problem = DESCRIBED["components"]["responses"][answer["$ref"].rpartition("/")[2]]
                assert list(problem["content"]) == ["application/problem+json"], name
    listed = {int(status) for operation in OPERATIONS.values() for status in operation["responses"]}
    assert {kind.status for kind in Rejection.__subclasses__()} | {400, 415, 416} <= listed


def holds(shown: Any, documented: Any) -> bool:
    """Whether an example shows all that the reference documents."""
    match documented:
        case dict():
            return all(name in shown and holds(shown[name], item) for name, item in documented.items())
        case list():
            return len(shown) == len(documented) and all(map(holds, shown, documented))
        case _:
            return bool(shown == documented)


@pytest.mark.parametrize("key", DOCUMENTED, ids=" ".join)
def test_the_examples_are_those_of_the_reference(key: tuple[str, str]) -> None:
    documented = DOCUMENTED[key]
    operation = find_operation(*key)
    answer = operation["responses"][str(documented.status)].get("content", {})
    shown = [content["example"] for content in answer.values() if "example" in content]
    wanted = "".join(f"{line}\n\n" for line in documented.response) if documented.sse else documented.response
    assert not shown if wanted is None else holds(shown[0], wanted)
    if documented.request_example is not None and documented.body:
        assert operation["requestBody"]["content"]["application/json"]["example"] == documented.request_example


def test_operations_are_found_by_their_path() -> None:
    assert find_operation("GET", "/api/v3/builds/7")["operationId"] == "get_build"
    assert find_operation("HEAD", "/api/v3/builds/7")["operationId"] == "get_build"
    assert find_operation("GET", "/api/v3/nodes/find")["operationId"] == "find_node"
    assert find_operation("GET", "/api/v3/nowhere") is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documentation_names_operations_that_exist(page: Path) -> None:
    """As `GET /builds?status=`, with or without `/api/v3`, and with a word in braces for a parameter of the path."""
    for method, path, query in re.findall(r"`(GET|POST|PUT|DELETE) (/[^`\s?]*)\??([^`\s]*)", page.read_text()):
        operation = find_operation(method, f"/api/v3{path.removeprefix('/api/v3')}")
        assert operation is not None or path == "/api/v3/openapi.json", f"{method} {path}"
        named = {item.partition("=")[0] for item in query.split("&") if item}
        assert named <= {resolve(parameter)["name"] for parameter in (operation or {}).get("parameters", ())}, query
