"""docs/variables.md lists every TESTHIDE_ variable of the code, and no other."""

import re

from commands.configurations import SET_BY_AGENTS
from testhide.settings import known_names
from tests.support.documentation import ROOT

VARIABLE = re.compile(r"\bTESTHIDE_[A-Z][A-Z_]*[A-Z]\b")
READING = ("dev", "docker-compose.yml", "Dockerfile", ".ci/run")
"""Files outside `src` that read variables."""


def test_every_variable_is_listed() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / name for name in READING)]
    named = {name for path in files for name in VARIABLE.findall(path.read_text())}
    listed = set(VARIABLE.findall((ROOT / "docs" / "variables.md").read_text()))
    assert listed == named | SET_BY_AGENTS | known_names()
