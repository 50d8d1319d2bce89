"""The data folder of a stack: its lock, the home of its engines, and the record that describes the home.

    DATA/lock                 the process that runs this folder locks it (flock) and writes its pid into it
    DATA/engines.json         the record: paths of the home and the sockets, passwords of the engines (mode 0600)
    DATA/engines/             the home: mode 0700, owned by the account that the engines run as
    DATA/restore-unfinished   exists while a restore fills the folder, so that the other files are not complete
    DATA/run, logs, blobs, agent, secret.key   files of the server, see `testhide.settings`

The folder may be copied or moved: paths inside the folder follow from its present path, and are not read from the
record.

When the server runs as root, the engines' account may be unable to enter DATA, for example below /root. Then the home
is in /var/lib/testhide/engines; if DATA is in the system's temporary folder, the home is in that folder, too. The
record contains the path of the home. A home outside of DATA has a file `data-folder` with the path of DATA, so that a
copy of DATA does not open the original's database.
"""

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from testhide.engines.accounts import can_enter, change_owner, engine_account
from testhide.operator_errors import Fault, InUse
from testhide.supervise.program import Account

CLUSTER = "postgres"
"""Folder of the PostgreSQL cluster in the home."""
UNFINISHED = "restore-unfinished"
"""File that a restore makes first and removes last."""
_RECORD = "engines.json"
_HOME_INSIDE = "engines"
_OWNER = "data-folder"
SECRET_KEY = "secret.key"  # noqa: S105 (a file name)
NEXT_SECRET_KEY = "secret.key.next"  # noqa: S105
"""File that contains the new secret key during a rotation."""
_OURS = {
    "lock", UNFINISHED, _RECORD, f"{_RECORD}.new", _HOME_INSIDE, "run", "logs", "blobs", "agent", SECRET_KEY,
    NEXT_SECRET_KEY, "lost+found",
}  # fmt: skip
_LONGEST_SOCKET_PATH = 103  # bytes; 107 on Linux, 103 on macOS
_LONGEST_NAME = len("/.s.PGSQL.5432.lock")


@dataclass(frozen=True)
class Record:
    home: str
    sockets: str
    postgres_password: str
    valkey_password: str
    has_cluster: bool = False
    """Whether the home has ever had a PostgreSQL cluster. If so, a missing cluster was lost, and a start makes no new
    one.
    """


@dataclass(frozen=True)
class DataFolder:
    path: Path
    lock_fd: int
    account: Account | None
    record: Record

    @property
    def home(self) -> Path:
        return Path(self.record.home)

    @property
    def sockets(self) -> Path:
        return Path(self.record.sockets)


def default_data_folder() -> Path:
    """Return the data folder that is used if none is given: for root /var/lib/testhide, which the engines' account can
    enter; for other users `testhide` in the folder for application data (~/.local/share).
    """
    if os.geteuid() == 0:
        return Path("/var/lib/testhide")
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "share") / "testhide"


@contextlib.contextmanager
def open_folder(data: Path, *, restoring: bool = False) -> Iterator[DataFolder]:
    """Yield the data folder, locked until the block ends. Creates the folder if it is missing. `restoring` allows a
    folder whose restore has not finished.

    Raises InUse if another process has locked the folder, and Fault if the folder cannot be used or its restore has not
    finished. May raise OSError.
    """
    data = Path(os.path.abspath(data))
    if not restoring:
        refuse_unfinished(data)
    make_folder(data)
    lock = take_lock(data)
    try:
        yield _opened(data, lock)
    finally:
        os.close(lock)


def reopen_folder(data: Path, lock_fd: int) -> DataFolder:
    """Open the data folder in a process that inherited the folder's lock."""
    os.set_inheritable(lock_fd, False)
    return _opened(data, lock_fd)


def make_folder(data: Path) -> None:
    try:
        data.mkdir(parents=True, mode=0o755)
        # 0711 lets the engines' account through to its home; everything else inside is 0700 or 0600.
        data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    except FileExistsError:
        if not data.is_dir():
            raise Fault(f"{data} is not a folder.") from None
        unknown = {entry.name for entry in data.iterdir()} - _OURS
        if unknown and not (data / _RECORD).exists():
            raise Fault(
                f"{data} is neither empty nor a data folder (it holds {min(unknown)!r}): name another one by --data."
            ) from None


def refuse_unfinished(data: Path) -> None:
    """Raise Fault if a restore into the folder has not finished."""
    if (data / UNFINISHED).exists():
        raise Fault(f"The restore into {data} has not finished. If it was interrupted, repeat it into an empty folder.")


def take_lock(data: Path) -> int:
    # Not inherited by children: the lock ends with this process, however it ends.
    lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise InUse(f"{data} is already in use by process {holder}.") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def has_record(data: Path) -> bool:
    return (data / _RECORD).exists()


