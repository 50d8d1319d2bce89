"""Test cases, known issues and statistics that the recording of reports follows in the log and keeps in memory."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from commands.reports import case_catalogues
from commands.reports.case_catalogues import CaseCatalogues
from commands.reports.rule_book import RuleBook
from domain.builds import BuildDeleted
from domain.core.events import Event, EventMetadata
from domain.jobs import JobDeleted
from domain.known_issues import KnownIssueCreated, KnownIssueDeleted, KnownIssueUpdated, MatchRule
from domain.projects import ProjectDeleted
from domain.results import CasesSeen
from domain.triage import Classification, ResultClassified
from store.clock import utcnow
from store.log.event_log import Write
from testhide.processes import Core


async def append(parts: Core, events: Sequence[Event], after: int = 0) -> None:
    metadata = EventMetadata(utcnow(), "user:1")
    for version, event in enumerate(events, after + 1):
        await parts.log.append([Write(version, event)], metadata)


def seen(first: int, *names: str) -> CasesSeen:
    return CasesSeen(project_id=1, first_case_id=first, node_ids=list(names), suites=["s"] * len(names))


async def test_ids_are_those_of_the_log(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_catalogues, "BATCH_SIZE", 2)
    await append(parts, [seen(10, "a", "b"), seen(5, "c"), seen(20, "d")])
    catalogues = CaseCatalogues()
    wanted = ["a", "b", "c", "d", "new"]
    for shown in ([10, 11, 5, 20, None], [11, 10, 6, 4, 21], [None] * 5):
        assert await catalogues.check_ids(parts.log, 1, wanted, shown) == (3, [10, 11, 5, 20, None])
    await append(parts, [seen(30, "new")], after=3)
    assert await catalogues.check_ids(parts.log, 1, wanted, [None] * 5) == (4, [10, 11, 5, 20, 30])
    assert await catalogues.check_ids(parts.log, 2, ["a"], [10]) == (0, [None])


async def test_forgotten_projects_are_read_again(parts: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_catalogues, "MAX_CASES", 0)
    await append(parts, [seen(10, "a")])
    catalogues = CaseCatalogues()
    for project_id, found in ((1, 10), (2, None), (1, 10)):
        _, ids = await catalogues.check_ids(parts.log, project_id, ["a"], [None])
        assert ids == [found]


def created(issue: int, value: str, project: int = 1) -> KnownIssueCreated:
    return KnownIssueCreated(
        known_issue_id=issue, project_id=project, classification="infra", kind="pattern", title="x", value=value
    )


async def test_rules_are_those_of_the_log(parts: Core) -> None:
    rules = RuleBook()
    await append(parts, [created(1, "a")])
    await append(parts, [created(2, "b", project=2)])
    assert await rules.fetch_match_rules(parts.log, 1) == [MatchRule(1, "infra", "pattern", "a")]
    await append(parts, [KnownIssueUpdated(known_issue_id=1, project_id=1, value="c")], after=1)
    assert await rules.fetch_match_rules(parts.log, 1) == [MatchRule(1, "infra", "pattern", "c")]
    await append(parts, [KnownIssueDeleted(known_issue_id=1, project_id=1)], after=2)
    await append(parts, [ProjectDeleted(project_id=2)])
    assert await rules.fetch_match_rules(parts.log, 1) == await rules.fetch_match_rules(parts.log, 2) == []


def classified(result: int, classification: Classification, **more: Any) -> ResultClassified:
    given = {"build_id": 7, "job_id": 5, "project_id": 1, "set_by_kind": "user", "set_by": 3, "signature": "s1", **more}
    return ResultClassified(result_id=result, classification=classification, **given)


async def test_statistics_learn_from_what_people_said_last(parts: Core) -> None:
    rules = RuleBook()

    async def learnt(*events: Event, project: int = 1) -> list[tuple[str, str, int]]:
        for event in events:
            await append(parts, [event], after=versions[event.stream])
            versions[event.stream] += 1
        found = await rules.fetch_match_rules(parts.log, project)
        assert found == await RuleBook().fetch_match_rules(parts.log, project)
        return [(rule.value, rule.classification, rule.confidence) for rule in found]

    versions = Counter[str]()
    others = [classified(3, "infra", set_by_kind="ai", set_by=None), classified(4, "infra", signature="")]
    assert await learnt(classified(1, "infra"), classified(1, "infra"), *others) == []
    assert await learnt(classified(2, "infra", build_id=8)) == [("s1", "infra", 75)]
    assert await learnt(project=2) == []
    assert await learnt(classified(2, "flaky", build_id=8)) == []
    assert await learnt(classified(1, "flaky")) == [("s1", "flaky", 75)]
    assert await learnt(BuildDeleted(build_id=8, job_id=5, project_id=1)) == []
    assert await learnt(classified(5, "flaky", job_id=6)) == [("s1", "flaky", 75)]
    assert await learnt(JobDeleted(job_id=6, project_id=1)) == []


async def test_a_word_that_cannot_be_read_teaches_nothing(parts: Core) -> None:
    rules = RuleBook()
    await append(parts, [classified(1, "infra")])
    await append(parts, [classified(2, "infra")])
    async with parts.pool.connection() as connection:
        await connection.execute("UPDATE stored_events SET state = reverse(state) WHERE originator_id = 'result-2'")
    assert await rules.fetch_match_rules(parts.log, 1) == []


async def test_a_known_issue_that_cannot_be_read_has_no_rules_until_it_is_put_back(parts: Core) -> None:
    rules = RuleBook()
    await append(parts, [created(1, "a"), KnownIssueUpdated(known_issue_id=1, project_id=1, value="c")])
    change = b"UPDATE stored_events SET state = reverse(state) WHERE originator_id = 'known_issue-1'"
    async with parts.pool.connection() as connection:
        await connection.execute(change)
    await append(parts, [created(2, "b")])
    assert await rules.fetch_match_rules(parts.log, 1) == [MatchRule(2, "infra", "pattern", "b")]
    async with parts.pool.connection() as connection:
        await connection.execute(change)
    assert [rule.value for rule in await rules.fetch_match_rules(parts.log, 1)] == ["b", "c"]
