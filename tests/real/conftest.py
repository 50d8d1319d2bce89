"""Tests against programs that others wrote. `.ci/run` installs all of them and sets TESTHIDE_REAL to say so."""

import os
import shutil

import pytest


@pytest.fixture(autouse=True)
def real_counterpart(request: pytest.FixtureRequest) -> None:
    """`@pytest.mark.real("strace")`: skips where this Debian package is not installed, and says so."""
    for marker in request.node.iter_markers("real"):
        for program in marker.args:
            if shutil.which(program) is None:
                missing = f"needs {program}: apt-get install {program}"
                assert not os.environ.get("TESTHIDE_REAL"), missing
                pytest.skip(missing)
