"""Jobs."""

from typing import Any

import hypothesis
import pytest

from commands.jobs import ConfigureJob, CreateJob, DeleteJob, ImportJob, UpdateJob
from domain import jobs, pools, projects, templates
from domain.core.errors import Forbidden, Invalid, NotFound
from domain.core.events import Event
from domain.jobs import JOB, Configuration, Job, JobConfigured, JobCreated, JobDeleted, JobUpdated
from domain.pools import PoolCreated, PoolDeleted
from domain.projects import ProjectCreated
from domain.templates import TemplateCreated, TemplateDeleted, TemplateUpdated
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

PROJECT = ProjectCreated(project_id=1, title="P", slug="p", sealed_webhook_secret=b"")
CREATED = JobCreated(job_id=5, project_id=1, title="Smoke")
DELETED = JobDeleted(job_id=5, project_id=1)
OWN_POOL = PoolCreated(pool_id=2, project_id=1, title="own")
FOREIGN_POOL = PoolCreated(pool_id=2, project_id=9, title="foreign")
SHARED_POOL = PoolCreated(pool_id=2, project_id=9, title="shared", shared=True)


def test_create() -> None:
    given(PROJECT).when(CreateJob(5, 1, "Smoke")).then(CREATED)
    given(PROJECT, CREATED).when(CreateJob(5, 1, "Smoke")).then_nothing()


def test_a_job_needs_its_project() -> None:
    with pytest.raises(NotFound, match="project 1"):
        given().when(CreateJob(5, 1, "Smoke"))


@pytest.mark.parametrize("pool", [OWN_POOL, SHARED_POOL])
def test_pools_that_serve_a_job(pool: PoolCreated) -> None:
    assert len(given(PROJECT, pool).when(CreateJob(5, 1, "Smoke", node_pool_id=2))) == 1
    assert len(given(CREATED, pool).when(UpdateJob(5, node_pool_id=2))) == 1


@pytest.mark.parametrize("history", [(), (FOREIGN_POOL,), (OWN_POOL, PoolDeleted(pool_id=2, project_id=1))])
def test_pools_that_do_not(history: tuple[Event, ...]) -> None:
    for command in (CreateJob(5, 1, "Smoke", node_pool_id=2), UpdateJob(6, node_pool_id=2)):
        with pytest.raises(Invalid) as caught:
            given(PROJECT, JobCreated(job_id=6, project_id=1, title="x"), *history).when(command)
        assert [error.field for error in caught.value.errors] == ["node_pool_id"]


def test_a_job_takes_a_template_that_is_there() -> None:
    template = TemplateCreated(template_id=3, creator_id=1, title="Jest", configuration=Configuration())
    (created,) = given(PROJECT, template).when(CreateJob(5, 1, "Smoke", pipeline_template_id=3))
    assert created == JobCreated(job_id=5, project_id=1, title="Smoke", pipeline_template_id=3)
    assert len(given(CREATED, template).when(UpdateJob(5, pipeline_template_id=3))) == 1
    for history in ((), (template, TemplateDeleted(template_id=3))):
        with pytest.raises(Invalid) as caught:
            given(CREATED, *history).when(UpdateJob(5, pipeline_template_id=3))
        assert caught.value.errors[0].field == "pipeline_template_id"


def test_secrets_of_a_template_are_lent_by_its_creator_and_by_admins() -> None:
    """The template counts as it is when the job gets it, not as the read models showed it before."""
    plain = TemplateCreated(template_id=3, creator_id=1, title="Jest", configuration=Configuration())
    secret = TemplateUpdated(template_id=3, configuration=Configuration(secrets={"TOKEN": b"sealed"}))
    for borrower_id, history, lent in (
        (2, (plain,), True),
        (2, (plain, secret), False),
        (1, (plain, secret), True),
        (None, (plain, secret), True),
    ):
        create = CreateJob(5, 1, "Smoke", pipeline_template_id=3, borrower_id=borrower_id)
        update = UpdateJob(6, pipeline_template_id=3, borrower_id=borrower_id)
        for command in (create, update):
            world = given(PROJECT, JobCreated(job_id=6, project_id=1, title="x"), *history)
            if lent:
                assert len(world.when(command)) == 1
            else:
                with pytest.raises(Forbidden, match="has secrets"):
                    world.when(command)


