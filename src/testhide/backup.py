"""Backs a server up into a folder while it runs. `testhide.restore` reads the folder:

backup.json     release, position and time of the backup (Manifest)
database.dump   one snapshot of the database, made by pg_dump in its custom format
blobs/          the artifacts, unless they are in an object store; no caches
secret.key      opens what is encrypted in the database
agent-token     of the local agent, if the server has one
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import TypeVar

import msgspec
from psycopg import IsolationLevel

from domain.artifacts import ArtifactDeleted, build_blobs, job_blobs
from domain.builds import BuildDeleted
from domain.core.events import Event
from domain.jobs import JobDeleted
from store.clock import utcnow
from store.key_ring.ring import opener_of
from store.key_ring.rotation import fetch_openers
from store.log.event_log import EventLog
from store.migrations.lost_tables import LostTable, describe, find_lost_tables
from store.postgres.queries import fetch_rows
from store.tables.shared_caches import PREFIX
from testhide.engines.client_programs import run_client
from testhide.operator_errors import Fault
from testhide.processes import core
from testhide.settings import Settings, write_key
from testhide.version import VERSION

E = TypeVar("E", bound=Event)

BATCH_SIZE = 1_000
"""Number of events that are read at once."""
LOG = LostTable("stored_events", None)
MANIFEST, DUMP, BLOBS, KEY, AGENT_TOKEN = "backup.json", "database.dump", "blobs", "secret.key", "agent-token"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    release: str
    position: int
    """Newest position of the log in the snapshot."""
    taken_at: datetime
    blobs_url: str
    """URL of the artifacts if the backup does not contain them, otherwise empty."""
    deleted: list[str] = []
    """Keys of artifacts, and of folders of artifacts, that were deleted while the backup was made. The snapshot of the
    database still names them, but the backup may not contain them.
    """


async def back_up(settings: Settings, target: Path) -> tuple[Manifest, list[LostTable]]:
    """Write a backup into a new folder, which appears only once it is complete.

    Returns the manifest, and the tables that the database has lost. Raises Fault if the log is lost, the folder exists
    or the database cannot be used, and OSError if a file cannot be copied.
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
        # Copied after the snapshot: an artifact is stored before the event that names it, and deleted after the event
        # that says so.
        deleted = []
        if blobs := settings.blobs_folder:
            copy_blobs(blobs, folder / BLOBS)
            async with core(settings, pool_size=1, before_migration=True) as parts:
                deleted = await _find_deleted(parts.log, position)
        write_key(folder / KEY, key or settings.secret_key)
        with suppress(FileNotFoundError):
            shutil.copy(Path(settings.data_dir, "agent", "token"), folder / AGENT_TOKEN)
        manifest = Manifest(
            release=VERSION,
            position=position,
            taken_at=taken_at,
            blobs_url="" if blobs else settings.blobs,
            deleted=deleted,
        )
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
    return manifest, lost


def copy_blobs(source: Path, target: Path) -> None:
    """Copy all artifacts. Leaves out caches, files that are not completely written yet, and artifacts that are deleted
    meanwhile.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    for folder, folders, names in os.walk(source):
        if Path(folder) == source:
            folders[:] = {*folders} - {PREFIX.rstrip("/")}
        copied = target / Path(folder).relative_to(source)
        copied.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            if "#" not in name:
                with suppress(FileNotFoundError):
                    shutil.copyfile(Path(folder, name), copied / name)


async def read_all(log: EventLog, kind: type[E], after: int = 0) -> list[E]:
    """Return all events of one type after a position."""
    found: list[E] = []
    while recorded := await log.read(after, BATCH_SIZE, [kind.name]):
        found += [item.event for item in recorded if isinstance(item.event, kind)]
        after = recorded[-1].position
    return found


async def _find_deleted(log: EventLog, after: int) -> list[str]:
    """Returns keys of artifacts, and of folders of artifacts, that were deleted after a position."""
    return [
        *(event.blob for event in await read_all(log, ArtifactDeleted, after)),
        *(build_blobs(event.job_id, event.build_id) for event in await read_all(log, BuildDeleted, after)),
        *(job_blobs(event.job_id) for event in await read_all(log, JobDeleted, after)),
    ]


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder. When the block ends, rename the folder to `target`; if the block fails, remove the
    folder. Raises Fault if `target` exists.

    Also removes temporary folders of backups that were killed, since they contain a copy of the database and perhaps
    the secret key.
    """
    if target.exists():
        raise Fault(f"{target} is there already: name a new folder.", 2)
    prefix = f"{target.name}.unfinished-"
    for left in target.parent.glob(f"{escape(prefix)}*"):
        with suppress(OSError), _locked(left) as is_locked:
            if is_locked:
                shutil.rmtree(left)
    mask = os.umask(0o077)  # for pg_dump and all copies: others may not read them outside of the folder either
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        try:
            with _locked(unfinished):
                yield unfinished
            os.sync()
            unfinished.rename(target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    finally:
        os.umask(mask)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or this process ends. Yields False if another process has locked the folder, or if
    the file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    is_locked = False
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        yield is_locked
    finally:
        os.close(descriptor)
