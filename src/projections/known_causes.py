"""Query for the known issues that explain the failures of tests."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from domain.health_advice import KnownCause, find_known_cause
from domain.results import FAILED
from projections.builds import BuildRow
from projections.results import ReportRow
from projections.results_blocks import STATUS, BlockRow, positions_of
from projections.results_queries import FACTS, IS_CURRENT
from projections.triage import CLASSIFICATION, TRIAGE_JOINS, RuleMatchRow, TriageRow
from store.postgres.queries import Source, fetch_rows

_OF_REPORT = "id >= r.first_result_id AND id < r.first_result_id + r.cases"


async def fetch_known_causes(
    source: Source, failures: Mapping[int, Sequence[tuple[int, bool]]]
) -> dict[int, KnownCause]:
    """Returns test case -> known issue, for each test case whose failures are all explained as bugs by known issues.
    The known issue is that of the newest failure.

    `failures` maps each test case to its failures, the newest first: pairs of the build, and whether the test passed in
    this build on a retry. A test case is left out if one of its failures has no known issue, or has a known issue that
    calls failures flaky or infrastructure.
    """
    builds = await _find_builds_with_known_issues(
        source, {build for failed in failures.values() for build, _ in failed}
    )
    # Nearly all tests also failed in a build without known issues. Their results need not be read.
    wanted = {case: failed for case, failed in failures.items() if builds.issuperset(build for build, _ in failed)}
    pairs = [(case, *failure) for case, failed in wanted.items() for failure in failed]
    if not pairs:
        return {}
    blocks = (
        f"SELECT * FROM {BlockRow.table} WHERE first_result_id >= r.first_result_id"
        " AND first_result_id < r.first_result_id + r.cases ORDER BY first_result_id OFFSET 0"
    )
    query = (
        f"SELECT w.case_id, i.id, i.title, coalesce({CLASSIFICATION} IN ('product_bug', 'test_bug'), false)"
        " FROM unnest(%(cases)s::int[], %(builds)s::bigint[], %(retried)s::boolean[]) AS w (case_id, build_id, retried)"
        f" JOIN {ReportRow.table} r ON r.build_id = w.build_id JOIN {BuildRow.table} b ON b.id = r.build_id"
        f"  AND {IS_CURRENT}"
        " CROSS JOIN LATERAL (SELECT block.first_result_id + at - 1 AS id, block.facts[at] AS facts"
        f"  FROM ({blocks}) block CROSS JOIN LATERAL unnest({positions_of('w.case_id')}) AS at) t"
        f"{TRIAGE_JOINS} WHERE {FACTS} & {STATUS} = {FAILED} AND (t.facts >= 0 OR w.retried)"
        " ORDER BY w.build_id DESC, t.id DESC"
    )
    cases, of_builds, retried = (list(column) for column in zip(*pairs, strict=True))
    rows = await fetch_rows(source, query, {"cases": cases, "builds": of_builds, "retried": retried})
    causes: dict[int, list[KnownCause | None]] = defaultdict(list)
    for case_id, issue_id, title, is_bug in rows:
        causes[case_id].append(KnownCause(issue_id, title) if issue_id is not None and is_bug else None)
    found = {case_id: find_known_cause(of_case) for case_id, of_case in causes.items()}
    return {case_id: cause for case_id, cause in found.items() if cause is not None}


async def _find_builds_with_known_issues(source: Source, builds: Iterable[int]) -> set[int]:
    """Returns the builds, among `builds`, that have a failure with a known issue."""
    query = (
        f"SELECT r.build_id FROM {ReportRow.table} r WHERE r.build_id = ANY (%(builds)s) AND"
        f" (EXISTS (SELECT FROM {RuleMatchRow.table} WHERE {_OF_REPORT} AND known_issue_id <> 0)"
        f" OR EXISTS (SELECT FROM {TriageRow.table} WHERE {_OF_REPORT} AND known_issue_id IS NOT NULL))"
    )
    return {build for (build,) in await fetch_rows(source, query, {"builds": list(builds)})}
