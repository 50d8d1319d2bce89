"""What a process says of a log in which a newer release has written."""

from pathlib import Path

import pytest

from domain.claims import ClaimTaken
from domain.core.events import EventMetadata
from projections.engine.engine import ensure_tables
from projections.registry import PROJECTIONS
from store.clock import utcnow
from store.log.event_log import Write
from testhide.processes import Core
from testhide.settings import Settings, save_settings
from tests.support.forked_process import run_forked


@pytest.mark.parametrize("verb", ["project", "dispatch"])
async def test_it_stops_with_the_name_of_the_event(parts: Core, tmp_path: Path, verb: str) -> None:
    await parts.log.append([Write(1, ClaimTaken(claim="a", owner="ann"))], EventMetadata(utcnow(), "tests"))
    name = "claim.taken" if verb == "project" else "build.queued"
    async with parts.pool.connection() as connection:
        await ensure_tables(connection, PROJECTIONS)  # the projector reads the log for what serves
        # Class version 200, in the place of 1.
        await connection.execute(
            "UPDATE stored_events SET topic = %s, state = substr(state, 1, 2) || '\\xccc8' || substr(state, 4)", (name,)
        )
    settings = Settings(database_url=parts.conninfo, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path))
    save_settings(settings, tmp_path / "settings.json")
    stopped = run_forked(verb, TESTHIDE_SETTINGS=str(tmp_path / "settings.json"))
    assert stopped.returncode == 1
    words = f"testhide: event '{name}' version 200 is not known to this version of the server: a newer release wrote it"
    assert words in stopped.stderr
