"""`testhide evals run`: output, the file with the result, and exit codes."""

from pathlib import Path

import msgspec
import pytest

from domain.evals import EvalReport
from testhide.cli.main import main
from tests.support.documentation import documented


def test_the_documented_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in documented("docs/evals.md", "In a CI job"):
        assert main(command.split()[1:]) == 0
    assert "cases compared: 0 regressions, 0 improvements\n" in capsys.readouterr().out


def test_a_case_that_passed_before_and_fails_now_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = tmp_path / "result.json"
    arguments = ["evals", "run", "--suite", "health"]
    assert main([*arguments, "--json", str(result)]) == 0
    report = msgspec.json.decode(result.read_bytes(), type=EvalReport)
    (failed, *_) = [one for one in report.cases if not one.passed]
    passed = msgspec.structs.replace(failed, passed=True)
    result.write_bytes(msgspec.json.encode(msgspec.structs.replace(report, cases=(passed,))))
    assert main([*arguments, "--against", str(result)]) == 1
    assert f"regression: {failed.case}\n" in capsys.readouterr().out


def test_a_baseline_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    other.write_text("[]")
    for path, why in ((other, "is not the result of an evaluation"), (tmp_path / "none.json", "cannot be read")):
        assert main(["evals", "run", "--suite", "health", "--against", str(path)]) == 2
        assert why in capsys.readouterr().err


def test_a_result_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "none" / "result.json"
    assert main(["evals", "run", "--suite", "health", "--sample-size", "1", "--json", str(path)]) == 2
    assert f"{path} cannot be written" in capsys.readouterr().err


def test_a_sample_has_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evals", "run", "--suite", "health", "--sample-size", "0"])
    assert "Must be >= 1" in capsys.readouterr().err
