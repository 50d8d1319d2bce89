"""Jobs: the command to run, where to run it, and its limits. Each run of a job is a build."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from domain.core.data_keys import job_key
from domain.core.events import UNSTAMPED, Category, Event, changes_of, copy_fields
from domain.matrix import SHARDS_VARIABLE, Matrix
from domain.triggers import Triggers

Clearable = Literal["node_pool_id", "pipeline_template_id", "repository"]
QuarantineMode = Literal["run", "skip"]
"""Whether builds run or skip quarantined tests."""


ShellName = Literal["sh", "bash"]
# Events contain these types: a limit may be raised, never lowered, or stored events could not be read any more.
CacheKey = Annotated[str, Meta(min_length=1, max_length=500, extra_json_schema={"format": "cache-key"})]
CachePath = Annotated[str, Meta(min_length=1, max_length=1_000, extra_json_schema={"format": "workspace-path"})]


class CheckoutOptions(msgspec.Struct, frozen=True):
    """Options of a build's checkout."""

    depth: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    """Number of commits to fetch; 0 fetches the whole history."""
    tags: bool = False
    """Whether to fetch the tags too."""
    submodules: bool = False
    """Whether to check out submodules, recursively."""


class DependencyCache(msgspec.Struct, frozen=True):
    """Files and folders that builds of a job save for later builds, such as downloaded packages."""

    key: CacheKey
    """Name under which the cache is saved and restored. `{{ checksum "FILE" }}` stands for the SHA-256 of a file of the
    checkout.
    """
    paths: Annotated[list[CachePath], Meta(min_length=1, max_length=20)]
    """Files and folders, relative to the workspace, or to the build's home folder if they begin with `~/`."""


class Configuration(msgspec.Struct, frozen=True, omit_defaults=True):
    """The steps and variables of a build. `secrets` maps names to encrypted values, which only the agent receives
    decrypted.
    """

    command: str = ""
    setup: list[str] = []
    env: dict[str, str] = {}
    artifacts: list[str] = []
    secrets: dict[str, bytes] = {}
    shell: ShellName | None = None
    """Shell for the setup lines and the command. If it is None, the job's template decides. If the template names no
    shell, or the job has no template, the shell is `sh`.
    """
    checkout: CheckoutOptions | None = None
    """Options of the checkout. If they are None, the job's template decides. If the template has none, or the job has
    no template, the defaults apply.
    """
    caches: list[DependencyCache] = []
    needed_secrets: list[str] = []
    """Names of the secrets that the job needs according to the file in its repository. If `secrets` lacks some of these
    names, builds run without them, and their logs name the missing secrets.
    """
    matrix: Matrix | None = None
    """A start of the job queues one build for each combination of the matrix. None for a job without a matrix; always
    None in builds and templates.
    """


def find_required_features(configuration: Configuration) -> frozenset[str]:
    """Returns the names of the features that an agent needs to run a build with this configuration. Agents send the
    names of their features when they connect; older agents send none.
    """
    needed = {
        "shell": configuration.shell not in (None, "sh"),
        "checkout": configuration.checkout not in (None, CheckoutOptions()),
        "caches": bool(configuration.caches),
        "shards": SHARDS_VARIABLE in configuration.env,
    }
    return frozenset(name for name, is_needed in needed.items() if is_needed)


def merge_secrets(given: Mapping[str, bytes | None], stored: Mapping[str, bytes]) -> dict[str, bytes]:
    """Returns `stored` with the changes in `given`: a value adds or replaces a secret, None removes it. Values are
    encrypted.
    """
    return {name: value for name, value in {**stored, **given}.items() if value is not None}


class JobEvent(Event, frozen=True):
    job_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"job-{self.job_id}"

    @property
    def data_key(self) -> str | None:
        return job_key(self.project_id, self.job_id)


DEFAULT_TIMEOUT_MINUTES = 60
"""Time limit in minutes for each build of a new job, unless the request for the job sets another limit. The event
`job.created` has its own default, which must never change.
"""

