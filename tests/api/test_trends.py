"""Trends of jobs and projects over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from projections.builds import BuildRow
from tests.api.test_tests import FAILS, PASSES
from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.server import Server


def given_ended(server: Server, job: int, status: str, *, branch: str = "main") -> int:
    build = given_build(server, job, branch=branch)
    upload(server.admin, build, FAILS if status == "failed" else PASSES).then(201)
    finish(server, build, status)
    return build


def move(server: Server, build: int, ago: timedelta, took: timedelta = timedelta(seconds=60)) -> None:
    """Lets a build have ended some time ago, for which no test can wait."""
    ended = datetime.now(UTC) - ago
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(
            f"UPDATE {BuildRow.table} SET created_at = %(start)s, started_at = %(start)s, finished_at = %(end)s"
            " WHERE id = %(id)s".encode(),
            {"start": ended - took, "end": ended, "id": build},
        )


def trend(server: Server, path: str, **query: Any) -> list[dict[str, Any]]:
    days: list[dict[str, Any]] = server.admin.fetch(f"{path}/trend", **query)["days"]
    return days


def test_builds_by_day(server: Server) -> None:
    project = given_project(server)
    job, other = given_job(server, project), given_job(server, project)
    day = timedelta(days=1)
    for status, ago in (("failed", 6), ("failed", 5), ("passed", 3)):
        move(server, given_ended(server, job, status), ago * day)
    move(server, given_ended(server, job, "passed", branch="other"), 4 * day, timedelta(seconds=30))
    move(server, given_ended(server, other, "failed"), 3 * day)
    server.wait_until_projected()
    days = trend(server, f"/jobs/{job}", days=8)
    assert len(days) == 8
    assert [one["builds"] for one in days] == [0, 1, 1, 1, 1, 0, 0, 0]
    assert [one["pass_rate"] for one in days] == [None, 0.0, 0.0, 1.0, 1.0, None, None, None]
    assert [one["duration_s"] for one in days][3:5] == [30.0, 60.0]
    green = [one["time_to_green_s"] for one in days]
    assert [one is None for one in green] == [True, True, True, True, False, True, True, True]
    assert abs(green[4] - 3 * day.total_seconds()) < 60
    assert [one["flake_rate"] for one in days][4:6] == [0.0, None]
    assert [one["failed"] for one in trend(server, f"/projects/{project}", days=8)] == [0, 1, 1, 0, 1, 0, 0, 0]
    assert next(one["time_to_green_s"] is not None for one in trend(server, f"/jobs/{job}", days=4)), (
        "it failed before the first day"
    )


def test_days_are_checked(server: Server, job: int) -> None:
    for days in (0, 366, "x"):
        assert server.admin.get(f"/api/v3/jobs/{job}/trend", params={"days": days}).status_code == 422
    assert len(trend(server, f"/jobs/{job}")) == 30
    assert server.admin.get(f"/api/v3/jobs/{10**9}/trend").status_code == 404
    assert server.admin.get(f"/api/v3/projects/{10**9}/trend").status_code == 404
