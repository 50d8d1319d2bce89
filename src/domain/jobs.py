"""Jobs: what runs, where and how often at once. A job makes builds."""

from typing import Any, ClassVar, Literal

import msgspec

from domain.base import Category, Event

Clearable = Literal["node_pool_id", "repository"]


class Configuration(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a build does. `secrets` are sealed values by name; they reach the agent and nobody else."""

    command: str = ""
    setup: list[str] = []
    env: dict[str, str] = {}
    artifacts: list[str] = []
    secrets: dict[str, bytes] = {}


class JobEvent(Event, frozen=True):
    job_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"job-{self.job_id}"


class JobCreated(JobEvent, frozen=True):
    name: ClassVar[str] = "job.created"
    title: str
    node_pool_id: int | None = None
    timeout_minutes: int = 60
    max_parallel: int = 1
    pipeline_template_id: int | None = None
    repository: str | None = None
    default_branch: str = "main"


class JobUpdated(JobEvent, frozen=True):
    """Only what changed; None is unchanged. `cleared` names the fields that are set back to None."""

    name: ClassVar[str] = "job.updated"
    title: str | None = None
    enabled: bool | None = None
    node_pool_id: int | None = None
    timeout_minutes: int | None = None
    max_parallel: int | None = None
    repository: str | None = None
    default_branch: str | None = None
    cleared: tuple[Clearable, ...] = ()


UPDATABLE = (
    "title",
    "enabled",
    "node_pool_id",
    "timeout_minutes",
    "max_parallel",
    "repository",
    "default_branch",
)


class JobConfigured(JobEvent, frozen=True):
    name: ClassVar[str] = "job.configured"
    configuration: Configuration


class JobDeleted(JobEvent, frozen=True):
    name: ClassVar[str] = "job.deleted"


class Job(msgspec.Struct, frozen=True):
    job_id: int
    project_id: int
    title: str
    enabled: bool
    node_pool_id: int | None
    timeout_minutes: int
    max_parallel: int
    repository: str | None
    default_branch: str
    configuration: Configuration
    deleted: bool = False


def changes(event: JobUpdated) -> dict[str, Any]:
    given = {field: value for field in UPDATABLE if (value := getattr(event, field)) is not None}
    return given | dict.fromkeys(event.cleared)


def evolve(state: Job | None, event: Event) -> Job | None:
    match event:
        case JobCreated():
            return Job(
                job_id=event.job_id,
                project_id=event.project_id,
                title=event.title,
                enabled=True,
                node_pool_id=event.node_pool_id,
                timeout_minutes=event.timeout_minutes,
                max_parallel=event.max_parallel,
                repository=event.repository,
                default_branch=event.default_branch,
                configuration=Configuration(),
            )
        case JobUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes(event))
        case JobConfigured() if state is not None:
            return msgspec.structs.replace(state, configuration=event.configuration)
        case JobDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


JOB = Category[Job | None]("job", None, evolve)
EVENTS = (JobCreated, JobUpdated, JobConfigured, JobDeleted)
