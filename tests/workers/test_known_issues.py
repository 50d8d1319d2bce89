"""Failures of the past that a known issue would have classified, had it been there."""

from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from api.triage import to_recorded
from commands.builds import StartBuild
from commands.handler import Command, CommandContext, Handler
from commands.jobs import CreateJob
from commands.known_issues import CreateKnownIssue, DeleteKnownIssue, NoteSearch, UpdateKnownIssue
from commands.projects import CreateProject
from commands.reports.reading import Match, read_chunks
from commands.reports.recording import load_build
from commands.results import NewCases, RecordReport
from commands.triage import ClassifyResult, LinkKnownIssue
from commands.what_if.rules import WhatIfIssue, WhatIfRules
from commands.what_if.simulation import BUILD_EVENTS, RULE_EVENTS, Simulation, TestDiffers, differences
from domain.known_issues import KnownIssueSearched
from domain.triage import Source
from domain.triggers import BuildTrigger
from projections import results_history, results_queries
from projections.audit_view.entries import add_changes, describe
from projections.time_travel.rule_history import RuleHistory
from store.clock import utcnow
from testhide.processes import Core
from tests.commands.test_results import FAILURE
from tests.support.read_models import begin_read_models, catch_up_read_models
from workers.known_issues import KnownIssueSearch

ANN = CommandContext("user:1")
RESET = '<failure message="ECONNRESET">at connect</failure>'


class House:
    """Two projects with a job each, builds of one report each, and read models that follow."""

    def __init__(self, parts: Core) -> None:
        self.parts = parts
        self.handler = Handler(parts.log, utcnow)
        self.search = KnownIssueSearch(parts.pool, parts.log, self.handler)
        self.builds = 0

    async def does(self, *commands: Command) -> None:
        for command in commands:
            await self.handler.execute(command, ANN)

    async def ran(
        self, *contents: str, project: int = 1, trigger: BuildTrigger | None = None, matches: Sequence[Match] = ()
    ) -> list[int]:
        """The results of a build that ran these tests."""
        self.builds += 1
        url = "https://git.acme.com/web.git"
        await self.does(StartBuild(self.builds, project, external=True, trigger=trigger, project_repository=url))
        return await self.report(*contents, project=project, matches=matches)

    async def report(self, *contents: str, project: int = 1, matches: Sequence[Match] = ()) -> list[int]:
        """Records the results of the last build."""
        first = self.builds * 100
        cases = "".join(f'<testcase classname="c" name="n{n}">{inside}</testcase>' for n, inside in enumerate(contents))
        report = read_chunks([f"<testsuite name='s'>{cases}</testsuite>".encode()])
        new = None
        if self.builds == 1 or project == 2:
            new = NewCases(project, 0, first, report.node_ids, ["s"] * len(contents))
        await self.does(
            RecordReport(
                build=await load_build(self.parts.log, self.builds),
                attempt=1,
                path="r.xml",
                report=report,
                first_result_id=first,
                case_ids=array("q", range(100, 100 + len(contents))),
                new_cases=new,
                matches=matches,
            ),
        )
        return list(range(first, first + len(contents)))

    async def shown(self) -> None:
        """The read models are at the log's end."""
        await catch_up_read_models(self.parts)

    async def found(self, *, show: bool = True) -> list[list[int]]:
        """The results that a sweep finds, by event."""
        if show:
            await self.shown()
        head = await self.parts.log.read_head()
        await self.search.sweep()
        events = [item.event for item in await self.parts.log.read(head, 10_000)]
        await self.shown()
        found = []
        for event in events:
            assert isinstance(event, KnownIssueSearched)
            found.append(event.result_ids)
        return found

    async def reported(self, result_id: int) -> tuple[str | None, str | None, int | None]:
        """Classification, by what, and the known issue."""
        async with self.parts.pool.connection() as connection:
            ranges = await results_queries.find_report_of(connection, result_id)
            page = await results_queries.fetch_page(
                connection, ranges, results_queries.ResultFilters(all_attempts=True), 100, 0
            )
        (reported,) = [item.triage for item in page if item.id == result_id]
        return reported.classification, reported.classified_by, reported.known_issue_id

    async def origin(self, result_id: int) -> results_history.ResultOrigin:
        async with self.parts.pool.connection() as connection:
            origin = await results_history.find_origin(connection, result_id)
        assert origin is not None
        return origin

    async def classified(self, result_id: int, by: Source) -> None:
        await self.shown()
        await self.does(ClassifyResult(to_recorded(await self.origin(result_id)), "product_bug", by))


