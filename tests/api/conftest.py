"""What most tests of the API begin with."""

import pytest

from tests.support.builders import Shop, given_build, given_job, given_project
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server


@pytest.fixture
def project(server: Server) -> int:
    return given_project(server)


@pytest.fixture
def job(server: Server, project: int) -> int:
    return given_job(server, project)


@pytest.fixture
def build(server: Server, job: int) -> int:
    return given_build(server, job)


@pytest.fixture(scope="module")
def shop(server: Server) -> Shop:
    return Shop(server)


@pytest.fixture(scope="module")
def agent(shop: Shop) -> FakeAgent:
    return shop.new_agent()
