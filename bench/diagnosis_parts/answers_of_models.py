"""Compares the answers that a language model words with those of the rules alone, on the same cases."""

import asyncio
import sys
import time
from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple

from bench.support.report import Report, percentile
from commands.evaluation.cases import DiagnosisCase, load_cases, select_cases
from domain.assistant.answers import Answer
from domain.assistant.evidence import Evidence
from domain.assistant.grading import ExpectedAnswer, grade_answer
from domain.assistant.model_answers import UnusableAnswer, check_answer
from domain.assistant.prompts import build_prompt
from integrations.llm.openai import OpenAiModel
from integrations.llm_ports import ModelRequest, ModelUnavailable

SURE = 0.7
"""Confidence from which on a wrong class is a wrong certainty."""


class Graded(NamedTuple):
    class_is_right: bool
    evidence_is_right: bool
    all_is_right: bool
    """Whether the answer says and does all that the case expects, and nothing that the case forbids."""
    confidence: float


def grade(case: DiagnosisCase, found: Answer, evidence: Evidence) -> Graded:
    expected = case.expected
    by_class = ExpectedAnswer(classification=expected.classification)
    by_evidence = ExpectedAnswer(cites=expected.cites, cites_log=expected.cites_log)
    return Graded(
        grade_answer(found, evidence, by_class).passed,
        grade_answer(found, evidence, by_evidence).passed,
        grade_answer(found, evidence, expected).passed,
        found.confidence,
    )


def percent(values: Sequence[bool]) -> float:
    return mean(values or [False]) * 100


def count_classes(graded: Sequence[Graded]) -> float:
    return percent([one.class_is_right for one in graded])


def count_evidence(graded: Sequence[Graded]) -> float:
    return percent([one.evidence_is_right for one in graded])


def count_right(graded: Sequence[Graded]) -> float:
    return percent([one.all_is_right for one in graded])


def count_certain(graded: Sequence[Graded]) -> float:
    """Returns the percentage of cases with a wrong class that is said to be certain."""
    return percent([not one.class_is_right and one.confidence >= SURE for one in graded])


FIGURES = (("right class", count_classes), ("right evidence", count_evidence), ("right in all", count_right))


class Compared(NamedTuple):
    """A case, answered by the rules and by the model. Where the model gave no usable answer, users get the rules'."""

    rules: Graded
    model: Graded
    fell_back: str
    has_own_claims: bool
    """Whether the answer has a claim of the model that the rules do not word the same."""
    seconds: float
    """Time that the model took."""


def run(report: Report, url: str, name: str, sample: int, timeout_s: float) -> None:
    """Asks the model about a sample of the cases: the same cases for samples of one size."""
    compared = asyncio.run(_compare(url, name, sample, timeout_s))
    by_model = [one for one in compared if not one.fell_back]
    report.add("cases asked", len(compared), "cases")
    report.add("answered by the model", len(by_model) / len(compared) * 100, "%")
    report.add("with claims of its own", percent([one.has_own_claims for one in by_model]), "%")
    seconds = [one.seconds for one in compared]
    report.add("seconds for an answer: p50", percentile(seconds, 50), "s")
    report.add("seconds for an answer: longest", max(seconds), "s")
    for subject, cases in (("", compared), (", where the model answered", by_model)):
        rules, model = [one.rules for one in cases], [one.model for one in cases]
        for figure, measure in FIGURES:
            report.add(f"{figure}{subject}: rules", measure(rules), "%")
            report.add(f"{figure}{subject}: model", measure(model), "%", at_least=measure(rules))
        report.add(f"wrong certainty{subject}: rules", count_certain(rules), "%")
        report.add(f"wrong certainty{subject}: model", count_certain(model), "%", at_most=count_certain(rules))


async def _compare(url: str, name: str, sample: int, timeout_s: float) -> list[Compared]:
    cases = load_cases()
    model = OpenAiModel(url, "", timeout_s)
    compared = []
    try:
        for number, case_name in enumerate(names := select_cases(cases, "diagnosis", sample), 1):
            case = cases[case_name]
            assert isinstance(case, DiagnosisCase)
            evidence = case.make_evidence()
            rules = case.answer_by_rules(evidence)
            begun = time.monotonic()
            worded, fell_back = await _ask(model, name, evidence, rules)
            seconds = time.monotonic() - begun
            has_own = not set(worded.claims) <= set(rules.claims)
            graded = grade(case, rules, evidence), grade(case, worded, evidence)
            compared.append(Compared(*graded, fell_back, has_own, seconds))
            outcome = fell_back or worded.text
            print(f"{number} of {len(names)}, {case_name}, {seconds:.0f} s: {outcome}", file=sys.stderr, flush=True)
    finally:
        await model.close()
    return compared


async def _ask(model: OpenAiModel, name: str, evidence: Evidence, rules: Answer) -> tuple[Answer, str]:
    """Returns what users are shown, and why it is the answer of the rules; empty if it is the model's."""
    prompt = build_prompt(evidence, rules)
    request = ModelRequest(name, prompt.instructions, prompt.data, prompt.schema, prompt.answer_tokens)
    try:
        reply = await model.complete(request)
        return check_answer(reply.text, prompt, evidence, rules), ""
    except (ModelUnavailable, UnusableAnswer) as failed:
        return rules, str(failed)
