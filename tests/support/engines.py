"""Runs PostgreSQL and Valkey, the embedded engines, on a temporary folder."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from testhide.engines import Engines, embedded_engines
from testhide.engines.folder import read_record

MEMORY = Path("/dev/shm")
"""Files there are in memory: writing them costs less CPU time than on a disk, and no wait."""
NEEDED = 2 * 1024**3
"""Bytes that must be free there. Engines of the tests take some 100 MB, and up to 1 GB of log after large writes."""


def fast_folder() -> Path | None:
    """Returns the folder of files in memory, if engines can be in it; None for the usual folder."""
    try:
        found = os.statvfs(MEMORY)
    except OSError:
        return None
    # Copies of the engines' programs may be run from there.
    usable = found.f_bavail * found.f_frsize >= NEEDED and not found.f_flag & os.ST_NOEXEC
    return MEMORY if usable else None


@contextlib.contextmanager
def temporary_engines() -> Iterator[Engines]:
    """Runs engines on a temporary folder, which is deleted afterwards."""
    # Not pytest's tmp_path, whose mode locks out the engines' account when we are root.
    data = Path(tempfile.mkdtemp(prefix="testhide-engines-", dir=fast_folder()))
    data.chmod(0o711)
    try:
        with embedded_engines(data) as engines:
            yield engines
    finally:
        record = read_record(data)
        for folder in {data, *([Path(record.home), Path(record.sockets)] if record else [])}:
            shutil.rmtree(folder, ignore_errors=True)
