"""The cases of evaluations, which ship with the server as JSON files below `cases`, and the choice of the cases that an
evaluation runs.

A file is a list of cases of one suite. docs/evals.md describes the format.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Literal

import msgspec

from commands.evaluation.facts import BUILD_ID, PROJECT_ID, CaseFacts, make_evidence
from domain.assistant import builtin_answers
from domain.assistant.answers import Answer, BuildChoice, Question
from domain.assistant.evidence import Evidence
from domain.assistant.grading import ExpectedAnswer, ExpectedHealth, Grade, grade_answer, grade_health
from domain.evals import Suite, SuiteChoice
from domain.language_model import BUILTIN
from domain.test_health import BROKEN_BUILD, FAILED, RETRIED, SAME_COMMIT, assess

Split = Literal["tune", "report"]
"""Use of a case. Rules may be tuned to the cases of `tune`. The cases of `report` are held out, so that they show how
good the rules are with failures that nobody looked at.
"""
SEED = "testhide"
SECONDS_WITHOUT_MODEL = 0.02
"""Estimated seconds that a case takes without a language model."""
SECONDS_WITH_MODEL = 4.0
"""Estimated seconds that a case takes with a language model."""


class HealthCase(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="suite", tag="health"
):
    """A case about the health of a test: the history of its runs, and the right assessment of the test."""

    name: str
    split: Split
    origin: str
    """Where the case comes from: the tool that was run, or why somebody wrote it."""
    runs: str
    """The runs of the test, the oldest first, in the notation of `read_runs`, such as `P*40 F =R P`."""
    expected: ExpectedHealth

    def grade(self) -> Grade:
        return grade_health(assess(read_runs(self.runs)), self.expected)


class QuestionCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="suite"):
    """A question about a build, what is known about the build, and the right answer."""

    name: str
    split: Split
    origin: str
    """Where the case comes from: the tool that was run, or why somebody wrote it."""
    facts: CaseFacts = CaseFacts()
    expected: ExpectedAnswer

    @property
    def question(self) -> Question:
        raise NotImplementedError

    def make_evidence(self) -> Evidence:
        return make_evidence(self.question, self.facts)

    def grade(self) -> Grade:
        """Grades the answer that the server gives without a language model."""
        evidence = self.make_evidence()
        return self.grade_answer(self.answer_by_rules(evidence), evidence)

    def answer_by_rules(self, evidence: Evidence) -> Answer:
        return builtin_answers.answer(evidence)

    def grade_answer(self, answer: Answer, evidence: Evidence) -> Grade:
        return grade_answer(answer, evidence, self.expected)


class DiagnosisCase(QuestionCase, frozen=True, tag="diagnosis"):
    @property
    def question(self) -> Question:
        return Question("diagnosis", PROJECT_ID, BUILD_ID)


class ChatCase(QuestionCase, frozen=True, tag="chat"):
    message: str
    earlier: tuple[tuple[str, str], ...] = ()
    """Earlier messages of the conversation, the oldest first, each with its reply."""
    build_choice: BuildChoice = ""

    @property
    def question(self) -> Question:
        build_id = BUILD_ID if self.facts.build is not None else None
        return Question(
            "chat", PROJECT_ID, build_id, message=self.message, earlier=self.earlier, build_choice=self.build_choice
        )


Case = HealthCase | DiagnosisCase | ChatCase
_RUNS = re.compile(r"(=?)(!?)([PFR])(?:\*(\d{1,5}))?")
_FLAGS = {"P": 0, "F": FAILED, "R": RETRIED}


def read_runs(text: str) -> bytes:
    """Returns a byte of flags for each run of a history such as `P*40 F =R P`. P is a run that passed, F one that
    failed, and R one that passed on a retry. `=` before a letter means that the run before had the same commit, and `!`
    that most tests of the build failed. `*40` stands for 40 such runs. Raises ValueError for any other text.
    """
    runs = bytearray()
    for word in text.split():
        match = _RUNS.fullmatch(word)
        if match is None:
            raise ValueError(f"{word!r} is no run")
        same, broken, letter, count = match.groups()
        flags = _FLAGS[letter] | (SAME_COMMIT if same else 0) | (BROKEN_BUILD if broken else 0)
        runs += bytes([flags]) * int(count or 1)
    return bytes(runs)


@cache
def load_cases() -> Mapping[str, Case]:
    """Returns all cases by their names."""
    decoder = msgspec.json.Decoder(list[Case])
    folders = sorted(files("commands.evaluation").joinpath("cases").iterdir(), key=lambda folder: folder.name)
    paths = chain.from_iterable(sorted(folder.iterdir(), key=lambda path: path.name) for folder in folders)
    cases = [case for path in paths for case in decoder.decode(path.read_bytes())]
    assert len({case.name for case in cases}) == len(cases), "two cases have one name"
    return {case.name: case for case in cases}


def suite_of(case: Case) -> Suite:
    suite: Suite = case.__struct_config__.tag  # type: ignore[assignment]
    return suite


def select_cases(cases: Mapping[str, Case], suite: SuiteChoice, sample_size: int | None = None) -> Sequence[str]:
    """Returns the names of the cases of a suite in a mixed order; with `sample_size`, only the first `sample_size`
    names. The order is always the same, so that samples of one size have the same cases.
    """
    names = [name for name, case in cases.items() if suite in ("full", suite_of(case))]
    return sorted(names, key=_rank)[:sample_size]


def _rank(name: str) -> bytes:
    return hashlib.sha256(f"{SEED}/{name}".encode()).digest()


def estimate_seconds(count: int, model: str) -> int:
    return max(1, math.ceil(count * (SECONDS_WITHOUT_MODEL if model == BUILTIN else SECONDS_WITH_MODEL)))
