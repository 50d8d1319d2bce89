"""The cases of evaluations that ship with the server, and the choice of some of them."""

import pytest

from commands.evaluation.cases import Case, estimate_seconds, load_cases, read_runs, select_cases, suite_of
from domain.evals import compute_score
from domain.language_model import BUILTIN
from domain.test_health import BROKEN_BUILD, FAILED, RETRIED, SAME_COMMIT

CASES = load_cases()


def test_runs_are_read() -> None:
    assert read_runs("P*2 F =R =!F !P") == bytes(
        [0, 0, FAILED, RETRIED | SAME_COMMIT, FAILED | SAME_COMMIT | BROKEN_BUILD, BROKEN_BUILD]
    )
    for wrong in ("X", "P*", "=", "PF", "!=F"):
        with pytest.raises(ValueError, match="is no run"):
            read_runs(wrong)


def test_half_of_the_cases_is_held_out() -> None:
    for suite, least in (("diagnosis", 80), ("chat", 40), ("health", 30)):
        splits = [case.split for case in CASES.values() if suite_of(case) == suite]
        assert len(splits) >= least
        assert abs(splits.count("tune") - splits.count("report")) <= 1


@pytest.mark.parametrize(("suite", "least"), [("diagnosis", 0.8), ("chat", 0.9), ("health", 0.9)])
def test_the_rules_answer_most_of_the_cases_that_are_held_out(suite: str, least: float) -> None:
    held_out = [case for case in CASES.values() if suite_of(case) == suite and case.split == "report"]
    passed = sum(case.grade().passed for case in held_out)
    assert compute_score(passed, len(held_out)) >= least


def test_a_sample_is_the_beginning_of_the_suite() -> None:
    everything = select_cases(CASES, "health")
    assert everything != sorted(everything)
    assert [select_cases(CASES, "health", size) for size in (1, 7, 1_000)] == [
        everything[:1],
        everything[:7],
        everything,
    ]
    assert set(select_cases(CASES, "full")) == CASES.keys()


def test_an_estimate_is_at_least_a_second() -> None:
    assert (estimate_seconds(1, BUILTIN), estimate_seconds(150, BUILTIN), estimate_seconds(50, "m")) == (1, 3, 200)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_every_case_can_be_graded(case: Case) -> None:
    assert case.name.startswith(f"{suite_of(case)}_".replace("diagnosis_", "diagnose_"))
    assert case.origin.endswith(".")
    grade = case.grade()
    assert grade.expected
    assert grade.got
