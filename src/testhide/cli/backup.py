"""`testhide backup`, `restore`, `after-restore` and `repair`: save, restore and repair the data of a server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from store.migrations.lost_tables import describe
from testhide.backup import back_up
from testhide.cli.options import DataFolder, run_on_stack
from testhide.cli.printing import printable
from testhide.repair import SKIPPING, Repaired
from testhide.repair import repair as repair_database
from testhide.restore import Restored, finish_restore, refuse_running
from testhide.restore import restore as restore_backup
from testhide.settings import Settings
from testhide.stack.offline import data_folder, settings_of

MAX_PRINTED = 50
"""Largest number of artifacts in each printed list: of missing, altered and deleted ones. The rest is counted."""


def backup(folder: Path, *, data: DataFolder = None) -> int:
    """Back everything up into a new folder, while the stack runs or not. Ends with 1 if tables are lost.

    Parameters
    ----------
    folder
        New folder for the backup. It will contain the secret key: keep it as safe as the server.
    """

    async def work(settings: Settings) -> int:
        manifest, lost = await back_up(settings, folder.absolute())
        print(f"backed up to {folder}: position {manifest.position:,}, {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC")
        if manifest.blobs_url:
            print(f"not in it are the artifacts, which lie at {manifest.blobs_url}")
        if lost:
            print(f"LOST: the backup is not whole: {describe(lost)}")
        return 1 if lost else 0

    return run_on_stack(data, work)


def restore(folder: Path, *, data: Annotated[Path | None, Parameter(help="New data folder.")] = None) -> int:
    """Restore a backup into a new data folder, and check it. Ends with 1 if something is lost or altered.

    Parameters
    ----------
    folder
        A folder that `testhide backup` made.
    """
    data = data_folder(data, os.environ)
    exit_code = _print_found(restore_backup(folder, data))
    print(f"start it: testhide up --data {data}")
    return exit_code


def after_restore(*, data: DataFolder = None) -> int:
    """Check and repair a database that PostgreSQL's own tools restored from a copy by pg_dump or pg_basebackup. Skips
    ids that lost events may have had, and queues builds again that were running.

    `restore` does this by itself. Refuses a database that a server uses. Ends with 1 if something is lost or altered.
    """
    with settings_of(data, os.environ) as settings:
        refuse_running(settings)
        return _print_found(finish_restore(settings))


def repair(*, data: DataFolder = None) -> int:
    """Create the tables that the database has lost, and say what was lost with them. Set back workers' positions that
    are beyond the end of the log, and move sequences past the numbers that are in use. The stack may run or not.
    """

    async def work(settings: Settings) -> int:
        print("\n".join(describe_repaired(await repair_database(settings))) or "no table is lost")
        return 0

    return run_on_stack(data, work)


def describe_repaired(repaired: Repaired) -> Iterator[str]:
    for table in repaired.lost:
        yield f"made again, empty: {table.name}; lost with it: {table.lost}"
    for name, position in repaired.set_back.items():
        yield f"{name} was beyond the end of the log: it goes on after position {position:,}"
        if name in SKIPPING:
            yield f"  it skips the events {SKIPPING[name]} at positions 1 to {position:,} that it had not handled yet"
    for endpoint_id in repaired.endpoints:
        yield f"webhook or channel {endpoint_id} was changed in webhook_endpoints: it is again what the log says"
    if repaired.is_sealing_reset:
        yield "audit_sealing had more positions as sealed than were ever used: the sealer compares the whole log again"
    for name, used in repaired.moved.items():
        yield f"{name} was set back, to where it gives out again what is in use: it goes on after {used:,}"


def _print_found(restored: Restored) -> int:
    """Print the findings of a restore. Returns the exit code: 1 if something is lost or altered, otherwise 0."""
    print("\n".join(map(printable, _describe(restored))))
    is_damaged = restored.missing or restored.altered or restored.repaired.lost or not restored.is_as_sealed
    return 1 if is_damaged else 0


def _describe(restored: Restored) -> Iterator[str]:
    yield f"restored up to position {restored.position:,}"
    if not restored.is_as_sealed:
        yield f"ALTERED: the log is not the one of its checkpoint {restored.sealed}; `testhide audit verify` says where"
    elif restored.sealed:
        yield f"the log is the one of its checkpoint {restored.sealed}"
    else:
        yield "the log has no checkpoint to compare it with"
    if restored.blobs_url:
        yield f"artifacts were not checked: they lie at {restored.blobs_url} (TESTHIDE_BLOBS_URL)"
    else:
        found = len(restored.missing) + len(restored.altered)
        yield f"artifacts: {restored.artifacts:,}, missing or altered: {found:,}"
    for what, artifacts in (
        ("missing", restored.missing),
        ("altered", restored.altered),
        ("deleted while the backup was made", restored.deleted),
    ):
        for artifact in artifacts[:MAX_PRINTED]:
            yield f"{what}: artifact {artifact.artifact_id} of build {artifact.build_id}, {artifact.path}"
        if len(artifacts) > MAX_PRINTED:
            yield f"and {len(artifacts) - MAX_PRINTED:,} more"
    yield from describe_repaired(restored.repaired)
    yield f"agents that have to connect again, with their builds to run again: {restored.sessions}"
