"""Defines the objects that all builds and administrator commands of an agent share. It is a module of its own, since
the modules of both import it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from agent.cache_store import CacheStore
from agent.process.privileges import BuildAccount, BuildAccounts
from agent.process.supervisor_client import SupervisorPool
from agent.server_client import ServerClient


class AllowedRepositories(NamedTuple):
    """Repositories that the operator of the agent allows besides those of https and ssh."""

    local: bool
    """Those of file URLs and paths."""
    http: bool
    """Those of http URLs: everybody on the way can read and change what they send, credentials too."""


class AgentContext(NamedTuple):
    server: ServerClient
    supervisors: SupervisorPool
    workdir: Path
    accounts: BuildAccounts | None
    """Accounts that builds run as. None: they run as the agent's own user."""
    allowed_repositories: AllowedRepositories
    caches: CacheStore

    @contextmanager
    def lease_account(self) -> Iterator[BuildAccount | None]:
        """Yield the account that one build or command runs as. Yield None if it runs as the agent's own user."""
        with self.accounts.lease() if self.accounts else nullcontext() as account:
            yield account

    @property
    def builds(self) -> Path:
        """Folder with one subfolder for each running build and command."""
        return self.workdir / "builds"
