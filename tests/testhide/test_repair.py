"""`testhide repair` reads what the log has of a lost table, sets back positions, and sends nothing again."""

import psycopg
import pytest

from domain.core.errors import Unavailable
from projections.engine.engine import ensure_tables
from projections.engine.projector import catch_up
from projections.ids_in_use import find_sequences_behind
from projections.registry import PROJECTIONS
from testhide.cli import main
from testhide.cli.backup import describe_repaired
from testhide.processes import Core
from testhide.repair import repair
from testhide.settings import Settings
from tests.integrations.receiving import messages, receiving
from tests.workers.hooks import open_hooks
from workers.reactions.registry import REACTIONS


@pytest.mark.parametrize("tables", ["webhook_endpoints", "reaction_positions", "webhook_endpoints, reaction_positions"])
async def test_webhooks_go_on_without_their_tables(parts: Core, tables: str) -> None:
    settings = Settings(database_url=parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with open_hooks(parts) as hooks, receiving() as receiver, receiving() as former:
        await hooks.register(receiver.url, ("build.finished",))
        deleted = await hooks.register(former.url, ("build.finished",))
        await hooks.delete(deleted)
        await hooks.build(1, "passed")
        await hooks.deliver()
        async with parts.pool.connection() as connection:
            await connection.execute(f"DROP TABLE {tables}".encode())
        assert {table.name for table in (await repair(settings)).lost} == set(tables.split(", "))
        await hooks.build(2, "passed")
        await hooks.deliver()
        assert messages(receiver) == [("build.finished", 1), ("build.finished", 2)]
        assert messages(former) == []


async def test_a_planner_beyond_the_log_goes_on_after_what_it_planned_last(parts: Core) -> None:
    settings = Settings(database_url=parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with open_hooks(parts) as hooks, receiving() as receiver, receiving() as later:
        await hooks.register(receiver.url, ("build.finished",))
        await hooks.build(1, "passed")
        await hooks.deliver()
        await hooks.register(later.url, ("build.finished",))
        await hooks.deliver()
        async with parts.pool.connection() as connection:
            await connection.execute(
                "UPDATE reaction_positions SET position = (SELECT max(notification_id) + 1 FROM stored_events)"
            )
        assert await hooks.deliver() == 0
        await hooks.build(2, "passed")  # the log grows past the position
        assert await hooks.deliver() == 0
        assert list((await repair(settings)).set_back) == ["webhooks"]
        assert (await repair(settings)).set_back == {}
        await hooks.deliver()
        assert messages(receiver) == [("build.finished", 1), ("build.finished", 2)]
        assert messages(later) == [("build.finished", 2)]


def test_a_position_beyond_the_log_is_shown_and_set_back(
    prepared: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(prepared.database_url) as connection:
        connection.execute("INSERT INTO reaction_positions VALUES ('delete_files', 70), ('webhooks', 1)")
        found = connection.execute("SELECT max(notification_id) FROM stored_events").fetchone()
        assert found is not None
        (head,) = found
    assert main.main(["reactions", "status"]) == 0
    _, line, defect, sound = capsys.readouterr().out.splitlines()
    assert line.split() == ["delete_files", "70", "-", "0", "0"]
    assert defect.strip() == (
        f"stands still: its position, 70, is beyond the end of the log, {head}: run `testhide repair`"
    )
    assert sound.split() == ["webhooks", "1", str(head - 1), "0", "0"]
    assert main.main(["repair"]) == 0
    assert capsys.readouterr().out == "delete_files was beyond the end of the log: it goes on after position 0\n"
    assert main.main(["reactions", "status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["delete_files", "0", str(head), "0", "0"]


async def test_reactions_whose_repetition_does_harm_go_on_at_the_end_of_the_log(parts: Core) -> None:
    settings = Settings(database_url=parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with open_hooks(parts) as hooks:
        await hooks.build(1, "passed")
    async with parts.pool.connection() as connection:
        for reaction in REACTIONS:
            await connection.execute("INSERT INTO reaction_positions VALUES (%s, 9999)", (reaction.name,))
    head, repaired = await parts.log.read_head(), await repair(settings)
    assert {name for name, position in repaired.set_back.items() if position == 0} == {
        "delete_a_jobs_logs_and_artifacts",
        "delete_a_builds_log_and_artifacts",
        "delete_an_artifacts_content",
        "mail_a_password_link",
        "mail_a_password_notice",
    }
    assert repaired.set_back["start_builds_of_a_change"] == repaired.set_back["sync_jobs_with_their_file"] == head
    assert (
        f"  it skips the events change.received at positions 1 to {head:,} that it had not handled yet"
        in describe_repaired(repaired)
    )


async def test_sequences_that_were_set_back(parts: Core) -> None:
    """An id or position that is in use is never given out as a new one."""
    settings = Settings(database_url=parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with open_hooks(parts) as hooks, receiving() as receiver:
        await hooks.register(receiver.url, ("build.finished",))
        await hooks.build(3, "passed")
        head = await parts.log.read_head()
        async with parts.pool.connection() as connection:
            await ensure_tables(connection, PROJECTIONS)
            await catch_up(connection, parts.log, PROJECTIONS, head)
            await connection.execute("SELECT setval('builds_ids', 2), setval('stored_events_notification_id_seq', 2)")
        assert (await find_sequences_behind(parts.pool))["builds_ids"] == 3
        with pytest.raises(Unavailable) as refused:
            await parts.ids.draw("builds")
        assert "The id 3 is in use already: the sequence builds_ids was set back" in refused.value.detail
        first = await parts.ids.draw_range("results", 10)
        async with parts.pool.connection() as connection:
            await connection.execute("SELECT setval('builds_ids', 1), setval('results_ids', 1)")
        with pytest.raises(Unavailable) as refused:
            await parts.ids.draw_range("results", 10)
        assert f"The id {first + 1} is in use already" in refused.value.detail
        moved = (await repair(settings)).moved
        assert (moved["builds_ids"], moved["public.stored_events_notification_id_seq"]) == (3, head)
        assert await find_sequences_behind(parts.pool) == {}
        assert await parts.ids.draw("builds") > 3
        await hooks.build(9, "passed")
        assert (await parts.log.find_positions(["build-9"], 10**9))[0] > head
        assert (await repair(settings)).moved == {}


async def test_endpoints_that_somebody_changed_are_what_the_log_says_again(parts: Core) -> None:
    settings = Settings(database_url=parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir="")
    async with open_hooks(parts) as hooks, receiving() as receiver, receiving() as thief:
        first, second = [await hooks.register(receiver.url, ("build.finished",)) for _ in range(2)]
        await hooks.build(1, "passed")
        await hooks.deliver()
        async with parts.pool.connection() as connection:
            await connection.execute(
                "INSERT INTO webhook_endpoints (id, kind, project_id, events, active, url, sealed_secret)"
                " SELECT 99, kind, project_id, events, active, %s, sealed_secret FROM webhook_endpoints WHERE id = %s",
                (thief.url, first),
            )
            await connection.execute("UPDATE webhook_endpoints SET url = %s WHERE id = %s", (thief.url, first))
            await connection.execute("DELETE FROM webhook_endpoints WHERE id = %s", (second,))
        assert (await repair(settings)).endpoints == [first, second, 99]
        assert (await repair(settings)).endpoints == []
        await hooks.build(2, "passed")
        await hooks.deliver()
        assert sorted(messages(receiver)) == [("build.finished", 1)] * 2 + [("build.finished", 2)] * 2
        assert messages(thief) == []
