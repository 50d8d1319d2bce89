"""The pytest plugin runs the tests of one shard, and all shards together run every test once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import StartAgent
from tests.agent.plugin_run import BIN, SUITE, PluginRun, node_ids, write

A, B = "tests/test_a.py", "tests/test_b.py"
KNOWN = [
    [f"{A}::test_many", f"{B}::test_plain"],
    [f"{A}::TestOuter::test_one"],
    [f"{A}::test_größe", "tests/gone.py::t"],
]


def shard(number: int, known: list[list[str]] = KNOWN) -> dict[str, object]:
    others = [name for index, names in enumerate(known, 1) if index != number for name in names]
    return {"number": number, "count": len(known), "tests": known[number - 1], "other_tests": others}


def run_shards(folder: Path, command: str, files: Iterable[dict[str, str] | None] = (None,) * 3) -> list[list[str]]:
    found = []
    for number, suite in enumerate(files, 1):
        its_folder = folder / str(number)
        its_folder.mkdir()
        run = PluginRun(its_folder, files=suite, shard=shard(number))
        assert run.shell(f"{command} --junit-xml=r.xml").returncode in (0, 1)
        found.append(run.ids())
    return found


@pytest.mark.parametrize("command", ["pytest -p no:cacheprovider", "pytest -p xdist -n 2"])
def test_the_shards_together_run_every_test_once(tmp_path: Path, command: str) -> None:
    (tmp_path / "all").mkdir()
    everything = PluginRun(tmp_path / "all")
    everything.shell("pytest --junit-xml=r.xml")
    found = run_shards(tmp_path, command)
    assert sorted(chain.from_iterable(found)) == sorted(everything.ids())
    assert {f"{A}::test_many[a]", f"{A}::test_many[b::c]", f"{B}::test_plain"} <= set(found[0])
    assert f"{A}::TestOuter::test_one" in found[1]
    assert f"{A}::test_größe" in found[2]


def test_no_test_is_lost_if_the_shards_collect_different_ones(tmp_path: Path) -> None:
    """The second shard has a new file, and parameters whose ids are different in each process."""
    volatile = """
        import pytest

        @pytest.mark.parametrize("value", [object(), object()], ids=repr)
        def test_volatile(value): pass
    """
    new = "".join(f"def test_new_{number}(): pass\n" for number in range(30))
    suites = [SUITE | {"tests/test_c.py": volatile} | ({"tests/test_new.py": new} if n == 2 else {}) for n in (1, 2, 3)]
    found = run_shards(tmp_path, "pytest", suites)
    ran = [node_id for ids in found for node_id in ids]
    assert len([node_id for node_id in ran if "test_volatile" in node_id]) == 2
    assert len(set(ran)) == len(ran)
    # Of the new tests the second shard runs its own; no other shard has collected the rest.
    assert 0 < len([node_id for node_id in found[1] if "test_new" in node_id]) < 30


def test_a_shard_without_tests_passes(tmp_path: Path) -> None:
    known = [[], [f"{B}::test_plain"]]
    files = {"tests/test_b.py": "def test_plain(): pass\n"}
    run = PluginRun(tmp_path, files=files, shard=shard(1, known))
    done = run.shell("pytest --junit-xml=r.xml")
    assert done.returncode == 0
    assert "Testhide: 0 of 1 tests are in shard 1 of 2." in done.stdout


def test_selected_tests_run_in_any_shard(tmp_path: Path) -> None:
    run = PluginRun(tmp_path, test_ids=[f"{A}::test_plain"], shard=shard(2, [[f"{A}::test_plain"], []]))
    run.shell("pytest --junit-xml=r.xml")
    assert run.ids() == [f"{A}::test_plain"]


def test_all_tests_run_if_the_lists_cannot_be_read(tmp_path: Path) -> None:
    run = PluginRun(tmp_path, shard=shard(2))
    for variables in ({"TESTHIDE_OTHER_SHARDS_FILE": "/nowhere"}, {"TESTHIDE_SHARD": "4"}, {"TESTHIDE_SHARDS": "many"}):
        done = run.shell("pytest --junit-xml=r.xml", **variables)
        assert len(run.ids()) == 12
        assert "the tests of the shard cannot be read, all tests are kept" in done.stdout


def test_the_agent_names_the_shard_to_other_runners(server: FakeServer, folder: Path, start: StartAgent) -> None:
    start("--trust-builds")
    write(folder / "suite", {"x": ""})
    show = (
        'echo "$TESTHIDE_SHARD/$TESTHIDE_SHARDS"; cat $TESTHIDE_SHARD_FILE; echo and; cat $TESTHIDE_OTHER_SHARDS_FILE'
    )
    env = {"PATH": f"{BIN}:{os.defpath}"}
    setup = ["export TESTHIDE_SHARD=3 TESTHIDE_SHARD_FILE=/nowhere"]
    build = server.queue(show, env=env, setup=setup, shard=shard(2, [["a"], ["b", "c"]]))
    assert server.wait_finished(build)["exit_code"] == 0
    assert "\n".join(["2/2", "b", "c", "and", "a"]) in "\n".join(build.printed)
    assert "==> Shard 2 of 2: 2 known tests, in $TESTHIDE_SHARD_FILE" in build.lines


def test_node_ids_of_the_report(tmp_path: Path) -> None:
    """The lists hold names as reports do, so a test with its first known name keeps its shard."""
    run = PluginRun(tmp_path, shard=shard(1, [[f"{B}::Case::test_u"], [f"{B}::test_plain", f"{B}::test_set_up"]]))
    run.shell(f"pytest --junit-xml=r.xml {B}")
    assert node_ids((run.root / "r.xml").read_bytes()) == [f"{B}::Case::test_u"]
