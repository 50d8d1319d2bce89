"""Finds the settings of a stack for commands that use its database, whether the stack runs or not."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from psycopg.conninfo import conninfo_to_dict

from testhide.engines import embedded_engines
from testhide.engines.folder import SECRET_KEY, default_data_folder, is_locked, read_record, refuse_unfinished
from testhide.operator_errors import Fault
from testhide.settings import Settings, find_value, load_settings


@contextlib.contextmanager
def settings_of(data: Path | None, environ: Mapping[str, str]) -> Iterator[Settings]:
    """Yield the settings of the stack of the data folder `data`; None stands for the default folder. If this stack does
    not run, starts the folder's PostgreSQL and Valkey, and stops them when the block ends. Starts nothing if the
    database of the stack is outside of the folder. Raises Fault if the folder has no stack or cannot be used, or if the
    environment names another database than that of the stack.

    If `data` is None and the environment names a database, only yields the settings of the environment.
    """
    if data is None and (environ.get("TESTHIDE_SETTINGS") or environ.get("TESTHIDE_DATABASE_URL")):
        yield load_settings(environ)
        return
    folder = data_folder(data, environ).absolute()
    refuse_unfinished(folder)
    if not _settings_file(folder).exists():
        raise Fault(f"{folder} is no data folder of a stack: name it by --data, or set TESTHIDE_DATABASE_URL.", 2)
    # The file may have come with a copied or moved folder, and still name the old one.
    settings = msgspec.structs.replace(_load(folder), data_dir=str(folder))
    named = find_value("database_url", environ)
    if data is not None and named and named != settings.database_url:
        raise Fault(f"TESTHIDE_DATABASE_URL names another database than --data {folder}: leave one of them out.", 2)
    if is_locked(folder) or not _has_embedded_database(folder, settings):
        yield settings
        return
    with embedded_engines(folder) as engines:
        yield msgspec.structs.replace(settings, database_url=engines.database_url, redis_url=engines.redis_url)


def settings_of_running_stack(data: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings of the stack that runs on the data folder. Raises Fault if no stack runs on it."""
    folder = data_folder(data, environ)
    if not is_locked(folder) or not _settings_file(folder).exists():
        raise Fault(f"No stack runs on {folder}: start it with `./dev up --data {folder}`.")
    return _load(folder)


def data_folder(data: Path | None, environ: Mapping[str, str]) -> Path:
    return data or Path(environ.get("TESTHIDE_DATA") or default_data_folder())


def _has_embedded_database(folder: Path, settings: Settings) -> bool:
    """Returns whether the PostgreSQL of these settings is the one in the data folder. If the record of the folder's
    engines is lost, returns whether the folder contains a secret key: a stack on another PostgreSQL gets its key from
    the environment.
    """
    record = read_record(folder)
    if record is None:
        return (folder / SECRET_KEY).exists()
    return conninfo_to_dict(settings.database_url).get("password") == record.postgres_password


def _settings_file(folder: Path) -> Path:
    return folder / "run" / "settings.json"


def _load(folder: Path) -> Settings:
    return load_settings({"TESTHIDE_SETTINGS": str(_settings_file(folder))})