@pytest.fixture
async def house(parts: Core) -> House:
    async with parts.pool.connection() as connection:
        await begin_read_models(connection)
    house = House(parts)
    for number in (1, 2):
        await house.does(CreateProject(number, "P", 1, ((f"p{number}", f"slug-{number}"),), b""))
        await house.does(CreateJob(number, number, "Smoke"))
    return house


CREATE = CreateKnownIssue(17, 1, "Network", "infra", "pattern", "ECONN")


async def test_a_new_issue_classifies_what_was_there_before(house: House) -> None:
    first, _, _ = await house.ran(RESET, FAILURE, "")
    second, _ = await house.ran(RESET, "<skipped>ECONNRESET</skipped>")
    await house.ran(RESET, project=2)
    await house.does(CREATE)
    assert await house.found() == [[second, first]]
    assert await house.reported(first) == await house.reported(second) == ("infra", "rule", 17)
    assert await house.reported(first + 1) == (None, None, None)
    assert await house.found() == [], "once"


async def test_what_is_classified_stays(house: House) -> None:
    by_user, by_ai, neither = await house.ran(RESET, RESET, RESET)
    await house.classified(by_user, "user")
    await house.classified(by_ai, "ai")
    await house.does(CREATE)
    assert await house.found() == [[neither]]
    assert await house.reported(by_user) == ("product_bug", "user", None)
    assert await house.reported(by_ai) == ("product_bug", "ai", None)
    await house.does(CreateKnownIssue(18, 1, "Again", "flaky", "pattern", "RESET"))
    assert await house.found() == [[]]
    assert await house.reported(neither) == ("infra", "rule", 17)


async def test_who_classifies_while_a_search_is_under_way_is_heard(house: House) -> None:
    (result,) = await house.ran(RESET)
    await house.does(CREATE)
    await house.shown()
    await house.does(ClassifyResult(to_recorded(await house.origin(result)), "product_bug"))
    assert await house.found(show=False) == [[result]]
    assert await house.reported(result) == ("product_bug", "user", None)


async def test_it_counts_as_said_by_a_rule(house: House) -> None:
    (result,) = await house.ran(RESET)
    await house.does(CREATE)
    await house.found()
    origin = to_recorded(await house.origin(result))
    assert (origin.by_rule, origin.rule) == ("infra", 17)
    await house.classified(result, "ai")
    await house.shown()
    assert await house.reported(result) == ("infra", "rule", 17), "a model does not overrule it"
    await house.classified(result, "user")
    await house.shown()
    assert await house.reported(result) == ("product_bug", "user", 17)


async def test_a_new_issue_counts_instead_of_statistics(house: House) -> None:
    first, ruled = await house.ran(
        RESET, RESET, matches=[Match(0, 0, "flaky", confidence=80), Match(1, 0, "flaky", 2, 1)]
    )
    await house.shown()
    assert await house.reported(first) == ("flaky", "statistics", None)
    assert await house.reported(ruled) == ("flaky", "rule", None)
    await house.does(CREATE)
    assert await house.found() == [[first]]
    assert await house.reported(first) == ("infra", "rule", 17)
    origin = await house.origin(first)
    assert (origin.rule, origin.rule_classification, origin.by_statistics) == (17, 1, False)


async def test_a_changed_issue_is_searched_for_again(house: House) -> None:
    reset, other = await house.ran(RESET, FAILURE)
    await house.does(CREATE)
    assert await house.found() == [[reset]]
    await house.does(UpdateKnownIssue(17, title="Other"))
    assert await house.found() == []
    signature = (await house.origin(other)).signature
    await house.does(UpdateKnownIssue(17, match=("signature", signature)))
    assert await house.found() == [[other]]
    assert await house.reported(reset) == ("infra", "rule", 17), "what was found stays"


async def test_a_deleted_issue_is_not_searched_for(house: House) -> None:
    await house.ran(RESET)
    await house.does(CREATE)
    await house.shown()
    await house.does(DeleteKnownIssue(17))
    assert await house.found(show=False) == []


async def test_a_long_past_is_searched_through_in_pieces(house: House) -> None:
    house.search.chunk_size = 2
    a, b, *_ = await house.ran(RESET, RESET, FAILURE, FAILURE, FAILURE)
    c, *_ = await house.ran(RESET, FAILURE, FAILURE)
    await house.does(CREATE)
    assert await house.found() == [[c], [b, a], []]
    house.search.max_failures = 2
    await house.does(UpdateKnownIssue(17, match=("pattern", "boom")))
    assert await house.found() == [[c + 2, c + 1]], "and no further than it is worth"


