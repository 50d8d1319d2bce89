"""Failed builds get the excerpts of their logs that explain the failure."""

import json

from commands.build_actions import DeleteBuild
from commands.builds import FinishExternalBuild, StartBuild
from domain.builds import BUILD, BuildFinished, Finished, Verdict
from domain.triggers import BuildTrigger
from projections import builds
from projections.builds import ExplanationRow
from store.log.event_log import EventLog
from store.tables.build_logs import BuildLogs, Line
from tests.projections.toys import recorded
from tests.workers.test_known_issues import House, house  # noqa: F401
from workers.deliveries.messages import MessageBuilder
from workers.explanations import BuildExplainer, select_failed

NOISE = [
    "collecting",
    "Traceback (most recent call last):",
    '  File "/a.py", line 3, in f',
    "OSError: no display",
    "go on",
]
CAUSE = ["main.c:5:5: error: 'count' undeclared (first use in this function)", "    5 |     count = 3;"]
LOG = [*NOISE, *["."] * 40, *CAUSE, *["."] * 40, "make: *** [Makefile:9: main.o] Error 1"]


class Explained:
    """External builds with logs, and their explanations."""

    def __init__(self, house: House) -> None:  # noqa: F811
        self.house = house
        self.logs = BuildLogs(house.parts.pool)
        self.explainer = BuildExplainer(house.parts.pool, house.parts.log, house.handler, self.logs)

    @property
    def log(self) -> EventLog:
        return self.house.parts.log

    async def end(
        self, build_id: int, status: Verdict, lines: list[str], trigger: BuildTrigger | None = None
    ) -> BuildFinished:
        address = "https://github.com/acme/shop.git"
        await self.house.does(StartBuild(build_id, 1, external=True, trigger=trigger, project_repository=address))
        await self.logs.append(1, build_id, 1, 0, [Line(0, text) for text in lines])
        end = await self.logs.fetch_end(build_id, 1)
        await self.house.does(FinishExternalBuild(build_id, status, log=end))
        await self.house.shown()
        build = await self.log.load_state(BUILD.at(build_id))
        assert isinstance(build, Finished)
        return BuildFinished(**build.ids, status=status)

    async def explain(self, event: BuildFinished) -> ExplanationRow | None:
        await self.explainer.explain(event)
        await self.house.shown()
        async with self.house.parts.pool.connection() as connection:
            return await builds.find_explanation(connection, event.build_id)


async def test_a_failed_build_is_explained_once(house: House) -> None:  # noqa: F811
    they = Explained(house)
    event = await they.end(1, "failed", LOG)
    row = await they.explain(event)
    assert row is not None
    assert (row.attempt, row.excerpts[0]["first_line"], row.excerpts[0]["last_line"]) == (1, 44, 47)
    assert row.lines[0] == [".", ".", *CAUSE]
    assert row.excerpts[0]["reasons"] == ["source_error"]
    head = await they.log.read_head()
    assert await they.explain(event) == row
    assert await they.log.read_head() == head


async def test_other_builds_are_not_explained(house: House) -> None:  # noqa: F811
    they = Explained(house)
    assert await they.explain(await they.end(1, "passed", LOG)) is None
    assert await they.explain(await they.end(2, "aborted", LOG)) is None
    assert await they.explain(await they.end(3, "failed", [])) is None


async def test_what_the_last_passed_build_logged_too_counts_less(house: House) -> None:  # noqa: F811
    they = Explained(house)
    lines = [*NOISE, *["."] * 40, "worker failed"]
    before = await they.explain(await they.end(1, "failed", lines))
    await they.end(2, "passed", NOISE)
    after = await they.explain(await they.end(3, "failed", lines))
    assert before is not None
    assert after is not None
    assert before.lines[0][-1] == "OSError: no display"
    assert after.lines[0][-1] == "worker failed"
    assert "in_passed_build" in after.excerpts[1]["reasons"]


async def test_a_build_of_a_fork_hides_no_cause(house: House) -> None:  # noqa: F811
    they = Explained(house)
    await they.end(1, "passed", CAUSE, BuildTrigger("pull_request", 3, 7, fork=True))
    row = await they.explain(await they.end(2, "failed", LOG))
    assert row is not None
    assert row.excerpts[0]["reasons"] == ["source_error"]


async def test_a_deleted_build_has_no_explanation(house: House) -> None:  # noqa: F811
    they = Explained(house)
    event = await they.end(1, "failed", LOG)
    assert await they.explain(event) is not None
    await house.does(DeleteBuild(1))
    await house.shown()
    async with house.parts.pool.connection() as connection:
        assert await builds.find_explanation(connection, 1) is None
    late = await they.end(2, "failed", LOG)
    await house.does(DeleteBuild(2))
    assert await they.explain(late) is None


async def test_messages_show_the_excerpts_once_they_are_found(house: House) -> None:  # noqa: F811
    they = Explained(house)
    event = await they.end(1, "failed", LOG)
    position = await they.log.read_head()

    async def excerpts() -> list[dict[str, object]]:
        message = await MessageBuilder(they.log).build(position, "build.failed", 0, replay=False)
        found: list[dict[str, object]] = json.loads(bytes(message.data))["failure_excerpts"]
        return found

    assert await excerpts() == []
    await they.explain(event)
    assert (await excerpts())[0]["lines"] == [".", ".", *CAUSE]


def test_only_ends_of_failed_builds_are_selected() -> None:
    ends: list[Verdict] = ["passed", "failed", "aborted"]
    events = recorded(*(BuildFinished(1, 1, 1, status=status) for status in ends))
    assert select_failed(events) == [events[1]]
