"""Reads YAML to a tree of nodes that have their line and column.

Only the parser of PyYAML is used, and not the part that creates objects. Plain scalars keep their text, and later the
type of the field decides what they mean (`converting.py`): in a field for texts, `3.10` is a version and `no` is a
country. Aliases, anchors and tags are refused, since a short file with aliases can stand for a huge one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 50
MAX_NODES = 50_000
"""Largest number of scalars, lists and mappings in one file. Reading so many takes about a second."""
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's class with the parser in C, which is nearly always installed; else the class with the parser in Python,
which takes 20 times as long.
"""


class FileFault(NamedTuple):
    """A mistake in a file, with its line and column, which begin at 1."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class InvalidFile(Exception):
    """The file is not valid YAML, or its values contain mistakes. `faults` lists all that were found."""

    def __init__(self, faults: list[FileFault]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = faults


@dataclass(frozen=True)
class YamlNode:
    line: int
    column: int

    def fault(self, message: str) -> FileFault:
        return FileFault(self.line, self.column, message)


@dataclass(frozen=True)
class YamlScalar(YamlNode):
    text: str
    is_plain: bool
    """Whether the scalar is written without quotes, and not as a block."""

    @property
    def is_null(self) -> bool:
        return self.is_plain and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True)
class YamlList(YamlNode):
    items: list[YamlNode] = field(default_factory=list)


@dataclass(frozen=True)
class YamlMapping(YamlNode):
    entries: dict[str, tuple[YamlScalar, YamlNode]] = field(default_factory=dict)
    """Key -> (node of the key, node of the value)."""


def read_nodes(content: bytes) -> YamlNode:
    """Returns the root node of a file. Raises InvalidFile if the file is not valid YAML, or uses features that are not
    supported, such as aliases.
    """
    if len(content) > MAX_BYTES:
        raise InvalidFile([FileFault(1, 1, f"the file must have at most {MAX_BYTES:,} bytes")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise InvalidFile([FileFault(line, column, "the file must be text in UTF-8")]) from None
    if found := UNPRINTABLE.search(text):
        before_it = text[: found.start()]
        line, column = before_it.count("\n") + 1, len(before_it) - before_it.rfind("\n")
        raise InvalidFile([FileFault(line, column, f"the character U+{ord(found[0]):04X} is not allowed in YAML")])
    try:
        return _Builder(yaml.parse(text, Loader=Loader)).build()
    except yaml.MarkedYAMLError as error:
        raise InvalidFile([_describe(error)]) from None


class _Builder:
    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._count = 0

    def build(self) -> YamlNode:
        next(self._events)  # the stream begins
        started = next(self._events)
        if isinstance(started, yaml.StreamEndEvent):
            raise InvalidFile([FileFault(1, 1, "the file is empty: it needs `jobs:`")])
        root = self._node(next(self._events), 1)
        next(self._events)  # the document ends
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _refuse(after, "the file must be one document: remove this `---` and what follows it")
        return root

    def _node(self, event: Any, depth: int) -> YamlNode:
        self._count += 1
        if self._count > MAX_NODES:
            raise _refuse(event, f"the file has more than {MAX_NODES:,} values")
        if depth > MAX_DEPTH:
            raise _refuse(event, f"values are nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refuse(event, "anchors (&) and aliases (*) are not supported: share parts of jobs by `templates`")
        if event.tag is not None:
            raise _refuse(event, f"tags such as {_shorten(event.tag)} are not supported: write the value itself")
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.ScalarEvent):
            if escaped := UNPRINTABLE.search(event.value):
                raise _refuse(event, f"the character U+{ord(escaped[0]):04X} is not allowed in a text")
            return YamlScalar(line, column, event.value, not event.style)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[YamlNode] = []
            while not isinstance(following := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(following, depth + 1))
            return YamlList(line, column, items)
        entries: dict[str, tuple[YamlScalar, YamlNode]] = {}
        while not isinstance(following := next(self._events), yaml.MappingEndEvent):
            key = self._node(following, depth + 1)
            if not isinstance(key, YamlScalar):
                raise _refuse(following, "a key must be a text")
            if key.text in entries:
                first = entries[key.text][0]
                raise _refuse(following, f"{_shorten(key.text)} is given twice, first in line {first.line}")
            entries[key.text] = key, self._node(next(self._events), depth + 1)
        return YamlMapping(line, column, entries)


def _refuse(event: Any, message: str) -> InvalidFile:
    return InvalidFile([FileFault(event.start_mark.line + 1, event.start_mark.column + 1, message)])


def _describe(error: yaml.MarkedYAMLError) -> FileFault:
    mark = error.problem_mark or error.context_mark
    line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
    message = f"this is not valid YAML: {', '.join(filter(None, (error.context, error.problem)))}"
    if "cannot start any token" in message:
        message += "; indent by spaces, not by tabs, and put texts that begin with %, @ or ` between quotes"
    elif "mapping values are not allowed" in message:
        message += "; put a text that contains `: ` between quotes, and indent keys of one mapping alike"
    return FileFault(line, column, message)


def _shorten(text: str) -> str:
    return f"`{text[:50]}…`" if len(text) > 50 else f"`{text}`"
