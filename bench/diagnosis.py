"""Measures how often diagnoses are right, on the cases that ship with the server, how fast diagnoses, summaries and
insights are over a history of 1,000,000 results, and whether chats slow other requests down: `./dev bench diagnosis
[--part NAME]`. With `--part model --model-url URL`, compares the answers that a model words with those of the rules.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from statistics import mean

import psycopg

from bench.diagnosis_parts import answers_of_models, chats
from bench.diagnosis_parts.answers_of_models import SURE, Graded, count_classes, count_evidence, grade
from bench.rebuild import built_read_models, fill_log
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from commands.evaluation.cases import DiagnosisCase, load_cases
from projections.builds import BuildRow
from projections.results_blocks import BlockRow

EVENTS, RESULTS = 1_000_000, 1_000_000
REQUESTS = 200
WITHIN_MS = 300
"""Milliseconds in which 99 of 100 diagnoses are answered."""
RIGHT_CLASSES, RIGHT_EVIDENCE = 80, 75
"""Percent of the held-out cases that are right at least."""
SAMPLE, MODEL_TIMEOUT_S = 30, 900.0
"""Number of cases that a model is asked about, and seconds that one answer may take."""


def measure_quality(report: Report) -> None:
    """Measures the two halves of the cases: the rules were tuned to one, and nobody looked at the other."""
    for split, bounded in (("tune", False), ("report", True)):
        cases = [case for case in load_cases().values() if isinstance(case, DiagnosisCase) and case.split == split]
        graded = [grade_rules(case) for case in cases]
        report.add(f"cases ({split})", len(cases), "cases")
        bound = RIGHT_CLASSES if bounded else None
        report.add(f"right class ({split})", count_classes(graded), "%", at_least=bound)
        bound = RIGHT_EVIDENCE if bounded else None
        report.add(f"right evidence ({split})", count_evidence(graded), "%", at_least=bound)
        for name, sure in (("from 0.7", True), ("below 0.7", False)):
            chosen = [one for one in graded if (one.confidence >= SURE) == sure]
            report.add(f"right class, confidence {name} ({split})", count_classes(chosen), "%")
            report.add(f"mean confidence {name} ({split})", mean([o.confidence for o in chosen] or [0]) * 100, "%")


def grade_rules(case: DiagnosisCase) -> Graded:
    evidence = case.make_evidence()
    return grade(case, case.answer_by_rules(evidence), evidence)


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
    parser.add_argument("--part", choices=("quality", "speed", "chats", "model"), help="only this part")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--results", type=int, default=RESULTS)
    parser.add_argument("--model-url", help="server of the model, with the OpenAI API; needed for the part model")
    parser.add_argument("--model", default="smollm2", help="name of the model")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="number of cases that the model is asked about")
    options = parser.parse_args()
    report = Report("diagnosis")
    if options.part == "model":
        if options.model_url is None:
            parser.error("--part model needs --model-url")
        answers_of_models.run(report, options.model_url, options.model, options.sample, MODEL_TIMEOUT_S)
    if options.part in (None, "quality"):
        measure_quality(report)
    if options.part in ("quality", "model"):
        return report.finish()
    with running_stack(agent=False) as stack:
        with built_read_models(stack):
            fill_log(stack, options.events, options.results, report)
        if options.part != "chats":
            measure_speed(stack, report)
        if options.part != "speed":
            chats.run(stack, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
