"""Reports of go tests by gotestsum: what could not be built, subtests, and examples/runners/go.sh."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from commands.reports.reading import ReportRead, read_report
from domain.results import FAILED, PASSED, SKIPPED
from tests.real.runners.verdicts import judge

SCRIPT = Path(__file__).parents[3] / "examples" / "runners" / "go.sh"
FILES = {
    "go.mod": "module acme.test/shop\n\ngo 1.21\n",
    "cart/cart_test.go": """
package cart

import "testing"

func TestTotal(t *testing.T) {
	t.Run("empty", func(t *testing.T) {})
	t.Run("with tax", func(t *testing.T) { t.Error("boom") })
}
func TestFine(t *testing.T)  {}
func TestLater(t *testing.T) { t.Skip("later") }
""",
    "broken/broken_test.go": """
package broken

import "testing"

func TestX(t *testing.T) { undefined() }
""",
}


def run_script(folder: Path, *options: str, wanted: Sequence[str] = (), **variables: str) -> tuple[int, Path]:
    """Runs the script; returns its exit code and the report."""
    env = os.environ | {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-vet=off", "CGO_ENABLED": "0"} | variables
    if wanted:
        ids = folder / "ids.txt"
        ids.write_text("".join(f"{node_id}\n" for node_id in wanted))
        env["TESTHIDE_TEST_IDS_FILE"] = str(ids)
    done = subprocess.run(["sh", str(SCRIPT), *options], cwd=folder, env=env, capture_output=True, text=True)
    report = folder / "junit.xml"
    assert report.exists(), done.stdout + done.stderr
    return done.returncode, report


def run(folder: Path, *wanted: str) -> tuple[int, ReportRead, dict[str, int]]:
    """Runs the script; returns its exit code, the report, and the status of each test by its id."""
    exit_code, report = run_script(folder, wanted=wanted)
    read = read_report(report)
    statuses = {read.node_ids[test]: status for test, status in zip(read.tests, read.statuses, strict=True)}
    return exit_code, read, statuses


@pytest.mark.real("go", "gotestsum")
def test_go_tests_are_read_and_selected(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    exit_code, read, statuses = run(tmp_path)
    package = "acme.test/shop/cart."
    assert (exit_code, read.unloaded, read.warnings) == (1, 1, [])
    failed = [name for name, status in statuses.items() if status == FAILED]
    assert judge([(exit_code, tmp_path / "junit.xml")], failed)[0] == "failed", "a package is missing"
    assert {name: status for name, status in statuses.items() if name.startswith(package)} == {
        f"{package}TestTotal": FAILED,
        f"{package}TestTotal/empty": PASSED,
        f"{package}TestTotal/with_tax": FAILED,
        f"{package}TestFine": PASSED,
        f"{package}TestLater": SKIPPED,
    }

    (tmp_path / "broken/broken_test.go").unlink()
    exit_code, read, statuses = run(tmp_path, f"{package}TestTotal/with_tax")
    assert (exit_code, read.unloaded) == (1, 0)
    assert judge([(exit_code, tmp_path / "junit.xml")])[0] == "failed"
    assert judge([(exit_code, tmp_path / "junit.xml")], failed)[0] == "passed"
    assert set(statuses) == {f"{package}{name}" for name in ("TestTotal", "TestTotal/empty", "TestTotal/with_tax")}
