"""Callers who have lost rights that the read models still show."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from api.live import stream_clients
from projections.engine import read_your_writes
from tests.support.builders import given_node, given_pool, given_project
from tests.support.fake_agent import FakeAgent
from tests.support.http import Answer, Client
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import ADMIN, Server

TIMEOUT_S = 20.0
BEHIND = "Your rights have changed, but the read models are behind the log. Try again."


@dataclass
class Site:
    """A server whose read models a test holds, and a process of it that waits for them for a moment only."""

    server: Server
    inside: InProcessServer
    admin: Client

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Applies no event to the read models inside of the block. There, clients repeat no request."""
        self.server.wait_until_projected()
        projector = self.server.processes["project"]
        projector.send_signal(signal.SIGSTOP)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Client, "max_repeats", 0)
                yield
        finally:
            projector.send_signal(signal.SIGCONT)
            self.server.wait_until_projected()

    def client(self, token: str) -> Client:
        return Client(self.inside.url).authorize(token)


@pytest.fixture(scope="module")
def site(server: Server) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read_your_writes, "WAIT_TIMEOUT_S", 0.2)
        patch.setattr(stream_clients, "ACCESS_INTERVAL_S", 0.01)
        with serve_in_process(server) as inside:
            admin = inside.client(*ADMIN)
            admin.headers["Prefer"] = "respond-async"
            server.wait_until_projected()
            yield Site(server, inside, admin)


@dataclass
class Account:
    """A user who is an admin of a project, with a session and an API token."""

    site: Site
    project: int
    id: int
    session: Client
    bot: Client
    bot_id: int

    def change(self, **fields: object) -> None:
        self.site.admin.when("PUT", f"/users/{self.id}", json=fields).then(200)

    def read_project(self, client: Client) -> Answer:
        return client.when("GET", f"/projects/{self.project}")

    def create_job(self, client: Client) -> Answer:
        return client.when("POST", "/jobs", json={"name": "More", "project_id": self.project})

    def create_user(self, client: Client) -> Answer:
        body = {"email": f"accomplice{time.monotonic_ns()}@example.com", "role": "admin"}
        return client.when("POST", "/users", json=body)


@pytest.fixture
def account(site: Site) -> Account:
    project = given_project(site.server)
    user = site.server.make_user("admin", {project: "admin"})
    number = user.fetch("/me")["id"]
    made = user.create("/api-tokens", name="bot")
    site.server.wait_until_projected()
    return Account(site, project, number, site.client(user.token), site.client(made["secret"]), made["id"])


def given_developer(account: Account) -> None:
    account.change(role="developer", can_manage_nodes=True)
    account.site.server.wait_until_projected()


def refuse(answer: Answer) -> None:
    assert answer.then(503)["detail"] == BEHIND
    assert int(answer.headers["Retry-After"]) > 0


Loss = Callable[[Account], object]
Request = Callable[[Account, Client], Answer]
LOSSES_OF_ALL: dict[str, tuple[Loss, Request, int]] = {
    "deleted": (
        lambda it: it.site.admin.when("DELETE", f"/users/{it.id}").then(204),
        Account.read_project,
        401,
    ),
    "made inactive": (lambda it: it.change(active=False), Account.read_project, 401),
    "demoted": (lambda it: it.change(role="developer"), Account.create_user, 403),
}
LOSSES_OF_DEVELOPERS: dict[str, tuple[Loss, Request, int]] = {
    "demoted": (lambda it: it.change(role="viewer"), Account.create_job, 403),
    "manages no nodes": (
        lambda it: it.change(can_manage_nodes=False),
        lambda it, client: client.when("POST", "/nodes", json={"name": "theirs"}),
        403,
    ),
    "removed": (
        lambda it: it.site.admin.when("DELETE", f"/projects/{it.project}/members/{it.id}").then(204),
        Account.read_project,
        404,
    ),
    "only reads": (
        lambda it: it.site.admin.when("PUT", f"/projects/{it.project}/members/{it.id}", json={"access": "read"}).then(
            200
        ),
        Account.create_job,
        403,
    ),
}


@pytest.mark.parametrize("loss", LOSSES_OF_ALL)
def test_no_answer_by_rights_that_an_admin_has_lost(site: Site, account: Account, loss: str) -> None:
    lose, request, status = LOSSES_OF_ALL[loss]
    with site.held():
        lose(account)
        refuse(request(account, account.session))
        if loss != "demoted":
            refuse(request(account, account.bot))
    request(account, account.session).then(status)


