"""Runs PostgreSQL's client programs: pg_dump and pg_restore."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from testhide.engines.binaries import find_postgres
from testhide.operator_errors import Fault


def run_client(name: str, database_url: str, *options: str) -> None:
    """Run a client program on a database and wait until it ends. Raises Fault with the program's error message if it
    fails.
    """
    # A client runs as the user of this process, so it needs no account and no home for a copy.
    program = find_postgres(Path(tempfile.gettempdir()), None).bin / name
    with _without_password(database_url) as conninfo:
        done = subprocess.run(
            [program, "--no-password", f"--dbname={conninfo}", *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "error:" in line), f"exit code {done.returncode}")
        raise Fault(f"{name} failed: {reason.removeprefix(f'{name}: ').removeprefix('error: ')}")


@contextlib.contextmanager
def _without_password(database_url: str) -> Iterator[str]:
    """Yield a connection string that names a private file with the password instead of containing the password. Every
    account of the machine can read a process's arguments.
    """
    given = conninfo_to_dict(database_url)
    password = str(given.pop("password", "")).replace("\\", "\\\\").replace(":", "\\:")
    if not password:
        yield database_url
        return
    with tempfile.NamedTemporaryFile("w", prefix="testhide-") as file:
        file.write(f"*:*:*:*:{password}\n")
        file.flush()
        yield make_conninfo("", **given | {"passfile": file.name})
