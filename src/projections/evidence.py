"""Gathers the evidence for a question to the assistant from the read models.

All of it belongs to the project of the question: the build is looked up in that project, and everything else belongs to
the build or to its tests. The queries are bounded, so that an answer comes at once however many results there are.
"""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest

import msgspec
from psycopg import AsyncConnection

from domain.assistant.answers import Question
from domain.assistant.chat_mentions import find_text_with_tests, is_asked
from domain.assistant.chat_names import find_branch_words
from domain.assistant.evidence import (
    MAX_MESSAGE,
    MAX_TRACE,
    BuildFacts,
    Evidence,
    FailedTest,
    FailureGroup,
    FailureStart,
    IssueFacts,
    TestRecord,
    cut,
    with_sources,
)
from domain.assistant.failure_starts import mark_recurring
from domain.assistant.job_states import MAX_NAMED as MAX_LISTED
from domain.assistant.job_states import JobState
from domain.assistant.named_tests import make_named_test
from domain.assistant.traced_tests import pick_traced
from domain.core.events import copy_fields
from domain.failures.first_failures import FirstFailure
from domain.results import FAILED
from domain.run_histories import RunHistory
from domain.test_health import assess
from projections import build_groups, builds, comparable_builds, first_failures, results_queries, test_health
from projections.builds import BuildRow
from projections.change_evidence import fetch_changes
from projections.engine.queries import fetch_all, find_row
from projections.job_states import fetch_job_states
from projections.jobs import JobRow
from projections.known_issues import KnownIssueRow
from projections.log_evidence import fetch_excerpts
from projections.named_tests import fetch_named_tests
from projections.past_failures import fetch_past, find_earlier_builds
from projections.project_evidence import fetch_project_facts
from projections.results import ResultTextRow
from projections.results_blocks import FLAKY, KNOWN_ISSUE, QUARANTINED, STATUS, BlockRow, case_at
from projections.results_cases import TestCaseRow
from projections.results_queries import FACTS, ReportRanges
from projections.triage import CLASSIFICATION, CLASSIFIED_BY, LINKED_ISSUE, TRIAGE_JOINS
from store.clock import utcnow
from store.log.event_log import EventLog
from store.postgres.queries import Source, connected

MAX_SIGNATURES = 60
"""Largest number of groups of a build's failures that are read. The failures of a group have one signature."""
EXAMPLES = 3
"""Largest number of results that are read of each group of equal failures."""
ASSESSED_RUNS = 200


async def gather(source: Source, log: EventLog, question: Question) -> Evidence:
    """Returns what is known about the build of a question. If the question is about no build, returns what is known
    about the project of the question. If the build is not in the project, the evidence contains no build. Reads the
    changes of repositories from `log`.
    """
    async with connected(source) as connection:
        if question.build_id is None:
            facts = await fetch_project_facts(connection, question.project_id, question.days)
            jobs = await fetch_job_states(connection, question.project_id) if question.kind == "chat" else []
            tests = await fetch_named_tests(connection, question.project_id, find_text_with_tests(question))
            return with_sources(Evidence(question, project=facts, jobs=tuple(jobs), tests=tests))
        build = await builds.find(connection, question.build_id)
        if build is None or build.project_id != question.project_id:
            return Evidence(question)
        evidence = await _gather_of_build(connection, question, build)
        of_branch = [build.id, *(earlier.id for earlier in evidence.earlier)]
        tests = await fetch_named_tests(connection, question.project_id, find_text_with_tests(question), of_branch)
        evidence = msgspec.structs.replace(evidence, tests=tests)
        if question.build_choice in ("red_job", "green_jobs"):
            jobs = await _fetch_jobs(connection, question, build)
            evidence = msgspec.structs.replace(evidence, jobs=tuple(jobs))
    # The connection is free again, since the log takes one of its own.
    changes = await fetch_changes(source, log, evidence)
    return with_sources(msgspec.structs.replace(evidence, changes=changes))


