"""What most tests of the API begin with."""

from collections.abc import Iterator

import pytest

from testhide.adapters import embeddings
from testhide.engines import Engines
from tests.support.builders import Shop, given_build, given_job, given_project
from tests.support.fake_agent import FakeAgent
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.semantic_index import FailureIndexer
from tests.support.server import Server, server_with_workers
from tests.support.webhook_receiver import WebhookReceiver, receive_webhooks


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


@pytest.fixture(scope="module")
def opened(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose operator opened this machine, with workers."""
    with server_with_workers(engines, tmp_path_factory.mktemp("opened")) as server:
        yield server


@pytest.fixture(scope="module")
def inside(server: Server) -> Iterator[InProcessServer]:
    """One more `serve` process on the server's database, inside this process."""
    with serve_in_process(server) as began:
        yield began


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with receive_webhooks() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def failure_indexer(server: Server) -> Iterator[FailureIndexer]:
    with FailureIndexer(embeddings(server.settings)) as indexer:
        yield indexer
