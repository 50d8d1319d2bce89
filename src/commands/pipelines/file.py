"""The format of `.testhide.yml`, defined by types. The published JSON Schema and the messages about mistakes are made
from these types.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from commands.configurations import (
    Branch,
    BuildOptions,
    Command,
    Glob,
    Label,
    Minutes,
    Parallel,
    Repository,
    SetupLine,
    Tags,
    Value,
)
from commands.trigger_values import MAX_NEEDS, NewTriggers
from domain.jobs import DEFAULT_TIMEOUT_MINUTES, Configuration, QuarantineMode
from domain.matrix import Matrix

MAX_JOBS = 200

PartName = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^\S(.*\S)?\Z", description="name")]
VariableName = Annotated[str, Meta(min_length=1, max_length=200, description="name of a variable")]
Globs = Annotated[list[Glob], Meta(max_length=100)]


class FileTemplate(BuildOptions, forbid_unknown_fields=True, kw_only=True):
    """Parts that several jobs of the file share."""

    command: Command | None = None
    """Shell command to run. A command of several lines ends at the first line that fails (`sh -e`), like `setup`."""
    setup: Annotated[list[SetupLine], Meta(max_length=100)] = []
    """Shell commands that prepare the build. They run before `command`."""
    env: dict[VariableName, Value] = {}
    """Environment variables. A job also has the variables of its template; if both set a variable, the job's value
    wins.
    """
    secrets: Annotated[list[VariableName], Meta(max_length=500)] = []
    """Names of the secrets that the job needs. Their values are stored on the server only."""
    artifacts: Globs = []
    """Globs of the files to keep."""

    @property
    def configuration(self) -> Configuration:
        """The configuration that these fields describe, without secrets."""
        return Configuration(
            command=self.command or "",
            setup=self.setup,
            env=self.env,
            artifacts=self.artifacts,
            shell=self.shell,
            checkout=self.checkout,
            caches=self.caches,
        )


class FileJob(FileTemplate, forbid_unknown_fields=True, kw_only=True):
    """A job. Its name is its key in `jobs`."""

    template: PartName | None = None
    """Name of a template of this file. It provides the parts that the job leaves out."""
    pool: PartName | None = None
    """Name of a node pool of the project."""
    pool_labels: dict[Label, Label] = {}
    """Labels. Builds run in pools that have all of these labels. An alternative to `pool`."""
    required_tags: Tags = []
    """Tags. Builds run on nodes that have all of these tags."""
    timeout_minutes: Minutes = DEFAULT_TIMEOUT_MINUTES
    """Minutes after which a build is stopped."""
    max_parallel: Parallel = 1
    """Largest number of builds of the job that run at the same time."""
    repository: Repository | None = None
    """Address of the repository. By default, the repository of the project's SCM endpoint."""
    default_branch: Branch = "main"
    """Branch of builds that are started without a branch."""
    quarantine_mode: QuarantineMode = "run"
    """Whether builds run or skip quarantined tests."""
    triggers: NewTriggers = msgspec.field(default_factory=NewTriggers)
    """Changes of the repository, and times, that start builds."""
    needs: Annotated[list[PartName], Meta(max_length=MAX_NEEDS)] = []
    """Names of other jobs of the file that must pass for a change before the change starts this job. If the change does
    not start all of them, it does not start this job either. Without `branches`, `tags` and `pull_requests` in
    `triggers`, every change that starts all of them starts this job.
    """
    matrix: Matrix | None = None
    """Matrix of values. Each start of the job queues one build for each combination of values."""

    @property
    def configuration(self) -> Configuration:
        """The configuration that these fields describe, without secrets and without the parts of the template."""
        return msgspec.structs.replace(super().configuration, matrix=self.matrix)


class PipelineFile(msgspec.Struct, forbid_unknown_fields=True):
    """Pipelines of a project, as `.testhide.yml` in the root of its repository describes them."""

    jobs: Annotated[dict[PartName, FileJob], Meta(min_length=1, max_length=MAX_JOBS)]
    """Jobs by name."""
    templates: Annotated[dict[PartName, FileTemplate], Meta(max_length=MAX_JOBS)] = {}
    """Parts that several jobs share, by name. Only jobs of this file can use them."""
