"""Shell, checkout and caches of a configuration, with the real server and a real agent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_selection import FILE, Works
from tests.support.server import Server


@pytest.fixture
def works(server: Server, tmp_path: Path) -> Iterator[Works]:
    works = Works(server, tmp_path)
    yield works
    works.close()


def test_a_build_runs_as_its_template_and_its_job_say(works: Works) -> None:
    template: dict[str, Any] = {"name": "Bash", "setup": ["cd tests", "go() { cat kept; }"], "env": {}, "shell": "bash"}
    template_id = works.shop.admin.create("/pipeline-templates", **template)["id"]
    works.shop.admin.put(f"/api/v3/jobs/{works.job}", json={"pipeline_template_id": template_id}).raise_for_status()
    configuration = {
        "command": "go || echo $TESTHIDE_BUILD_ID > kept\ngit tag; [[ $PWD == */tests ]]",
        "setup": [],
        "env": {},
        "artifacts": [],
        "checkout": {"depth": 0, "tags": True, "submodules": True},
        "caches": [{"key": f'kept-{{{{ checksum "{FILE}" }}}}', "paths": ["tests/kept"]}],
    }
    works.shop.admin.put(f"/api/v3/jobs/{works.job}/configuration", json=configuration).raise_for_status()
    first, second = (works.shop.start(works.job) for _ in range(2))

    assert works.ended(first)["status"] == "passed"
    assert works.ended(second)["status"] == "passed"

    assert "(whole history, tags, submodules)" in works.log(first)
    assert f"] {first}\n" in works.log(second), "the first one has left it in the cache"
