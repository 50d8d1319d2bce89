"""Measures how often diagnoses are right, on the cases that ship with the server, and how fast diagnoses, summaries and
insights are over a history of 1,000,000 results: `./dev bench diagnosis [--part NAME]`.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from statistics import mean
from typing import NamedTuple

import psycopg

from bench.rebuild import built_read_models, fill_log
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from commands.evaluation.cases import DiagnosisCase, load_cases
from domain.assistant.builtin_answers import answer
from domain.assistant.grading import ExpectedAnswer, grade_answer
from projections.builds import BuildRow
from projections.results import BlockRow

EVENTS, RESULTS = 1_000_000, 1_000_000
REQUESTS = 200
WITHIN_MS = 300
"""Milliseconds in which 99 of 100 diagnoses are answered."""
RIGHT_CLASSES, RIGHT_EVIDENCE = 80, 75
"""Percent of the held-out cases that are right at least."""
SURE = 0.7
"""Confidence at which the cases are parted, to see whether it says how often a diagnosis is right."""


def measure_quality(report: Report) -> None:
    """Measures the two halves of the cases: the rules were tuned to one, and nobody looked at the other."""
    for split, bounded in (("tune", False), ("report", True)):
        cases = [case for case in load_cases().values() if isinstance(case, DiagnosisCase) and case.split == split]
        graded = [grade(case) for case in cases]
        report.add(f"cases ({split})", len(cases), "cases")
        classes = [one.class_is_right for one in graded]
        bound = RIGHT_CLASSES if bounded else None
        report.add(f"right class ({split})", share(classes) * 100, "%", at_least=bound)
        bound = RIGHT_EVIDENCE if bounded else None
        report.add(
            f"right evidence ({split})", share([one.evidence_is_right for one in graded]) * 100, "%", at_least=bound
        )
        for name, sure in (("from 0.7", True), ("below 0.7", False)):
            chosen = [one for one in graded if (one.confidence >= SURE) == sure]
            report.add(
                f"right class, confidence {name} ({split})", share([o.class_is_right for o in chosen]) * 100, "%"
            )
            report.add(f"mean confidence {name} ({split})", mean([o.confidence for o in chosen] or [0]) * 100, "%")


class Graded(NamedTuple):
    class_is_right: bool
    evidence_is_right: bool
    confidence: float


def grade(case: DiagnosisCase) -> Graded:
    evidence, expected = case.make_evidence(), case.expected
    found = answer(evidence)
    by_class = ExpectedAnswer(classification=expected.classification)
    by_evidence = ExpectedAnswer(cites=expected.cites, cites_log=expected.cites_log)
    return Graded(
        grade_answer(found, evidence, by_class).passed,
        grade_answer(found, evidence, by_evidence).passed,
        found.confidence,
    )


def share(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))


def measure(name: str, ask: Callable[[], object], report: Report) -> None:
    seconds = []
    for _ in range(REQUESTS):
        begun = time.monotonic()
        ask()
        seconds.append(time.monotonic() - begun)
    report.add(f"{name}: p50", percentile(seconds, 50) * 1000, "ms")
    report.add(f"{name}: p99", percentile(seconds, 99) * 1000, "ms", at_most=WITHIN_MS)


def measure_speed(stack: Stack, report: Report) -> None:
    with psycopg.connect(stack.settings.database_url) as connection:
        failed = [
            build
            for (build,) in connection.execute(f"SELECT id FROM {BuildRow.table} WHERE status = 'failed'".encode())
        ]
        projects = [
            project for (project,) in connection.execute(f"SELECT DISTINCT project_id FROM {BuildRow.table}".encode())
        ]
        ((results,),) = connection.execute(f"SELECT sum(results) FROM {BlockRow.table}".encode()).fetchall()
    report.add("results", int(results), "results")
    report.add("failed builds", len(failed), "builds")
    rng = random.Random(1)
    measure("diagnosis", lambda: stack.call("POST", "/api/v3/ai/diagnose", {"build_id": rng.choice(failed)}), report)
    measure("summary", lambda: stack.call("GET", f"/api/v3/ai/summary/{rng.choice(failed)}"), report)
    measure("insights", lambda: stack.call("GET", f"/api/v3/ai/insights?project_id={rng.choice(projects)}"), report)


def main() -> int:
    parser = argparse.ArgumentParser(description="Diagnose builds.")
    parser.add_argument("--part", choices=("quality", "speed"), help="only this part")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--results", type=int, default=RESULTS)
    options = parser.parse_args()
    report = Report("diagnosis")
    if options.part != "speed":
        measure_quality(report)
    if options.part == "quality":
        return report.finish()
    with running_stack(agent=False) as stack:
        with built_read_models(stack):
            fill_log(stack, options.events, options.results, report)
        measure_speed(stack, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
