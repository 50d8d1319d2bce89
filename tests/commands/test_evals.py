"""Evaluations: requests, grades, and what two evaluations have in common."""

from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.evals import CompleteEval, FailEval, RecordGrades, RequestEval, StartEval
from domain import evals
from domain.core.events import Event
from domain.evals import (
    EVALUATION,
    ChangedCase,
    EvalCompleted,
    EvalFailed,
    EvalGraded,
    EvalRequested,
    EvalStarted,
    GradedCase,
    compare,
    compute_score,
)
from projections.evals import PROJECTION, EvalRow
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

REQUEST = RequestEval("eval-1", "health", "builtin", ("a", "b"))
REQUESTED = EvalRequested(eval_id="eval-1", suite="health", model="builtin", cases=["a", "b"])
STARTED = EvalStarted(eval_id="eval-1")
A, B = GradedCase("a", True, "x", "x"), GradedCase("b", False, "x", "y", ("It is y.",))
GRADED = EvalGraded(eval_id="eval-1", graded=[A, B])
COMPLETED = EvalCompleted(eval_id="eval-1", cases_passed=1, cases_failed=1)


def test_an_evaluation() -> None:
    given().when(REQUEST).then(REQUESTED)
    given(REQUESTED).when(StartEval("eval-1")).then(STARTED)
    given(REQUESTED, STARTED).when(RecordGrades("eval-1", (A, B))).then(GRADED)
    given(REQUESTED, STARTED, GRADED).when(CompleteEval("eval-1")).then(COMPLETED)


def test_a_case_is_graded_once() -> None:
    first = EvalGraded(eval_id="eval-1", graded=[A])
    later = RecordGrades("eval-1", (GradedCase("a", False, "", ""), B, GradedCase("c", True, "", "")))
    given(REQUESTED, STARTED, first).when(later).then(EvalGraded(eval_id="eval-1", graded=[B]))


def test_an_evaluation_is_complete_with_its_last_case() -> None:
    given(REQUESTED, STARTED, EvalGraded(eval_id="eval-1", graded=[A])).when(CompleteEval("eval-1")).then_nothing()


def test_an_evaluation_that_failed_gets_no_grades() -> None:
    failed = EvalFailed(eval_id="eval-1", error="No model.")
    given(REQUESTED, STARTED).when(FailEval("eval-1", "No model.")).then(failed)
    given(REQUESTED, STARTED, failed).when(RecordGrades("eval-1", (A,))).then_nothing()
    given(REQUESTED, STARTED, GRADED, COMPLETED).when(FailEval("eval-1", "No model.")).then_nothing()


def test_the_list_shows_how_far_it_is() -> None:
    rows = given(REQUESTED, STARTED, GRADED).when(PROJECTION)
    row = rows.get(EvalRow, "eval-1")
    assert row is not None
    assert (row.status, row.cases_total, row.cases_passed, row.cases_failed) == ("running", 2, 1, 1)


def test_regressions_count_cases_that_both_have() -> None:
    names = "abcd"
    baseline = [GradedCase(name, name in "ab", "", "") for name in names]
    current = [GradedCase(name, name in "bce", "", "") for name in "bcade"]
    found = compare(baseline, current)
    assert found.cases_compared == 4
    assert found.score_delta == 0.0
    assert found.regressions == [ChangedCase("a", "pass", "fail")]
    assert found.improvements == [ChangedCase("c", "fail", "pass")]


GRADES = st.lists(st.builds(GradedCase, st.sampled_from("abcdefgh"), st.booleans(), st.just(""), st.just("")))


@hypothesis.given(GRADES, GRADES)
def test_comparing_the_other_way_round_turns_regressions_into_improvements(
    one: list[GradedCase], other: list[GradedCase]
) -> None:
    baseline, current = ({grade.case: grade for grade in grades}.values() for grades in (one, other))
    forth, back = compare(baseline, current), compare(current, baseline)
    assert {case.case for case in forth.regressions} == {case.case for case in back.improvements}
    assert forth.score_delta == -back.score_delta
    assert forth.cases_compared == back.cases_compared
    assert compare(baseline, baseline).regressions == []


def test_score() -> None:
    assert (compute_score(89, 100), compute_score(0, 0), compute_score(2, 3)) == (0.89, 0.0, 0.6667)


@pytest.mark.parametrize("kind", [RequestEval, StartEval, RecordGrades, CompleteEval, FailEval])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*evals.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*evals.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(EVALUATION, history)
