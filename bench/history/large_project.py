"""Generates the history of one project with many tests, as the server would have written it.

All jobs have equally many tests, and each build of a job runs all of them. The outcomes are those of
`bench.history.reports`, so nearly every test has failed at some time.
"""

from bench.history.reports import Reports
from bench.history.world import Build, Commits, Job, World
from domain.builds import BuildFinished, BuildQueued, BuildStarted
from domain.claims import ClaimTaken
from domain.projects import ProjectCreated

COMMITS_A_BUILD = 4


class EqualReports(Reports):
    """Reports that all have `size` results."""

    size = 0

    def choose_size(self, job: Job, written: int) -> int:
        return self.size


class LargeProject:
    """Generates commits: lists of events that the server would have appended together, without their metadata."""

    def __init__(self, *, jobs: int, cases: int, builds: int, seed: int, first_id: int) -> None:
        """`cases` is the number of tests of each job, and `builds` that of all builds."""
        self.world = World(seed, first_id)
        self.builds = builds
        self._jobs = jobs
        self._reports = EqualReports(self.world, 0, 0)
        self._reports.size = cases
        self.erased = 0

    @property
    def results(self) -> int:
        return self._reports.results

    @property
    def project_id(self) -> int:
        return self.world.jobs[0].project_id

    def commits(self) -> Commits:
        project = next(self.world.ids["projects"])
        self.world.issues[project] = next(self.world.ids["known_issues"])
        yield [
            ClaimTaken(claim=f"slug-{project:032x}", owner=f"project-{project}"),
            ProjectCreated(
                project_id=project,
                title="Large project",
                slug="large-project",
                sealed_webhook_secret=self.world.rng.randbytes(60),
            ),
        ]
        for _ in range(self._jobs):
            yield self.world.new_job(project, 1.0)
        for number in range(self.builds):
            yield from self._build(self.world.jobs[number % self._jobs])

    def _build(self, job: Job) -> Commits:
        """Yields COMMITS_A_BUILD commits."""
        job.commits += 1
        build = Build(next(self.world.ids["builds"]), job, f"{job.job_id * 1_000_003 + job.commits:040x}"[::-1])
        yield [
            BuildQueued(
                **build.ids,
                configuration=job.configuration,
                branch="main",
                commit_sha=build.commit,
                job_title=f"Job {job.job_id}",
                external=True,
            )
        ]
        yield [BuildStarted(**build.ids, node_id=None, attempt=1, commit_sha=build.commit)]
        yield self._reports.report(build, replacing=False, written=0)
        if build.failures:
            yield [BuildFinished(**build.ids, status="failed", reason="tests_failed")]
        else:
            yield [BuildFinished(**build.ids, status="passed")]
