"""Makes the JSON Schemas of bodies and answers from their types, with a description for every field.

A field's description is the docstring below the field, or the description in its annotation, or the shared description
of its name (`api.description.fields`).
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec.inspect import DataclassType, DateTimeType, Field, StructType, Type, UnionType, multi_type_info

from api.description.fields import FIELDS

Schema = dict[str, Any]
ObjectType = StructType | DataclassType
REF = "#/components/schemas/{name}"


class Schemas:
    """JSON Schemas of the types of all bodies and answers. `components` contains the schemas of structs: name of the
    struct -> schema.
    """

    def __init__(self, strict_bodies: Sequence[Any], lenient_bodies: Sequence[Any], answers: Sequence[Any]) -> None:
        """Makes the schemas of the types. Schemas of strict bodies forbid unknown fields; those of lenient bodies allow
        them. Schemas of answers require every field that is never UNSET.
        """
        bodies = [*strict_bodies, *lenient_bodies]
        types = [*bodies, *answers]
        made, self.components = msgspec.json.schema_components(types, ref_template=REF)
        self._made: dict[Any, Schema] = dict(zip(types, made, strict=True))
        taken, answered = find_objects(bodies), find_objects(answers)
        lenient = find_objects(lenient_bodies)
        for struct, kind in (taken | answered).items():
            schema = self.components[struct.__name__]
            if "properties" not in schema:  # sent as an array
                continue
            _describe_fields(schema, kind)
            if struct not in taken:
                schema["required"] = [field.encode_name for field in kind.fields if not _may_be_unset(field)]
            elif struct not in lenient:
                schema["additionalProperties"] = False
        for schema in (*made, *self.components.values()):
            adapt(schema)

    def of(self, annotation: Any) -> Schema:
        return self._made[annotation]

    def resolve(self, schema: Schema) -> Schema:
        """Returns the schema that a reference (`$ref`) leads to, and any other schema unchanged."""
        name: str = schema.get("$ref", "")
        return self.components[name.rpartition("/")[2]] if name else schema


def _may_be_unset(field: Field) -> bool:
    # msgspec leaves UNSET out of types and defaults, so such a field is not required and yet has no default.
    return not field.required and field.default is field.default_factory is msgspec.NODEFAULT


def find_objects(types: Sequence[Any]) -> dict[type, ObjectType]:
    """Returns class -> msgspec's description of it, for each struct and dataclass in the types. Includes those that
    occur, at any depth, only as types of fields.
    """
    found: dict[type, ObjectType] = {}

    def visit(kind: Type | Field) -> None:
        if isinstance(kind, ObjectType):
            if kind.cls in found:
                return
            found[kind.cls] = kind
        for value in msgspec.structs.astuple(kind):
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Type | Field):
                    visit(part)

    for kind in multi_type_info(types):
        visit(kind)
    return found


def _describe_fields(schema: Schema, kind: ObjectType) -> None:
    docstrings = _field_docstrings(kind.cls)
    for field in kind.fields:
        described = schema["properties"][field.encode_name]
        alternatives = described.get("anyOf", [described])
        annotated = next((text for item in alternatives if (text := item.pop("description", None))), None)
        text = docstrings.get(field.name) or annotated or FIELDS.get(field.encode_name)
        if text is not None:
            described["description"] = text[0].upper() + text[1:]
        kinds = field.type.types if isinstance(field.type, UnionType) else (field.type,)
        if any(isinstance(item, DateTimeType) for item in kinds):  # msgspec sets it only for times with a zone
            next(item for item in alternatives if item.get("type") == "string")["format"] = "date-time"


def adapt(schema: Any) -> None:
    """Adapts a schema and all schemas inside it in place: converts Python patterns to JSON Schema's syntax, joins the
    lines of descriptions, and adds the type `string` to enums of texts.
    """
    match schema:
        case list():
            for item in schema:
                adapt(item)
        case dict():
            if "prefixItems" in schema:
                schema["items"] = {}  # `maxItems` limits their number; linters do not know `false`
            if isinstance(pattern := schema.get("pattern"), str):
                schema["pattern"] = pattern.replace(r"\Z", "$")
            if isinstance(text := schema.get("description"), str):
                schema["description"] = unwrap(text)
            if isinstance(values := schema.get("enum"), list) and all(isinstance(value, str) for value in values):
                schema.setdefault("type", "string")
            for item in schema.values():
                adapt(item)


def unwrap(docstring: str) -> str:
    """Returns a docstring with each paragraph on one line."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(docstring))


def _field_docstrings(described: type) -> dict[str, str]:
    """Returns field name -> docstring below the field, for a class and its base classes."""
    found: dict[str, str] = {}
    for base in reversed(described.__mro__):
        if not base.__module__.startswith(("builtins", "msgspec")):
            found |= _module_docstrings(base.__module__)[base.__qualname__]
    return found


@cache
def _module_docstrings(module: str) -> dict[str, dict[str, str]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_docstrings_in(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docstrings_in(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in zip(node.body, node.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text