async def test_a_project_whose_patterns_take_long_leaves_others_their_turn(house: House) -> None:
    house.search.slice_s = 0.0  # of CPU time: one failure at a time
    a, b = await house.ran(RESET, RESET)
    (other,) = await house.ran(RESET, project=2)
    await house.does(CREATE, CreateKnownIssue(18, 1, "Also", "infra", "pattern", "connect"))
    await house.does(CreateKnownIssue(19, 2, "Network", "infra", "pattern", "ECONN"))
    assert await house.found() == [[b], [other]]
    assert await house.found() == [[a]]


async def test_a_search_ends_when_its_patterns_take_too_long(house: House) -> None:
    house.search.max_cpu_s = 0.0
    house.search.slice_s = 0.0
    _, b = await house.ran(RESET, RESET)
    await house.does(CREATE)
    assert await house.found() == [[b]]
    assert await house.found() == [], "it counts as complete"


async def test_a_search_that_was_cut_goes_on_where_it_was(house: House) -> None:
    house.search.chunk_size = 1
    a, b = await house.ran(RESET, RESET)
    await house.does(CREATE, NoteSearch(17, 1, b, [(b, 1)]))
    assert await house.found() == [[a], []]


async def test_a_replay_takes_what_a_search_classified_for_the_work_of_rules(house: House) -> None:
    by_search, by_person, linked, by_ai, when_recorded, _ = await house.ran(RESET, RESET, RESET, RESET, FAILURE, "")
    await house.classified(by_ai, "ai")
    await house.does(CREATE)
    await house.found()
    await house.classified(by_person, "user")
    result = to_recorded(await house.origin(linked))
    await house.does(CreateKnownIssue(18, 1, "Other", "flaky", "signature", "none"), LinkKnownIssue(result, 18))
    await house.shown()

    async def replayed(rules: WhatIfRules) -> tuple[list[tuple[int, str | None, str | None]], int]:
        simulation = Simulation(rules)
        history = RuleHistory(house.parts.pool, house.parts.log, of_rules=RULE_EVENTS, of_builds=BUILD_EVENTS)
        found = [item async for item in differences(history, simulation) if isinstance(item, TestDiffers)]
        return [(item.result_id, item.before, item.after) for item in found], simulation.counts.decided_by_people

    assert await replayed(WhatIfRules(known_issues=[])) == ([(by_search, "infra", None)], 2)
    assert await replayed(WhatIfRules(known_issues=[], additive=True)) == ([], 2)
    boom = WhatIfIssue("Boom", "test_bug", pattern="boom|ECONN")
    assert await replayed(WhatIfRules(known_issues=[boom])) == (
        [(by_search, "infra", "test_bug"), (by_ai, "product_bug", "test_bug"), (when_recorded, None, "test_bug")],
        2,
    )


async def test_the_trail_says_what_a_search_classified(house: House) -> None:
    found, by_user, linked = await house.ran(RESET, RESET, RESET)
    await house.does(CREATE, CreateKnownIssue(18, 1, "Again", "flaky", "pattern", "RESET"))
    await house.shown()
    # A person decides while the searches are under way, and the second one does not see yet what the first one found.
    await house.does(ClassifyResult(to_recorded(await house.origin(by_user)), "product_bug"))
    assert await house.found(show=False) == [[linked, by_user, found]] * 2
    await house.shown()
    await house.does(LinkKnownIssue(to_recorded(await house.origin(linked)), 18))
    log = house.parts.log

    async def changes(stream: str) -> list[dict[str, tuple[Any, Any]]]:
        entries = [describe(recorded, None) for recorded in await log.read_stream(stream, 0, 10)]
        shown = await add_changes(house.parts.pool, log, entries)
        return [{one.field: (one.before, one.after) for one in entry.changes or ()} for entry in shown]

    first, second = (await changes("known_issue-17"))[1], (await changes("known_issue-18"))[1]
    assert {field: values for field, values in first.items() if field.startswith("results.")} == {
        f"results.{linked}.classification": (None, "infra"),
        f"results.{linked}.known_issue_id": (None, 17),
        f"results.{found}.classification": (None, "infra"),
        f"results.{found}.known_issue_id": (None, 17),
    }
    assert not any(field.startswith("results.") for field in second)
    assert await changes(f"result-{linked}") == [
        {"known_issue_id": (17, 18), "classification": ("infra", "flaky"), "set_by_kind": ("rule", "user")}
    ]
    assert await changes(f"result-{by_user}") == [
        {"classification": (None, "product_bug"), "set_by_kind": (None, "user")},
    ]
