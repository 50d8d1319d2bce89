"""State of the generated company, shared by the modules that generate its events."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from domain.core.events import Event
from domain.jobs import Configuration, JobConfigured, JobCreated
from domain.run_lines import OTHER_BRANCHES, line_number

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)

Commits = Iterator[Sequence[Event]]


@dataclass
class Job:
    job_id: int
    project_id: int
    weight: float
    """Size of the job's reports, relative to the mean of all jobs."""
    configuration: Configuration
    cases: list[int] = field(default_factory=list)
    commits: int = 0
    deleted: bool = False

    @property
    def ids(self) -> dict[str, Any]:
        return {"job_id": self.job_id, "project_id": self.project_id}


@dataclass
class Build:
    build_id: int
    job: Job
    commit: str
    branch: str = "main"
    attempt: int = 1
    reports: list[tuple[int, int]] = field(default_factory=list)
    """(First result id, number of results) of each report."""
    failures: list[int] = field(default_factory=list)
    """Ids of failed results."""

    @property
    def ids(self) -> dict[str, Any]:
        return {"build_id": self.build_id, **self.job.ids}

    @property
    def line(self) -> int:
        return line_number(self.job.job_id, {}) if self.branch == "main" else OTHER_BRANCHES


class World:
    def __init__(self, seed: int, first_id: int) -> None:
        self.rng = random.Random(seed)
        self.first_id = first_id
        self.ids: dict[str, Iterator[int]] = defaultdict(lambda: count(first_id))
        self.jobs: list[Job] = []
        self.nodes: list[int] = []
        self.people: list[int] = []
        self.pools: list[tuple[int, int]] = []
        """(Pool id, project id) of each pool."""
        self.sessions: list[tuple[str, int]] = []
        """(Session id, user id) of each open session."""
        self.issues: dict[int, int] = {}
        """Project id -> id of the project's known issue."""

    def new_job(self, project: int, weight: float) -> Sequence[Event]:
        number = next(self.ids["jobs"])
        configuration = Configuration(
            command=f"make test-{number}",
            setup=["python -m venv .venv", ".venv/bin/pip install -r requirements.txt"],
            env={"CI": "1", "AREA": f"area-{number}"},
            artifacts=["reports/*.xml", "logs/**"],
        )
        job = Job(number, project, weight, configuration)
        self.jobs.append(job)
        title = f"Job {number}"
        return [JobCreated(**job.ids, title=title), JobConfigured(**job.ids, configuration=configuration)]
