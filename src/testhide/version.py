"""The version of this server, and the commit that it runs from."""

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

VERSION = version("testhide-server")
CHECKOUT = Path(__file__).resolve().parents[2]
"""Folder of the git checkout, if the server runs from one."""


def find_build(checkout: Path = CHECKOUT) -> str:
    """Return the shortened commit of the checkout, or the version if the server does not run from a checkout."""
    if not (checkout / ".git").exists():
        return VERSION
    # A caller's GIT_DIR would name another repository.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return VERSION
    return done.stdout.strip()
