"""The first of two programs of `testhide up`. It checks the settings, ports, data folder and engines, saves the
settings, and replaces itself by the second program, the supervisor (`testhide.stack.stack`).

The first program imports much, such as the driver of an external database. The second imports little, since it runs as
long as the stack. It inherits the lock of the data folder.
"""

import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from domain.loopback import is_loopback
from testhide.engines import free_space_or_fault
from testhide.engines.folder import CLUSTER, DataFolder, has_record, open_folder
from testhide.engines.postgres import Postgres
from testhide.engines.valkey import Valkey
from testhide.operator_errors import Fault, InUse, Unreachable
from testhide.setting_checks import variable
from testhide.settings import MEANINGS, Settings, from_environment, own_secret_key, save_settings, variables
from testhide.stack.stack import Plan
from testhide.supervise.orphan_processes import end_recorded

CONNECT_TIMEOUT_S = 5
LOOPBACK = "127.0.0.0/8"
"""Networks that webhooks of admins may call if only this machine reaches the server."""


def up(
    environ: Mapping[str, str],
    host: str | None,
    port: int | None,
    data: Path | None,
    *,
    agent: bool,
    trust: bool,
    unsafe: bool,
    verbose: bool,
) -> NoReturn:
    """Replace this process by the supervisor of the stack. Raises Fault if a setting, the port, the data folder, the
    database or Redis cannot be used.
    """
    options = {"host": host, "port": port, "data_dir": data and str(data.absolute()), "unsafe": unsafe or None}
    given: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    given["prints_links"] = True
    # These two are placeholders: `_complete` fills them in once there is a data folder.
    asked = from_environment(environ, **{"database_url": "-", "secret_key": b"", **given})
    try:
        if not has_record(Path(asked.data_dir)):
            # Checked before a new folder is made, so that a refusal leaves none behind. With an old folder the port may
            # be in use by orphan processes, which are ended first.
            port_or_fault(asked.host, asked.port)
        with open_folder(Path(asked.data_dir)) as folder:
            end_recorded(folder.path / "run" / "processes.json")
            port_or_fault(asked.host, asked.port)
            opened = is_loopback(asked.host) and not asked.outgoing_allow
            if opened:
                given["opened_for_admins"] = LOOPBACK
            settings, embedded = _complete(environ, given, folder)
            for name in ("run", "logs", "blobs", "agent"):
                (folder.path / name).mkdir(mode=0o700, exist_ok=True)
            file = folder.path / "run" / "settings.json"
            save_settings(settings, file)
            plan = Plan(
                str(folder.path),
                settings.host,
                settings.port,
                embedded,
                agent,
                trust,
                verbose,
                LOOPBACK if opened else "",
                settings.docker_problem,
            )
            os.set_inheritable(folder.lock_fd, True)
            sys.stdout.flush()
            # The secrets are in the file now, and not in an environment that builds can read.
            os.execve(  # noqa: S606
                sys.executable,
                [sys.executable, "-P", "-m", "testhide.stack.stack", plan.encode(), str(folder.lock_fd)],
                {**_without_secrets(environ), "TESTHIDE_SETTINGS": str(file)},
            )
    except OSError as error:
        # A full disk, or a folder of another user. All files that are used here are in the data folder.
        raise Fault(f"{error.filename or asked.data_dir}: {error.strerror or error}.") from None


def _complete(
    environ: Mapping[str, str], given: Mapping[str, object], folder: DataFolder
) -> tuple[Settings, tuple[str, ...]]:
    """Return two values: the settings, with the URLs of all engines, and the names of the embedded engines. Raises
    Fault if an outside engine does not answer or a setting is wrong.
    """
    fill: dict[str, object] = dict(given)
    embedded = []
    for engine, field in ((Postgres(folder), "database_url"), (Valkey(folder), "redis_url")):
        if not environ.get(variable(field)) and not environ.get(f"{variable(field)}_FILE"):
            fill[field] = engine.url
            embedded.append(engine.name)
    if embedded:
        free_space_or_fault(folder)
    if not any(map(environ.get, variables("secret_key"))):
        fill["secret_key"] = own_secret_key(folder.path, is_new=not (folder.home / CLUSTER).exists())
    settings = from_environment(environ, **fill)
    if "postgres" not in embedded:
        _database_or_fault(settings.database_url)
    if "valkey" not in embedded:
        _redis_or_fault(settings.redis_url)
    return settings, tuple(embedded)


def port_or_fault(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise Fault(f"--host {host}: {error.strerror or error}", 2) from None
    family, kind, _, _, address = found[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as error:
            raise InUse(
                f"Port {port} on {host} cannot be taken ({error.strerror}): name another one by --port."
            ) from None


def _database_or_fault(url: str) -> None:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    password = ""
    try:
        password = str(conninfo_to_dict(url).get("password") or "")
        with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            version = connection.info.server_version // 10000
    except psycopg.Error as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if password:
            first = first.replace(password, "***")
        raise Unreachable(f"The database of TESTHIDE_DATABASE_URL does not answer: {first}") from None
    if version < 15:
        raise Unreachable(
            f"The database of TESTHIDE_DATABASE_URL is PostgreSQL {version}; 15 is the oldest that works."
        )


def _redis_or_fault(url: str) -> None:
    import redis

    try:
        with contextlib.closing(
            redis.Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=CONNECT_TIMEOUT_S)
        ) as client:
            client.ping()
    except (redis.RedisError, ValueError, OSError) as error:
        raise Unreachable(f"The Redis or Valkey of TESTHIDE_REDIS_URL does not answer: {error}") from None


def _without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    ours = {name for field in MEANINGS for name in variables(field)}
    return {name: value for name, value in environ.items() if name not in ours}
