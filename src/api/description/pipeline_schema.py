"""JSON Schema of `.testhide.yml`, for editors and validators."""

import json
from typing import Any

from api.description.schemas import Schemas
from commands.pipelines.file import PipelineFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def describe_pipeline_file() -> dict[str, Any]:
    """Returns the schema. Values of variables may be numbers and booleans, which the server reads as texts, exactly as
    the file has them. Formats of texts are left out, since strict validators refuse a schema with formats of our own.
    """
    schemas = Schemas([PipelineFile], [], [])
    document = {"$schema": DIALECT, **schemas.of(PipelineFile), "$defs": schemas.components}
    made: dict[str, Any] = json.loads(json.dumps(document).replace("#/components/schemas/", "#/$defs/"))
    for name in ("FileJob", "FileTemplate"):
        made["$defs"][name]["properties"]["env"]["additionalProperties"]["type"] = ["string", "number", "boolean"]
    _remove_formats(made)
    return made


def _remove_formats(schema: Any) -> None:
    match schema:
        case list():
            for item in schema:
                _remove_formats(item)
        case dict():
            if isinstance(schema.get("format"), str):
                del schema["format"]
            for item in schema.values():
                _remove_formats(item)
