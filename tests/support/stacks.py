"""Data folders of whole stacks, and waiting for what they do."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from testhide.engines.folder import read_record
from testhide.supervise.program import started_at

DEADLINE = 20.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.1
"""Seconds between two looks at a condition: an eighth of the time that was waited for it, within these bounds. Many
conditions are requests to a server, which would be slowed down by looks in close succession.
"""


def until(condition: Callable[[], object], what: str) -> None:
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < DEADLINE, f"waited in vain: {what}"
        time.sleep(min(max(waited / 8, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))


def gone(*pids: int) -> bool:
    return all(started_at(pid) is None for pid in pids)


def clear(data: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        record = read_record(data)
        for folder in (data, *((Path(record.home), Path(record.sockets)) if record else ())):
            shutil.rmtree(folder, ignore_errors=True)


def new_folder(parent: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="testhide-data-", dir=parent))
    folder.chmod(0o711)
    yield folder
    clear(folder)
