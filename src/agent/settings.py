"""What all builds of an agent share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from agent.process.privileges import Account
from agent.process.supervisor import Slots
from agent.server import Server


class Settings(NamedTuple):
    server: Server
    slots: Slots
    workdir: Path
    account: Account | None
    allow_local_repositories: bool

    @property
    def builds(self) -> Path:
        return self.workdir / "builds"
