"""Chooses the user that builds run as, and checks which files that user can reach."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import NamedTuple

DEFAULT_USERS = ("testhide-build", "nobody")


class BuildAccount(NamedTuple):
    """Unix user that builds run as. The supervisor gets the fields in this order, as a JSON list."""

    uid: int
    gid: int
    groups: list[int]


class NoBuildAccount(Exception):
    """The agent was started without a user for builds to run as."""


def choose_account(build_user: str | None, trust_builds: bool) -> BuildAccount | None:
    """Return the account, or None where builds run as the agent's own user. Raises `NoBuildAccount`."""
    if trust_builds and build_user:
        raise NoBuildAccount("--trust-builds and --build-user contradict each other")
    if os.geteuid() != 0:
        if build_user:
            raise NoBuildAccount("--build-user needs an agent that is started as root")
        return None
    if trust_builds:
        return None
    for name in [build_user] if build_user else DEFAULT_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise NoBuildAccount(f"{name} is root: --trust-builds says so openly")
        groups = [group.gr_gid for group in grp.getgrall() if name in group.gr_mem]
        return BuildAccount(entry.pw_uid, entry.pw_gid, groups)
    raise NoBuildAccount(f"there is no user {build_user or ' or '.join(DEFAULT_USERS)} to run builds as")


def can_enter(account: BuildAccount, folder: Path) -> bool:
    return all(_allows(account, path, 0o1) for path in (folder, *folder.parents))


def can_read(account: BuildAccount, file: Path) -> bool:
    return _allows(account, file, 0o4) and can_enter(account, file.parent)


def _allows(account: BuildAccount, path: Path, bit: int) -> bool:
    """Return whether the file mode grants `bit` (an octal digit: 4 read, 1 enter) to the account."""
    found = path.stat()
    if found.st_uid == account.uid:
        bit <<= 6
    elif found.st_gid in (account.gid, *account.groups):
        bit <<= 3
    return bool(found.st_mode & bit)
