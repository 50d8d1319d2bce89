"""`testhide reactions`, and what a server with parked reactions says of itself."""

import psycopg
import pytest

from store.tables.reactions import MAX_TRIES
from testhide.cli import main
from testhide.settings import Settings
from tests.support.server import Server

PARKED = "INSERT INTO due_reactions (reaction, position, tries, error) VALUES (%s, 1, %s, %s)"


@pytest.fixture(name="parked")
def _parked(prepared: Settings) -> Settings:
    with psycopg.connect(prepared.database_url) as connection:
        connection.execute("INSERT INTO reaction_positions VALUES ('delete_files', 1)")
        connection.execute(PARKED, ("delete_files", MAX_TRIES, "OSError('no route')"))
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


def test_the_server_is_degraded_and_only_admins_read_errors(server: Server) -> None:
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute(PARKED, ("parked_for_a_test", MAX_TRIES, "OSError('no route')"))
        try:
            ready = server.client().get("/api/v3/readyz")
            assert ready.status_code == 200
            # Of a log that nobody seals, readiness says that too, after some minutes.
            assert ready.json()["status"].startswith("degraded: reactions are parked, see `testhide reactions status`")
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
                    "errors": errors,
                }
            assert server.client().get("/api/v3/reactions").status_code == 401
        finally:
            connection.execute("DELETE FROM due_reactions WHERE reaction = 'parked_for_a_test'")
