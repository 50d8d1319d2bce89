"""Generates the test reports of the generated company's builds."""

import random
from collections import Counter
from itertools import count

import msgspec

from bench.history.world import Build, Job, World
from domain.builds import ReportRecorded
from domain.core.columns import Int16s, Int32s
from domain.core.events import Event
from domain.quarantine import QuarantinedTestsRan
from domain.results import FAILED, PASSED, SKIPPED, CasesSeen, Replaced, ResultsRecorded, ResultText, commit_number
from domain.triage import ResultsClassifiedByRules

BLOCK_ROWS = 1_000
TRACE = "".join(
    f'  File "src/area/module_{line}.py", line {line}, in step_{line}\n    check(value)\n' for line in range(9)
)


class Reports:
    """Generates reports with about `results` results in total, spread over a history of `events` events."""

    def __init__(self, world: World, events: int, results: int) -> None:
        self.world = world
        self._events, self._results = events, results
        self._next_result = world.first_id
        self._durations = [int(world.rng.expovariate(1 / 180)) for _ in range(50_000)]
        self.reports = self.results = 0

    def report(self, build: Build, *, replacing: bool, written: int) -> list[Event]:
        """Returns the events that the server appends together when it records one report. `written` is the number of
        events generated so far.
        """
        rng, job = self.world.rng, build.job
        rows = self.choose_size(job, written)
        commit: list[Event] = []
        if rows > len(job.cases):
            commit.append(self._add_cases(job, rows - len(job.cases)))
        self.reports += 1
        self.results += rows
        first, self._next_result = self._next_result, self._next_result + rows
        replaced_first = build.reports[0][0] if replacing else None
        build.reports.append((first, rows))
        counts: Counter[int] = Counter()
        retried = rng.random() < 0.1
        failures: list[int] = []
        for start in range(0, rows, BLOCK_ROWS):
            size = min(BLOCK_ROWS, rows - start)
            block = self._make_block(build, first + start, start, size, retried=retried)
            if replaced_first is not None and start == 0:
                block = _replace_results(block, replaced_first)
            failures += [first + start + row for row, status in enumerate(block.statuses) if status == FAILED]
            counts.update(block.statuses)
            commit.append(block)
        build.failures += failures
        if known := failures[::3]:
            issue = self.world.issues[job.project_id]
            commit.append(
                ResultsClassifiedByRules(
                    **build.ids,
                    result_ids=known,
                    known_issue_ids=[issue] * len(known),
                    classifications=b"\1" * len(known),
                )
            )
        if failures and rng.random() < 0.05:
            commit.append(QuarantinedTestsRan(**build.ids, passed=[], failed=[rng.randrange(1, 10_000)]))
        commit.append(
            ReportRecorded(
                **build.ids,
                attempt=build.attempt,
                first_result_id=first,
                cases=rows,
                passed=counts[PASSED],
                failed=counts[FAILED],
                skipped=counts[SKIPPED],
                known_issues=0,
                duration_ms=rows * 180,
                blocks=(rows - 1) // BLOCK_ROWS + 1,
                path="reports/junit.xml",
                suites=["tests.unit", "tests.api", "tests.slow"],
                line=build.line,
            )
        )
        return commit

    def choose_size(self, job: Job, written: int) -> int:
        """Returns how many results the next report has, so that the history ends with the wanted total."""
        events_a_report = written / self.reports if self.reports > 50 else 10.0
        left = max(1.0, (self._events - written) / events_a_report)
        mean = min((self._results - self.results) / left, 3 * self._results / self._events * events_a_report)
        return max(1, int(mean * job.weight * self.world.rng.uniform(0.8, 1.2)))

    def _add_cases(self, job: Job, missing: int) -> CasesSeen:
        """Adds test cases to a job: more than the missing ones, so that not every report brings new cases."""
        wanted = max(missing, len(job.cases) // 20)
        first = next(self.world.ids["test_cases"])
        self.world.ids["test_cases"] = count(first + wanted)
        job.cases += range(first, first + wanted)
        names = range(len(job.cases) - wanted, len(job.cases))
        return CasesSeen(
            project_id=job.project_id,
            first_case_id=first,
            node_ids=[f"tests/area_{n // 40}/test_j{job.job_id}_{n // 8}.py::TestArea::test_case_{n}" for n in names],
            suites=["tests.unit"] * wanted,
        )

    def _make_block(self, build: Build, first: int, start: int, size: int, *, retried: bool) -> ResultsRecorded:
        rng, job = self.world.rng, build.job
        case_ids = job.cases[start : start + size]
        statuses, finals, flaky = bytearray(size), bytearray(b"\1" * size), bytearray(size)
        attempts = bytearray(b"\1" * size)
        statuses[7::40] = bytes([SKIPPED]) * len(statuses[7::40])
        failing = sorted({rng.randrange(size) for _ in range(_round_randomly(rng, size * 0.004))})
        for row in failing:
            statuses[row] = FAILED
        texts = [
            ResultText(
                row,
                message=f"AssertionError: {first + row} != {row}",
                trace=TRACE + f"AssertionError: {first + row} != {row}",
                signature=f"{case_ids[row] * 2_654_435_761 % 2**64:016x}",
            )
            for row in failing
        ]
        if retried:
            for row in failing:
                if row + 1 < size and statuses[row + 1] == PASSED:
                    # The next row is the second attempt at the same test, and counts.
                    case_ids[row + 1] = case_ids[row]
                    finals[row], attempts[row + 1], flaky[row + 1] = 0, 2, 1
        offset = rng.randrange(len(self._durations) - size)
        return ResultsRecorded(
            **build.ids,
            first_result_id=first,
            case_ids=Int32s(case_ids),
            suites=Int16s([0] * size),
            durations_ms=Int32s(self._durations[offset : offset + size]),
            statuses=bytes(statuses),
            attempts=bytes(attempts),
            finals=bytes(finals),
            known_issues=bytes(size),
            flaky=bytes(flaky),
            texts=texts,
            commit=commit_number(build.commit),
        )


def _replace_results(block: ResultsRecorded, first: int) -> ResultsRecorded:
    """Returns the block, changed so that its first rows replace results of an earlier file of the same build."""
    rows = min(3, len(block.case_ids))
    return msgspec.structs.replace(block, replaced=[Replaced(row, first + row, PASSED) for row in range(rows)])


def _round_randomly(rng: random.Random, mean: float) -> int:
    """Returns `mean` rounded up or down, so that the average of many calls is `mean`."""
    return int(mean) + (rng.random() < mean - int(mean))
