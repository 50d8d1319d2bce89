"""The commands of docs/audit.md about proofs, run as they stand there; and what the verbs say when they cannot."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from store.audit.recheck import TreeDamaged
from tests.api.test_audit_proofs import checkpoints, seal
from tests.support.builders import given_build, given_job, given_project
from tests.support.documentation import documented
from tests.support.forked_process import run_forked
from tests.support.forked_program import forked_program
from tests.support.server import Server


@pytest.fixture(name="environ")
def _environ(server: Server) -> Iterator[dict[str, str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    settings = str(Path(server.settings.data_dir, "settings.json"))
    with forked_program() as programs:
        yield kept | {"PATH": f"{programs}{os.pathsep}{kept['PATH']}", "TESTHIDE_SETTINGS": settings}


def test_the_documented_commands(server: Server, environ: dict[str, str], tmp_path: Path) -> None:
    project = given_project(server)
    given_build(server, given_job(server, project))
    seal(server)
    environ |= {
        "URL": f"{server.url}/api/v3",
        "TOKEN": server.admin.token,
        "PROJECT": str(project),
    }
    commands = documented(
        "docs/audit.md",
        "Keep checkpoints elsewhere",
        "Export and verify",
        "Signing keys",
        "Build logs and artifacts",
    )
    script = "\n".join(["set -eu", *commands])
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("verified: nothing was altered") == 4
    *_, rotated, _, compared = done.stdout.splitlines()
    assert rotated.endswith(checkpoints(server)["keys"][-1]), "a command makes a new key"
    assert compared == "verified: all of them are what the log says"


def audit(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return run_forked("audit", *words, **environ)


def test_a_row_that_was_changed_is_put_back_or_accepted(server: Server, environ: dict[str, str]) -> None:
    given_project(server)
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA kept")
        connection.execute("CREATE TABLE kept.stored_events AS TABLE stored_events")
        query = "SELECT notification_id, topic FROM stored_events ORDER BY notification_id DESC LIMIT 1"
        ((position, topic),) = connection.execute(query.encode()).fetchall()
        change = "UPDATE {}stored_events SET topic = 'project.deleted' WHERE notification_id = %s"
        connection.execute(change.format("").encode(), (position,))
        backup = make_conninfo(server.settings.database_url, options="-csearch_path=kept")
        for says in (f"put back: {position}", "put back: nothing, all of them are as they were"):
            done = audit(environ, "put-back", str(position - 1), str(position), "--from", backup)
            assert (done.returncode, done.stdout.splitlines()[0]) == (0, says), done.stderr
            *_, last = done.stdout.splitlines()
            if says.endswith(str(position)):
                assert last.startswith("  testhide projections rebuild ")
                assert last.endswith(" --from-scratch --switch")
                assert {"projects", "scm"} < set(last.split()), "they lose rows when a project is deleted"
                assert "nodes" not in last.split()
            else:
                assert last == says
        connection.execute(change.format("kept.").encode(), (position,))
        connection.execute(change.format("").encode(), (position,))
        done = audit(environ, "put-back", str(position), "--from", backup)
        assert (done.returncode, "Nothing was changed: the row at position" in done.stderr) == (1, True), done.stderr
        done = audit(environ, "put-back", str(position + 1_000_000), "--from", backup)
        none = f"Nothing was changed: neither database has a row at position {position + 1_000_000}.\n"
        assert (done.returncode, done.stderr) == (1, f"testhide: {none}")
        done = audit(environ, "put-back", str(position), "--from", "/nowhere")
        assert (done.returncode, "names no data folder" in done.stderr) == (2, True), done.stderr
        connection.execute("UPDATE stored_events SET topic = %s WHERE notification_id = %s", (topic, position))
        done = audit(environ, "accept", str(position), "--reason", "none")
        assert (done.returncode, "it needs no acceptance" in done.stderr) == (1, True), done.stderr
        ((inserted,),) = connection.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
            " VALUES ('claim-by-hand', 1, 'claim.taken', '') RETURNING notification_id"
        ).fetchall()
        with pytest.raises(TreeDamaged, match=f"position {inserted} .* `testhide audit put-back {inserted} "):
            seal(server)
        done = audit(environ, "accept", str(inserted), "--reason", "written by hand")
        assert (done.returncode, f"accepted the row at position {inserted}" in done.stdout) == (0, True), done.stderr
    seal(server)
    done = audit(environ, "accept", str(inserted), "--reason", "again")
    assert (done.returncode, "is sealed already" in done.stderr) == (1, True), done.stderr


def test_files_that_verify_cannot_read(environ: dict[str, str], tmp_path: Path) -> None:
    del environ["TESTHIDE_SETTINGS"]
    wrong, missing = tmp_path / "wrong", tmp_path / "missing"
    wrong.write_text("no note\n")
    for words, says in (
        ([missing, "--unpinned"], "cannot be read"),
        ([missing], "Give --key or --checkpoint"),
        ([wrong, "--checkpoint", wrong], "no signed note"),
        ([wrong, "--checkpoint", missing], "cannot be read"),
        ([wrong, "--key", wrong], "no verifier key"),
    ):
        done = audit(environ, "verify", *map(str, words))
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    done = audit(environ, "verify", "--unpinned", str(wrong))
    assert (done.returncode, "it has no header" in done.stdout) == (1, True)
