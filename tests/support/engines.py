"""Runs PostgreSQL and Valkey, the embedded engines, on a temporary folder."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testhide.engines import Engines, embedded_engines
from testhide.engines.folder import read_record


@contextlib.contextmanager
def temporary_engines() -> Iterator[Engines]:
    """Runs engines on a temporary folder, which is deleted afterwards."""
    # Not pytest's tmp_path, whose mode locks out the engines' account when we are root.
    data = Path(tempfile.mkdtemp(prefix="testhide-engines-"))
    data.chmod(0o711)
    try:
        with embedded_engines(data) as engines:
            yield engines
    finally:
        record = read_record(data)
        for folder in {data, *([Path(record.home), Path(record.sockets)] if record else [])}:
            shutil.rmtree(folder, ignore_errors=True)
