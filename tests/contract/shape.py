"""Whether an answer has the shape of a documented example: every key, recursively, with its JSON type."""

from collections.abc import Collection, Iterator
from typing import Any


def same_shape(
    documented: Any, actual: Any, optional: Collection[str] = (), free: Collection[str] = (), path: str = ""
) -> list[str]:
    """The defects of `actual`, none when it fits: missing keys and other types. Extra keys are welcome.

    A documented integer takes only integers, a documented list has every element checked against its first example (or
    its own, where the examples differ in shape); an empty list shows nothing and is a defect. `null` is a defect unless
    the place (`results[].last_used`) is one of `optional`. Objects under the names in `free` have keys of people's own:
    their values are checked against the first documented one.
    """
    return list(_defects(documented, actual, optional, free, path))


def _defects(
    documented: Any, actual: Any, optional: Collection[str], free: Collection[str], path: str
) -> Iterator[str]:
    if actual is None:
        if documented is not None and path not in optional:
            yield f"{path or 'the answer'}: is null, documented is {_kind(documented)}"
        return
    if _kind(actual) != _kind(documented):
        yield f"{path or 'the answer'}: is {_kind(actual)}, documented is {_kind(documented)}"
        return
    match documented:
        case dict() if path.rpartition(".")[2] in free:
            for example in list(documented.values())[:1]:
                for key, value in actual.items():
                    yield from _defects(example, value, optional, free, f"{path}.{key}")
        case dict():
            for key, example in documented.items():
                inner = f"{path}.{key}" if path else key
                if key not in actual:
                    yield f"{inner}: is missing"
                else:
                    yield from _defects(example, actual[key], optional, free, inner)
        case [first, *more]:
            if not actual:
                yield f"{path or 'the answer'}[]: is empty, so it shows nothing"
            examples = [first, *(example for example in more if _keys(example) != _keys(first))]
            for element in actual:
                tried = [list(_defects(example, element, optional, free, f"{path}[]")) for example in examples]
                yield from min(tried, key=len)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a float"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
    raise TypeError(f"no JSON: {value!r}")


def _keys(value: Any) -> frozenset[str]:
    return frozenset(value) if isinstance(value, dict) else frozenset()
