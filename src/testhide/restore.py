"""Restores a backup into a new data folder, and makes a restored database safe to use."""

import asyncio
import hashlib
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import psycopg

from commands.artifacts import DeleteArtifact
from commands.audit import NoteRestore
from commands.handler import CommandContext, Handler
from commands.nodes import MarkNodeOffline
from domain.artifacts import ArtifactDeleted, ArtifactStored
from domain.builds import BuildDeleted
from domain.core.errors import Rejection
from domain.jobs import JobDeleted
from domain.nodes import NODE, NodeRegistered
from store.audit.checkpoints import AuditTree, compute_root
from store.clock import utcnow
from store.log.event_log import EventLog
from store.log.ids import skip_lost_ids
from store.postgres.connection_settings import process_name
from testhide.backup import AGENT_TOKEN, BLOBS, DUMP, KEY, MANIFEST, Manifest, copy_blobs, read_all
from testhide.engines import embedded_engines
from testhide.engines.client_programs import run_client
from testhide.engines.folder import UNFINISHED, make_folder, read_record, refuse_unfinished, write_private
from testhide.operator_errors import Fault
from testhide.preparation import migrate, upgrade
from testhide.processes import Core, core
from testhide.repair import Repaired, repair
from testhide.settings import Settings, parse_key, save_settings, write_key

REASON = "the log was restored from a backup"


@dataclass(frozen=True)
class Restored:
    """Findings about a restored database and its artifacts."""

    position: int
    """Newest position of the restored log."""
    sealed: int
    """Size of the newest checkpoint; 0 without a checkpoint."""
    is_as_sealed: bool
    """Whether the log's rows give the root that the newest checkpoint signs; True without a checkpoint."""
    blobs_url: str
    """URL of the object store with the artifacts, which were not checked; empty if the artifacts are in a folder."""
    artifacts: int
    missing: list[ArtifactStored]
    """Artifacts whose contents are missing, except those in `deleted`."""
    altered: list[ArtifactStored]
    """Artifacts whose contents differ from those that the log recorded."""
    deleted: list[ArtifactStored]
    """Artifacts whose contents are missing because they were deleted while the backup was made. The restore has
    recorded these deletions in the log.
    """
    sessions: int
    """Number of agents' sessions that were ended."""
    repaired: Repaired
    """Repairs of the database: lost tables, positions of workers, endpoints and sequences."""


def restore(backup: Path, data: Path) -> Restored:
    """Restore a backup into the data folder `data`, which must be empty or absent. Raises Fault or OSError if that
    fails, and then leaves the folder as it was.
    """
    manifest, key = read_backup(backup)
    data = data.absolute()
    refuse_unfinished(data)
    is_new = not data.exists()
    if not is_new and {entry.name for entry in data.iterdir()} - {"lost+found"}:
        raise Fault(f"{data} is not empty: restore into a new folder.", 2)
    try:
        make_folder(data)
        (data / UNFINISHED).touch(0o600)
        with embedded_engines(data, restoring=True) as engines:
            settings = Settings(
                database_url=engines.database_url,
                redis_url=engines.redis_url,
                secret_key=key,
                data_dir=str(data),
                blobs_url=manifest.blobs_url,
            )
            dump = str(backup / DUMP)
            run_client("pg_restore", settings.database_url, "--single-transaction", "--no-owner", "--no-acl", dump)
            for name in ("run", "logs", "blobs", "agent"):
                (data / name).mkdir(mode=0o700)
            if not manifest.blobs_url:
                copy_blobs(backup / BLOBS, data / "blobs")
            with suppress(FileNotFoundError):
                write_private(data / "agent" / "token", (backup / AGENT_TOKEN).read_bytes())
            restored = finish_restore(settings, manifest.deleted)
            write_key(data / KEY, key)
            save_settings(settings, data / "run" / "settings.json")
        (data / UNFINISHED).unlink()
    except BaseException:
        if data.exists():
            _empty(data)
            if is_new:
                data.rmdir()
        raise
    return restored


