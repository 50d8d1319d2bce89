import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stacks import clear, new_folder


@pytest.fixture
def data_of_agent() -> Iterator[Path]:
    """A new data folder for stacks with an agent, whose builds have a /dev/shm of their own."""
    yield from new_folder(None)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that builds of a local agent can reach. Those of root's agent have a /tmp of their own."""
    folder = Path(tempfile.mkdtemp(prefix="testhide-data-", dir="/var/cache" if os.geteuid() == 0 else None))
    folder.chmod(0o711)
    yield folder
    clear(folder / "data")
    shutil.rmtree(folder)
