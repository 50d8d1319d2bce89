"""The image of `docker/agent.Dockerfile`, built on a base that has Python, a shell and git."""

import shutil
from pathlib import Path

import pytest

from agent.bundle import build_zipapp
from tests.real.docker.agent_image import build_base
from tests.real.docker.yard import DockerYard

pytestmark = pytest.mark.real("dockerd", "git")
DOCKERFILE = Path(__file__).parents[3] / "docker" / "agent.Dockerfile"
TAG = "testhide/agent:built"
SHOW = "id -u; git --version; python3 -c 'import json, os; print(\"compiled\", os.path.exists(json.__cached__))'"


def test_an_agent_in_an_image_of_the_dockerfile_takes_builds(yard: DockerYard, tmp_path: Path) -> None:
    shutil.copy(DOCKERFILE, tmp_path)
    (tmp_path / "testhide-agent.pyz").write_bytes(build_zipapp())
    yard.daemon.build_image(build_base(), tmp_path, DOCKERFILE.name, TAG)
    config = yard.daemon.client.inspect_image(TAG)["Config"]
    assert config["User"] == "10001:10001"
    build = yard.build(yard.job(SHOW))
    agent_id = yard.spawn(image=TAG)
    yard.wait_build(build, status="passed")
    lines = yard.log(build).splitlines()
    for text in ("10001", "git version", "compiled True"):
        assert any(text in line for line in lines), lines
    yard.destroy(agent_id)
