"""`testhide reactions`, and what a server with parked reactions says of itself."""

import shlex

import psycopg
import pytest

from testhide.cli import main
from testhide.settings import Settings
from tests.support.documentation import documented
from tests.support.server import Server

PARKED = "INSERT INTO due_reactions (reaction, position, error, parked_at) VALUES (%s, 1, %s, now())"


@pytest.fixture(name="parked")
def _parked(prepared: Settings) -> Settings:
    with psycopg.connect(prepared.database_url) as connection:
        connection.execute("INSERT INTO reaction_positions VALUES ('delete_files', 1)")
        connection.execute(PARKED, ("delete_files", "OSError('no route')"))
    return prepared


def test_what_is_parked_is_shown_and_asked_for_again(parked: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["reactions", "status"]) == 0
    _, line, error = capsys.readouterr().out.splitlines()
    name, position, _, due, waiting = line.split()
    assert (name, position, due, waiting) == ("delete_files", "1", "0", "1")
    assert error == "    parked: position 1: OSError('no route')"

    assert main.main(["reactions", "retry", "delete_files"]) == 0
    assert capsys.readouterr().out.startswith("1 parked events are due again")
    assert main.main(["reactions", "status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["1", "0"]
    assert main.main(["reactions", "retry"]) == 0
    assert capsys.readouterr().out.startswith("0 parked events")


def test_an_unknown_reaction_is_said(parked: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["reactions", "retry", "delete_flies"]) == 2
    assert "There is no reaction 'delete_flies'; there are: delete_files." in capsys.readouterr().err


def test_a_cancelled_one_is_recorded_with_who_and_why(parked: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    cancel = ["reactions", "cancel", "delete_files", "1", "--reason", "the store is gone"]
    assert main.main(cancel) == 0
    assert capsys.readouterr().out == "cancelled delete_files for position 1\n"
    assert main.main(["reactions", "status"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["0", "0"]
    with psycopg.connect(parked.database_url) as connection:
        rows = connection.execute("SELECT state FROM stored_events WHERE topic LIKE 'reaction.cancelled%'").fetchall()
    assert len(rows) == 1
    assert main.main(cancel) == 2
    assert "'delete_files' is not due for position 1; see `testhide reactions status`." in capsys.readouterr().err


def test_the_documented_commands(prepared: Settings) -> None:
    with psycopg.connect(prepared.database_url) as connection:
        connection.execute(
            "INSERT INTO due_reactions (reaction, position) VALUES ('delete_a_jobs_logs_and_artifacts', 1653)"
        )
    for command in documented("docs/reliability.md", "Reactions"):
        assert main.main(shlex.split(command)[1:]) == 0, command


def test_how_far_long_work_is(prepared: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    with psycopg.connect(prepared.database_url) as connection:
        connection.execute(
            "INSERT INTO due_reactions (reaction, position, progress) VALUES ('delete_files', 1, '3 of 8 deleted')"
        )
    assert main.main(["reactions", "status"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "    at work: position 1: 3 of 8 deleted"


def test_the_server_is_degraded_and_only_admins_read_errors(server: Server) -> None:
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(PARKED, ("parked_for_a_test", "OSError('no route')"))
        try:
            ready = server.client().get("/api/v3/readyz")
            assert ready.status_code == 200
            # The status names other problems too, such as a log that nobody seals.
            assert ready.json()["status"].startswith("degraded: ")
            assert "reactions are parked, see `testhide reactions status`" in ready.json()["status"]
            for client, errors in (
                (server.admin, ["position 1: OSError('no route')"]),
                (server.make_user("viewer"), []),
            ):
                (found,) = [
                    item for item in client.get("/api/v3/reactions").json() if item["name"] == "parked_for_a_test"
                ]
                assert found == {
                    "name": "parked_for_a_test",
                    "position": None,
                    "due": 0,
                    "parked": 1,
                    "progress": [],
                    "errors": errors,
                }
            assert server.client().get("/api/v3/reactions").status_code == 401
        finally:
            connection.execute("DELETE FROM due_reactions WHERE reaction = 'parked_for_a_test'")
