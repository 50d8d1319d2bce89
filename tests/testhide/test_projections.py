"""A release with read models that the database does not have yet; and how a build tells how far it is."""

import psycopg
import pytest

from projections.rebuild.rebuild import Progress
from projections.registry import PROJECTIONS
from testhide.cli import main
from testhide.operator_name import find_operator
from testhide.rebuild import ProgressPrinter, summarize
from testhide.settings import Settings
from tests.support.damage import damaged


@pytest.fixture(name="lacking")
def _lacking(prepared: Settings) -> Settings:
    """Of a database with events, whose read model of the users is of another release."""
    with psycopg.connect(prepared.database_url) as connection:
        for (table,) in connection.execute("SELECT unnest(tables) FROM projection_positions WHERE name = 'auth'"):
            connection.execute(f"DROP TABLE {table}".encode())
        connection.execute("DELETE FROM projection_positions WHERE name = 'auth'")
    return prepared


def users(settings: Settings) -> list[tuple[str]]:
    with psycopg.connect(settings.database_url) as connection:
        return connection.execute("SELECT email FROM users_v2").fetchall()


def test_migrate_says_what_has_to_be_built(lacking: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["migrate"]) == 0
    output = capsys.readouterr().out
    assert output == "auth has to be built from the log: run `testhide projections rebuild auth --switch`\n"
    with pytest.raises(psycopg.errors.UndefinedTable):
        users(lacking)
    assert main.main(["projections", "rebuild", "--switch"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("switched auth at position ")
    assert users(lacking) == [(lacking.admin_email,)]
    assert main.main(["migrate"]) == 0
    assert capsys.readouterr().out == ""


def test_the_stack_builds_it_before_it_serves(lacking: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["prepare"]) == 0
    assert "building read models from the log: auth\n" in capsys.readouterr().out
    assert users(lacking) == [(lacking.admin_email,)]


def test_the_stack_builds_what_is_broken_before_it_serves(
    lacking: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["prepare"]) == 0
    with psycopg.connect(lacking.database_url) as connection:
        connection.execute("DROP TABLE users_v2")
        connection.execute("UPDATE projection_positions SET position = 1000 WHERE name = 'jobs'")
    capsys.readouterr()
    assert main.main(["prepare"]) == 0
    assert "building read models from the log: auth, jobs\n" in capsys.readouterr().out
    assert users(lacking) == [(lacking.admin_email,)]


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["rebuild", "bulids"], "There is no projection 'bulids'; there are: auth, "),
        (["switch", "jobs"], "jobs is not built yet: run `testhide projections rebuild jobs` first."),
        (["diff", "jobs"], "jobs has no staging tables: run `testhide projections rebuild jobs` first."),
    ],
)
def test_what_is_not_possible_is_said(
    lacking: Settings, arguments: list[str], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["projections", *arguments]) != 0
    assert output in capsys.readouterr().err


def test_only_what_was_asked_for_is_built(prepared: Settings) -> None:
    """Also by the second process, which builds `artifacts`, and would build `results`, too."""
    assert main.main(["projections", "rebuild", "jobs", "artifacts"]) == 0
    with psycopg.connect(prepared.database_url) as connection:
        built = connection.execute("SELECT name FROM beside.projection_positions WHERE built_at IS NOT NULL").fetchall()
    assert sorted(built) == [("artifacts",), ("jobs",)]


def test_a_read_model_that_is_named_twice_is_built_once(prepared: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["projections", "rebuild", "jobs", "jobs"]) == 0
    assert capsys.readouterr().out.startswith("built jobs up to position ")


def test_differences_end_with_one(lacking: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["projections", "rebuild", "auth", "--switch"]) == 0
    assert main.main(["projections", "rebuild", "auth"]) == 0
    capsys.readouterr()
    assert main.main(["projections", "diff", "auth"]) == 0
    assert "  users_v2: 1 rows live, 1 staging: equal\n" in capsys.readouterr().out
    with psycopg.connect(lacking.database_url) as connection:
        connection.execute("UPDATE users_v2 SET first_name = 'Ann'")
    assert main.main(["projections", "diff", "auth"]) == 1
    output = capsys.readouterr().out
    assert '  users_v2: 1 rows live, 1 staging: 1 changed\n    changed: id=1: first_name "Ann" -> ""\n' in output


