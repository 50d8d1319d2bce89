"""States of a project's jobs: for each job, its newest build that has ended. A job is red if that build failed; of a
matrix, if any of its newest builds did.

Jobs and builds have their ids only. The answers are kept with the project, and must not say the name of a job or branch
after the job or the build was deleted.
"""

from collections.abc import Iterator, Sequence

import msgspec

from domain.assistant.answers import AnswerClaim
from domain.phrases import count

MAX_NAMED = 5
"""Number of jobs that a claim names, and of tests of each."""


class JobState(msgspec.Struct, frozen=True):
    job_id: int
    build_id: int
    """The newest build that has ended; of a matrix, the one with the most failed tests if any failed."""
    status: str
    off_default_branch: bool = False
    """Whether the build is on another branch than the default one of the job, since the job has no build there, or
    since another branch was asked about.
    """
    failed: int = 0
    """Number of the build's failed tests."""
    quarantined: int = 0
    tests: tuple[str, ...] = ()
    """Names of some failed tests that count."""


def is_red(status: str) -> bool:
    """Returns whether a job is red whose newest build has this status."""
    return status in ("failed", "aborted")


def sort_states(states: Sequence[JobState]) -> list[JobState]:
    """Returns the red jobs first, then those in which quarantined tests failed, and those with the newest build first
    among these.
    """
    return sorted(states, key=lambda state: (not is_red(state.status), not state.quarantined, -state.build_id))


def describe_jobs(states: Sequence[JobState]) -> Iterator[AnswerClaim]:
    """Says which jobs are red, and by which builds."""
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
    """Says which tests failed in the red jobs other than that of the build `but`."""
    for state in [one for one in sort_states(states) if is_red(one.status) and one.build_id != but][:MAX_NAMED]:
        named, hidden = state.tests[:MAX_NAMED], state.failed - len(state.tests[:MAX_NAMED])
        if named:
            more = f" and {hidden:,} more" if hidden > 0 else ""
            yield AnswerClaim(
                f"In build {state.build_id} of job {state.job_id} failed: {', '.join(named)}{more}.",
                (f"build:{state.build_id}",),
            )


def describe_state(state: JobState) -> str:
    """Returns what a source says of a job."""
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
