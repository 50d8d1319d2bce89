"""What the log holds may not change its meaning: a committed picture of every stored event.

To change an event on purpose: raise its `class_version`, write the upcaster from the version before it in
`domain.registry.UPCASTERS`, and run `python -m tests.store.test_stored_shapes`, which writes the picture anew.
"""

import json
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from domain.core.events import Event
from domain.registry import EVENTS

FILE = Path(__file__).with_name("stored_shapes.json")
REGENERATE = "python -m tests.store.test_stored_shapes"


def shape(event: type[Event]) -> dict[str, Any]:
    """The event's version, its fields with their types, which are sealed, and the structs that the types name."""
    structs: dict[str, Any] = {}
    fields = _fields(event, structs, leaving=Event.__struct_fields__)
    shown = {"class_version": event.class_version, "fields": fields, "sealed": list(event.sealed), "structs": structs}
    return {name: value for name, value in shown.items() if value}


def _fields(
    struct: type[msgspec.Struct], structs: dict[str, Any], leaving: tuple[str, ...] = ()
) -> dict[str, str] | list[str]:
    hints = {name: hint for name, hint in get_type_hints(struct).items() if name in struct.__struct_fields__}
    named = {name: _named(hints[name], structs) for name in struct.__struct_fields__ if name not in leaving}
    # Of a struct that is stored as an array the order counts.
    return [f"{name}: {kind}" for name, kind in named.items()] if struct.__struct_config__.array_like else named


def _named(hint: Any, structs: dict[str, Any]) -> str:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        structs[hint.__name__] = _fields(hint, structs)
        return hint.__name__
    if get_origin(hint) is None or isinstance(get_args(hint)[0], str):
        return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    inner = [_named(one, structs) for one in get_args(hint) if one is not ...]
    origin = getattr(get_origin(hint), "__name__", "")
    return " | ".join(inner) if "Union" in origin else f"{origin}[{', '.join(inner)}]"


def shapes() -> dict[str, Any]:
    return {name: shape(event) for name, event in sorted(EVENTS.items())}


def complaint(name: str, stored: dict[str, Any] | None, now: dict[str, Any] | None) -> str:
    """What is wrong, and what to do about it; empty when nothing is."""
    if stored == now:
        return ""
    if stored is None:
        return f"{name!r} is new. Its shape is stored data from now on: `{REGENERATE}` adds it."
    if now is None:
        return f"{name!r} is gone, but logs still hold it: keep its class, so that they can be read."
    if stored["class_version"] == now["class_version"]:
        return (
            f"The stored shape of {name!r} changed without a new version. Logs hold the old shape: set"
            f" `class_version = {now['class_version'] + 1}`, write the upcaster ({name!r}, {now['class_version']}) in"
            f" domain.registry.UPCASTERS, then run `{REGENERATE}`.\nwas: {json.dumps(stored)}\nis:  {json.dumps(now)}"
        )
    return f"{name!r} has a new version; when its upcaster is written, `{REGENERATE}` takes it in."


def test_no_stored_shape_changes_unnoticed() -> None:
    stored, now = json.loads(FILE.read_text()), shapes()
    complaints = [complaint(name, stored.get(name), now.get(name)) for name in sorted(stored | now)]
    assert not any(complaints), "\n".join(filter(None, complaints))


@pytest.mark.parametrize(
    ("stored", "now", "says"),
    [
        (
            {"class_version": 1, "fields": {"a": "int"}},
            {"class_version": 1, "fields": {"a": "str"}},
            "class_version = 2",
        ),
        ({"class_version": 1, "fields": {"a": "int"}}, {"class_version": 2, "fields": {"a": "str"}}, "new version"),
        ({"class_version": 1, "fields": {}}, None, "gone"),
        (None, {"class_version": 1, "fields": {}}, "new"),
        ({"class_version": 1, "fields": {}}, {"class_version": 1, "fields": {}}, ""),
    ],
)
def test_a_change_is_complained_about(stored: dict[str, Any] | None, now: dict[str, Any] | None, says: str) -> None:
    message = complaint("thing.happened", stored, now)
    assert says in message
    assert bool(message) == bool(says)


def test_a_shape_names_fields_types_and_what_they_are_made_of() -> None:
    shown = shape(EVENTS["build.queued"])
    assert shown["class_version"] == 1
    assert (
        shown["fields"].items()
        >= {"branch": "str", "commit_sha": "str | NoneType", "configuration": "Configuration"}.items()
    )
    assert shown["structs"]["Configuration"]["secrets"] == "dict[str, bytes]"
    assert shape(EVENTS["results.recorded"])["structs"]["Replaced"] == ["row: int", "result_id: int", "status: int"]


if __name__ == "__main__":
    FILE.write_text(json.dumps(shapes(), indent=1) + "\n")
    print(f"wrote {len(EVENTS)} shapes to {FILE}")
