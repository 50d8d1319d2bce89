"""A job that wants no quarantined tests, through the real server, the real agent process, git and pytest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_selection import ALL, BAD, FILE, WAVERS, Works
from tests.support.server import Server

INSIDE = f"{FILE}::TestKasse::TestInnen"
SIZE = f"{FILE}::test_größe"


@pytest.fixture
def works(server: Server, tmp_path: Path) -> Iterator[Works]:
    works = Works(server, tmp_path)
    changed = works.shop.admin.put(f"/api/v3/jobs/{works.job}", json={"quarantine_mode": "skip"})
    assert changed.ok, changed.text
    yield works
    works.close()


def hold(works: Works, *node_ids: str, action: str = "add") -> None:
    body = {"job_id": works.job, "action": action, "node_ids": node_ids}
    works.shop.admin.post("/api/v3/quarantine/bulk", json=body).raise_for_status()


def rows(works: Works, build: int) -> dict[str, dict[str, Any]]:
    found = works.shop.admin.get("/api/v3/tests", params={"build_id": build}).json()["results"]
    return {row["node_id"]: row for row in found}


def test_quarantined_tests_are_skipped(works: Works) -> None:
    hold(works, BAD, WAVERS, SIZE)
    build = works.shop.start(works.job)
    ended = works.ended(build)
    assert (ended["status"], ended["detail"], ended["exit_code"]) == ("passed", None, 0)

    found = rows(works, build)
    held = {BAD, WAVERS, SIZE}
    assert {node_id for node_id, row in found.items() if row["status"] == "skipped"} == held
    assert {node_id for node_id, row in found.items() if row["quarantined_now"]} == held
    assert found.keys() == ALL, "what is skipped is in the report all the same"
    report = works.shop.admin.get(f"/api/v3/report/{build}").json()
    assert (report["total"], report["passed"], report["failed"], report["skipped"]) == (9, 6, 0, 3)
    assert "Testhide: 3 skipped, since they are in quarantine." in works.log(build)
    assert not (works.errors.parent / "seen").exists(), "they really did not run"


def test_a_class_is_skipped_with_all_that_is_in_it(works: Works) -> None:
    hold(works, INSIDE, f"{FILE}::test_pairs", WAVERS)
    build = works.shop.start(works.job)
    assert works.ended(build)["status"] == "passed"
    ran = {node_id for node_id, row in rows(works, build).items() if row["status"] == "passed"}
    assert ran == {f"{FILE}::TestKasse::test_plain", SIZE}

    hold(works, INSIDE, action="remove")
    again = works.does(build, "restart")["id"]
    assert works.ended(again)["status"] == "failed", "what was lifted runs again"
    assert rows(works, again)[BAD]["status"] == "failed"

    works.shop.admin.put(f"/api/v3/jobs/{works.job}", json={"quarantine_mode": "run"}).raise_for_status()
    hold(works, BAD)
    ignoring = works.ended(works.shop.start(works.job))
    detail = "2 quarantined failures were ignored."
    assert (ignoring["status"], ignoring["exit_code"], ignoring["detail"]) == ("passed", 0, detail)
    assert "Testhide: failures ignored, since their tests are in quarantine: 2." in works.log(ignoring["id"])
