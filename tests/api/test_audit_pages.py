"""Pages of the audit trail, and reads of the past, with large events; with a look into the process that reads them."""

import asyncio
import tracemalloc
from typing import Any

import pytest

from api import audit
from projections.audit_view import entries
from projections.audit_view.entries import TRAIL_FOLD_LIMITS, AuditEntry, FoldLimits, load_page
from projections.time_travel import historical_reads
from store.log import event_log
from tests.support.builders import given_job, given_project
from tests.support.http import Client
from tests.support.in_process_server import InProcessServer
from tests.support.server import ADMIN, Server

CONFIGURATIONS = 30
SIZE = 15 * 65_000
"""Bytes of the variables of a configuration."""
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def project(server: Server) -> int:
    return given_project(server)


@pytest.fixture(scope="module")
def job(server: Server, project: int) -> int:
    """A job with large configurations, which take hardly any room in the database."""
    job = given_job(server, project)
    for number in range(CONFIGURATIONS):
        env = {f"V{index}": chr(97 + number) * (SIZE // 15) for index in range(15)}
        configuration = {"command": "true", "setup": [], "env": env, "artifacts": []}
        server.admin.put(f"/api/v3/jobs/{job}/configuration", json=configuration).raise_for_status()
    server.wait_until_projected()
    return job


@pytest.fixture
def admin(inside: InProcessServer) -> Client:
    return inside.client(*ADMIN)


def pages(client: Client, path: str, **params: Any) -> list[list[dict[str, Any]]]:
    """All pages, by the links from each to the next."""
    found = []
    answer = client.get(path, params={"limit": 200, **params})
    while True:
        found.append(answer.then(200))
        if "next" not in answer.links:
            return found
        answer = client.get(answer.links["next"]["url"])


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_few_large_events_are_in_memory(admin: Client, project: int, job: int, order: str) -> None:
    tracemalloc.start()
    try:
        for path, more in ((f"/api/v3/audit/streams/job-{job}", {}), ("/api/v3/audit/events", {"project_id": project})):
            (page,) = pages(admin, path, order=order, **more)
            assert len(page) > CONFIGURATIONS
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * MIB, f"{peak / MIB:.0f} MiB"


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_a_page_ends_after_many_bytes_and_the_next_goes_on(
    admin: Client, project: int, job: int, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, more in ((f"/api/v3/audit/streams/job-{job}", {}), ("/api/v3/audit/events", {"project_id": project})):
        params = {"order": order, "type": "job.configured", **more} if more else {"order": order}
        (whole,) = pages(admin, path, **params)
        with monkeypatch.context() as patch:
            patch.setattr(audit, "PAGE_BYTES", 5 * MIB)
            found = pages(admin, path, **params)
            patch.setattr(audit, "PAGE_BYTES", 1)
            one_by_one = pages(admin, path, **params)
        assert [one for page in found for one in page] == whole
        assert len(found) > CONFIGURATIONS * SIZE // (7 * MIB)
        assert max(map(len, found)) < 10
        assert [one for page in one_by_one for one in page] == whole
        assert len(one_by_one) >= CONFIGURATIONS // 2


def test_small_events_share_a_page_whatever_pieces_they_are_read_in(
    admin: Client, project: int, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    jobs = [given_job(server, project) for _ in range(3)]
    for job in jobs:
        for name in ("a", "b"):
            server.admin.put(f"/api/v3/jobs/{job}", json={"name": f"{name}{job}"}).raise_for_status()
    server.wait_until_projected()
    (whole,) = pages(admin, "/api/v3/audit/events", project_id=project, area="jobs")
    monkeypatch.setattr(event_log, "PIECE_BYTES", 1)
    monkeypatch.setattr(entries, "GROUP_EVENTS", 2)
    (found,) = pages(admin, "/api/v3/audit/events", project_id=project, area="jobs")
    assert found == whole


def test_a_stream_is_folded_up_to_a_number_of_bytes(inside: InProcessServer, job: int) -> None:
    async def load() -> tuple[list[AuditEntry], list[AuditEntry]]:
        services = inside.services
        positions = (await services.log.find_stream_positions({f"job-{job}": 100}))[f"job-{job}"]
        whole = await load_page(services.pool, services.log, positions, TRAIL_FOLD_LIMITS, 100 * MIB)
        found = await load_page(services.pool, services.log, positions, FoldLimits(100, 3 * MIB), 100 * MIB)
        assert not whole.is_cut
        assert not found.is_cut
        return whole.entries, found.entries

    whole, found = asyncio.run_coroutine_threadsafe(load(), inside.loop).result(30)
    assert [one.position for one in found] == [one.position for one in whole]
    folded = [one for one in found if one.changes is not None]
    assert folded == whole[: len(folded)]
    assert 3 <= len(folded) <= 6


def test_a_read_of_the_past_has_few_large_events_in_memory(admin: Client, job: int) -> None:
    head = admin.get(f"/api/v3/jobs/{job}").headers["Testhide-Position"]
    tracemalloc.start()
    try:
        past = admin.get(f"/api/v3/jobs/{job}/configuration", params={"as_of": head}).then(200)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert past == admin.get(f"/api/v3/jobs/{job}/configuration").then(200)
    assert peak < 20 * MIB, f"{peak / MIB:.0f} MiB"


def test_a_read_of_the_past_reads_so_many_bytes(admin: Client, job: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(historical_reads, "MAX_BYTES", 10 * MIB)
    first, *_, last = admin.get(f"/api/v3/audit/streams/job-{job}").then(200)
    path = f"/api/v3/jobs/{job}/configuration"
    assert admin.get(path, params={"as_of": first["position"] + 5}).status_code == 200
    refused = admin.get(path, params={"as_of": last["position"]}).then(422)
    assert refused["errors"][0]["field"] == "as_of"
    assert "more than 10 MiB of events before it" in refused["errors"][0]["message"]


def test_a_user_waits_for_their_pages(
    inside: InProcessServer, admin: Client, server: Server, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = inside.services.audit_turns
    monkeypatch.setattr(turns, "_of_caller", 1)
    path = f"/api/v3/audit/streams/job-{job}"
    turn = turns.take(f"user:{admin.get('/api/v3/me').json()['id']}")
    asyncio.run_coroutine_threadsafe(turn.__aenter__(), inside.loop).result(30)
    try:
        refused = admin.get(path)
        assert "too many pages of the audit trail" in refused.then(429)["detail"]
        assert refused.headers["Retry-After"] == "5"
        other = server.make_user("admin", {})
        assert other.get(inside.url + path).status_code == 200
    finally:
        asyncio.run_coroutine_threadsafe(turn.__aexit__(None, None, None), inside.loop).result(30)
    assert admin.get(path).status_code == 200
