import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from projections.engine.inspection import create_on_empty_log
from projections.registry import PROJECTIONS
from testhide.engines import embedded_engines
from testhide.preparation import create_first_admin
from testhide.settings import Settings, save_settings
from tests.support.engines import fast_folder
from tests.support.stacks import clear, new_folder


@pytest.fixture
def data() -> Iterator[Path]:
    """A new data folder that also another account may enter, which pytest's own are not."""
    yield from new_folder(fast_folder())


@pytest.fixture(scope="session")
def made_cluster() -> Iterator[Path]:
    """A data folder whose database is made and stopped."""
    folder = Path(tempfile.mkdtemp(prefix="testhide-data-", dir=fast_folder()))
    folder.chmod(0o711)
    with embedded_engines(folder):
        pass
    yield folder
    clear(folder)


WithCluster = Callable[[Path], Path]


@pytest.fixture
def with_cluster(made_cluster: Path) -> WithCluster:
    """Copies a database into a data folder, and returns the folder: making a database takes a second of CPU time."""

    def copy(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", f"{made_cluster}/.", folder], check=True)
        return folder

    return copy


@pytest.fixture
def prepared(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a database with its first administrator; verbs find them by TESTHIDE_SETTINGS."""
    settings = Settings(database_url=database, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path))
    save_settings(settings, tmp_path / "settings.json")
    monkeypatch.setenv("TESTHIDE_SETTINGS", str(tmp_path / "settings.json"))

    async def prepare() -> None:
        async with await AsyncConnection.connect(database, autocommit=True) as connection:
            await create_on_empty_log(connection, PROJECTIONS)  # tests drop tables, too
        await create_first_admin(settings)

    asyncio.run(prepare())
    return settings


Python = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def python() -> Iterator[Python]:
    """Starts a Python program of these arguments; killed at the end if it still runs."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")},
                    **(env or {}),
                },
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start
