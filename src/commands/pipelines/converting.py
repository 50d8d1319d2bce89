"""Converts YAML nodes to structs by the types of their fields. Collects all mistakes.

The expected type decides what a plain scalar means: `3.10` and `no` are texts in a field for texts. YAML 1.1 would read
them as a number and as `false`.
"""

import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from commands.pipelines.yaml_nodes import FileFault, InvalidFile, YamlList, YamlMapping, YamlNode, YamlScalar

S = TypeVar("S", bound=msgspec.Struct)
MAX_FAULTS = 50
"""Largest number of mistakes that are reported for one file. Conversion ends at this number."""
MAX_SIMILAR_LENGTH = 50
"""Largest number of characters of an unknown name for which a similar name is suggested. The time to compare names
grows with the square of their length.
"""
MAX_SIMILAR_NAMES = 50
"""Largest number of known names with which an unknown name is compared."""
INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
OLD_BOOLEANS = ("yes", "no", "on", "off", "y", "n")
"""Words that are booleans in YAML 1.1 and texts in YAML 1.2."""
NO_VALUE: Any = object()
"""Stands for a value that could not be converted."""


@dataclass(frozen=True)
class PartialNodes:
    """Nodes whose values are incomplete, since parts of them have mistakes and were left out."""

    _nodes: set[int] = dataclass_field(default_factory=set)
    _kept: dict[int, list[int]] = dataclass_field(default_factory=dict)

    def __contains__(self, node: YamlNode) -> bool:
        """Returns whether a mistake was found in the node or below it."""
        return id(node) in self._nodes

    def add(self, node: YamlNode) -> None:
        self._nodes.add(id(node))

    def keep(self, node: YamlList, kept: list[int]) -> None:
        """Records which items of a list have no mistakes: `kept` has their indexes in the file."""
        self._kept[id(node)] = kept

    def find_indexes(self, node: YamlList) -> Sequence[int]:
        """Returns the indexes in the file of those items of a list that have no mistakes."""
        return self._kept.get(id(node), range(len(node.items)))


@dataclass(frozen=True)
class Conversion(Generic[S]):
    """The struct that a file describes, and all mistakes in the file. Parts with mistakes are missing in the struct. A
    struct that lacks parts is used only to find more mistakes.
    """

    value: S
    faults: list[FileFault]
    partial: PartialNodes


def convert(root: YamlNode, kind: type[S], hints: Mapping[str, str]) -> Conversion[S]:
    """Returns the conversion of a file. `hints` maps keys of other CI systems to advice on what to write instead.

    Raises InvalidFile if the mistakes leave no struct, or are too many.
    """
    converter = _Converter(hints)
    value = converter.convert(root, inspect.type_info(kind), "the file")
    if value is NO_VALUE:
        raise InvalidFile(sorted(converter.faults))
    return Conversion(msgspec.convert(value, kind), converter.faults, converter.partial)


def suggest(name: str, known: list[str]) -> str:
    """Returns the end of a message about an unknown name: a suggestion of the most similar known name, or a list of the
    known names if none is similar.
    """
    compared = known[:MAX_SIMILAR_NAMES] if len(name) <= MAX_SIMILAR_LENGTH else []
    if near := get_close_matches(name, compared, n=1, cutoff=0.6):
        return f"; did you mean `{near[0]}`?"
    listed = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
    return f"; known here: {listed}" if known else ""


