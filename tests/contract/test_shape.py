"""What the contract tests rest on: `same_shape` sees what is wrong."""

from typing import Any

import pytest

from .shape import same_shape

PAGE = {"total": 7, "results": [{"id": 1, "name": "x", "on": True, "cpu": 1.5, "tags": ["a"]}]}


def test_what_fits() -> None:
    result = {"id": 5, "name": "", "on": False, "cpu": 0.25, "tags": ["b", "c"], "extra": None}
    assert same_shape(PAGE, {"total": 0, "results": [result, result], "more": 1}) == []
    assert same_shape({}, {"a": 1}) == []
    assert same_shape(None, {"a": 1}) != []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": 5.0}, "results[].id"),
        ({"id": True}, "results[].id"),
        ({"id": "5"}, "results[].id"),
        ({"id": None}, "results[].id"),
        ({"name": 5}, "results[].name"),
        ({"on": 1}, "results[].on"),
        ({"cpu": 1}, "results[].cpu"),
        ({"tags": {}}, "results[].tags"),
        ({"tags": []}, "results[].tags[]"),
        ({"tags": ["a", 1]}, "results[].tags[]"),
    ],
)
def test_another_type(change: dict[str, Any], path: str) -> None:
    good = PAGE["results"][0]  # type: ignore[index]
    (defect,) = same_shape(PAGE, {"total": 1, "results": [good, {**good, **change}]})
    assert defect.startswith(f"{path}: ")


def test_what_is_missing() -> None:
    assert same_shape(PAGE, {"results": []}) == ["total: is missing", "results[]: is empty, so it shows nothing"]
    assert same_shape(PAGE, []) == ["the answer: is a list, documented is an object"]


def test_null_where_it_is_allowed() -> None:
    assert same_shape([{"a": 1, "b": 2}], [{"a": None, "b": 3}], {"[].a"}) == []
    assert same_shape([{"a": 1, "b": 2}], [{"a": None, "b": None}], {"[].a"}) == [
        "[].b: is null, documented is an integer"
    ]
    assert same_shape([{"a": 1}], [{}], {"[].a"}) == ["[].a: is missing"]


def test_a_tree_of_different_nodes() -> None:
    tree = {"children": [{"name": "a", "children": [{"name": "f", "id": 1}]}, {"name": "b", "children": []}]}
    assert same_shape(tree, {"children": [{"name": "x", "children": [{"name": "y", "id": 2}]}]}) == []
    assert same_shape(tree, {"children": [{"name": "x", "children": [{"name": "y", "id": "2"}]}]}) != []


def test_keys_of_peoples_own() -> None:
    assert same_shape({"env": {"ENV": "x"}}, {"env": {"OTHER": "y"}}, free={"env"}) == []
    assert same_shape({"env": {"ENV": "x"}}, {"env": {}}, free={"env"}) == []
    assert same_shape({"env": {"ENV": "x"}}, {"env": {"OTHER": 5}}, free={"env"}) != []
    assert same_shape({"env": {"ENV": "x"}}, {"env": []}, free={"env"}) != []
    assert same_shape({"env": {"ENV": "x"}}, {}, free={"env"}) == ["env: is missing"]