async def _gather_of_build(connection: AsyncConnection, question: Question, build: BuildRow) -> Evidence:
    job = await find_row(connection, JobRow, build.job_id)
    evidence = Evidence(
        question,
        build=copy_fields(
            BuildFacts, build, job=str(build.job_id) if job is None else job.name, duration_s=_find_duration(build)
        ),
        earlier=await comparable_builds.fetch_earlier(connection, build),
        same_commit=await comparable_builds.fetch_same_commit(connection, build),
        group=await build_groups.fetch_failed_others(connection, build),
    )
    if build.status not in ("failed", "aborted") and not (build.known_issues or build.quarantined):
        return evidence
    groups: list[_EqualResults] = []
    failures: list[FailedTest] = []
    if build.failed or build.known_issues or build.quarantined:
        ranges = await results_queries.fetch_reports(connection, build.id)
        groups = await results_queries.fetch_equal_failures(
            connection, ranges, _EqualResults, signatures=MAX_SIGNATURES, examples=EXAMPLES
        )
        ids = _choose(groups, question)
        failures = await _fetch_failed_tests(connection, ranges, ids, question)
    of_branch = [build.id, *(earlier.id for earlier in evidence.earlier)]
    histories = await _fetch_histories(connection, failures, of_branch)
    failures = await asyncio.to_thread(_add_records, failures, histories, build.id)
    failures = await _add_starts(connection, failures, build.id, question)
    past, unlike = await fetch_past(connection, question, failures, histories, build.id)
    return msgspec.structs.replace(
        evidence,
        groups=tuple(FailureGroup(group.signature, group.results, group.message[:MAX_MESSAGE]) for group in groups),
        failures=tuple(mark_recurring(failures, past, unlike)),
        issues=await _fetch_issues(connection, question.project_id, failures),
        past=past,
        excerpts=await fetch_excerpts(connection, build) if question.include_logs else (),
    )


async def _fetch_jobs(connection: AsyncConnection, question: Question, build: BuildRow) -> list[JobState]:
    """Returns the states of the project's jobs. If the message names the branch of the build, the states are those on
    this branch. The first red jobs also get the names of some failed tests.
    """
    named = build.branch if build.branch.lower() in find_branch_words(question.message) else None
    states = await fetch_job_states(connection, question.project_id, named)
    for index, state in enumerate(states[: MAX_LISTED + 1]):
        if state.failed and state.build_id != build.id:
            ranges = await results_queries.fetch_reports(connection, state.build_id)
            groups = await results_queries.fetch_equal_failures(
                connection, ranges, _EqualResults, signatures=MAX_LISTED, examples=MAX_LISTED
            )
            failed = await _fetch_failed_tests(connection, ranges, _choose(groups, question), question)
            states[index] = msgspec.structs.replace(state, tests=tuple(one.name for one in failed[:MAX_LISTED]))
    return states


class _EqualResults(msgspec.Struct, frozen=True):
    """A group of failures of a build with one signature, as `fetch_equal_failures` returns it."""

    signature: str
    results: int
    result_ids: list[int]
    message: str
    trace: str
    case_id: int


class _FailedRow(msgspec.Struct, frozen=True):
    id: int
    case_id: int
    node_id: str
    facts: int
    suite: int
    message: str
    trace: str
    signature: str
    classification: str | None
    classified_by: str | None
    known_issue_id: int | None


def _choose(groups: Sequence[_EqualResults], question: Question) -> list[int]:
    """Returns the ids of the results to look at: first the result of the question, then one result of each signature,
    then a second result of each, and so on.
    """
    in_turn = chain.from_iterable(zip_longest(*(group.result_ids for group in groups)))
    chosen = [result_id for result_id in in_turn if result_id is not None]
    if question.result_id is not None:
        chosen.insert(0, question.result_id)
    return list(dict.fromkeys(chosen))[: 2 * question.max_tests]


