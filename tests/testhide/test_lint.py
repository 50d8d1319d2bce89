"""`testhide lint`: exit codes and output, and the published JSON Schema."""

import json
from pathlib import Path

import jsonschema_rs
import pytest

from testhide.cli.main import main
from tests.support.documentation import ROOT, documented

GOOD = "jobs: {unit: {command: pytest, env: {PYTHON: 3.10}}}\n"
SCHEMA = ROOT / "docs" / "testhide.schema.json"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_good_file_passes(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / ".testhide.yml").write_text(GOOD)
    for command in documented("docs/pipelines.md", "Check a file"):
        assert main(command.split()[1:]) == 0
        output = capsys.readouterr().out
        assert output in (".testhide.yml: 1 job, no mistakes\n", SCHEMA.read_text())


def test_mistakes_are_printed_with_their_positions(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "bad.yml").write_text("jobs:\n  unit: {comand: pytest}\n")
    assert main(["lint", "bad.yml"]) == 1
    assert capsys.readouterr().out == "bad.yml:2:10: `comand` is not known here; did you mean `command`?\n"


def test_a_missing_file_is_an_error_of_its_own(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint"]) == 2
    assert capsys.readouterr().err == "testhide: .testhide.yml cannot be read: No such file or directory\n"


def test_the_published_schema_is_the_one_of_the_types(capsys: pytest.CaptureFixture[str]) -> None:
    """`testhide lint --schema > docs/testhide.schema.json` renews it."""
    assert main(["lint", "--schema"]) == 0
    assert capsys.readouterr().out == SCHEMA.read_text()


def test_the_schema_takes_what_the_server_takes() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.validator_for(schema)
    assert validator.is_valid({"jobs": {"unit": {"command": "pytest", "env": {"PYTHON": 3.1, "DEBUG": True}}}})
    assert not validator.is_valid({"jobs": {"unit": {"comand": "pytest"}}})
    assert not validator.is_valid({"jobs": {"unit": {"command": "pytest", "timeout_minutes": 0}}})
