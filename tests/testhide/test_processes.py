"""What a process says when it cannot start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testhide.settings import Settings, save_settings

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.mark.parametrize("name", ["serve", "work"])
def test_a_process_without_a_database_says_so_in_a_sentence(name: str, tmp_path: Path) -> None:
    settings = Settings(database_url=NOWHERE, redis_url="", secret_key=b"s" * 32, data_dir=str(tmp_path))
    save_settings(settings, tmp_path / "settings.json")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "testhide", name],
        env={**os.environ, "TESTHIDE_SETTINGS": str(tmp_path / "settings.json")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "testhide: The database cannot be reached."
