"""Examples of request bodies and answers for the API description. `examples.json` contains them by operation id, under
`request` and `response`. The examples come from the public API reference. `complete` adds the fields that only this
server has.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from api.description.schemas import Schema, Schemas

A_TIME = "2026-05-20T14:00:00Z"


@cache
def load_examples() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("examples.json").read_text("utf-8"))
    return loaded


def complete(example: Any, schema: Schema, schemas: Schemas) -> Any:
    """Returns the example with all fields that the schema requires. A field that the example lacks gets a placeholder
    as its value.
    """
    schema = _choose(example, schema, schemas)
    match example:
        case dict() if "properties" in schema:
            fields = schema["properties"]
            missing = [name for name in schema["required"] if name not in example]
            return {
                **{name: complete(value, fields.get(name, {}), schemas) for name, value in example.items()},
                **{name: _placeholder(fields[name], schemas) for name in missing},
            }
        case list() if "items" in schema:
            return [complete(item, schema["items"], schemas) for item in example]
        case _:
            return example


def _choose(example: Any, schema: Schema, schemas: Schemas) -> Schema:
    """Returns the alternative in `anyOf` that fits the example best, or the schema itself if it has no `anyOf`. Instead
    of a reference, returns the schema to which the reference leads.
    """
    found = [schemas.resolve(item) for item in schema.get("anyOf", [schema])]
    if isinstance(example, dict):
        return max(found, key=lambda item: len(example.keys() & item.get("properties", {}).keys()))
    return found[0]


def _placeholder(schema: Schema, schemas: Schemas) -> Any:
    schema = schemas.resolve(schema)
    if "default" in schema:
        return schema["default"]
    if "anyOf" in schema:
        return None if {"type": "null"} in schema["anyOf"] else _placeholder(schema["anyOf"][0], schemas)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return complete({}, schema, schemas)
        case "array":
            return []
        case "boolean":
            return False
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "string":
            return A_TIME if schema.get("format") == "date-time" else ""
        case _:
            return None
