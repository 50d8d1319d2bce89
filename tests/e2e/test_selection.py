"""Whole ways through the real server, the real agent process, git and pytest: only the wanted tests run again."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import Shop
from tests.support.server import Server

SUITE = """
    import os
    import pathlib

    import pytest

    class TestKasse:
        def test_plain(self):
            pass

        class TestInnen:
            @pytest.mark.parametrize("wort", ["a", "ß", "a[b]", "x::y"])
            def test_größe(self, wort):
                assert wort != "ß", "zu groß"

    @pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 1)])
    def test_pairs(n, m):
        assert n != m

    def test_wavers():
        # Fails when it runs for the first time.
        seen = pathlib.Path(os.environ["SEEN"])
        first = not seen.exists()
        seen.touch()
        assert not first, "the network was away"

    def test_größe():
        pass
"""
FILE = "tests/test_kasse.py"
BAD = rf"{FILE}::TestKasse::TestInnen::test_größe[\xdf]"
WAVERS = f"{FILE}::test_wavers"
ALL = {
    f"{FILE}::TestKasse::test_plain",
    *(rf"{FILE}::TestKasse::TestInnen::test_größe[{word}]" for word in ("a", r"\xdf", "a[b]", "x::y")),
    f"{FILE}::test_pairs[1-2]",
    f"{FILE}::test_pairs[2-1]",
    WAVERS,
    f"{FILE}::test_größe",
}
GIT_USER = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")


class Works:
    """A project whose one job tests a git repository, and an agent for it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.shop = Shop(server)
        repository = folder / "repository"
        (repository / "tests").mkdir(parents=True)
        (repository / FILE).write_text(textwrap.dedent(SUITE), encoding="utf-8")
        (repository / "pytest.ini").write_text("[pytest]\n")
        for command in (("init", "-q", "-b", "main"), ("add", "."), (*GIT_USER, "commit", "-q", "-m", "Kasse")):
            subprocess.run(["git", *command], cwd=repository, check=True)
        self.job = self.shop.new_job(repository=str(repository))
        configuration = {
            "command": "python -m pytest -p no:cacheprovider --junit-xml=junittests.xml",
            "setup": [],
            "env": {
                "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "SEEN": str(folder / "seen"),
            },
            "artifacts": ["*.xml"],
        }
        self.shop.admin.put(f"/api/v3/jobs/{self.job}/configuration", json=configuration).raise_for_status()
        token = folder / "token"
        token.write_text(self.shop.new_token())
        token.chmod(0o600)
        self.errors = folder / "stderr"
        options = ["--server", server.url, "--token-file", str(token), "--workdir", str(folder / "work")]
        with self.errors.open("w") as errors:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "agent", *options, "--trust-builds", "--allow-local-repositories"],
                stderr=errors,
                cwd=folder,
            )

    def close(self) -> None:
        self.agent.terminate()
        try:
            assert self.agent.wait(20) == 0
        finally:
            self.agent.kill()
            self.agent.wait()
        assert "Traceback" not in self.errors.read_text()

    def ended(self, build: int) -> dict[str, Any]:
        ended = self.shop.ended(build, within_s=60)
        assert ended["reason"] in (None, "tests_failed"), f"{ended} {self.log(build)} {self.errors.read_text()}"
        return ended

    def log(self, build: int) -> str:
        page = self.shop.admin.get(f"/api/v3/builds/{build}/pipeline_logs", params={"limit": 1_000}).json()
        return "\n".join(page["lines"])

    def does(self, build: int, action: str, **body: Any) -> dict[str, Any]:
        answer = self.shop.admin.post(f"/api/v3/builds/{build}/{action}", json=body or None)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def results(self, build: int) -> dict[str, str]:
        """Node id -> status."""
        page = self.shop.admin.get("/api/v3/tests", params={"build_id": build}).json()
        assert page["total"] == len(page["results"])
        return {item["node_id"]: item["status"] for item in page["results"]}


@pytest.fixture
def works(server: Server, tmp_path: Path) -> Iterator[Works]:
    works = Works(server, tmp_path)
    yield works
    works.close()


def test_only_the_wanted_tests_run_again(works: Works) -> None:
    (works.errors.parent / "seen").touch()  # what wavers is steady here
    first = works.shop.start(works.job)
    ended = works.ended(first)
    assert (ended["status"], ended["reason"]) == ("failed", "tests_failed")
    assert works.results(first) == {node_id: "failed" if node_id == BAD else "passed" for node_id in ALL}

    again = works.does(first, "restart", failed_only=True)["id"]
    ended_again = works.ended(again)
    assert works.results(again) == {BAD: "failed"}
    report = works.shop.admin.get(f"/api/v3/report/{again}").json()
    assert (report["total"], report["failed"]) == (1, 1)
    assert ended_again["commit_sha"] == ended["commit_sha"] is not None
    assert (ended_again["selected_tests"], ended_again["restarted_from"]) == (1, first)
    assert "1 of 9 tests are among the 1 that this build asks for" in works.log(again)

    whole = works.does(again, "restart")["id"]
    works.ended(whole)
    assert works.results(whole).keys() == ALL


def test_the_shards_of_a_matrix_run_every_test_once(works: Works) -> None:
    (works.errors.parent / "seen").touch()  # what wavers is steady here
    admin = works.shop.admin
    configuration = admin.get(f"/api/v3/jobs/{works.job}/configuration").json()
    configuration["matrix"] = {"axes": {"testhide-shard": ["1", "2", "3"]}}
    admin.put(f"/api/v3/jobs/{works.job}/configuration", json=configuration).raise_for_status()
    group: list[int] = []
    for _ in range(2):  # at first no durations are known
        group = admin.create("/builds/start", job_id=works.job)["builds"]
        for build in group:
            works.ended(build)
        ran = [node_id for build in group for node_id in works.results(build)]
        assert sorted(ran) == sorted(ALL)
    assert {f"shard {number} of 3." in works.log(build) for number, build in enumerate(group, 1)} == {True}
    (bad,) = [build for build in group if BAD in works.results(build)]
    again = works.does(bad, "restart", failed_only=True)["id"]
    works.ended(again)
    assert works.results(again) == {BAD: "failed"}


def test_only_what_wavers_runs_again(works: Works) -> None:
    first = works.shop.start(works.job)
    works.ended(first)
    assert {node_id for node_id, status in works.results(first).items() if status == "failed"} == {BAD, WAVERS}
    nothing = works.shop.admin.post(f"/api/v3/builds/{first}/retry-flaky")
    assert nothing.status_code == 409, "nobody can know yet that it wavers"

    second = works.does(first, "restart")["id"]
    works.ended(second)
    assert works.results(second)[WAVERS] == "passed", "on the same commit"

    retried = works.does(first, "retry-flaky")
    assert retried["test_count"] == 1
    assert works.ended(retried["id"])["status"] == "passed"
    assert works.results(retried["id"]) == {WAVERS: "passed"}


def test_quarantined_failures_do_not_fail_a_build(works: Works) -> None:
    (works.errors.parent / "seen").touch()
    held = works.shop.admin.post("/api/v3/quarantine", json={"job_id": works.job, "node_id": BAD, "reason": "flaky"})
    assert held.ok, held.text
    build = works.shop.start(works.job)
    ended = works.ended(build)
    assert (ended["status"], ended["detail"]) == ("passed", "1 quarantined failure was ignored.")
    assert works.results(build)[BAD] == "failed"