async def _fetch_failed_tests(
    connection: AsyncConnection, ranges: ReportRanges, ids: Sequence[int], question: Question
) -> list[FailedTest]:
    """Returns the failed results with the ids `ids`, in this order: at most as many as the question allows. Leaves out
    known issues and results of quarantined tests, except those that the question is about. If nothing would be left,
    leaves out none.
    """
    block = f"SELECT * FROM {BlockRow.table} WHERE first_result_id <= wanted.id ORDER BY first_result_id DESC LIMIT 1"
    index = "wanted.id - b.first_result_id + 1"
    query = (
        f"SELECT t.id, t.case_id, c.node_id, {FACTS}::int, t.suite::int, left(coalesce(x.message, ''), %(message)s),"
        " coalesce(x.trace, ''), coalesce(x.signature, ''),"
        f" {CLASSIFICATION}, {CLASSIFIED_BY}, {LINKED_ISSUE}"
        " FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS wanted (id, place)"
        f" CROSS JOIN LATERAL ({block}) b"
        f" CROSS JOIN LATERAL (SELECT wanted.id, {case_at(index)}, b.facts[{index}],"
        f"  coalesce(b.suites[{index}], b.suite)"
        " ) t (id, case_id, facts, suite)"
        f" JOIN {TestCaseRow.table} c ON c.id = t.case_id LEFT JOIN {ResultTextRow.table} x ON x.id = t.id"
        f"{TRIAGE_JOINS} WHERE wanted.id < b.first_result_id + b.results AND wanted.id >= %(low)s"
        " AND wanted.id < %(high)s ORDER BY wanted.place"
    )
    parameters = ranges.parameters | {"ids": list(ids), "message": MAX_MESSAGE}
    rows = await fetch_all(connection, _FailedRow, query, parameters)
    failed = [row for row in rows if row.facts & STATUS == FAILED]
    counting = [
        row for row in failed if not row.facts & (KNOWN_ISSUE | QUARANTINED) or is_asked(question, row.id, row.node_id)
    ]
    return [
        copy_fields(
            FailedTest,
            row,
            result_id=row.id,
            name=row.node_id,
            suite=ranges.report_of(row.id).suites[row.suite],
            trace=cut(row.trace, MAX_TRACE),
            is_flaky=bool(row.facts & FLAKY),
            is_quarantined=bool(row.facts & QUARANTINED),
        )
        for row in (counting or failed)[: question.max_tests]
    ]


async def _fetch_histories(
    connection: AsyncConnection, failures: Sequence[FailedTest], of_branch: Sequence[int]
) -> dict[int, RunHistory]:
    """Returns test case -> history of its runs on the default branch. Runs in the builds `of_branch` are included."""
    cases = await test_health.fetch_histories(connection, [one.case_id for one in failures], asked=of_branch)
    return {case.id: case.history for case in cases}


def _add_records(
    failures: Sequence[FailedTest], histories: Mapping[int, RunHistory], build_id: int
) -> list[FailedTest]:
    return [
        one
        if (history := histories.get(one.case_id)) is None
        else msgspec.structs.replace(
            one,
            record=_assess(history.newest(ASSESSED_RUNS)),
            earlier_failures=len(find_earlier_builds(histories, one, build_id)),
        )
        for one in failures
    ]


def _assess(history: RunHistory) -> TestRecord:
    state = make_named_test(0, "", history)
    return copy_fields(
        TestRecord,
        assess(history.to_bytes()),
        runs=state.runs,
        failed_runs=state.failed_runs,
        retried_runs=state.retried_runs,
        left_out=state.left_out,
    )


async def _add_starts(
    connection: AsyncConnection, failures: Sequence[FailedTest], build_id: int, question: Question
) -> list[FailedTest]:
    """Adds the build in which a test began to fail to each test that `pick_traced` chooses. For all tests, the search
    would take too long.
    """
    traced = {one.result_id for one in pick_traced(failures, question)}
    found: list[FailedTest] = []
    for one in failures:
        start = None
        if one.result_id in traced:
            start = await first_failures.find(connection, one.case_id, build_id, one.result_id)
        found.append(one if start is None else msgspec.structs.replace(one, first_bad=_to_start(start)))
    return found


def _to_start(found: FirstFailure) -> FailureStart:
    good = found.last_good
    if found.cause == "same_commit" and found.passed_in is not None:
        good = msgspec.structs.replace(found.first_bad, build_id=found.passed_in, failed=False)
    return FailureStart(
        build_id=found.first_bad.build_id,
        commit_sha=found.first_bad.commit_sha,
        last_good_build=None if good is None else good.build_id,
        last_good_commit=None if good is None else good.commit_sha,
        failed_builds=found.failed_builds,
        cause=found.cause,
        is_first_run=found.is_first_run,
    )


async def _fetch_issues(
    connection: AsyncConnection, project_id: int, failures: Sequence[FailedTest]
) -> tuple[IssueFacts, ...]:
    ids = sorted({one.known_issue_id for one in failures if one.known_issue_id is not None})
    if not ids:
        return ()
    query = f"SELECT * FROM {KnownIssueRow.table} WHERE id = ANY (%(ids)s) AND project_id = %(project)s ORDER BY id"
    rows = await fetch_all(connection, KnownIssueRow, query, {"ids": ids, "project": project_id})
    return tuple(copy_fields(IssueFacts, row) for row in rows)


def _find_duration(build: BuildRow) -> int:
    if build.started_at is None:
        return 0
    return max(1, round(((build.finished_at or utcnow()) - build.started_at).total_seconds()))
