"""Claims about a project: how often its builds pass, its flaky tests, and its recurring failures."""

from collections.abc import Iterator

from domain.assistant.answers import AnswerClaim
from domain.assistant.diagnosis_claims import end_sentence
from domain.assistant.evidence import ProjectFacts, case_ref, test_ref
from domain.phrases import count

MAX_NAMED = 3
NOTABLE_CHANGE = 0.05
"""Least change of the pass rate that a claim calls a rise or a fall."""


def find_pass_rate(passed: int, failed: int) -> float | None:
    """Returns the share of builds that passed; None without builds."""
    return passed / (passed + failed) if passed + failed else None


def describe_project(project: ProjectFacts) -> Iterator[AnswerClaim]:
    ref = (f"project:{project.id}",)
    rate = find_pass_rate(project.passed, project.failed)
    window = "today" if project.days == 1 else f"in the last {project.days} days"
    if rate is None:
        yield AnswerClaim(f"No build of the project passed or failed {window}.", ref)
    else:
        before = find_pass_rate(project.passed_before, project.failed_before)
        change = ""
        if before is not None and abs(rate - before) >= NOTABLE_CHANGE:
            change = f", {'up' if rate > before else 'down'} from {before:.0%} in the days before"
        yield AnswerClaim(
            f"{rate:.0%} of {count(project.passed + project.failed, 'build')} passed {window}{change}.", ref
        )
    if project.flaky_tests:
        named = ", ".join(f"{test.name} ({test.flake_rate:.0%})" for test in project.flaky_tests[:MAX_NAMED])
        yield AnswerClaim(
            f"The flakiest tests, with their flake rates: {named}.",
            tuple(case_ref(test) for test in project.flaky_tests[:MAX_NAMED]),
        )
    else:
        yield AnswerClaim(f"No test was flaky {window}.", ref)
    for pattern in project.patterns[:MAX_NAMED]:
        least = "At least " if pattern.is_cut else ""
        yield AnswerClaim(
            f"{least}{count(pattern.failures, 'failure')} like this: {end_sentence(pattern.message)}",
            (test_ref(pattern),),
        )
