"""examples/runners/jest.sh gives jest each file once, since jest runs a file that it gets twice two times."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "runners" / "jest.sh"
FAKE_NPX = '#!/bin/sh\nprintf "%s\\n" "$@" > given\necho "<testsuites/>" > junit.xml\n'


@pytest.mark.parametrize("named", ["a.test.js", "./a.test.js"])
def test_a_file_that_is_named_and_selected_is_given_once(tmp_path: Path, named: str) -> None:
    (tmp_path / "npx").write_text(FAKE_NPX)
    (tmp_path / "npx").chmod(0o755)
    (tmp_path / "ids").write_text("a.test.js > s > t\nb.test.js > s > u\n")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TESTHIDE_TEST_IDS_FILE": "ids"}
    subprocess.run(["sh", str(SCRIPT), named], cwd=tmp_path, env=env, check=True)
    given = (tmp_path / "given").read_text().splitlines()
    assert [one for one in given if one.endswith(".test.js")] == [named, "b.test.js"]
