"""Settings for a command that works on a stack from outside, whether it runs, is stopped, or is not embedded at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from testhide.engines import embedded_engines
from testhide.engines.folder import default_data_folder, is_locked
from testhide.operator_errors import Fault
from testhide.settings import Settings, load_settings


@contextlib.contextmanager
def settings_of(data: Path | None, environ: Mapping[str, str]) -> Iterator[Settings]:
    """The environment's settings where it names a database; else those of the data folder, whose engines are started
    for as long as the block runs unless its stack runs anyway. Raises Fault.
    """
    if data is None and (environ.get("TESTHIDE_SETTINGS") or environ.get("TESTHIDE_DATABASE_URL")):
        yield load_settings(environ)
        return
    folder = (data or Path(environ.get("TESTHIDE_DATA") or default_data_folder())).absolute()
    file = folder / "run" / "settings.json"
    if not file.exists():
        raise Fault(f"{folder} is no data folder of a stack: name it by --data, or set TESTHIDE_DATABASE_URL.", 2)
    settings = load_settings({"TESTHIDE_SETTINGS": str(file)})
    if is_locked(folder):
        yield settings
        return
    with embedded_engines(folder) as engines:
        yield msgspec.structs.replace(settings, database_url=engines.database_url, redis_url=engines.redis_url)
