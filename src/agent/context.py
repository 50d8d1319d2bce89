"""Defines the objects that all builds and administrator commands of an agent share. Its own module, since both
import it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from agent.process.privileges import BuildAccount
from agent.process.supervisor_client import SupervisorPool
from agent.server_client import ServerClient


class AgentContext(NamedTuple):
    server: ServerClient
    supervisors: SupervisorPool
    workdir: Path
    account: BuildAccount | None  # None: builds run as the agent's own user
    allow_local_repositories: bool

    @property
    def builds(self) -> Path:
        """Folder with one subfolder for each running build and command."""
        return self.workdir / "builds"
