"""Declared dependencies: the server's, with those of its extras, are exactly what `src` imports, each with a lower and
an upper bound.
"""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
EXTRAS = ("ai", "docker", "semantic", "vcenter")
"""Extras with libraries that some processes of the server import when they first need them."""
ROOMS = {folder.name for folder in (ROOT / "src").iterdir()}


def declared(name: str) -> dict[str, str]:
    """The requirements of a file that are not included from another one: normalized name -> version bounds."""
    found: dict[str, str] = {}
    for line in (REQUIREMENTS / f"{name}.in").read_text().splitlines():
        if match := re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z,]+\])?([<>=.,\d]*)", line):
            found[match[1]] = match[2]
    return found


def locked(name: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+==[^\s;\\]+)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE))


def imported_modules(folder: Path) -> set[str]:
    """Top-level names of all absolute imports, those inside of functions included."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found


def test_the_server_declares_what_it_imports_and_nothing_else() -> None:
    owners = packages_distributions()
    modules = imported_modules(ROOT / "src") - ROOMS - set(sys.stdlib_module_names)
    distributions = {
        re.sub(r"[-_.]+", "-", owner).lower() for module in modules for owner in owners.get(module, [module])
    }
    # The agent's injected modules import what the build's own Python has.
    assert distributions - {"pytest"} == set(declared("server")).union(*map(declared, EXTRAS))


@pytest.mark.parametrize("name", ["server", "embedded", *EXTRAS])
def test_every_requirement_has_a_lower_and_an_upper_bound(name: str) -> None:
    unbounded = {
        package: bounds for package, bounds in declared(name).items() if not re.fullmatch(r">=[\d.]+,<[\d.]+", bounds)
    }
    assert declared(name)
    assert unbounded == {}


@pytest.mark.parametrize("name", ["server", "embedded", *EXTRAS])
def test_tests_run_with_the_locked_versions_of_a_release(name: str) -> None:
    assert locked(name)
    assert locked(name) <= locked("dev")
