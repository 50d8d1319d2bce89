"""Commands that work on a stack from outside: `projections` and `migrate` on a stopped data folder."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from testhide.engines import embedded_engines
from testhide.engines.folder import read_record
from testhide.operator_errors import Fault
from testhide.preparation import migrate
from testhide.settings import Settings, save_settings
from testhide.stack.offline import settings_of
from tests.support.engines import fast_folder
from tests.support.forked_process import run_forked


@pytest.fixture(name="folder", scope="module")
def _folder(made_cluster: Path) -> Iterator[Path]:
    # Not tmp_path: as root its mode keeps the engines' account out.
    with tempfile.TemporaryDirectory(prefix="testhide-stopped-", dir=fast_folder()) as name:
        folder = Path(name)
        subprocess.run(["cp", "-a", f"{made_cluster}/.", folder], check=True)
        with embedded_engines(folder) as engines:
            settings = Settings(
                database_url=engines.database_url,
                redis_url=engines.redis_url,
                secret_key=bytes(32),
                data_dir=name,
            )
            migrate(settings)
        (folder / "run").mkdir(exist_ok=True)
        save_settings(settings, folder / "run" / "settings.json")
        yield folder
        record = read_record(folder)
        assert record is None or Path(record.home).is_relative_to(folder), "the engines' home lies in the folder"


def test_a_stopped_stack_is_looked_at_and_rebuilt(folder: Path) -> None:
    status = run_forked("projections", "status", "--data", str(folder))
    assert (status.returncode, status.stderr) == (0, "")
    assert "builds" in status.stdout
    rebuilt = run_forked("projections", "rebuild", "builds", "--data", str(folder))
    assert (rebuilt.returncode, rebuilt.stdout.strip()) == (0, "built builds up to position 0")
    migrated = run_forked("migrate", "--data", str(folder))
    assert (migrated.returncode, migrated.stderr) == (0, "")
    assert migrated.stdout.startswith("There is no user yet")


def test_the_settings_of_a_copied_folder_name_the_copy(folder: Path) -> None:
    copied = folder / "copied"
    subprocess.run(["cp", "-a", folder, folder.with_name(folder.name + "-copy")], check=True)
    folder.with_name(folder.name + "-copy").rename(copied)
    with settings_of(copied, {}) as settings:
        assert settings.data_dir == str(copied)
        assert settings.blobs == (copied / "blobs").as_uri()
        assert str(copied) in unquote(settings.database_url)


def test_what_is_no_data_folder_is_said_to_be_none(tmp_path: Path) -> None:
    for verb in (("projections", "status"), ("migrate",)):
        answer = run_forked(*verb, "--data", str(tmp_path))
        assert answer.returncode == 2
        assert "is no data folder of a stack" in answer.stderr
        assert "Traceback" not in answer.stderr


def test_a_stopped_stack_on_another_postgresql_is_looked_at_there(database: str, tmp_path: Path) -> None:
    settings = Settings(database_url=database, redis_url="", secret_key=bytes(32), data_dir=str(tmp_path))
    migrate(settings)
    (tmp_path / "run").mkdir()
    save_settings(settings, tmp_path / "run" / "settings.json")
    status = run_forked("projections", "status", "--data", str(tmp_path))
    assert (status.returncode, status.stderr) == (0, "")
    assert "builds" in status.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "no PostgreSQL of its own was made"


def test_two_databases_are_refused(folder: Path, database: str, tmp_path: Path) -> None:
    (tmp_path / "url").write_text(database)
    for environ in ({"TESTHIDE_DATABASE_URL": database}, {"TESTHIDE_DATABASE_URL_FILE": str(tmp_path / "url")}):
        names_another = f"TESTHIDE_DATABASE_URL names another database than --data {folder}: leave one of them out"
        with pytest.raises(Fault, match=names_another), settings_of(folder, environ):
            pass
