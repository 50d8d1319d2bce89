"""As whom builds run, and what that user can reach."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from typing import NamedTuple

DEFAULT_USERS = ("testhide-build", "nobody")


class Account(NamedTuple):
    """Holds what `slot` needs to become that user."""

    uid: int
    gid: int
    groups: list[int]


class NoAccount(Exception):
    """Builds cannot run as asked."""


def choose(build_user: str | None, trust_builds: bool) -> Account | None:
    """None: builds run as the agent's own user."""
    if trust_builds and build_user:
        raise NoAccount("--trust-builds and --build-user contradict each other")
    if os.geteuid() != 0:
        if build_user:
            raise NoAccount("--build-user needs an agent that is started as root")
        return None
    if trust_builds:
        return None
    for name in [build_user] if build_user else DEFAULT_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid == 0:
            raise NoAccount(f"{name} is root: --trust-builds says so openly")
        groups = [group.gr_gid for group in grp.getgrall() if name in group.gr_mem]
        return Account(entry.pw_uid, entry.pw_gid, groups)
    raise NoAccount(f"there is no user {build_user or ' or '.join(DEFAULT_USERS)} to run builds as")


def can_enter(account: Account, folder: Path) -> bool:
    return all(_allows(account, path, 0o1) for path in (folder, *folder.parents))


def can_read(account: Account, file: Path) -> bool:
    return _allows(account, file, 0o4) and can_enter(account, file.parent)


def _allows(account: Account, path: Path, bit: int) -> bool:
    found = path.stat()
    if found.st_uid == account.uid:
        bit <<= 6
    elif found.st_gid in (account.gid, *account.groups):
        bit <<= 3
    return bool(found.st_mode & bit)
