"""Planning a sync: which events make the jobs what the file says."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.pipelines.planning import PlannedJob, find_missing_secrets, group_changes, plan_sync
from domain.core.errors import Conflict
from domain.core.events import Event
from domain.gitops import GITOPS, GitopsSynced, GitopsSyncFailed, SyncedPipelines
from domain.jobs import (
    JOB,
    Configuration,
    Job,
    JobConfigured,
    JobCreated,
    JobDeleted,
    JobEvent,
    JobTriggersChanged,
    JobUpdated,
)
from domain.triggers import Triggers

PROJECT = 3


def planned(title: str = "unit", command: str = "pytest", **more: Any) -> PlannedJob:
    return PlannedJob(title, Configuration(command=command), **more)


@dataclass
class Jobs:
    """The jobs of a project, changed by the events of syncs."""

    states: dict[int, Job | None] = field(default_factory=dict)
    synced: SyncedPipelines = GITOPS.initial

    def apply(self, *events: Event) -> None:
        for event in events:
            if isinstance(event, JobEvent):
                self.states[event.job_id] = JOB.evolve(self.states.get(event.job_id), event)
            self.synced = GITOPS.evolve(self.synced, event)

    def sync(self, *plans: PlannedJob, commit: str = "c1", branch: str = "main") -> list[Event]:
        stored = [job for job in self.states.values() if job is not None]
        new_ids = iter(range(len(self.states) + 1, len(self.states) + 100))
        events = list(plan_sync(PROJECT, branch, commit, plans, self.synced, stored, new_ids))
        self.apply(*events)
        return events


def test_a_job_needs_others_whatever_their_order() -> None:
    jobs = Jobs()
    events = jobs.sync(planned("deploy", needs=["unit", "lint"]), planned("unit"), planned("lint"))
    assert JobTriggersChanged(job_id=1, project_id=PROJECT, triggers=Triggers(needs=[2, 3])) in events
    assert jobs.sync(planned("deploy", needs=["unit", "lint"]), planned("unit"), planned("lint")) == []
    assert JobTriggersChanged(job_id=1, project_id=PROJECT) in jobs.sync(planned("deploy"), planned("unit"))


def test_a_new_job_is_created_with_its_configuration() -> None:
    jobs = Jobs()
    events = jobs.sync(planned(node_pool_id=7, timeout_minutes=5))
    assert events == [
        JobCreated(job_id=1, project_id=PROJECT, title="unit", node_pool_id=7, timeout_minutes=5, managed=True),
        JobConfigured(job_id=1, project_id=PROJECT, configuration=Configuration(command="pytest")),
        GitopsSynced(project_id=PROJECT, branch="main", commit="c1", jobs={"unit": 1}, jobs_created=1),
    ]


def test_the_same_file_at_the_same_commit_changes_nothing() -> None:
    jobs = Jobs()
    jobs.sync(planned())
    assert jobs.sync(planned()) == []
    again = jobs.sync(planned(), commit="c2")
    assert again == [GitopsSynced(project_id=PROJECT, branch="main", commit="c2", jobs={"unit": 1})]


def test_a_sync_that_works_again_takes_the_problem_away() -> None:
    jobs = Jobs()
    jobs.sync(planned())
    jobs.apply(GitopsSyncFailed(project_id=PROJECT, branch="main", problem="example.com does not answer."))
    assert jobs.sync(planned()) == [GitopsSynced(project_id=PROJECT, branch="main", commit="c1", jobs={"unit": 1})]
    assert jobs.synced.problem is None


def test_only_what_differs_is_updated_and_secrets_stay() -> None:
    jobs = Jobs()
    jobs.sync(planned(repository="https://a.example/x"), planned("docs"))
    secrets = Configuration(command="pytest", secrets={"TOKEN": b"sealed"})
    jobs.apply(JobConfigured(job_id=1, project_id=PROJECT, configuration=secrets))
    *events, synced = jobs.sync(planned(command="make", max_parallel=2), planned("docs"), commit="c2")
    assert events == [
        JobUpdated(job_id=1, project_id=PROJECT, max_parallel=2, cleared=("repository",)),
        JobConfigured(
            job_id=1, project_id=PROJECT, configuration=Configuration(command="make", secrets={"TOKEN": b"sealed"})
        ),
    ]
    assert isinstance(synced, GitopsSynced)
    assert (synced.jobs_created, synced.jobs_updated, synced.jobs_removed) == (0, 1, 0)


def test_triggers_follow_the_file() -> None:
    jobs = Jobs()
    assert JobTriggersChanged(job_id=1, project_id=PROJECT, triggers=Triggers(branches=["main"])) in jobs.sync(
        planned(triggers=Triggers(branches=["main"]))
    )
    *events, _ = jobs.sync(planned(), commit="c2")
    assert events == [JobTriggersChanged(job_id=1, project_id=PROJECT, triggers=Triggers())]


def test_a_job_that_is_not_described_any_more_is_disabled_and_comes_back() -> None:
    jobs = Jobs()
    jobs.sync(planned(), planned("docs"))
    *events, synced = jobs.sync(planned(), commit="c2")
    assert events == [JobUpdated(job_id=2, project_id=PROJECT, enabled=False)]
    assert isinstance(synced, GitopsSynced)
    assert (synced.jobs, synced.jobs_removed) == ({"unit": 1}, 1)
    *events, _ = jobs.sync(planned(), planned("docs"), commit="c3")
    assert events == [JobUpdated(job_id=2, project_id=PROJECT, enabled=True)]


def test_a_job_that_people_disabled_stays_disabled() -> None:
    jobs = Jobs()
    jobs.sync(planned())
    jobs.apply(JobUpdated(job_id=1, project_id=PROJECT, enabled=False))
    *events, _ = jobs.sync(planned(), commit="c2")
    assert events == []


def test_a_job_that_people_disabled_stays_disabled_when_the_file_loses_and_finds_it() -> None:
    jobs = Jobs()
    jobs.sync(planned(), planned("docs"))
    jobs.apply(JobUpdated(job_id=1, project_id=PROJECT, enabled=False))
    jobs.sync(planned("docs"), commit="c2")
    *events, _ = jobs.sync(planned(), planned("docs"), commit="c3")
    assert events == []
    jobs.sync(commit="c4")
    *events, synced = jobs.sync(planned(), commit="c5")
    assert events == []
    assert isinstance(synced, GitopsSynced)
    assert synced.disabled == [2]


def test_a_deleted_job_is_created_again() -> None:
    jobs = Jobs()
    jobs.sync(planned())
    jobs.apply(JobDeleted(job_id=1, project_id=PROJECT))
    created, *_ = jobs.sync(planned(), commit="c2")
    assert isinstance(created, JobCreated)
    assert created.job_id == 2


def test_a_job_made_by_hand_is_refused_until_the_file_may_take_it() -> None:
    jobs = Jobs()
    jobs.apply(JobCreated(job_id=1, project_id=PROJECT, title="unit"))
    with pytest.raises(Conflict) as refused:
        jobs.sync(planned())
    assert 'PUT /api/v3/jobs/1 {"managed": true}' in refused.value.detail
    jobs.apply(JobUpdated(job_id=1, project_id=PROJECT, managed=True))
    *events, synced = jobs.sync(planned())
    assert events == [JobConfigured(job_id=1, project_id=PROJECT, configuration=Configuration(command="pytest"))]
    assert isinstance(synced, GitopsSynced)
    assert (synced.jobs, synced.jobs_updated) == ({"unit": 1}, 1)


def test_a_job_that_was_taken_from_the_file_is_not_removed() -> None:
    jobs = Jobs()
    jobs.sync(planned(), planned("docs"))
    jobs.apply(JobUpdated(job_id=2, project_id=PROJECT, managed=False))
    *events, _ = jobs.sync(planned(), commit="c2")
    assert events == []


def test_two_jobs_of_one_name_are_refused() -> None:
    jobs = Jobs()
    for job_id in (1, 2):
        jobs.apply(JobCreated(job_id=job_id, project_id=PROJECT, title="unit", managed=True))
    with pytest.raises(Conflict, match="Jobs 1 and 2 are both named 'unit'"):
        jobs.sync(planned())


def test_secrets_without_a_value_are_found() -> None:
    jobs = Jobs()
    jobs.sync(planned())
    configuration = Configuration(command="pytest", secrets={"TOKEN": b"sealed"})
    jobs.apply(JobConfigured(job_id=1, project_id=PROJECT, configuration=configuration))
    needed = {"unit": ["TOKEN", "KEY"], "new": ["A"], "plain": []}
    wanted = [PlannedJob(name, Configuration(needed_secrets=secrets)) for name, secrets in needed.items()]
    stored = [job for job in jobs.states.values() if job is not None]
    assert find_missing_secrets(wanted, stored) == {"unit": ["KEY"], "new": ["A"]}


PLANS = st.dictionaries(
    st.sampled_from("abcd"),
    st.builds(
        PlannedJob,
        title=st.just(""),
        configuration=st.builds(Configuration, command=st.sampled_from(["x", "y"])),
        repository=st.sampled_from([None, "https://a.example/x"]),
        max_parallel=st.integers(1, 2),
    ),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(PLANS, max_size=5))
def test_after_any_syncs_the_jobs_are_what_the_last_file_says(files: list[dict[str, PlannedJob]]) -> None:
    jobs = Jobs()
    for number, file in enumerate(files):
        plans = [_named(name, job) for name, job in file.items()]
        before = dict(jobs.states)
        events = jobs.sync(*plans, commit=str(number))
        created, updated, removed = group_changes(events)
        assert len({*created, *updated, *removed}) == len(created) + len(updated) + len(removed)
        assert not set(created) & set(before)
        active = {job.title: job for job in jobs.states.values() if job is not None and job.enabled}
        assert active.keys() == file.keys()
        for plan in plans:
            job = active[plan.title]
            assert all(getattr(job, name) == value for name, value in plan.settings.items())
            assert job.configuration == plan.configuration
        assert jobs.sync(*plans, commit=str(number)) == []


def _named(name: str, job: PlannedJob) -> PlannedJob:
    return PlannedJob(name, job.configuration, repository=job.repository, max_parallel=job.max_parallel)
