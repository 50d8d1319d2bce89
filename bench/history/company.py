"""Generates the long history of a company, as the server would have written it.

The seed determines all events. The company has twelve projects with ten jobs each, forty nodes and sixty users. Forty
builds run at any moment, so their events interleave. In a hundred builds, on average:

- 96 run on nodes and 4 are external; 3 lose their agent and are queued again, 2 are moved to the top;
- 90 have reports, large and small (a tenth of the jobs has half of all results), in blocks of up to 1,000 rows;
  0.4 % of the results fail, with message and trace, 2.5 % are skipped; every tenth report has retried tests, every
  fiftieth replaces results of an earlier file; about a third of the failures match a known issue;
- 150 artifacts are stored; 5 builds get comments, 4 are pinned, 10 are triaged by users;
- 5 are deleted later, with their data keys. One job in forty is deleted as a whole.

Meanwhile users sign in and out, create tokens, change jobs, projects, pools and templates, and quarantine tests; nodes
connect, disconnect and run commands; a few projects, users and inactive webhooks are created and deleted. A thousand
events contain about a hundred builds. The history lacks the types of events to which the server's workers would react:
requests to deliver webhooks, tests that turned flaky, searches for known issues, new signing keys.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from bench.history.activity import Activity
from bench.history.reports import Reports
from bench.history.world import Build, Commits, World
from domain.artifacts import ArtifactDeleted, ArtifactStored, blob_key
from domain.builds import (
    BuildAssigned,
    BuildCommented,
    BuildDeleted,
    BuildFinished,
    BuildMovedToTop,
    BuildPinned,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    BuildUnpinned,
)
from domain.core.events import Event
from domain.known_issues import KnownIssueFailureAdded
from domain.triage import DefectLinked, KnownIssueLinked, ResolutionSet, ResultClassified

BUILDS_AT_ONCE = 40


class Company:
    """Generates commits. A commit is a list of events that the server would have appended together, without their
    metadata.
    """

    def __init__(self, events: int, results: int, seed: int, first_id: int) -> None:
        self.world = World(seed, first_id)
        self._events = events
        self._activity = Activity(self.world)
        self._reports = Reports(self.world, events, results)
        self._old: list[Build] = []
        self.written = self.erased = 0

    @property
    def results(self) -> int:
        return self._reports.results

    def commits(self) -> Commits:
        yield from self._count(self._activity.found_company())
        running: list[Commits] = []
        while self.written < self._events:
            while len(running) < BUILDS_AT_ONCE:
                running.append(self._build())
            if self.world.rng.random() < 0.12:
                yield from self._count(self._activity.generate(self.written / self._events))
            index = self.world.rng.randrange(len(running))
            commit = next(running[index], None)
            if commit is None:
                running[index] = running[-1]
                running.pop()
            else:
                yield from self._count([commit])

    def _count(self, commits: Iterable[Sequence[Event]]) -> Commits:
        for commit in commits:
            self.written += len(commit)
            yield commit

    def _build(self) -> Commits:
        rng = self.world.rng
        job = rng.choice(self.world.jobs)
        if rng.random() < 0.4:
            job.commits += 1
        commit = f"{job.job_id * 1_000_003 + job.commits:040x}"[::-1]
        branch = rng.choice(["main", "main", "main", f"feature/{job.commits}"])
        build = Build(next(self.world.ids["builds"]), job, commit, branch)
        external = rng.random() < 0.04
        yield [
            BuildQueued(
                **build.ids,
                configuration=job.configuration,
                branch=branch,
                commit_sha=build.commit,
                job_title=f"Job {job.job_id}",
                external=external,
                off_default_branch=branch != "main",
            )
        ]
        if rng.random() < 0.02:
            yield [BuildMovedToTop(**build.ids)]
        node = None
        if not external:
            node = rng.choice(self.world.nodes)
            yield [BuildAssigned(**build.ids, node_id=node, attempt=1)]
        yield [BuildStarted(**build.ids, node_id=node, attempt=1, commit_sha=build.commit)]
        if node is not None and rng.random() < 0.03:
            yield [BuildRequeued(**build.ids, node_id=node, attempt=1, reason="agent_lost")]
            node, build.attempt = rng.choice(self.world.nodes), 2
            yield [BuildAssigned(**build.ids, node_id=node, attempt=2)]
            yield [BuildStarted(**build.ids, node_id=node, attempt=2, commit_sha=build.commit)]
        artifacts = [self._artifact(build) for _ in range(rng.choice((0, 1, 2, 3)))]
        for artifact in artifacts:
            yield [artifact]
        if rng.random() < 0.9:
            yield self._reports.report(build, replacing=False, written=self.written)
            if rng.random() < 0.02:
                yield self._reports.report(build, replacing=True, written=self.written)
        failed = bool(build.failures) or rng.random() < 0.02
        yield [
            BuildFinished(
                **build.ids,
                status="failed" if failed else "passed",
                reason="tests_failed" if failed else None,
                exit_code=int(failed),
                log_lines=rng.randrange(50, 5_000),
                node_id=node,
            )
        ]
        yield from self._handle_finished(build, artifacts)

    def _handle_finished(self, build: Build, artifacts: list[ArtifactStored]) -> Commits:
        rng = self.world.rng
        if rng.random() < 0.05:
            for _ in range(rng.choice((1, 1, 2, 4))):
                text = "Looked at it: the lab's proxy was down between nine and ten, nothing of ours."
                comment = next(self.world.ids["comments"])
                author = rng.choice(self.world.people)
                yield [BuildCommented(**build.ids, comment_id=comment, text=text, author=author)]
        if rng.random() < 0.04:
            yield [BuildPinned(**build.ids)]
            if rng.random() < 0.5:
                yield [BuildUnpinned(**build.ids)]
        if rng.random() < 0.1:
            for result in build.failures[:3]:
                yield from self._triage(build, result)
        if artifacts and rng.random() < 0.02:
            artifact = artifacts[0]
            yield [ArtifactDeleted(**build.ids, artifact_id=artifact.artifact_id, blob=artifact.blob)]
        if rng.random() < 0.055:
            self._old.append(build)
        if len(self._old) > 30:
            # Some hundreds of builds have finished since the one that is deleted.
            old = self._old.pop(rng.randrange(20))
            if not old.job.deleted:
                self.erased += 1
                yield [BuildDeleted(**old.ids, results=old.reports, reason="retention")]

    def _triage(self, build: Build, result: int) -> Commits:
        by = self.world.rng.choice(self.world.people)
        ids: dict[str, Any] = {"result_id": result, **build.ids}
        yield [ResultClassified(**ids, classification="product_bug", set_by_kind="user", set_by=by)]
        if self.world.rng.random() < 0.6:
            yield [
                DefectLinked(**ids, defect_key=f"BUG-{result % 5_000}", defect_url="https://bugs.example", set_by=by)
            ]
        if self.world.rng.random() < 0.3:
            yield [ResolutionSet(**ids, resolution="fixed on main", set_by=by)]
        if self.world.rng.random() < 0.2:
            issue = self.world.issues[build.job.project_id]
            yield [
                KnownIssueLinked(**ids, known_issue_id=issue, classification="infra", set_by=by),
                KnownIssueFailureAdded(
                    known_issue_id=issue, project_id=build.job.project_id, result_id=result, signature=f"{result:032x}"
                ),
            ]

    def _artifact(self, build: Build) -> ArtifactStored:
        number = next(self.world.ids["artifacts"])
        return ArtifactStored(
            **build.ids,
            artifact_id=number,
            type="log",
            size_bytes=self.world.rng.randrange(1_000, 5_000_000),
            blob=blob_key(build.job.job_id, build.build_id, number),
            path=f"logs/part-{number}.log",
            content_type="text/plain",
            sha256=f"{number:064x}",
        )
