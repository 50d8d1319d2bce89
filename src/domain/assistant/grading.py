"""Grades answers by rules: whether an answer says what a case expects, and nothing that the case forbids.

A grade names every fault by a sentence, so that somebody who reads a failed evaluation need not compare texts.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from domain.assistant.answers import Answer, NextAction, Question
from domain.assistant.evidence import Evidence
from domain.test_health import Action, Assessment, Risk, Trend
from domain.triage import Classification

Choice = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
"""Alternative texts or references. An answer must contain at least one of them."""
MAX_GOT = 200
"""Largest number of characters of the given answer that a grade shows."""


class Grade(NamedTuple):
    expected: str
    """The right answer in a few words."""
    got: str
    """The given answer in a few words."""
    faults: tuple[str, ...]
    """Sentences that say what is wrong; empty for a right answer."""

    @property
    def passed(self) -> bool:
        return not self.faults


class ExpectedHealth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The right assessment of a test. An empty list, or None, accepts every value."""

    action: tuple[Action, ...]
    risk: tuple[Risk, ...] = ()
    trend: tuple[Trend, ...] = ()
    flaky: bool | None = None


def grade_health(assessment: Assessment, expected: ExpectedHealth) -> Grade:
    faults: list[str] = []
    _check(faults, "recommended action", assessment.recommended_action, expected.action)
    _check(faults, "risk", assessment.risk, expected.risk)
    _check(faults, "trend", assessment.trend, expected.trend)
    if expected.flaky is not None and assessment.is_flaky != expected.flaky:
        verdict = "flaky" if assessment.is_flaky else "not flaky"
        faults.append(f"The test is taken as {verdict} (probability {assessment.flaky_probability:.2f}).")
    wanted = [_join(expected.action)]
    if expected.risk:
        wanted.append(f"{_join(expected.risk)} risk")
    got = f"{assessment.recommended_action}, {assessment.risk} risk"
    return Grade(", ".join(wanted), got, tuple(faults))


class ExpectedAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The right answer to a question. An empty list, or None, accepts everything. Texts are compared without regard to
    upper and lower case.
    """

    classification: tuple[Classification, ...] = ()
    says: tuple[Choice, ...] = ()
    """Lists of alternative texts: the answer must contain at least one text of each list."""
    never: tuple[str, ...] = ()
    """Texts that the answer must not contain."""
    cites: tuple[Choice, ...] = ()
    """Lists of alternative references: the answer must cite at least one reference of each list. `test:*` stands for
    any result of a test.
    """
    cites_log: str = ""
    """Text that must be in a part of the log that the answer cites; empty if the answer need not cite the log."""
    next_step: tuple[NextAction | Literal["none"], ...] = ()
    affected_tests: int | None = None
    min_confidence: float = 0.0
    max_confidence: float = 1.0


def grade_answer(answer: Answer, evidence: Evidence, expected: ExpectedAnswer) -> Grade:
    """Returns the grade of an answer. An answer that cites a source which the evidence does not contain is always
    wrong.
    """
    text = f"{answer.root_cause}. {answer.text} {answer.suggested_fix}"
    faults = [f"It cites {ref}, which is not in the evidence." for ref in _find_unknown(answer, evidence)]
    if expected.classification and answer.classification not in expected.classification:
        faults.append(f"The class is {answer.classification or 'unknown'}, not {_join(expected.classification)}.")
    faults += [f"It does not say {_join(texts)}." for texts in expected.says if not _has_any(text, texts)]
    faults += [f"It says {words!r}, which is wrong." for words in expected.never if _has_any(text, (words,))]
    faults += [f"It does not cite {_join(refs)}." for refs in expected.cites if not _cites_any(answer, refs)]
    if expected.cites_log and not _cites_log(answer, evidence, expected.cites_log):
        faults.append(f"It does not cite the part of the log that says {expected.cites_log!r}.")
    _check(faults, "next step", answer.next_step.action if answer.next_step else "none", expected.next_step)
    if expected.affected_tests is not None and answer.affected_tests != expected.affected_tests:
        faults.append(f"It counts {answer.affected_tests} affected tests, not {expected.affected_tests}.")
    if not expected.min_confidence <= answer.confidence <= expected.max_confidence:
        faults.append(
            f"Its confidence is {answer.confidence:.2f}, not from {expected.min_confidence:.2f} to"
            f" {expected.max_confidence:.2f}."
        )
    return Grade(_describe(expected), _describe_answer(answer, evidence.question), tuple(faults))


def _find_unknown(answer: Answer, evidence: Evidence) -> list[str]:
    known = {source.ref for source in evidence.sources}
    return [ref for ref in answer.sources if ref not in known]


def _has_any(text: str, words: Sequence[str]) -> bool:
    return any(word.lower() in text.lower() for word in words)


def _cites_any(answer: Answer, refs: Sequence[str]) -> bool:
    kinds = {ref.partition(":")[0] for ref in answer.sources}
    return any(ref in answer.sources or (ref.endswith(":*") and ref.removesuffix(":*") in kinds) for ref in refs)


def _cites_log(answer: Answer, evidence: Evidence, text: str) -> bool:
    texts = {source.ref: source.text for source in evidence.sources if source.ref.startswith("log:")}
    return any(text in texts.get(ref, "") for ref in answer.sources)


def _describe(expected: ExpectedAnswer) -> str:
    kind = f"{_join(expected.classification)}: " if expected.classification else ""
    words = ", ".join(texts[0] for texts in expected.says)
    return f"{kind}{words}" if words else kind.removesuffix(": ") or "an answer with known sources"


def _describe_answer(answer: Answer, question: Question) -> str:
    if question.kind == "diagnosis":
        return f"{answer.classification or 'unknown'}: {answer.root_cause}"[:MAX_GOT]
    return answer.text[:MAX_GOT] or "nothing"


def _check(faults: list[str], what: str, value: str, accepted: Sequence[str]) -> None:
    if accepted and value not in accepted:
        faults.append(f"The {what} is {value}, not {_join(accepted)}.")


def _join(values: Sequence[str]) -> str:
    return " or ".join(values)