class _Converter:
    def __init__(self, hints: Mapping[str, str]) -> None:
        self.faults: list[FileFault] = []
        self.partial = PartialNodes()
        self._hints = hints

    def convert(self, node: YamlNode, kind: inspect.Type, name: str) -> Any:
        """Returns the value of a node as builtin types, without the parts that have mistakes. Returns NO_VALUE if the
        rest does not fit the type `kind`. Adds the mistakes to `faults`; their messages call the value `name`.
        """
        before = len(self.faults)
        value = self._convert(node, kind, name)
        if len(self.faults) > before:
            self.partial.add(node)
        return value

    def _convert(self, node: YamlNode, kind: inspect.Type, name: str) -> Any:
        match kind:
            case inspect.Metadata():
                return self._convert(node, kind.type, name)
            case inspect.UnionType():
                if isinstance(node, YamlScalar) and node.is_null:
                    return None
                (other,) = (one for one in kind.types if not isinstance(one, inspect.NoneType))
                return self._convert(node, other, name)
            case inspect.StructType():
                return self._struct(node, kind, name)
            case inspect.DictType():
                return self._dict(node, kind, name)
            case inspect.ListType():
                return self._list(node, kind, name)
            case _:
                return self._scalar(node, kind, name)

    def _fail(self, node: YamlNode, message: str) -> Any:
        self.faults.append(node.fault(message))
        if len(self.faults) == MAX_FAULTS:
            raise InvalidFile(sorted(self.faults))
        return NO_VALUE

    def _struct(self, node: YamlNode, kind: inspect.StructType, name: str) -> Any:
        if not isinstance(node, YamlMapping):
            return self._fail(node, f"{name} must be a mapping: one `key: value` in each line")
        fields = {field.encode_name: field for field in kind.fields}
        value: dict[str, Any] = {}
        for key, (key_node, item) in node.entries.items():
            if key in fields:
                found = self.convert(item, fields[key].type, f"`{key}`")
                if found is not NO_VALUE:
                    value[key] = found
            elif key in self._hints:
                self._fail(key_node, f"`{key}` is not known here: {self._hints[key]}")
            else:
                self._fail(key_node, f"`{key[:50]}` is not known here{suggest(key, list(fields))}")
        for field in kind.fields:
            if field.required and field.encode_name not in node.entries:
                self._fail(node, f"{name} needs `{field.encode_name}:`")
        return value if all(name in value for name, field in fields.items() if field.required) else NO_VALUE

    def _dict(self, node: YamlNode, kind: inspect.DictType, name: str) -> Any:
        if not isinstance(node, YamlMapping):
            return self._fail(node, f"{name} must be a mapping: one `name: value` in each line")
        self._check_length(node, len(node.entries), kind, name, "entries")
        value: dict[str, Any] = {}
        for key, (key_node, item) in node.entries.items():
            has_name = self.convert(key_node, kind.key_type, f"the key `{key[:50]}`") is not NO_VALUE
            found = self.convert(item, kind.value_type, f"`{key[:50]}`")
            if found is NO_VALUE:
                found = _empty(kind.value_type)  # keeps the name, to which other parts of the file may refer
            if has_name and found is not NO_VALUE:
                value[key] = found
        return value if _has_length(value, kind) else NO_VALUE

    def _list(self, node: YamlNode, kind: inspect.ListType, name: str) -> Any:
        if not isinstance(node, YamlList):
            return self._fail(node, f"{name} must be a list: begin each entry with `- `, or write [one, two]")
        self._check_length(node, len(node.items), kind, name, "entries")
        found = [self.convert(item, kind.item_type, f"an entry of {name}") for item in node.items]
        kept = [index for index, value in enumerate(found) if value is not NO_VALUE]
        self.partial.keep(node, kept)
        values = [found[index] for index in kept]
        return values if _has_length(values, kind) else NO_VALUE

    def _scalar(self, node: YamlNode, kind: inspect.Type, name: str) -> Any:
        if not isinstance(node, YamlScalar):
            return self._fail(node, f"{name} must be {_describe(kind)}, not a {_kind_of(node)}")
        match kind:
            case inspect.BoolType():
                if node.is_plain and node.text in BOOLEANS:
                    return BOOLEANS[node.text]
                words = node.text.lower() in OLD_BOOLEANS and node.is_plain
                return self._fail(
                    node,
                    f"{name} must be true or false" + (f": `{node.text}` is a text in YAML 1.2" if words else ""),
                )
            case inspect.IntType():
                if node.is_plain and INTEGER.fullmatch(node.text) and _is_within(int(node.text), kind):
                    return int(node.text)
                return self._fail(node, f"{name} must be {_describe(kind)}")
            case inspect.LiteralType():
                if node.text in kind.values:
                    return node.text
                return self._fail(node, f"{name} must be {_describe(kind)}")
            case inspect.StrType():
                return self._text(node, kind, name)
            case _:
                raise NotImplementedError(kind)

    def _text(self, node: YamlScalar, kind: inspect.StrType, name: str) -> Any:
        if node.is_null:
            return self._fail(node, f'{name} has no value: write "" for an empty text')
        self._check_length(node, len(node.text), kind, name, "characters")
        if node.text and kind.pattern is not None and not re.search(kind.pattern, node.text):
            return self._fail(node, f"{name} has a form that is not allowed: {node.text[:50]!r}")
        return node.text if _has_length(node.text, kind) else NO_VALUE

    def _check_length(self, node: YamlNode, length: int, kind: Any, name: str, unit: str) -> None:
        if kind.min_length is not None and length < kind.min_length:
            least = f"have at least {kind.min_length} {unit}" if kind.min_length > 1 else "not be empty"
            self._fail(node, f"{name} must {least}")
        if kind.max_length is not None and length > kind.max_length:
            self._fail(node, f"{name} must have at most {kind.max_length:,} {unit}, and has {length:,}")


def _has_length(value: Sized, kind: Any) -> bool:
    return (kind.min_length or 0) <= len(value) and (kind.max_length is None or len(value) <= kind.max_length)


def _empty(kind: inspect.Type) -> Any:
    """Returns the value that replaces a value with a mistake: an empty text or struct, if the type allows it, and
    otherwise NO_VALUE.
    """
    match kind:
        case inspect.Metadata():
            return _empty(kind.type)
        case inspect.StrType():
            return "" if not kind.min_length else NO_VALUE
        case inspect.StructType() if not any(field.required for field in kind.fields):
            return {}
        case _:
            return NO_VALUE


def _is_within(number: int, kind: inspect.IntType) -> bool:
    return (kind.ge is None or number >= kind.ge) and (kind.le is None or number <= kind.le)


def _describe(kind: inspect.Type) -> str:
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            limits = "".join(
                f" {word} {limit:,}" for word, limit in (("from", kind.ge), ("to", kind.le)) if limit is not None
            )
            return f"a whole number{limits}"
        case inspect.LiteralType():
            return "one of " + ", ".join(map(str, kind.values))
        case _:
            return "a text"


def _kind_of(node: YamlNode) -> str:
    return "list" if isinstance(node, YamlList) else "mapping"
