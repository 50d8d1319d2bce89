"""The tree of a build's artifacts, of any depth."""

from datetime import UTC, datetime
from typing import Any

from api.artifacts import make_tree
from domain.artifacts import MAX_FOLDERS
from projections.artifacts import ArtifactRow


def row(id: int, path: str) -> ArtifactRow:
    return ArtifactRow(id, 1, 1, 1, path, "binary", "", 1, "", "", datetime(2026, 5, 20, 10, tzinfo=UTC))


def depth(node: dict[str, Any]) -> int:
    return max((1 + depth(child) for child in node.get("children", [])), default=0)


def test_folders_beyond_the_limit_are_part_of_the_name() -> None:
    deep = "d/" * 499
    tree = make_tree([row(1, f"{deep}a"), row(2, f"{deep}b"), row(3, "d/c")])
    assert depth(tree) == MAX_FOLDERS + 1
    (top,) = tree["children"]
    assert [child["name"] for child in top["children"]] == ["d", "c"]
    while "id" not in tree:
        tree = tree["children"][0]
    assert tree == {"name": f"{'d/' * (499 - MAX_FOLDERS)}a", "id": 1, "size_bytes": 1}