TEXTS = ("title", "repository", "default_branch", "required_tags", "pool_labels")


class JobCreated(JobEvent, frozen=True):
    name: ClassVar[str] = "job.created"
    sealed: ClassVar[tuple[str, ...]] = TEXTS
    title: str = ""
    node_pool_id: int | None = None
    timeout_minutes: int = 60
    max_parallel: int = 1
    pipeline_template_id: int | None = None
    repository: str | None = None
    default_branch: str = "main"
    required_tags: list[str] = []
    """A node must have all of these tags to run the job's builds."""
    pool_labels: dict[str, str] = {}
    """A pool must have all of these labels to run the job's builds. A job with labels has no `node_pool_id`."""
    quarantine_mode: QuarantineMode = "run"
    managed: bool = False
    """Whether a file in the repository describes the job."""


class JobUpdated(JobEvent, frozen=True):
    """The job was changed. Fields that are not None have their new values; fields in `cleared` were set to None."""

    name: ClassVar[str] = "job.updated"
    sealed: ClassVar[tuple[str, ...]] = TEXTS
    title: str | None = None
    enabled: bool | None = None
    node_pool_id: int | None = None
    timeout_minutes: int | None = None
    max_parallel: int | None = None
    pipeline_template_id: int | None = None
    repository: str | None = None
    default_branch: str | None = None
    required_tags: list[str] | None = None
    pool_labels: dict[str, str] | None = None
    quarantine_mode: QuarantineMode | None = None
    managed: bool | None = None
    cleared: tuple[Clearable, ...] = ()


class JobConfigured(JobEvent, frozen=True):
    name: ClassVar[str] = "job.configured"
    sealed: ClassVar[tuple[str, ...]] = ("configuration",)
    configuration: Configuration = Configuration()


class JobTriggersChanged(JobEvent, frozen=True):
    """The job's triggers were replaced. Its time tables start builds only for times after this event."""

    name: ClassVar[str] = "job.triggers_changed"
    sealed: ClassVar[tuple[str, ...]] = ("triggers",)
    triggers: Triggers = Triggers()


class JobDeleted(JobEvent, frozen=True):
    """The job was deleted, and all its builds with it: destroying the job's data key makes their texts unreadable.
    Unfinished builds are aborted.
    """

    name: ClassVar[str] = "job.deleted"
    destroys_key: ClassVar[bool] = True


class Job(msgspec.Struct, frozen=True):
    job_id: int
    project_id: int
    title: str
    enabled: bool
    node_pool_id: int | None
    timeout_minutes: int
    max_parallel: int
    pipeline_template_id: int | None
    repository: str | None
    default_branch: str
    required_tags: list[str]
    pool_labels: dict[str, str]
    quarantine_mode: QuarantineMode
    configuration: Configuration
    triggers: Triggers = Triggers()
    scheduled_since: datetime = UNSTAMPED
    """Time after which the time tables start builds: when the triggers were last changed, or when the job was last
    enabled, whichever is later.
    """
    managed: bool = False
    deleted: bool = False


def evolve(state: Job | None, event: Event) -> Job | None:
    match event:
        case JobCreated():
            return copy_fields(Job, event, enabled=True, configuration=Configuration())
        case JobUpdated() if state is not None:
            since = event.at if event.enabled else state.scheduled_since
            return msgspec.structs.replace(state, **changes_of(event), scheduled_since=since)
        case JobConfigured() if state is not None:
            return msgspec.structs.replace(state, configuration=event.configuration)
        case JobTriggersChanged() if state is not None:
            return msgspec.structs.replace(state, triggers=event.triggers, scheduled_since=event.at)
        case JobDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


JOB = Category[Job | None]("job", None, evolve)
EVENTS = (JobCreated, JobUpdated, JobConfigured, JobTriggersChanged, JobDeleted)
