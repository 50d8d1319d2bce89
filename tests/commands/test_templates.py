"""Pipeline templates, and what a job's builds make of them."""

from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from commands.builds import StartBuild
from commands.templates import CreateTemplate, DeleteTemplate, UpdateTemplate
from domain import templates
from domain.builds import BuildQueued
from domain.core.data_keys import template_key
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.jobs import (
    CheckoutOptions,
    Configuration,
    DependencyCache,
    JobConfigured,
    JobCreated,
    find_required_features,
)
from domain.pools import PoolCreated, PoolDeleted
from domain.templates import TEMPLATE, TemplateCreated, TemplateDeleted, TemplateUpdated, overlaid
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories, structs

STORED = Configuration(
    command="pytest", setup=["npm ci"], env={"A": "1", "B": "1"}, artifacts=["*.xml"], secrets={"S": b"s", "T": b"t"}
)
CREATED = TemplateCreated(template_id=3, creator_id=1, title="Jest", configuration=STORED)
DELETED = TemplateDeleted(template_id=3)
JOB = JobCreated(job_id=5, project_id=1, title="Smoke", pipeline_template_id=3)


def built(*history: Event) -> Configuration:
    (queued,) = given(*history).when(StartBuild(9, 5))
    assert isinstance(queued, BuildQueued)
    return queued.configuration


def test_create() -> None:
    command = CreateTemplate(3, 1, "Jest", "", "pytest", ("npm ci",), STORED.env, ("*.xml",), {"S": b"s", "T": b"t"})
    given().when(command).then(CREATED)
    given(CREATED).when(command).then_nothing()


def test_only_what_is_given_changes() -> None:
    (updated,) = given(CREATED).when(UpdateTemplate(3, title="Jest", setup=("yarn",), secrets={"T": None}))
    expected = Configuration(
        command="pytest", setup=["yarn"], env=STORED.env, artifacts=STORED.artifacts, secrets={"S": b"s"}
    )
    assert updated == TemplateUpdated(template_id=3, configuration=expected)
    (with_shell,) = given(CREATED).when(UpdateTemplate(3, shell="bash", checkout=CheckoutOptions(0)))
    (without,) = given(CREATED, with_shell).when(UpdateTemplate(3, cleared_options=("shell",)))
    assert isinstance(without, TemplateUpdated)
    assert without.configuration == msgspec.structs.replace(STORED, checkout=CheckoutOptions(0))
    given(CREATED).when(UpdateTemplate(3, title="Jest", env=STORED.env)).then_nothing()


def test_a_build_has_the_options_of_its_job_or_else_of_the_template() -> None:
    mine, others = DependencyCache("mine", ["a"]), DependencyCache("others", ["b"])
    template = Configuration(command="x", shell="bash", checkout=CheckoutOptions(tags=True), caches=[others])
    created = msgspec.structs.replace(CREATED, configuration=template)

    assert built(JOB, created) == template
    job = Configuration(shell="sh", checkout=CheckoutOptions(), caches=[mine])
    configured = JobConfigured(job_id=5, project_id=1, configuration=job)
    assert built(JOB, configured, created) == msgspec.structs.replace(job, command="x")
    assert find_required_features(built(JOB, created)) == {"shell", "checkout", "caches"}
    assert find_required_features(built(JOB, configured, created)) == {"caches"}


def test_a_template_in_use_stays() -> None:
    with pytest.raises(Conflict, match="2 jobs use"):
        given(CREATED).when(DeleteTemplate(3, jobs_using=2))
    given(CREATED).when(DeleteTemplate(3)).then(DELETED)
    given(CREATED, DELETED).when(DeleteTemplate(3)).then_nothing()


@pytest.mark.parametrize(
    ("command", "history"),
    [(UpdateTemplate(3), ()), (UpdateTemplate(3), (CREATED, DELETED)), (DeleteTemplate(3), ())],
)
def test_there_is_no_such_template(command: Any, history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound):
        given(*history).when(command)


def test_a_build_runs_the_template_with_the_jobs_changes_over_it() -> None:
    assert built(CREATED, JOB) == STORED
    with_secret = Configuration(command="npx jest", env={"B": "2"}, secrets={"T": b"own"})
    configured = JobConfigured(job_id=5, project_id=1, configuration=with_secret)
    assert built(CREATED, JOB, configured) == Configuration(
        command="npx jest",
        setup=["npm ci"],
        env={"A": "1", "B": "2"},
        artifacts=["*.xml"],
        secrets={"S": b"s", "T": b"own"},
    )


def test_changes_of_the_template_reach_the_next_build() -> None:
    changed = TemplateUpdated(template_id=3, configuration=Configuration(command="new"))
    assert built(CREATED, JOB, changed).command == "new"


def test_a_job_without_a_command_needs_its_templates() -> None:
    with pytest.raises(Conflict, match="no command"):
        built(JOB, TemplateCreated(template_id=3, creator_id=1, title="x", configuration=Configuration()))


def test_nothing_is_queued_by_a_template_that_was_deleted() -> None:
    """A job may have taken it in the very moment in which nobody seemed to use it."""
    with pytest.raises(Conflict, match="template 3 of job 5 was deleted"):
        built(CREATED, JOB, DELETED)


def test_what_it_says_goes_with_it() -> None:
    assert DELETED.erases == CREATED.data_key == template_key(3)


def test_nothing_is_queued_for_a_pool_that_was_deleted() -> None:
    job = JobCreated(job_id=5, project_id=1, title="Smoke", node_pool_id=2)
    configured = JobConfigured(job_id=5, project_id=1, configuration=STORED)
    pool = PoolCreated(pool_id=2, project_id=1, title="linux")
    assert built(job, configured, pool) == STORED
    with pytest.raises(Conflict, match="pool 2"):
        built(job, configured, pool, PoolDeleted(pool_id=2, project_id=1))


@hypothesis.given(structs(Configuration, matrix=st.none(), needed_secrets=st.just([])), structs(Configuration))
def test_what_a_job_says_is_never_lost(template: Configuration, job: Configuration) -> None:
    merged = overlaid(template, job)
    assert merged.env == {**template.env, **job.env}
    assert merged.secrets.items() >= job.secrets.items()
    assert overlaid(template, merged) == merged
    assert overlaid(Configuration(), job) == job
    assert overlaid(template, Configuration()) == template


@pytest.mark.parametrize("kind", [CreateTemplate, UpdateTemplate, DeleteTemplate])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*templates.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*templates.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(TEMPLATE, history)
