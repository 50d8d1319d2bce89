"""Tells an operator how to convert a data folder of another major version of PostgreSQL."""

from __future__ import annotations

import shlex
from pathlib import Path

from testhide.engines.binaries import PostgresBinaries, initdb_command
from testhide.engines.folder import DataFolder


def how_to_convert(folder: DataFolder, cluster: Path, major: str, binaries: PostgresBinaries) -> str:
    """Return what is wrong and, for an older cluster, the commands that convert it."""
    what = f"{folder.path} holds data of PostgreSQL {major}, the programs here are PostgreSQL {binaries.major}"
    if not major.isdigit() or int(major) > binaries.major:
        return f"{what}: set TESTHIDE_POSTGRES_BIN to the bin folder of a PostgreSQL {major}."
    old_programs = f"/usr/lib/postgresql/{major}/bin"
    old = cluster.with_name(f"postgres-{major}")
    new = cluster.with_name(f"postgres-{binaries.major}")
    # Clusters have checksums by default since 18, and pg_upgrade requires both to be alike.
    checksums = ["--no-data-checksums"] if binaries.major >= 18 and int(major) < 18 else []
    run = f"runuser -u {folder.account.name} -- " if folder.account else ""
    upgrade = [
        str(binaries.bin / "pg_upgrade"),
        *("-b", old_programs, "-B", str(binaries.bin)),
        *("-d", str(cluster), "-D", str(new), "-s", str(folder.sockets), "-U", "testhide"),
    ]
    steps = [
        f"cd {shlex.quote(str(folder.home))}",
        run + shlex.join([*initdb_command(binaries, new, "-A", "trust"), *checksums]),
        # Safe in a private folder; every start rewrites this file.
        f"echo 'local all all trust' > {shlex.quote(str(cluster / 'pg_hba.conf'))}",
        run + shlex.join(upgrade),
        # The old cluster stays where it is until the new one is complete.
        f"{shlex.join(['mv', str(cluster), str(old)])} && {shlex.join(['mv', str(new), str(cluster)])}",
    ]
    commands = "\n".join(f"  {step}" for step in steps)
    return (
        f"{what}. Start it with TESTHIDE_POSTGRES_BIN={old_programs}, or copy the folder and convert it "
        f"(needs PostgreSQL {major} at {old_programs}):\n{commands}"
    )