def test_tables_that_lost_an_event_do_not_replace_those_that_have_it(
    lacking: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["projections", "rebuild", "auth", "--switch"]) == 0
    with psycopg.connect(lacking.database_url) as connection:
        query = "SELECT notification_id FROM stored_events WHERE topic = 'user.registered'"
        ((position,),) = connection.execute(query).fetchall()
    with damaged(lacking.database_url, position):
        capsys.readouterr()
        assert main.main(["projections", "rebuild", "auth", "--switch", "--from-scratch"]) == 1
        output = capsys.readouterr().out
        assert f"  auth: 1 parked, the first at position {position}: Unreadable: the stored state is not" in output
        assert "put-back" in output
        assert users(lacking) == [(lacking.admin_email,)], "the live tables are as they were"
        assert main.main(["projections", "switch", "auth"]) == 0, "who names them accepts the loss"
        assert users(lacking) == []
        assert main.main(["projections", "rebuild", "auth", "--switch", "--from-scratch"]) == 0, "nothing more is lost"
    assert main.main(["projections", "rebuild", "auth", "--switch", "--from-scratch"]) == 0
    assert users(lacking) == [(lacking.admin_email,)]


def test_a_rebuild_that_fills_the_disk_gives_the_room_back(
    lacking: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(lacking.database_url) as connection:
        connection.execute(
            "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            "CREATE TRIGGER fill BEFORE UPDATE ON beside.projection_positions FOR EACH ROW"
            " WHEN (NEW.position > 0) EXECUTE FUNCTION fill()"
        )
    assert main.main(["projections", "rebuild", "auth"]) == 1
    printed = capsys.readouterr().err
    assert "The disk of the database is full (could not extend file). The new tables of auth were dropped" in printed
    with psycopg.connect(lacking.database_url) as connection:
        connection.execute("DROP FUNCTION fill CASCADE")
        left = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'beside' AND tablename ~ '_v'")
        assert left.fetchall() == []
    assert main.main(["projections", "rebuild", "auth", "--switch"]) == 0
    assert users(lacking) == [(lacking.admin_email,)]


def test_a_parked_event_is_dismissed_with_who_and_why(lacking: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["projections", "rebuild", "auth", "--switch"]) == 0
    with psycopg.connect(lacking.database_url) as connection:
        connection.execute(
            "INSERT INTO parked_events (projection, version, position, stream, error)"
            " VALUES ('auth', 2, 1, 'user-1', 'poison'), ('auth', 2, 2, 'user-1', 'waits')"
        )

    def dismiss(position: int) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.main(["projections", "dismiss", "auth", str(position), "--reason", "the disk forgot it"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    waits = "The event at position 2 waits for the one at position 1 of user-1: dismiss that."
    assert dismiss(2) == (1, "", f"testhide: {waits}\n")
    assert "No event at position 7 is parked for auth" in dismiss(7)[2]
    done = "dismissed user-1 at position 1; 0 parked events of its stream are left\n"
    assert dismiss(1) == (0, done, "")
    assert main.main(["replay", "projection-auth"]) == 0
    shown = capsys.readouterr().out
    assert f"dismissed position 1 of read model auth as {find_operator()}: “the disk forgot it”" in shown


def test_progress_is_told_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([10.0, 10.5, 12.0, 12.1])
    printer = ProgressPrinter("builds", lambda: next(times))
    for position in (0, 500, 4_000, 4_100):
        printer(Progress(position, 10_000))
    assert capsys.readouterr().out == "builds: 4,000 of 10,000 events (40%), 2,000/s, 3 s to go\n"


def test_progress_names_a_few_read_models_and_counts_many() -> None:
    assert summarize(PROJECTIONS[:3]) == "auth, identity_providers, projects"
    assert summarize(PROJECTIONS) == f"{len(PROJECTIONS)} read models"
