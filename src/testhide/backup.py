"""Backs a server up into a folder while it runs. `testhide.restore` reads the folder.

backup.json     release, position and time of the backup (Manifest)
database.dump   one snapshot of the database, made by pg_dump in its custom format
blobs/          the artifacts, unless they are in an object store
secret.key      opens what is encrypted in the database
agent-token     of the local agent, if the server has one
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
from psycopg import IsolationLevel

from store.clock import utcnow
from store.key_ring.ring import opener_of
from store.key_ring.rotation import fetch_openers
from store.migrations.lost_tables import LostTable, describe, find_lost_tables
from store.postgres.queries import fetch_rows
from testhide.engines.client_programs import run_client
from testhide.operator_errors import Fault
from testhide.processes import core
from testhide.settings import Settings, write_key
from testhide.version import VERSION

LOG = LostTable("stored_events", None)
MANIFEST, DUMP, BLOBS, KEY, AGENT_TOKEN = "backup.json", "database.dump", "blobs", "secret.key", "agent-token"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    release: str
    position: int
    """The newest position of the log in the snapshot."""
    taken_at: datetime
    blobs_url: str
    """URL of the artifacts if the backup does not contain them, else empty."""


async def back_up(settings: Settings, target: Path) -> tuple[Manifest, list[LostTable]]:
    """Write a backup into a new folder. The folder appears only once it is complete.

    Returns what it is a backup of, and which tables the database has lost. Raises Fault, OSError.
    """
    with _new_folder(target) as folder:
        async with core(settings, pool_size=1, before_migration=True) as parts, parts.pool.connection() as connection:
            await connection.set_isolation_level(IsolationLevel.REPEATABLE_READ)
            async with connection.transaction():
                lost = await find_lost_tables(connection)
                if LOG in lost:
                    raise Fault(f"There is nothing to back up: {describe(lost)}.")
                query = "SELECT pg_export_snapshot(), coalesce(max(notification_id), 0) FROM stored_events"
                ((snapshot, position),) = await fetch_rows(connection, query)
                taken_at = utcnow()
                openers = await fetch_openers(connection)
                key = next((key for key in settings.secret_keys if opener_of(key) in openers), None)
                if key is None and openers:
                    raise Fault("The secret key was rotated while the backup began: run it again.")
                options = (f"--snapshot={snapshot}", "--no-unlogged-table-data", f"--file={folder / DUMP}")
                run_client("pg_dump", settings.database_url, "--format=custom", *options)
        # Copied after the snapshot: an artifact is stored before the event that names it.
        if blobs := settings.blobs_folder:
            copy_blobs(blobs, folder / BLOBS)
        write_key(folder / KEY, key or settings.secret_key)
        with suppress(FileNotFoundError):
            shutil.copy(Path(settings.data_dir, "agent", "token"), folder / AGENT_TOKEN)
        manifest = Manifest(
            release=VERSION, position=position, taken_at=taken_at, blobs_url="" if blobs else settings.blobs
        )
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest, lost


def copy_blobs(source: Path, target: Path) -> None:
    """Copy all artifacts. Leave out files that are not completely written, and artifacts that are deleted meanwhile."""
    target.mkdir(mode=0o700, exist_ok=True)
    for folder, _, names in os.walk(source):
        copied = target / Path(folder).relative_to(source)
        copied.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            if "#" not in name:
                with suppress(FileNotFoundError):
                    shutil.copyfile(Path(folder, name), copied / name)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder. It is renamed to `target` when the block ends, and removed when the block fails.

    Raises Fault if `target` exists.
    """
    if target.exists():
        raise Fault(f"{target} is there already: name a new folder.", 2)
    mask = os.umask(0o077)  # pg_dump and all copies: others may not read a file that is moved out of the folder either
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.unfinished-", dir=target.parent))
    try:
        yield unfinished
        os.sync()
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    finally:
        os.umask(mask)
