"""The rooms: folders, import contract and documentation say the same, and nobody else owns their names."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {folder.name for folder in (ROOT / "src").iterdir() if (folder / "__init__.py").exists()}
MAX_LINES = 400


def test_the_import_contract_covers_every_room() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert set(linter["root_packages"]) == ROOMS
    layers = next(contract["layers"] for contract in linter["contracts"] if contract["type"] == "layers")
    named = {room.strip() for layer in layers for room in layer.split("|")}
    assert named | {"agent"} == ROOMS, "the agent has contracts of its own"


def folders_of(room: str) -> set[str]:
    return {path.parent.name for path in (ROOT / "src" / room).glob("*/__init__.py")}


def test_the_import_contract_orders_the_folders_of_every_room() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for room in ROOMS:
        inside: list[str] = next((item["layers"] for item in contracts if item.get("containers") == [room]), [])
        ordered = {name.strip() for layer in inside for name in layer.split("|")}
        assert folders_of(room) - {"injected"} <= ordered, f"a folder of {room} is in no layer"


def test_the_documentation_describes_every_folder() -> None:
    table = (ROOT / "docs" / "architecture.md").read_text()
    folders = {f"{room}/{folder}" for room in ROOMS for folder in folders_of(room)} - {"store/migrations"}
    assert set(re.findall(r"^\| `src/([\w/]+)/`", table, re.MULTILINE)) == ROOMS | folders


def test_no_other_distribution_owns_a_rooms_name() -> None:
    """Nor that of a module that the agent puts on the path of a build's Python, where it would hide the other one."""
    injected = {path.stem for path in (ROOT / "src/agent/injected").glob("testhide_*.py")}
    owners = {
        (distribution.metadata["Name"], top)
        for distribution in distributions()
        for path in distribution.files or ()
        if ((top := path.parts[0]) in ROOMS | injected and len(path.parts) > 1) or path.stem in injected
    }
    assert {name for name, _ in owners} <= {"testhide-server"}


def test_no_module_is_too_long_to_know_ones_way_in() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("src", "tests", "bench")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert long == {}


def test_every_area_is_registered_in_its_room() -> None:
    catalogue = (ROOT / "src" / "projections" / "registry.py").read_text()
    projections = {
        path.stem
        for path in (ROOT / "src" / "projections").glob("*.py")
        if re.search(r"^PROJECTION = ", path.read_text(), re.MULTILINE)
    }
    assert projections == set(re.findall(r"(\w+)\.PROJECTION", catalogue))
    app = (ROOT / "src" / "api" / "app.py").read_text()
    controllers = {
        name
        for path in (ROOT / "src" / "api").rglob("*.py")
        for name in re.findall(r"^class (\w+Controller)\(Controller\)", path.read_text(), re.MULTILINE)
    }
    assert controllers <= set(re.findall(r"\w+Controller", app))
    domain = (ROOT / "src" / "domain" / "registry.py").read_text()
    areas = {
        path.stem
        for path in (ROOT / "src" / "domain").glob("*.py")
        if re.search(r"^EVENTS = \(", path.read_text(), re.MULTILINE)
    }
    found = re.search(r"AREAS = \(([^)]*)\)", domain)
    assert found is not None
    assert areas == set(re.findall(r"\w+", found[1]))
