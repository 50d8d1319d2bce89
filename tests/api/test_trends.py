"""Trends of jobs and projects over HTTP."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from api.trends import to_trend_item
from projections.builds import BuildRow
from projections.trends import TrendDay
from tests.api.test_tests import FAILS, PASSES
from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.server import Server


def given_ended(server: Server, job: int, status: str, *, branch: str = "main") -> int:
    build = given_build(server, job, branch=branch)
    upload(server.admin, build, FAILS if status == "failed" else PASSES).then(201)
    finish(server, build, status)
    return build


TIMES = "created_at = %s, started_at = %s, finished_at = %s, selected_tests = %s WHERE id = %s"


@pytest.fixture(name="move")
def _move(server: Server) -> Iterator[Callable[..., None]]:
    """Returns a function that lets a build have ended some time ago, for which no test can wait, or have run only some
    tests. Afterwards the builds are as before: the read model is that of the log for the tests that follow.
    """
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        before: list[tuple[Any, ...]] = []

        def move(
            build: int, ago: timedelta, took: timedelta = timedelta(seconds=60), selected_tests: int | None = None
        ) -> None:
            ended = datetime.now(UTC) - ago
            columns = (
                f"SELECT created_at, started_at, finished_at, selected_tests, id FROM {BuildRow.table} WHERE id = %s"
            )
            before.extend(connection.execute(columns.encode(), (build,)))
            times = (ended - took, ended - took, ended, selected_tests, build)
            connection.execute(f"UPDATE {BuildRow.table} SET {TIMES}".encode(), times)

        yield move
        for row in before:
            connection.execute(f"UPDATE {BuildRow.table} SET {TIMES}".encode(), row)


def trend(server: Server, path: str, **query: Any) -> list[dict[str, Any]]:
    days: list[dict[str, Any]] = server.admin.fetch(f"{path}/trend", **query)["days"]
    return days


def test_builds_by_day(server: Server, move: Callable[..., None]) -> None:
    project = given_project(server)
    job, other = given_job(server, project), given_job(server, project)
    day = timedelta(days=1)
    for status, ago in (("failed", 6), ("failed", 5), ("passed", 3)):
        move(given_ended(server, job, status), ago * day)
    move(given_ended(server, job, "passed", branch="other"), 4 * day, timedelta(seconds=30))
    move(given_ended(server, other, "failed"), 3 * day)
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


def test_a_build_of_selected_tests_does_not_make_a_branch_green(server: Server, move: Callable[..., None]) -> None:
    project = given_project(server)
    job = given_job(server, project)
    for ago, status, selected in ((5, "failed", None), (4, "passed", 1), (2, "passed", None)):
        move(given_ended(server, job, status), timedelta(days=ago), selected_tests=selected)
    server.wait_until_projected()
    green = [one["time_to_green_s"] for one in trend(server, f"/jobs/{job}", days=6)]
    assert [one is None for one in green] == [True, True, True, False, True, True]
    assert abs(green[3] - timedelta(days=3).total_seconds()) < 60


def test_days_are_checked(server: Server, job: int) -> None:
    for days in (0, 366, "x"):
        assert server.admin.get(f"/api/v3/jobs/{job}/trend", params={"days": days}).status_code == 422
    assert len(trend(server, f"/jobs/{job}")) == 30
    assert server.admin.get(f"/api/v3/jobs/{10**9}/trend").status_code == 404
    assert server.admin.get(f"/api/v3/projects/{10**9}/trend").status_code == 404


def test_durations_have_milliseconds() -> None:
    item = to_trend_item(TrendDay(date(2026, 5, 20), 2, 1, 1, 0, 8.897988999999999, 4, 1, 0, 60.00000000001))
    assert (item.duration_s, item.time_to_green_s) == (8.898, 60.0)
