"""Chooses the user that builds run as, and checks which files this user can reach."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from agent.process import linux

SLOT_UIDS = range(60706, 61184)
"""User ids for builds. Each running build has a user id that no other build has, and the same number as its group id.
No Linux distribution assigns these ids: they lie between the ids of systemd-homed and those of systemd's dynamic users.
"""
_LOCKS = Path("/run/testhide-agent")
"""Folder of lock files, one for each user id. While a build of any agent on this machine runs as a user, the agent
holds the lock of this user id.
"""
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 (emptied, not used)
_KILL_TIMEOUT_S = 5.0
_POLL_INTERVAL_S = 0.02


class BuildAccount(NamedTuple):
    """Unix user that builds run as. The supervisor gets the fields in this order, as a JSON list."""

    uid: int
    gid: int
    groups: list[int]


class NoBuildAccount(Exception):
    """The options name no user that builds can run as. The message says why."""


class BuildAccounts:
    """Accounts that builds run as. Either all builds share one account, or each build has one that no other build has
    at the same time.
    """

    def __init__(self, shared: BuildAccount | None) -> None:
        self.shared = shared
        self.example = shared or _slot_account(SLOT_UIDS[0])
        """An account with the same rights as the accounts of builds, for checks before the first build."""

    @contextmanager
    def lease(self) -> Iterator[BuildAccount]:
        """Yield an account for one build. If no other builds share the account, end all processes of its user before
        and after the block, and remove the user's temporary files after the block.
        """
        if self.shared:
            yield self.shared
            return
        with _lock_free_uid() as uid:
            _end_processes(uid)
            try:
                yield _slot_account(uid)
            finally:
                _end_processes(uid)
                _remove_temporary_files(uid)


def choose_accounts(build_user: str | None, trust_builds: bool) -> BuildAccounts | None:
    """Return the accounts that builds run as, or None if builds run as the agent's own user. Raises `NoBuildAccount` if
    the options contradict each other, or name a user that builds cannot run as.
    """
    if trust_builds and build_user:
        raise NoBuildAccount("--trust-builds and --build-user contradict each other")
    if os.geteuid() != 0:
        if build_user:
            raise NoBuildAccount("--build-user needs an agent that is started as root")
        return None
    if trust_builds:
        return None
    if not build_user:
        return BuildAccounts(None)
    try:
        entry = pwd.getpwnam(build_user)
    except KeyError:
        raise NoBuildAccount(f"there is no user {build_user} to run builds as") from None
    if entry.pw_uid == 0:
        raise NoBuildAccount(f"{build_user} is root: --trust-builds says so openly")
    groups = [group.gr_gid for group in grp.getgrall() if build_user in group.gr_mem]
    return BuildAccounts(BuildAccount(entry.pw_uid, entry.pw_gid, groups))


def _slot_account(uid: int) -> BuildAccount:
    return BuildAccount(uid, uid, [])


@contextmanager
def _lock_free_uid() -> Iterator[int]:
    """Yield the next user id that no build of this machine uses. The ids are used in turn, so that an id is used again
    as late as possible: earlier builds with this id may have left files somewhere. Raises OSError if all ids are in
    use.
    """
    _LOCKS.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as locked:
        yield _draw_uid(locked)


def _draw_uid(locked: ExitStack) -> int:
    with open(_LOCKS / "last", "a+", encoding="ascii") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        last.seek(0)
        drawn = last.read()
        turn = int(drawn) + 1 - SLOT_UIDS.start if drawn.isdigit() else 0
        for number in range(len(SLOT_UIDS)):
            uid = SLOT_UIDS[(turn + number) % len(SLOT_UIDS)]
            with ExitStack() as attempt:
                lock = attempt.enter_context(open(_LOCKS / str(uid), "w", encoding="ascii"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                last.truncate(0)
                last.write(str(uid))
                locked.push(attempt.pop_all())
                return uid
    raise OSError(f"all {len(SLOT_UIDS)} user ids for builds are in use on this machine")


def _end_processes(uid: int) -> None:
    """Kill all processes of the user `uid`. An agent that was killed may have left some running. Raises OSError if some
    still run after `_KILL_TIMEOUT_S`.
    """
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while pids := _list_processes_of(uid):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= deadline:
            raise OSError(f"processes of an earlier build, as user {uid}, cannot be ended")
        time.sleep(_POLL_INTERVAL_S)


def _list_processes_of(uid: int) -> list[int]:
    found = []
    with os.scandir("/proc") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # the process has ended
                if entry.name.isdigit() and entry.stat().st_uid == uid:
                    found.append(int(entry.name))
    # Leaves zombies out: they do nothing more, and only their parents can remove them.
    return [pid for pid in found if (process := linux.read_process(pid)) and process.state not in "ZX"]


def _remove_temporary_files(uid: int) -> None:
    """Remove the files of the user `uid` from the folders in which all users may write. This is needed if builds have
    no namespaces, and so no temporary folders of their own.
    """
    from agent.process import removal  # not in supervisors, which remove nothing

    for folder in _SHARED_FOLDERS:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid != uid:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        removal.remove_tree(Path(entry.path))
                    else:
                        os.unlink(entry.path)


def can_enter(account: BuildAccount, folder: Path) -> bool:
    return all(_allows(account, path, 0o1) for path in (folder, *folder.parents))


def can_read(account: BuildAccount, file: Path) -> bool:
    return _allows(account, file, 0o4) and can_enter(account, file.parent)


def _allows(account: BuildAccount, path: Path, bit: int) -> bool:
    """Return whether the file mode of `path` gives the account the right `bit`, an octal digit: 4 to read, 1 to
    enter.
    """
    found = path.stat()
    if found.st_uid == account.uid:
        bit <<= 6
    elif found.st_gid in (account.gid, *account.groups):
        bit <<= 3
    return bool(found.st_mode & bit)
