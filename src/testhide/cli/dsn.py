"""The connection strings of a running stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testhide.engines.folder import default_data_folder, is_locked
from testhide.operator_errors import Fault
from testhide.settings import load_settings


def connection_strings(data: Path | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """PostgreSQL's and Valkey's. Raises Fault when nothing runs there."""
    folder = data or Path(environ.get("TESTHIDE_DATA") or default_data_folder())
    file = folder / "run" / "settings.json"
    if not is_locked(folder) or not file.exists():
        raise Fault(f"No stack runs on {folder}: start it with `./dev up --data {folder}`.")
    settings = load_settings({"TESTHIDE_SETTINGS": str(file)})
    return settings.database_url, settings.redis_url
