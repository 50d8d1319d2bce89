"""Defines the objects that all builds and administrator commands of an agent share. It is a module of its own, since
the modules for builds and for commands import it.
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
    """Kinds of repositories that the operator of the agent allows, in addition to repositories at https and ssh
    URLs.
    """

    local: bool
    """Whether builds may check out repositories at file URLs and paths of this machine."""
    http: bool
    """Whether builds may check out repositories at http URLs. Everybody on the network path can read and change their
    traffic, including credentials.
    """


class AgentContext(NamedTuple):
    server: ServerClient
    supervisors: SupervisorPool
    workdir: Path
    accounts: BuildAccounts | None
    """Accounts that builds run as; None if builds run as the agent's own user."""
    allowed_repositories: AllowedRepositories
    caches: CacheStore

    @contextmanager
    def lease_account(self) -> Iterator[BuildAccount | None]:
        """Yield the account that one build or command runs as. Yield None if it runs as the agent's own user."""
        with self.accounts.lease() if self.accounts else nullcontext() as account:
            yield account

    @property
    def has_account_for_each_build(self) -> bool:
        return self.accounts is not None and self.accounts.shared is None

    @property
    def builds(self) -> Path:
        """Folder with one subfolder for each running build and command."""
        return self.workdir / "builds"
