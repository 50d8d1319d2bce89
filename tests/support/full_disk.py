"""Small disks that tests fill. They are real disks, which only root can mount."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from testhide.engines import Engines


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mounts an empty disk of this size (`2m`) at a new folder. Skips the test if that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a disk can only be mounted by root, and not on every machine")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Writes a file until the disk is full, and returns the file. Deleting the file makes room again."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    return filler


@contextlib.contextmanager
def log_on_small_disk(engines: Engines, conninfo: str, disk: Path) -> Iterator[None]:
    """Moves the log of a database to another disk while the block runs. All other files of PostgreSQL stay on their
    disk.
    """
    with psycopg.connect(engines.database_url, autocommit=True) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        owner = Path(row[0]).stat()
        os.chown(disk, owner.st_uid, owner.st_gid)
        connection.execute(f"CREATE TABLESPACE small LOCATION '{disk}'".encode())
    try:
        _move_log(conninfo, "small")
        yield
    finally:
        _move_log(conninfo, "pg_default")
        with psycopg.connect(engines.database_url, autocommit=True) as connection:
            connection.execute("DROP TABLESPACE small")


def _move_log(conninfo: str, tablespace: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE stored_events SET TABLESPACE {tablespace}".encode())