def test_a_job_is_routed_by_a_pool_or_by_labels() -> None:
    labels = {"arch": "arm64"}
    with pytest.raises(Invalid, match="instead of node_pool_id"):
        given(PROJECT, OWN_POOL).when(CreateJob(5, 1, "Smoke", node_pool_id=2, pool_labels=labels))
    pooled = JobCreated(job_id=5, project_id=1, title="Smoke", node_pool_id=2)
    with pytest.raises(Invalid, match="instead of node_pool_id"):
        given(pooled).when(UpdateJob(5, pool_labels=labels))
    moved = JobUpdated(job_id=5, project_id=1, pool_labels=labels, cleared=("node_pool_id",))
    given(pooled).when(UpdateJob(5, pool_labels=labels, cleared=("node_pool_id",))).then(moved)
    given(pooled, moved).when(UpdateJob(5, pool_labels={})).then(JobUpdated(job_id=5, project_id=1, pool_labels={}))


def test_an_imported_job_comes_with_its_configuration() -> None:
    configuration = Configuration(command="pytest")
    command = ImportJob(5, 1, "Smoke", enabled=False, configuration=configuration)
    given(PROJECT).when(command).then(
        CREATED,
        JobUpdated(job_id=5, project_id=1, enabled=False),
        JobConfigured(job_id=5, project_id=1, configuration=configuration),
    )
    given(PROJECT).when(ImportJob(5, 1, "Smoke")).then(CREATED)


def test_only_what_changes_is_told() -> None:
    command = UpdateJob(5, title="Smoke", enabled=False, timeout_minutes=60, max_parallel=2)
    given(CREATED).when(command).then(JobUpdated(job_id=5, project_id=1, enabled=False, max_parallel=2))
    given(CREATED).when(UpdateJob(5)).then_nothing()


def test_a_field_can_be_cleared() -> None:
    given_repository = JobUpdated(job_id=5, project_id=1, repository="/srv/r.git")
    cleared = JobUpdated(job_id=5, project_id=1, cleared=("repository",))
    command = UpdateJob(5, cleared=("node_pool_id", "repository"))
    given(CREATED, given_repository).when(command).then(cleared)
    state = JOB.at(5).fold([CREATED, given_repository, cleared])
    assert isinstance(state, Job)
    assert state.repository is None


def test_configure_replaces_everything_but_secrets_that_are_not_sent() -> None:
    before = Configuration(command="old", env={"A": "1"}, secrets={"KEEP": b"kept", "DROP": b"x"})
    configured = JobConfigured(job_id=5, project_id=1, configuration=before)
    command = ConfigureJob(5, "new", setup=("s",), secrets={"DROP": None, "NEW": b"n"})
    after = Configuration(command="new", setup=["s"], secrets={"KEEP": b"kept", "NEW": b"n"})
    given(CREATED, configured).when(command).then(JobConfigured(job_id=5, project_id=1, configuration=after))


def test_delete() -> None:
    given(CREATED).when(DeleteJob(5)).then(DELETED)
    given(CREATED, DELETED).when(DeleteJob(5)).then_nothing()


def test_a_secret_without_a_value_is_one_that_the_job_has() -> None:
    configured = JobConfigured(job_id=5, project_id=2, configuration=Configuration(command="a", secrets={"KEY": b"k"}))
    history = (JobCreated(job_id=5, project_id=2, title="Smoke"), configured)
    given(*history).when(ConfigureJob(5, "a", kept_secrets=["KEY"])).then_nothing()
    with pytest.raises(Invalid, match="is no secret of this job"):
        given(*history).when(ConfigureJob(5, "a", kept_secrets=["KEY", "NOPE"]))


@pytest.mark.parametrize("command", [UpdateJob(5, title="x"), ConfigureJob(5, "x"), DeleteJob(5)])
def test_there_is_no_such_job(command: Any) -> None:
    with pytest.raises(NotFound):
        given().when(command)


@pytest.mark.parametrize("command", [UpdateJob(5, title="x"), ConfigureJob(5, "x")])
def test_a_deleted_job_cannot_be_changed(command: Any) -> None:
    with pytest.raises(NotFound):
        given(CREATED, DELETED).when(command)


@pytest.mark.parametrize("kind", [CreateJob, ImportJob, UpdateJob, ConfigureJob, DeleteJob])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*jobs.EVENTS, *projects.EVENTS, *pools.EVENTS, *templates.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*jobs.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(JOB, history)