@pytest.mark.parametrize("loss", LOSSES_OF_DEVELOPERS)
def test_no_answer_by_rights_that_a_developer_has_lost(site: Site, account: Account, loss: str) -> None:
    given_developer(account)
    lose, request, status = LOSSES_OF_DEVELOPERS[loss]
    with site.held():
        lose(account)
        for client in (account.session, account.bot):
            refuse(request(account, client))
    request(account, account.session).then(status)


def test_no_answer_to_a_session_that_was_ended(site: Site, account: Account) -> None:
    with site.held():
        site.admin.when("POST", f"/users/{account.id}/sign-out").then(204)
        refuse(account.session.when("GET", "/me"))
        account.bot.when("GET", "/me").then(200)
    account.session.when("GET", "/me").then(401)


def test_no_answer_to_a_session_that_has_logged_out(site: Site, account: Account) -> None:
    with site.held():
        account.session.when("POST", "/logout", headers={"Prefer": "respond-async"}).then(204)
        refuse(account.session.when("GET", "/me"))
    account.session.when("GET", "/me").then(401)


def test_no_answer_to_an_api_token_that_was_revoked(site: Site, account: Account) -> None:
    with site.held():
        path = f"/api-tokens/{account.bot_id}"
        account.session.when("DELETE", path, headers={"Prefer": "respond-async"}).then(204)
        refuse(account.bot.when("GET", "/me"))
        account.session.when("GET", "/me").then(200)
    account.bot.when("GET", "/me").then(401)


def test_no_answer_to_an_agent_whose_token_is_refused_or_whose_node_is_deleted(site: Site) -> None:
    pool = given_pool(site.server, given_project(site.server))
    nodes = [given_node(site.server, pool_id=pool) for _ in range(3)]
    site.server.wait_until_projected()
    replaced, renewed, deleted = (FakeAgent(site.inside.url, str(node["agent_token"])) for node in nodes)
    for agent in (replaced, renewed, deleted):
        agent.connected()
    with site.held():
        site.admin.when("POST", f"/nodes/{nodes[0]['id']}/rotate-token", params={"at_once": True}).then(200)
        site.admin.when("POST", f"/nodes/{nodes[1]['id']}/rotate-token").then(200)
        site.admin.when("DELETE", f"/nodes/{nodes[2]['id']}").then(204)
        for agent in (replaced, deleted):
            assert agent.connect().status_code == 503
        renewed.connected()
    for agent in (replaced, deleted):
        assert agent.connect().status_code == 401


def test_callers_who_lost_nothing_are_answered(site: Site, account: Account) -> None:
    given_developer(account)
    other = site.server.make_user("developer", {account.project: "write"})
    other_id = other.fetch("/me")["id"]
    unconcerned = site.client(other.token)
    path = f"/projects/{account.project}/members"
    with site.held():
        account.change(role="admin", first_name="Ann", can_manage_nodes=True)
        site.admin.when("PUT", f"{path}/{account.id}", json={"access": "admin"}).then(200)
        account.read_project(account.session).then(200)
        account.read_project(account.bot).then(200)
        site.admin.when("DELETE", f"{path}/{account.id}").then(204)
        account.read_project(unconcerned).then(200)
        site.admin.when("PUT", f"{path}/{other_id}", json={"access": "admin"}).then(200)
        account.read_project(unconcerned).then(200)


def test_a_request_waits_for_the_read_models_and_is_refused_then(
    site: Site, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_your_writes, "WAIT_TIMEOUT_S", TIMEOUT_S)
    waiter = site.inside.services.waiter
    with ThreadPoolExecutor() as threads:
        with site.held():
            LOSSES_OF_ALL["deleted"][0](account)
            answer = threads.submit(account.create_user, account.session)
            deadline = time.monotonic() + TIMEOUT_S
            while not waiter.waiter_count:
                assert not answer.done()
                assert time.monotonic() < deadline
                time.sleep(0.01)  # between two looks
        answer.result().then(401)


def test_a_stream_ends_when_its_reader_has_lost_rights(site: Site, account: Account) -> None:
    with site.held(), account.session.get("/api/v3/events/stream", stream=True, timeout=TIMEOUT_S) as stream:
        assert stream.status_code == 200
        account.change(active=False)
        deadline = time.monotonic() + TIMEOUT_S
        with contextlib.suppress(OSError):
            for _ in stream.iter_content(1_000):
                assert time.monotonic() < deadline
