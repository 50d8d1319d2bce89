"""States of a project's jobs: for each job, its newest build that has ended. A job is red if this build failed or was
aborted. A job with a matrix is red if the newest build of any combination failed or was aborted.

A state contains the ids of jobs and builds, but no names. Answers are kept as long as the project, and must not show
the name of a job or branch after the job or the build was deleted.
"""

from collections.abc import Iterator, Sequence

import msgspec

from domain.assistant.answers import AnswerClaim
from domain.phrases import count

MAX_NAMED = 5
"""Largest number of jobs that a claim names, and of failed tests of each of them."""


class JobState(msgspec.Struct, frozen=True):
    job_id: int
    build_id: int
    """Id of the job's newest build that has ended. If newest builds of a matrix failed, the id of the one with the most
    failed tests.
    """
    status: str
    off_default_branch: bool = False
    """Whether the build is not on the default branch of the job. This is so if the job has no build there, or if
    somebody asked about another branch.
    """
    failed: int = 0
    """Number of the build's failed tests."""
    quarantined: int = 0
    tests: tuple[str, ...] = ()
    """Names of some failed tests that count."""


def is_red(status: str) -> bool:
    """Returns whether a job is red, given the status of its newest build."""
    return status in ("failed", "aborted")


def sort_states(states: Sequence[JobState]) -> list[JobState]:
    """Returns the states in this order: red jobs, jobs in which quarantined tests failed, other jobs. Within each
    group, the job with the newest build comes first.
    """
    return sorted(states, key=lambda state: (not is_red(state.status), not state.quarantined, -state.build_id))


def describe_jobs(states: Sequence[JobState]) -> Iterator[AnswerClaim]:
    """Yields a claim that names the red jobs and their builds, or says that no job is red."""
    red = [state for state in sort_states(states) if is_red(state.status)]
    if not states:
        return
    if not red:
        text = f"The newest build of each of {len(states):,} jobs passed."
        if len(states) == 1:
            text = "The newest build of the only job passed."
        yield AnswerClaim(text, tuple(f"build:{state.build_id}" for state in states[:MAX_NAMED]))
        return
    if len(states) == 1:
        yield AnswerClaim(f"The only job is red: {_describe(red[0])}.", (f"build:{red[0].build_id}",))
        return
    verb = "is" if len(red) == 1 else "are"
    more = f" and {count(len(red) - MAX_NAMED, 'more job')}" if len(red) > MAX_NAMED else ""
    yield AnswerClaim(
        f"{len(red):,} of {count(len(states), 'job')} {verb} red by the newest build of each:"
        f" {', '.join(map(_describe, red[:MAX_NAMED]))}{more}.",
        tuple(f"build:{state.build_id}" for state in red[:MAX_NAMED]),
    )


def list_tests_of_jobs(states: Sequence[JobState], but: int) -> Iterator[AnswerClaim]:
    """Yields a claim for each red job with its failed tests. Leaves out the job whose newest build is `but`."""
    for state in [one for one in sort_states(states) if is_red(one.status) and one.build_id != but][:MAX_NAMED]:
        named, hidden = state.tests[:MAX_NAMED], state.failed - len(state.tests[:MAX_NAMED])
        if named:
            more = f" and {hidden:,} more" if hidden > 0 else ""
            yield AnswerClaim(
                f"In build {state.build_id} of job {state.job_id} failed: {', '.join(named)}{more}.",
                (f"build:{state.build_id}",),
            )


def describe_state(state: JobState) -> str:
    """Returns sentences about a job and its newest build, as the text of a source."""
    on = ", not on its default branch" if state.off_default_branch else ""
    tests = f": {', '.join(state.tests)}" if state.tests else ""
    return (
        f"Build {state.build_id} is the newest of job {state.job_id}{on}. It {state.status},"
        f" {state.failed:,} tests failed{tests}."
    )


def _describe(state: JobState) -> str:
    on = ", not on its default branch" if state.off_default_branch else ""
    tests = count(state.failed, "failed test") if state.failed else state.status
    return f"job {state.job_id} (build {state.build_id}{on}, {tests})"
