"""Chooses the account that the engines run as. PostgreSQL refuses to run as root, so a root process runs both engines
as an existing account without privileges.
"""

import os
import pwd
import subprocess
from pathlib import Path

from testhide.operator_errors import Fault
from testhide.supervise.program import Account, popen_options


def engine_account(home: Path) -> Account | None:
    """Return the account that PostgreSQL and Valkey run as; None if this process is not root.

    The account is the owner of `home`. If `home` does not exist or root owns it, the account is `postgres` or, if that
    does not exist, `nobody`. Raises Fault if the user id of the owner has no account, or if neither of these two
    accounts exists.
    """
    if os.geteuid() != 0:
        return None
    try:
        owner = home.stat().st_uid
    except FileNotFoundError:
        owner = 0
    names: list[str | int] = [owner] if owner else ["postgres", "nobody"]
    for name in names:
        try:
            entry = pwd.getpwnam(name) if isinstance(name, str) else pwd.getpwuid(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise Fault(
        "PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it as: "
        "start this as a normal user, or set TESTHIDE_DATABASE_URL."
    )


def can_enter(account: Account | None, folder: Path) -> bool:
    """Return whether the account can enter the folder. Starts a program as the account to find out, since file modes do
    not show ACLs and mount options. Raises Fault if this process may not start programs as the account.
    """
    if account is None:
        return os.access(folder, os.X_OK)
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", 'cd -- "$1" 2>/dev/null', "sh", str(folder)],
            check=False,
            cwd="/",
            **popen_options(account),
        )
    except PermissionError:
        raise Fault(
            f"This root may not start programs as `{account.name}`, and PostgreSQL does not run as root: "
            "start this as a normal user, or set TESTHIDE_DATABASE_URL."
        ) from None
    return done.returncode == 0


def change_owner(account: Account | None, *paths: Path) -> None:
    if account is not None:
        for path in paths:
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
