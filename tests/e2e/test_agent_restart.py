"""An agent that is stopped or killed and started again, with the real server."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_selection import Works
from tests.support.server import Server


@pytest.fixture
def works(server: Server, tmp_path: Path) -> Iterator[Works]:
    works = Works(server, tmp_path)
    yield works
    works.close()


def test_the_next_agent_of_a_node_connects_at_once(works: Works) -> None:
    (works.errors.parent / "seen").touch()
    works.ended(works.shop.start(works.job))
    works.agent.terminate()
    assert works.agent.wait(20) == 0
    stopped = time.monotonic()
    with works.errors.open("a") as errors:
        works.agent = subprocess.Popen(works.agent.args, stderr=errors, cwd=works.errors.parent)
    works.ended(works.shop.start(works.job))
    assert time.monotonic() - stopped < 10, "a session that nobody released is waited for for 15 s"
    assert "Another agent" not in works.errors.read_text()


def test_a_killed_agents_builds_go_to_the_next_one_in_its_folder_at_once(works: Works) -> None:
    folder = works.errors.parent
    job = works.shop.new_job()
    command = f"touch {folder}/begun; while [ ! -e {folder}/gate ]; do sleep 0.05; done"
    configuration = {"command": command, "setup": [], "env": {}, "artifacts": []}
    works.shop.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).raise_for_status()
    build = works.shop.start(job)
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert time.monotonic() < deadline, f"{works.shop.build(build)} {works.errors.read_text()}"
        time.sleep(0.02)  # between two looks
    works.agent.kill()
    works.agent.wait()
    killed = time.monotonic()
    (folder / "gate").touch()
    with works.errors.open("a") as errors:
        works.agent = subprocess.Popen(works.agent.args, stderr=errors, cwd=folder)
    assert works.ended(build)["status"] == "passed"
    assert time.monotonic() - killed < 10, "a session whose agent may still live is waited for for 15 s"
    assert "Another agent" not in works.errors.read_text()
