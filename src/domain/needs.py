"""Needs of jobs. If job A needs job B, a change starts a build of A only after the builds of B for this change have
passed.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple, TypeVar

from domain.globs import MAX_STEPS, StepBudget
from domain.triggers import Evaluation, RepositoryChange, Triggers, evaluate

K = TypeVar("K", int, str)
MAX_STEPS_OF_CHANGE = 20 * MAX_STEPS
"""Largest total number of steps for comparing one change with the globs of several jobs. When the steps are used up,
all further globs count as matching. This starts no wrong build, since the command that starts a build compares the
globs of the build's job with the change again.
"""


class Candidate(NamedTuple):
    """An enabled job that a change may start."""

    evaluation: Evaluation
    """Whether the job's triggers match the change, and why."""
    needs: Sequence[int] = ()
    """Ids of the jobs that this job needs."""


class StartPlan(NamedTuple):
    """The jobs of a project that a change starts, by their ids."""

    at_once: Sequence[int]
    deferred: Mapping[int, list[int]]
    """Job id -> ids of the jobs that must have passed for the change before this job starts."""
    left_out: Mapping[int, str]
    """Job id -> why the change does not start the job, although the job's own triggers match."""
    superseding: frozenset[int]
    """Ids of the started jobs that end their queued builds of older changes."""


def evaluate_jobs(change: RepositoryChange, jobs: Mapping[int, tuple[Triggers, str]]) -> dict[int, Candidate]:
    """Returns job id -> candidate. `jobs` has the triggers and the repository path of each job."""
    candidates, left = dict[int, Candidate](), MAX_STEPS_OF_CHANGE
    for job_id, (triggers, repository) in jobs.items():
        allowed = min(left, MAX_STEPS)
        budget = StepBudget(allowed)
        candidates[job_id] = Candidate(evaluate(change, triggers, repository, budget), triggers.needs)
        left -= allowed - budget.left
    return candidates


def decide_starts(candidates: Mapping[int, Candidate]) -> dict[int, Evaluation]:
    """Returns for each candidate whether the change starts it, at once or after other jobs. The change starts a
    candidate if its own triggers match and if the change also starts all jobs that the candidate needs.
    """
    sorter = TopologicalSorter(
        {job_id: [need for need in candidate.needs if need in candidates] for job_id, candidate in candidates.items()}
    )
    with suppress(CycleError):  # commands refuse circles; jobs that need none of a circle are decided
        sorter.prepare()
    circle = Evaluation(False, "does not start: the jobs that it needs are a circle")
    decided = dict.fromkeys(candidates, circle)
    while ready := sorter.get_ready():
        decided |= {job_id: _decide(candidates[job_id], decided) for job_id in ready}
        sorter.done(*ready)
    return decided


def _decide(candidate: Candidate, decided: Mapping[int, Evaluation]) -> Evaluation:
    if not candidate.evaluation.starts or not candidate.needs:
        return candidate.evaluation
    for need in candidate.needs:
        if need not in decided:
            return Evaluation(False, f"does not start: it needs job {need}, which is disabled or deleted")
        if not decided[need].starts:
            why = decided[need].why.removeprefix("does not start: ")
            return Evaluation(False, f"does not start: it needs job {need}, which does not start either ({why})")
    verb = "has" if len(candidate.needs) == 1 else "have"
    return Evaluation(True, f"{candidate.evaluation.why}, once {list_jobs(candidate.needs)} {verb} passed")


def find_blocked(deferred: Mapping[int, Sequence[int]], refused: Iterable[int]) -> dict[int, str]:
    """Returns job id -> why the job can never start. `refused` are the ids of jobs that can have no build of the
    change. The result has the deferred jobs that need such a job, directly or through other jobs.
    """
    without_build, blocked = set(refused), dict[int, str]()
    found = True
    while found:
        found = False
        for job_id, needs in deferred.items():
            need = next((need for need in needs if need in without_build), None)
            if need is not None and job_id not in blocked:
                blocked[job_id] = f"It needs job {need}, which can have no build of this change."
                without_build.add(job_id)
                found = True
    return blocked


def find_circle(needs: Mapping[K, Iterable[K]]) -> list[K] | None:
    """Returns the jobs of a circle: each needs the next one, and the last equals the first. The list begins with the
    job with the lowest id or name. Returns None if there is no circle.
    """
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle: list[K] = error.args[1][:0:-1]
        first = circle.index(min(circle))
        return circle[first:] + circle[: first + 1]
    return None


def list_jobs(job_ids: Sequence[int]) -> str:
    """Returns the jobs in words: `job 5`, `jobs 5, 6 and 7`."""
    *others, last = map(str, job_ids)
    return f"jobs {', '.join(others)} and {last}" if others else f"job {last}"