def is_locked(data: Path) -> bool:
    try:
        with open(data / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_record(data: Path) -> Record | None:
    try:
        return Record(**json.loads((data / _RECORD).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise Fault(f"{data / _RECORD} is damaged: restore it, or name another folder by --data.") from None


def _opened(data: Path, lock: int) -> DataFolder:
    before = read_record(data)
    # A secret key without a record means that the folder had a cluster and has lost it.
    record = before or Record(
        "", "", secrets.token_urlsafe(24), secrets.token_urlsafe(24), (data / SECRET_KEY).exists()
    )
    home = data / _HOME_INSIDE
    if before and Path(before.home).name != _HOME_INSIDE:
        home = Path(before.home)
        if not home.exists():
            raise Fault(f"The database of {data} lay in {home}, which is gone: put it back.")
    account = engine_account(home)
    home = _usable_home(data, home, account, fresh=before is None)
    if not home.resolve().is_relative_to(data.resolve()):
        _take_outside_home(data, home, account)
    # If the record names another home, this folder is a copy: recorded sockets belong to the original.
    sockets = _usable_sockets(home, record.sockets if record.home == str(home) else "", account)
    has_cluster = record.has_cluster or has_cluster_in(home)
    record = replace(record, home=str(home), sockets=str(sockets), has_cluster=has_cluster)
    if record != before:
        _write_record(data, record)
    return DataFolder(data, lock, account, record)


def has_cluster_in(home: Path) -> bool:
    return (home / CLUSTER / "PG_VERSION").exists()


def record_cluster(folder: DataFolder) -> None:
    """Record that the folder has a complete cluster. If the cluster is lost later, a start then fails instead of making
    an empty cluster.
    """
    _write_record(folder.path, replace(folder.record, has_cluster=True))


def remove_if_empty(*folders: Path) -> None:
    """Remove empty folders that a refused start has made. Such empty folders would be in the way when an operator puts
    lost folders back.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _write_record(data: Path, record: Record) -> None:
    write_private(data / _RECORD, json.dumps(asdict(record), indent=1).encode())


def _take_outside_home(data: Path, home: Path, account: Account | None) -> None:
    """Record in `home`, which is outside of the data folder, that the home belongs to `data`. Raises Fault if another
    data folder still uses the home.
    """
    note = home / _OWNER
    owner = Path(os.fsdecode(note.read_bytes())) if note.exists() else data
    if owner != data and (record := read_record(owner)):
        with contextlib.suppress(FileNotFoundError):
            if Path(record.home).samefile(home):
                raise Fault(
                    f"{data} is a copy of {owner}, whose database lies outside of it, in {home}: stop that one, copy "
                    f'{home} as well, and name the copy as "home" in {data / _RECORD}.'
                )
    if owner != data or not note.exists():
        write_private(note, os.fsencode(data), account)


def _usable_home(data: Path, home: Path, account: Account | None, *, fresh: bool) -> Path:
    _make_private(home, account)
    if can_enter(account, home):
        return home
    assert account is not None
    if fresh:
        home.rmdir()
        temporary = Path(tempfile.gettempdir()).resolve()
        inside = data.resolve().is_relative_to(temporary)
        base = temporary if inside else Path("/var/lib/testhide/engines")
        base.mkdir(parents=True, exist_ok=True, mode=0o755)
        home = Path(tempfile.mkdtemp(prefix="testhide-engines-" if inside else "", dir=base))
        change_owner(account, home)
        if can_enter(account, home):
            return home
    raise Fault(
        f"PostgreSQL runs as `{account.name}`, which cannot enter {home.parent}: "
        f"allow it (chmod o+x on the folders above), or name another folder by --data."
    )


def _usable_sockets(home: Path, recorded: str, account: Account | None) -> Path:
    """Return the folder for the engines' sockets: in the home or, if the paths of the sockets would be too long there,
    in /tmp.
    """
    inside = home / "sockets"
    if len(os.fsencode(inside)) + _LONGEST_NAME <= _LONGEST_SOCKET_PATH:
        _make_private(inside, account)
        return inside
    if recorded and _is_private(Path(recorded), account):
        return Path(recorded)
    # Not TMPDIR, which may be too long as well.
    short = Path(tempfile.mkdtemp(prefix="testhide-", dir="/tmp"))
    change_owner(account, short)
    return short


def _is_private(folder: Path, account: Account | None) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    owner = account.uid if account else os.geteuid()
    return folder.is_dir() and not folder.is_symlink() and status.st_uid == owner and status.st_mode & 0o077 == 0


def _make_private(folder: Path, account: Account | None) -> None:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        change_owner(account, folder)


def write_private(path: Path, content: bytes, account: Account | None = None) -> None:
    """Replace the contents of a file atomically. Only the file's owner can read it."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        change_owner(account, fresh)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
