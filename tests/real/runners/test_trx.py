"""Reports in TRX, the format of `dotnet test`, as jest and mocha write it; test_dotnet.py has those of dotnet."""

import subprocess
from pathlib import Path

import pytest

from tests.real.runners.project import HERE, read, statuses_of
from tests.real.runners.verdicts import judge

TESTS = """
describe('cart', () => {
  it('adds', () => {});
  it('discounts', () => { if (process.env.BROKEN) throw new Error('boom'); });
  it.skip('pays later', () => {});
});
"""
COMMANDS = {
    "jest": ["jest", "--reporters=jest-trx-results-processor"],
    "mocha": ["mocha", "--reporter", "mocha-trx-reporter", "--reporter-options", "output=test-results.trx", "test"],
}
NAMES = {"jest": "cart.cart / {}", "mocha": "none.cart {}"}


def run(folder: Path, runner: str, environ: dict[str, str] | None = None) -> tuple[int, Path]:
    """Runs the tests in a folder; returns the exit code and the report."""
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(HERE / "node_modules")
        (folder / "package.json").write_text("{}")
        (folder / "test").mkdir()
        (folder / "test" / "cart.test.js").write_text(TESTS)
    command = [f"node_modules/.bin/{COMMANDS[runner][0]}", *COMMANDS[runner][1:]]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "CI": "true", **(environ or {})}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    report = folder / "test-results.trx"
    assert report.exists(), done.stdout + done.stderr
    return done.returncode, report.rename(folder / f"{len(list(folder.iterdir()))}.trx")


@pytest.mark.real("node")
@pytest.mark.parametrize("runner", COMMANDS)
def test_a_failure_of_one_shard_fails_the_build(runner: str, tmp_path: Path) -> None:
    broken = run(tmp_path, runner, {"BROKEN": "1"})
    passed = run(tmp_path, runner)
    assert (broken[0], passed[0]) == (1, 0)
    adds, discounts = (NAMES[runner].format(name) for name in ("adds", "discounts"))
    for (_, path), status in ((broken, "failed"), (passed, "passed")):
        report = read(path)
        assert (report.is_unreadable, report.warnings) == (False, [])
        assert statuses_of(report) == {adds: "passed", discounts: status}
    assert judge([passed]) == ("passed", 1 + 1)
    for exit_code in (0, 1):
        assert judge([(exit_code, broken[1]), passed])[0] == "failed"
        assert judge([passed, (exit_code, broken[1])])[0] == "failed"
    assert judge([broken], [discounts])[0] == "passed"


@pytest.mark.real("node")
def test_a_file_that_cannot_be_loaded_fails_the_build(tmp_path: Path) -> None:
    run(tmp_path, "jest")
    (tmp_path / "test" / "other.test.js").write_text("throw new Error('no such module');")
    exit_code, path = run(tmp_path, "jest")
    assert judge([(exit_code, path)])[0] == "failed"