def read_backup(backup: Path) -> tuple[Manifest, bytes]:
    """Return a backup's manifest and secret key. Raises Fault if the backup is not complete."""
    try:
        manifest = msgspec.json.decode((backup / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise Fault(f"{backup} is no backup: it has no {MANIFEST}.", 2) from None
    except msgspec.MsgspecError as error:
        raise Fault(f"{backup / MANIFEST} cannot be read: {error}", 2) from None
    wanted = (DUMP, KEY) if manifest.blobs_url else (DUMP, KEY, BLOBS)
    if missing := [name for name in wanted if not (backup / name).exists()]:
        raise Fault(f"{backup} is not complete, put back what is missing: {', '.join(missing)}.", 2)
    return manifest, parse_key((backup / KEY).read_text(), str(backup / KEY))


def finish_restore(settings: Settings, deleted: Collection[str] = ()) -> Restored:
    """Check a restored database and its artifacts, and make the database safe to use. Raises Fault if the database
    cannot be upgraded or repaired.

    `deleted` are keys of artifacts, and of folders of artifacts, that were deleted while the backup was made. The
    restored log does not contain these deletions. They are appended to it for those artifacts whose contents are
    missing.
    """
    upgrade(settings)
    repaired = asyncio.run(repair(settings))
    migrate(settings)

    async def finish() -> Restored:
        async with core(settings, pool_size=2) as parts:
            async with parts.pool.connection() as connection:
                await connection.execute("ANALYZE")
                checkpoint = await AuditTree(parts.pool).checkpoint()
                is_as_sealed = checkpoint is None or await compute_root(connection, checkpoint.size) == checkpoint.root
            blobs = settings.blobs_folder
            contents = [(one, _digest(blobs / one.blob)) for one in await find_artifacts(parts.log)] if blobs else []
            missing = [artifact for artifact, digest in contents if digest is None]
            position = await parts.log.read_head()
            sessions = await go_on(parts)
            again = await _delete_again(parts, [artifact for artifact in missing if _is_below(artifact.blob, deleted)])
            return Restored(
                position=position,
                sealed=checkpoint.size if checkpoint else 0,
                is_as_sealed=is_as_sealed,
                blobs_url="" if blobs else settings.blobs,
                artifacts=len(contents) - len(again),
                missing=[artifact for artifact in missing if artifact.artifact_id not in again],
                altered=[artifact for artifact, digest in contents if digest not in (None, artifact.sha256)],
                deleted=[artifact for artifact in missing if artifact.artifact_id in again],
                sessions=sessions,
                repaired=repaired,
            )

    return asyncio.run(finish())


def refuse_running(settings: Settings) -> None:
    """Raises Fault if processes of a server use the database. A restore would end the sessions of the server's agents,
    which would run all builds again, and the server's log would say that it was restored.
    """
    with suppress(psycopg.OperationalError), psycopg.connect(settings.database_url) as connection:
        query = (
            "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'testhide process %%' AND application_name <> %s"
        )
        running = sorted(name for (name,) in connection.execute(query, (process_name(),)))
        if running:
            raise Fault(f"A server runs on this database: stop it first ({', '.join(running)}).")


def _is_below(key: str, deleted: Collection[str]) -> bool:
    return key in deleted or any(f"{folder}/" in deleted for folder in PurePosixPath(key).parents)


async def _delete_again(parts: Core, artifacts: Sequence[ArtifactStored]) -> set[int]:
    """Record in the log that artifacts were deleted, since their contents are gone. Returns the ids of these artifacts.
    Leaves out artifacts of pinned builds, which cannot be deleted.
    """
    handler, caller, deleted = Handler(parts.log, utcnow), CommandContext("system:operator"), set[int]()
    for artifact in artifacts:
        with suppress(Rejection):
            await handler.execute(DeleteArtifact(artifact.artifact_id, artifact.build_id), caller)
            deleted.add(artifact.artifact_id)
    return deleted


async def go_on(parts: Core) -> int:
    """Make a restored database safe to use. Returns the number of agents' sessions that it ended.

    Skips positions and ids that lost events may have had, and records the restore. Ends the sessions of agents, and
    queues their builds again, since the log does not say how these ended.
    """
    handler, caller = Handler(parts.log, utcnow), CommandContext("system:operator")
    head = await parts.log.read_head()
    await skip_lost_ids(parts.pool)
    await handler.execute(NoteRestore(head), caller)
    registered = [event.node_id for event in await read_all(parts.log, NodeRegistered)]
    ended = 0
    for node_id in registered:
        node = await parts.log.load_state(NODE.at(node_id))
        if node is not None and node.session is not None:
            await handler.execute(MarkNodeOffline(node_id, node.session, REASON), caller)
            ended += 1
    return ended


async def find_artifacts(log: EventLog) -> list[ArtifactStored]:
    """Return all artifacts that are not deleted."""
    deleted = {event.artifact_id for event in await read_all(log, ArtifactDeleted)}
    builds = {event.build_id for event in await read_all(log, BuildDeleted)}
    jobs = {event.job_id for event in await read_all(log, JobDeleted)}
    return [
        event
        for event in await read_all(log, ArtifactStored)
        if event.artifact_id not in deleted and event.build_id not in builds and event.job_id not in jobs
    ]


def _digest(file: Path) -> str | None:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _empty(data: Path) -> None:
    record = read_record(data)
    outside = [Path(record.home), Path(record.sockets)] if record else []
    inside = sorted(data.iterdir(), key=lambda path: path.name == UNFINISHED)  # UNFINISHED goes last
    for path in [*outside, *inside]:
        if path.is_dir() and path.name != "lost+found":
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
