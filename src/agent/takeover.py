"""How the next agent in a work folder takes the place of one that was killed.

A session's id is the hash of a secret that its work folder alone keeps. Only one agent at a time can use the folder,
so whoever can show the secret of a session knows that its agent is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from agent.process import linux

_FILE = "session"


def session_id(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def bequeath(workdir: Path, secret: str) -> None:
    with contextlib.suppress(OSError):  # a full disk: then the next agent waits, as one in another folder does
        file = os.open(workdir / _FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(file, "w", encoding="ascii") as opened:
            opened.write(f"{linux.boot()} {secret}")


def inherited(workdir: Path) -> str | None:
    """The secret of the last session here; None when the machine has started since: a copy of the folder, in the image
    of a machine say, is not where that agent ran.
    """
    try:
        boot, secret = (workdir / _FILE).read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return secret if boot == linux.boot() else None
