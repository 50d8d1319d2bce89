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


def run_command(folder: Path, *command: str, **variables: str) -> tuple[int, Path, str]:
    """Runs a command; returns its exit code, the report, and what it wrote to standard error."""
    env = os.environ | {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-vet=off", "CGO_ENABLED": "0"} | variables
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    report = folder / "junit.xml"
    assert report.exists(), done.stdout + done.stderr
    return done.returncode, report, done.stderr


def run_script(folder: Path, *options: str, wanted: Sequence[str] = (), **variables: str) -> tuple[int, Path]:
    """Runs the script; returns its exit code and the report."""
    if wanted:
        ids = folder / "ids.txt"
        ids.write_text("".join(f"{node_id}\n" for node_id in wanted))
        variables["TESTHIDE_TEST_IDS_FILE"] = str(ids)
    exit_code, report, _ = run_command(folder, "sh", str(SCRIPT), *options, **variables)
    return exit_code, report


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


def write_package(folder: Path, flaky: str, more: str = "") -> None:
    (folder / "go.mod").write_text(FILES["go.mod"])
    (folder / "a_test.go").write_text(f"""
package shop

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

var _, _, _, _ = fmt.Print, os.Exit, syscall.Exit, time.Sleep

func TestFine(t *testing.T)  {{}}
func TestFlaky(t *testing.T) {{ {flaky} }}
{more}
""")


BROKEN = 'func TestBroken(t *testing.T) { t.Fatal("broken") }'
PANICS_IN_GOROUTINE = 'go func() { panic("boom") }(); time.Sleep(time.Minute)'


@pytest.mark.real("go", "gotestsum")
@pytest.mark.parametrize(
    "flaky",
    [
        pytest.param('panic("boom")', id="panic"),
        pytest.param('t.Run("sub", func(t *testing.T) { panic("boom") })', id="panic of a subtest"),
        pytest.param('t.Parallel(); panic("boom")', id="panic of a parallel test"),
        pytest.param(PANICS_IN_GOROUTINE, id="panic of a goroutine"),
        pytest.param("var f func(int) int; f = func(i int) int { return f(i) + 1 }; f(0)", id="fatal error"),
        pytest.param("os.Exit(1)", id="exit"),
        pytest.param("time.Sleep(time.Hour)", id="timeout"),
    ],
)
def test_nothing_excuses_a_test_that_ends_its_package(tmp_path: Path, flaky: str) -> None:
    parallel = 'func TestParallel(t *testing.T) { t.Parallel(); time.Sleep(time.Second); t.Fatal("broken") }'
    write_package(tmp_path, flaky, parallel if "Parallel" in flaky else BROKEN)
    flaky_tests = ["acme.test/shop.TestFlaky", "acme.test/shop.TestFlaky/sub", "acme.test/shop.TestParallel"]

    exit_code, report, errors = run_command(tmp_path, "sh", str(SCRIPT), "-timeout", "2s")
    assert (exit_code, "may not have run: acme.test/shop\n" in errors) == (2, True)
    assert judge([(exit_code, report)], flaky_tests)[0] == "failed"

    command = ["gotestsum", "--junitfile", "junit.xml", "--", "-timeout", "2s", "./..."]
    exit_code, report, _ = run_command(tmp_path, *command)
    assert (exit_code, read_report(report).unloaded) == (1, 1)
    assert judge([(exit_code, report)], flaky_tests)[0] == "failed", "a user without the script"


@pytest.mark.real("go", "gotestsum")
def test_a_test_that_ends_its_package_without_a_failure_fails_the_script(tmp_path: Path) -> None:
    write_package(tmp_path, "syscall.Exit(0)", BROKEN)
    assert run_script(tmp_path)[0] == 2


@pytest.mark.real("go", "gotestsum")
@pytest.mark.parametrize(
    "flaky",
    [
        't.Fatal("panic: boom")',
        'fmt.Println("panic: boom\\n\\ngoroutine 7 [running]:\\nexit status 2"); t.Error("FAIL")',
        'defer func() { recover(); t.Error("recovered") }(); panic("boom")',
        't.Run("sub", func(t *testing.T) { fmt.Println("panic: boom\\n\\ngoroutine 7 [running]:") }); t.Error("boom")',
        'fmt.Print("no newline"); t.Error("boom"); fmt.Print("no newline")',
        't.Run("sub", func(t *testing.T) { fmt.Print("no newline"); t.Error("boom"); fmt.Print("no newline") })',
        "t.Parallel(); t.FailNow()",
    ],
)
def test_a_failed_test_that_prints_a_panic_is_an_ordinary_one(tmp_path: Path, flaky: str) -> None:
    more = 'func TestParallel(t *testing.T) { t.Parallel() }\nfunc ExampleFine() { fmt.Println("fine") }'
    write_package(tmp_path, flaky, more)
    exit_code, report = run_script(tmp_path)
    assert (exit_code, read_report(report).unloaded) == (1, 0)
    assert judge([(exit_code, report)], ["acme.test/shop.TestFlaky", "acme.test/shop.TestFlaky/sub"])[0] == "passed"


@pytest.mark.real("go", "gotestsum")
@pytest.mark.parametrize(
    "more", ["func TestMain(m *testing.M) { os.Exit(0) }", "func TestQuiet(t *testing.T) { os.Stdout = nil }"]
)
def test_packages_that_pass_without_saying_so(tmp_path: Path, more: str) -> None:
    write_package(tmp_path, "", more)
    assert run_script(tmp_path)[0] == 0
