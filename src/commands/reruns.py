"""Running a finished build once more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from domain.builds import BUILD, AnyBuild, BuildQueued, Deleted, Finished, status_of
from domain.core.errors import Conflict, NotFound
from domain.core.events import AnyStream, Event
from domain.jobs import JOB, Job
from domain.pools import POOL, Pool
from domain.templates import TEMPLATE, Template, overlaid


@dataclass(frozen=True)
class RestartBuild(Command):
    """The same commit and configuration again; with `test_ids` only these tests."""

    build_id: int
    restarted_from: int
    job_id: int
    test_ids: tuple[str, ...] | None = None

    def reads(self) -> Sequence[AnyStream]:
        return BUILD.at(self.build_id), BUILD.at(self.restarted_from), JOB.at(self.job_id)

    def then_reads(self, build: AnyBuild | None, source: AnyBuild | None, job: Job | None) -> Sequence[AnyStream]:
        """The pool that the build wants and the template that an external build's job has, where there are any."""
        if source is None or job is None:
            return ()
        queued, template_id = source.queued, job.pipeline_template_id
        pool = () if queued.node_pool_id is None else (POOL.at(queued.node_pool_id),)
        template = () if template_id is None or not queued.external else (TEMPLATE.at(template_id),)
        return (*pool, *template)

    def decide(
        self, build: AnyBuild | None, source: AnyBuild | None, job: Job | None, *named: Pool | Template | None
    ) -> Iterable[Event]:
        if build is not None:
            return
        if source is None or isinstance(source, Deleted) or job is None or job.deleted:
            raise NotFound(f"There is no build {self.restarted_from}.")
        if not isinstance(source, Finished):
            raise Conflict(f"Build {self.restarted_from} is {status_of(source)}; only a finished one can be restarted.")
        if not job.enabled:
            raise Conflict(f"Job {job.job_id} is disabled; enable it by PUT /api/v3/jobs/{job.job_id}.")
        if self.test_ids == ():
            raise Conflict(f"Build {self.restarted_from} has no such tests, so there is nothing to run again.")
        queued = source.queued
        if any(isinstance(state, Pool) and state.deleted for state in named):
            raise Conflict(
                f"Node pool {queued.node_pool_id} of build {self.restarted_from} was deleted;"
                " start a new build by POST /api/v3/builds/start."
            )
        configuration = queued.configuration
        if queued.external:
            # It ran elsewhere; here its job's own command runs.
            configuration = job.configuration
            for state in named:
                if isinstance(state, Template) and not state.deleted:
                    configuration = overlaid(state.configuration, configuration)
        if not configuration.command:
            raise Conflict(
                f"Job {job.job_id} has no command to run; set one by PUT /api/v3/jobs/{job.job_id}/configuration."
            )
        yield BuildQueued(
            build_id=self.build_id,
            job_id=queued.job_id,
            project_id=queued.project_id,
            configuration=configuration,
            branch=queued.branch,
            commit_sha=source.commit_sha or queued.commit_sha,
            repository=queued.repository,
            priority=queued.priority,
            timeout_minutes=queued.timeout_minutes,
            node_pool_id=queued.node_pool_id,
            job_title=queued.job_title,
            restarted_from=self.restarted_from,
            test_ids=None if self.test_ids is None else list(self.test_ids),
            required_tags=queued.required_tags,
            pool_labels=queued.pool_labels,
            quarantine_mode=queued.quarantine_mode,
        )
