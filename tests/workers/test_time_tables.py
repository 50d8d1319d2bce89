"""Time tables start builds, each time once."""

from datetime import UTC, datetime, timedelta

import pytest

from commands.jobs import CreateJob, UpdateJob
from commands.time_tables import find_latest
from commands.triggers import SetTriggers
from domain.triggers import BuildTrigger, CronTrigger, Triggers
from testhide.processes import Core
from tests.workers.watched_jobs import TODAY, WatchedJobs

HOURLY = Triggers(cron=[CronTrigger("0 * * * *")])
HOUR = timedelta(hours=1)


@pytest.fixture
async def jobs(parts: Core) -> WatchedJobs:
    jobs = WatchedJobs(parts)
    await jobs.begin()
    return jobs


async def test_each_time_starts_one_build(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, Triggers(cron=[CronTrigger("0 * * * *", branch="release")]))
    assert await jobs.sweep() == 0, "the time of its creation is over"
    jobs.now += HOUR
    assert await jobs.sweep() == 1
    assert await jobs.sweep() == 0
    (build,) = await jobs.queued()
    assert (build.branch, build.actor) == ("release", "system:schedule")
    assert build.trigger == BuildTrigger("schedule", scheduled_at=TODAY + HOUR)
    jobs.now += HOUR
    assert await jobs.sweep() == 1


async def test_another_process_starts_no_second_build(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, HOURLY)
    jobs.now += HOUR
    assert await jobs.sweep() == 1
    assert await jobs.new_clock().sweep() == 0
    jobs.clock = jobs.new_clock()
    assert await jobs.sweep() == 0
    assert len(await jobs.queued()) == 1


async def test_after_an_outage_the_last_missed_time_counts(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, HOURLY)
    jobs.now += 30 * HOUR + timedelta(minutes=20)
    assert await jobs.sweep() == 1
    (build,) = await jobs.queued()
    assert build.trigger is not None
    assert build.trigger.scheduled_at == TODAY + 30 * HOUR


async def test_time_tables_of_one_job_are_independent(jobs: WatchedJobs) -> None:
    tables = [CronTrigger("0 13 * * *", branch="a"), CronTrigger("0 13 * * *", branch="b")]
    await jobs.add_job(5, Triggers(cron=tables))
    jobs.now += HOUR
    assert await jobs.sweep() == 2
    assert sorted(build.branch for build in await jobs.queued()) == ["a", "b"]


async def test_time_tables_of_branches_that_differ_in_case_are_independent(jobs: WatchedJobs) -> None:
    tables = [CronTrigger("0 13 * * *", branch="Dev"), CronTrigger("0 13 * * *", branch="dev")]
    await jobs.add_job(5, Triggers(cron=tables))
    jobs.now += HOUR
    assert await jobs.sweep() == 2


async def test_times_are_looked_up_once_they_have_come(jobs: WatchedJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[datetime] = []

    def count(table: CronTrigger, until: datetime) -> datetime | None:
        looked_up.append(until)
        return find_latest(table, until)

    monkeypatch.setattr("workers.time_tables.find_latest", count)
    await jobs.add_job(5, HOURLY)
    for _ in range(4):
        await jobs.sweep()
        jobs.now += timedelta(minutes=20)
    assert looked_up == [TODAY, TODAY + HOUR]


async def test_times_before_a_change_of_the_triggers_start_nothing(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, HOURLY)
    jobs.now += HOUR + timedelta(minutes=10)
    await jobs.does(SetTriggers(5, Triggers(cron=[CronTrigger("5 * * * *")])))
    assert await jobs.sweep() == 0
    assert await jobs.new_clock().sweep() == 0


async def test_times_while_a_job_was_disabled_start_nothing(jobs: WatchedJobs) -> None:
    await jobs.add_job(5, HOURLY)
    await jobs.does(UpdateJob(5, enabled=False))
    jobs.now += HOUR
    assert await jobs.sweep() == 0
    jobs.now += timedelta(minutes=30)
    await jobs.does(UpdateJob(5, enabled=True))
    assert await jobs.sweep() == 0
    jobs.now += timedelta(minutes=30)
    assert await jobs.sweep() == 1


async def test_an_hour_that_comes_twice_starts_one_build(jobs: WatchedJobs) -> None:
    jobs.now = datetime(2026, 10, 24, 12, tzinfo=UTC)
    await jobs.add_job(5, Triggers(cron=[CronTrigger("30 2 * * *", "Europe/Berlin")]))
    for _ in range(24):
        jobs.now += HOUR
        await jobs.sweep()
    assert len(await jobs.queued()) == 1


async def test_a_job_without_a_command_keeps_no_other_from_its_time(jobs: WatchedJobs) -> None:
    await jobs.does(CreateJob(4, 1, "Without a command"), SetTriggers(4, HOURLY))
    await jobs.add_job(5, HOURLY)
    jobs.now += HOUR
    assert await jobs.sweep() == 1
