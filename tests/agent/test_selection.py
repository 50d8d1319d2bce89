"""The pytest plugin: only the wanted tests run, however pytest is called, and every case has its node id."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer, ReceivedBuild
from tests.agent.harness import Agent, StartAgent
from tests.agent.plugin_run import BIN, SUITE, PluginRun, cases, node_ids, write
from tests.agent.pytest_forks import PytestForks

A, B = "tests/test_a.py", "tests/test_b.py"
NON_ASCII = A + r"::test_many[\xe4]"
ALL = {
    f"{A}::test_plain",
    *(f"{A}::test_many[{x}]" for x in ("a", "b::c", "x[y]", r"\xe4")),
    f"{A}::TestOuter::test_one",
    f"{A}::TestOuter::TestInner::test_deep[1]",
    f"{A}::TestOuter::TestInner::test_deep[2]",
    f"{A}::test_größe",
    f"{B}::Case::test_u",
    f"{B}::test_set_up",
    f"{B}::test_plain",
}
WANTED = [f"{A}::TestOuter::test_one", NON_ASCII, f"{A}::test_größe", f"{A}::TestOuter::TestInner::test_deep"]
SELECTED = {*WANTED[:3], *(f"{A}::TestOuter::TestInner::test_deep[{n}]" for n in (1, 2))}


@pytest.fixture
def trusted(start: StartAgent) -> Agent:
    # The Python with pytest may be in a home folder that another user cannot enter.
    return start("--trust-builds")


def queue(server: FakeServer, folder: Path, command: str, **other: object) -> ReceivedBuild:
    write(folder / "suite", SUITE)
    env = {"PATH": f"{BIN}:{os.defpath}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return server.queue(command, env=env, setup=[f"cp -R {folder}/suite/. ."], **other)


@pytest.mark.parametrize(
    "command",
    [
        "pytest --junit-xml=junittests.xml",
        "python -m pytest -p no:cacheprovider --junit-xml=junittests.xml",
        "pytest -p xdist -n 2 --junit-xml=junittests.xml",
    ],
)
@pytest.mark.usefixtures("trusted")
def test_only_the_wanted_tests_run(server: FakeServer, folder: Path, command: str) -> None:
    build = queue(server, folder, command, test_ids=WANTED)

    assert server.wait_finished(build)["exit_code"] == 1, build.lines
    assert sorted(node_ids(build.reports["junittests.xml"])) == sorted(SELECTED)
    assert "Testhide: 5 of 12 tests are among the 4 that this build asks for." in build.printed
    assert "==> Only these tests are wanted: 4, named in $TESTHIDE_TEST_IDS_FILE" in build.lines


@pytest.mark.usefixtures("trusted")
def test_a_script_that_calls_pytest_twice(server: FakeServer, folder: Path) -> None:
    write(folder / "suite", {"run.sh": "pytest --junit-xml=a.xml $1\npytest --junit-xml=b.xml $2\n"})
    wanted = [f"{A}::TestOuter::test_one", f"{B}::test_plain", "tests/gone.py::test"]
    build = queue(server, folder, f"sh run.sh {A} {B}", test_ids=wanted, artifacts=["*.xml"])

    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    assert node_ids(build.reports["a.xml"]) == wanted[:1]
    assert node_ids(build.reports["b.xml"]) == wanted[1:2]


@pytest.mark.usefixtures("trusted")
def test_the_testhide_reporter_and_the_quarantine_file(server: FakeServer, folder: Path) -> None:
    out = folder / "precious"
    out.write_text("kept")
    write(folder / "suite", {"x": ""})
    (folder / "suite" / ".testhide_quarantine_file").symlink_to(out)
    build = queue(
        server,
        folder,
        "pytest -p testhide_plugin.plugin --report-xml=junittests.xml || true; cat $TESTHIDE_QUARANTINE_FILE",
        quarantine=[f"{A}::test_many", f"{B}::test_set_up"],
    )
    server.wait_finished(build)

    assert build.printed[-2:] == [f"{A}::test_many", f"{B}::test_set_up"]
    left_out = {id_ for id_ in ALL if "test_many" in id_ or "test_set_up" in id_}
    assert sorted(node_ids(build.reports["junittests.xml"])) == sorted(ALL - left_out)
    assert out.read_text() == "kept"


@pytest.mark.parametrize("options", ["", "-p xdist -n 2"])
@pytest.mark.usefixtures("trusted")
def test_quarantined_tests_are_skipped(server: FakeServer, folder: Path, options: str) -> None:
    held = ["# since May", f"{A}::TestOuter", NON_ASCII, f"{A}::test_größe", f"{B}::test_set_up", f"{B}::test_pla"]
    build = queue(server, folder, f"pytest {options} --junit-xml=junittests.xml", quarantine=held)

    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    report = build.reports["junittests.xml"]
    assert sorted(node_ids(report)) == sorted(ALL)
    skipped = {
        case_id
        for case_id, case in zip(node_ids(report), cases(report), strict=True)
        if case.find("skipped") is not None
    }
    inside = {node_id for node_id in ALL if "TestOuter" in node_id}
    assert skipped == {f"{A}::test_größe", NON_ASCII, f"{B}::test_set_up", *inside}
    assert "Testhide: 6 skipped, since they are in quarantine." in build.printed


@pytest.mark.usefixtures("agent")
def test_other_runners_find_the_lists_as_files(server: FakeServer) -> None:
    lists = {"test_ids": ["a.B.c", "größe › läuft"], "quarantine": ["a.B.d"]}
    inside = ".testhide_quarantine_file"
    show = f"cat $TESTHIDE_TEST_IDS_FILE $TESTHIDE_QUARANTINE_FILE {inside}; echo more >> {inside}"
    build = server.queue(show, **lists)
    plain = server.queue("env; ls -A")

    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    assert build.printed == ["a.B.c", "größe › läuft", "a.B.d", "a.B.d"]
    server.wait_finished(plain)
    assert not [
        line for line in plain.printed if "TEST_IDS" in line or "quarantine" in line.lower() or "PYTEST" in line
    ]


def test_every_case_has_its_node_id(forks: PytestForks, folder: Path) -> None:
    run = PluginRun(folder)
    done = forks.run(run, "--junit-xml=r.xml")
    with_xdist = forks.run(run, "-p xdist -n 2 --dist loadgroup --junit-xml=x.xml -k 'plain or deep'")

    assert sorted(run.ids()) == sorted(ALL), done.stdout
    assert sorted(run.ids("x.xml")) == sorted(id_ for id_ in ALL if "plain" in id_ or "deep" in id_)
    assert "Testhide:" not in done.stdout + with_xdist.stdout


def test_the_group_that_xdist_appends_is_not_part_of_an_id(forks: PytestForks, folder: Path) -> None:
    test = """
        import pytest
        @pytest.mark.xdist_group("g")
        @pytest.mark.parametrize("n", [1, 2])
        def test_grouped(n): pass
        def test_other(): pass
    """
    run = PluginRun(folder, ["test_g.py::test_grouped[2]"], {"test_g.py": test})
    done = forks.run(run, "-p xdist -n 2 --dist loadgroup --junit-xml=r.xml")

    assert done.returncode == 0, done.stdout
    assert run.ids() == ["test_g.py::test_grouped[2]"]


@pytest.mark.parametrize("xdist", ["", "-p xdist -n 2"])
def test_a_run_without_a_wanted_test_is_explained(forks: PytestForks, folder: Path, xdist: str) -> None:
    run = PluginRun(folder, ["tests/test_a.py::test_pl", "tests/test_a.py", "x::1", "x::2"])
    done = forks.run(run, xdist)

    assert done.returncode == 0, "another run of the build may have them"
    assert "Testhide: none of 12 tests is among the 4 that this build asks for, so none was run:" in done.stdout
    assert "Testhide:     and 1 more, in " in done.stdout
    assert forks.run(run, "-k nothing").returncode == 5, "nor would it run any without a selection"


def test_with_other_options_folders_and_settings(folder: Path) -> None:
    files = {
        "project/tox.ini": "[pytest]\ntestpaths = checks\naddopts = -W error --strict-config\n",
        "project/checks/[x]/test_a.py": "def test_f(): pass\ndef test_g(): pass\ndef test_h(): pass\n",
    }
    ids = ["checks/[x]/test_a.py::test_f", "checks/[x]/test_a.py::test_g"]
    run = PluginRun(folder, ids, files)
    done = run.shell(
        "cd project && pytest -k 'not test_f' --junit-xml=r.xml && pytest -q --co && cd .. &&"
        " pytest -c project/tox.ini --rootdir project -o junit_family=xunit1 --junit-xml=s.xml project/checks"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert run.ids("project/r.xml") == ids[1:]
    assert run.ids("s.xml") == ids


def test_plugins_and_paths_of_the_job_stay(folder: Path) -> None:
    files = {
        "plugins/theirs.py": "def pytest_report_header(): return 'their plugin'\n",
        "plugins/sitecustomize.py": "import sys; sys.theirs = True\n",
        "test_a.py": """
            import os, sys
            def test_f(): assert sys.theirs and "selection" not in str(os.environ)
            def test_g(): pass
        """,
    }
    run = PluginRun(folder, ["test_a.py::test_f"], files)
    first = run.shell("pytest", PYTEST_PLUGINS="theirs", PYTHONPATH="plugins")
    second = run.shell("PYTEST_PLUGINS=theirs python -m pytest", PYTHONPATH="plugins")

    for done in (first, second):
        assert "1 passed, 1 deselected" in done.stdout, done.stdout + done.stderr
        assert "their plugin" in done.stdout


@pytest.mark.parametrize("command", ["PYTHONPATH=x pytest", "python -I -m pytest", "python -E -m pytest"])
def test_a_command_that_hides_the_plugin_is_not_broken(folder: Path, command: str) -> None:
    done = PluginRun(folder, [f"{A}::test_plain"]).shell(f"{command} {A}")

    assert "1 failed, 8 passed" in done.stdout, done.stdout + done.stderr


def test_pytest_runs_that_tests_start_are_left_alone(folder: Path) -> None:
    test = """
        import os, subprocess, sys, unittest
        pytest_plugins = ["pytester"]

        def test_inner(pytester):
            pytester.makepyfile("def test_x(): pass")
            pytester.runpytest_inprocess().assert_outcomes(passed=1)
            pytester.runpytest_subprocess().assert_outcomes(passed=1)

        def test_with_another_path(tmp_path):
            (tmp_path / "test_y.py").write_text("def test_y(): pass")
            env = {**os.environ, "PYTHONPATH": "x"}
            subprocess.run([sys.executable, "-m", "pytest"], cwd=tmp_path, env=env, check=True)

        def test_that_loads_unittests():
            class Inner(unittest.TestCase):
                def test_fails(self): self.fail()

            result = unittest.TestResult()
            unittest.TestLoader().loadTestsFromTestCase(Inner).run(result)
            assert len(result.failures) == 1

        def test_left_out(): assert 0
    """
    wanted = [f"test_i.py::test_{name}" for name in ("inner", "with_another_path", "that_loads_unittests")]
    run = PluginRun(folder, wanted, {"test_i.py": test})
    in_a_worker = run.shell("pytest -p xdist -n 1")
    assert "3 passed" in in_a_worker.stdout, in_a_worker.stdout
    for name in ("with_another_path", "loads_unittests"):
        directly = run.shell(f"pytest -k {name}")
        assert "1 passed, 3 deselected" in directly.stdout, directly.stdout


def test_a_program_that_runs_pytest_several_times(folder: Path) -> None:
    program = f"""
        import os, pytest
        for name in ("a", "b"):
            print("ended", int(pytest.main([f"--junit-xml={{name}}.xml", "{B}"])), "RUNNING" in str(os.environ))
    """
    run = PluginRun(folder, [f"{B}::test_plain"], {**SUITE, "program.py": program})
    done = run.shell("python program.py")

    assert done.stdout.count("ended 0 False") == 2, done.stdout
    assert run.ids("a.xml") == run.ids("b.xml") == [f"{B}::test_plain"]


def test_no_defect_of_the_plugin_ends_a_run(forks: PytestForks, folder: Path) -> None:
    conftest = """
        import pytest
        @pytest.hookimpl(tryfirst=True)
        def pytest_itemcollected(item):
            item.user_properties.append(("nodeid", item.nodeid))
            if item.name == "test_plain":
                item.user_properties = None
        @pytest.hookimpl(trylast=True)
        def pytest_runtest_setup(item):
            item.user_properties = item.user_properties or []
    """
    run = PluginRun(folder, files={**SUITE, "conftest.py": conftest})
    done = forks.run(run, "--junit-xml=r.xml", TESTHIDE_TEST_IDS_FILE="/no/such/file")

    assert "10 passed, 1 error" in done.stdout.replace("1 failed, ", ""), done.stdout
    assert "Testhide: TESTHIDE_TEST_IDS_FILE cannot be read, all tests are kept" in done.stdout
    assert run.ids().count(f"{A}::test_größe") == 1


def test_pythons_without_pytest_are_left_alone(folder: Path) -> None:
    run = PluginRun(folder)
    pythons = [sys.executable, *(f"/usr/bin/python{version}" for version in ("2.7", "3"))]
    for python in filter(os.path.exists, pythons):
        done = run.shell(f"{python} -W error -c 'import os, sys; print(os.environ.get(\"PYTEST_PLUGINS\"))'")
        assert (done.stdout, done.stderr) == ("None\n", "")
