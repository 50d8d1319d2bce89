"""PostgreSQL on a unix socket: makes the cluster once, writes its settings at every start, ends orphan processes."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

from testhide.engines.accounts import change_owner
from testhide.engines.binaries import USER, PostgresBinaries, find_postgres, initdb_command
from testhide.engines.folder import CLUSTER, DataFolder, has_cluster_in, record_cluster, remove_if_empty, write_private
from testhide.operator_errors import Fault
from testhide.supervise.program import Program, popen_options, send

DATABASE = "postgres"  # there from the beginning: making another one costs a third of a first start
PORT = "5432"  # names the socket; nothing listens on it

# Small, since builds may run on the same machine. fsync stays on, since the log is stored here.
_SETTINGS = """\
# Written anew at every start. Own settings belong into custom.conf beside this file.
listen_addresses = ''
port = {port}
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
max_connections = 100
shared_buffers = 32MB
work_mem = 8MB
maintenance_work_mem = 48MB
min_wal_size = 32MB
max_wal_size = 1GB
wal_compression = on
max_wal_senders = 0
wal_level = minimal
max_logical_replication_workers = 0
max_parallel_workers_per_gather = 1
autovacuum_max_workers = 2
jit = off
huge_pages = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
password_encryption = 'scram-sha-256'
{newer}"""

_ACCESS = """\
# Written anew at every start. The socket is the only way in, and its folder is private.
local all all scram-sha-256
local replication all scram-sha-256
"""


class Postgres:
    name = "postgres"

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.cluster = folder.home / CLUSTER
        self.socket = folder.sockets / f".s.PGSQL.{PORT}"
        self._env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

    @property
    def url(self) -> str:
        password = quote(self.folder.record.postgres_password)
        return f"postgresql://{USER}:{password}@/{DATABASE}?host={quote(str(self.folder.sockets), safe='')}"

    def program(self) -> Program:
        """Return the program that runs the cluster. Makes the cluster if there is none. Raises Fault if the cluster was
        lost, cannot be made, or needs another version of PostgreSQL.
        """
        binaries = find_postgres(self.folder.home, self.folder.account)
        if not has_cluster_in(self.folder.home):
            self._initialise(binaries)
        major = (self.cluster / "PG_VERSION").read_text().strip()
        if major != str(binaries.major):
            raise Fault(how_to_convert(self.folder, self.cluster, major, binaries))
        return Program(
            self.name,
            (str(binaries.bin / "postgres"), "-D", str(self.cluster)),
            env=self._env,
            cwd=self.folder.home,
            account=self.folder.account,
            stop_signal=signal.SIGINT,  # "fast": sessions are ended, a checkpoint is written
            abort_signal=signal.SIGQUIT,  # "immediate": takes its children along, which SIGKILL does not
            prepare=lambda: self._before_start(binaries),
        )

    def ready(self, pid: int) -> bool:
        """Return whether the server accepts connections, as the status line of postmaster.pid says."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _initialise(self, binaries: PostgresBinaries) -> None:
        """Make the cluster. Makes it under a temporary name and renames it, so that an interruption leaves no
        incomplete cluster. Raises Fault if the folder had a cluster before: an empty database must not replace a lost
        one.
        """
        if self.folder.record.has_cluster:
            remove_if_empty(self.folder.sockets, self.folder.home)
            raise Fault(
                f"The database of {self.folder.path} is gone ({self.cluster}): put it back, or restore a backup into"
                " another folder (testhide restore). An empty folder begins without data."
            )
        if self.cluster.exists():
            raise Fault(f"{self.cluster} holds no PG_VERSION, so it is no cluster: restore it or move it away.")
        for old in self.folder.home.glob("postgres.new-*"):
            shutil.rmtree(old, ignore_errors=True)
        # The name contains our pid: an orphan process of a killed start may still write to a folder of its own.
        fresh = self.cluster.with_name(f"postgres.new-{os.getpid()}")
        secret = self.folder.home / "password"
        write_private(secret, self.folder.record.postgres_password.encode(), self.folder.account)
        try:
            # Iterations slow down guessing, and nobody guesses this random password. They would take half the time of
            # each connection.
            iterations = ("-c", "scram_iterations=1") if binaries.major >= 16 else ()
            self._run(initdb_command(binaries, fresh, "-A", "scram-sha-256", f"--pwfile={secret}", *iterations))
        finally:
            secret.unlink()
        fresh.replace(self.cluster)
        record_cluster(self.folder)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=self._env,
            cwd=self.folder.home,
            **popen_options(self.folder.account),
        )
        if done.returncode != 0:
            why = [line for line in done.stderr.splitlines() if ("error:" in line or "FATAL" in line)]
            reason = why[0] if why else f"exit code {done.returncode}"
            raise Fault(f"PostgreSQL's data could not be made in {self.folder.home}: {reason}")

    def _before_start(self, binaries: PostgresBinaries) -> None:
        end_orphan_processes(self.cluster)
        remove_stale_lock(self.socket)
        # Saves three I/O processes; reads are few and come from the page cache.
        newer = "io_method = sync\n" if binaries.major >= 18 else ""
        settings = _SETTINGS.format(port=PORT, sockets=str(self.folder.sockets).replace("'", "''"), newer=newer)
        write_private(self.cluster / "testhide.conf", settings.encode(), self.folder.account)
        write_private(self.cluster / "pg_hba.conf", _ACCESS.encode(), self.folder.account)
        custom = self.cluster / "custom.conf"
        if not custom.exists():
            custom.touch(mode=0o600)
            change_owner(self.folder.account, custom)
        main = self.cluster / "postgresql.conf"
        lines = main.read_text().splitlines()
        ours = ["include 'testhide.conf'", "include 'custom.conf'"]
        if lines[-2:] != ours:
            write_private(main, "\n".join([*lines, *ours, ""]).encode(), self.folder.account)


def how_to_convert(folder: DataFolder, cluster: Path, major: str, binaries: PostgresBinaries) -> str:
    """Return a message that names the PostgreSQL versions of the cluster and of the programs. If the cluster is older,
    the message has the commands that convert it.
    """
    what = f"{folder.path} holds data of PostgreSQL {major}, the programs here are PostgreSQL {binaries.major}"
    if not major.isdigit() or int(major) > binaries.major:
        return f"{what}: set TESTHIDE_POSTGRES_BIN to the bin folder of a PostgreSQL {major}."
    old_programs = f"/usr/lib/postgresql/{major}/bin"
    old = cluster.with_name(f"postgres-{major}")
    new = cluster.with_name(f"postgres-{binaries.major}")
    # Clusters have checksums by default since 18, and pg_upgrade requires both to be alike.
    checksums = ["--no-data-checksums"] if binaries.major >= 18 and int(major) < 18 else []
    run = f"runuser -u {folder.account.name} -- " if folder.account else ""
    upgrade = [
        str(binaries.bin / "pg_upgrade"),
        *("-b", old_programs, "-B", str(binaries.bin)),
        *("-d", str(cluster), "-D", str(new), "-s", str(folder.sockets), "-U", "testhide"),
    ]
    steps = [
        f"cd {shlex.quote(str(folder.home))}",
        run + shlex.join([*initdb_command(binaries, new, "-A", "trust"), *checksums]),
        # Safe in a private folder; every start rewrites this file.
        f"echo 'local all all trust' > {shlex.quote(str(cluster / 'pg_hba.conf'))}",
        run + shlex.join(upgrade),
        # The old cluster stays where it is until the new one is complete.
        f"{shlex.join(['mv', str(cluster), str(old)])} && {shlex.join(['mv', str(new), str(cluster)])}",
    ]
    commands = "\n".join(f"  {step}" for step in steps)
    return (
        f"{what}. Start it with TESTHIDE_POSTGRES_BIN={old_programs}, or copy the folder and convert it "
        f"(needs PostgreSQL {major} at {old_programs}):\n{commands}"
    )


def end_orphan_processes(cluster: Path) -> None:
    """End the processes of this cluster that a killed supervisor left running, then remove the cluster's pid file.
    Raises Fault if a process cannot be ended.

    The processes of a cluster have the cluster's folder as their working directory. All of them are orphans, since the
    caller holds the lock of the data folder. The pid file is removed last: without it, PostgreSQL would start without
    looking for orphans.
    """
    if os.path.isdir("/proc/self"):
        for signal_number, wait in ((signal.SIGINT, 3.0), (signal.SIGQUIT, 1.0), (signal.SIGKILL, 1.0)):
            found = _processes_in(cluster)
            for pid in found:
                send(pid, signal_number)
            deadline = time.monotonic() + wait
            while found and time.monotonic() < deadline:
                time.sleep(0.02)
                found = _processes_in(cluster)
            if not found:
                break
        else:
            raise Fault(f"Processes {_processes_in(cluster)} still use {cluster} and cannot be ended.")
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def remove_stale_lock(socket: Path) -> None:
    """Remove the lock file beside a socket if no PostgreSQL uses the socket. Print a message if PostgreSQL itself would
    not have removed the file.

    The file contains the pid of the PostgreSQL that made it. After a crash of the machine, or in a new container,
    another process may have this pid. PostgreSQL only sees that a process with this pid runs, and refuses to start.
    """
    lock = socket.with_name(f"{socket.name}.lock")
    if not lock.exists() or not os.path.isdir("/proc/self"):
        return
    pid, cluster, *_ = [*lock.read_text(errors="replace").splitlines(), "", ""]
    if pid.isdigit():
        # A process of another account is none of PostgreSQL, which has the account that owns the folder of the socket.
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(cluster):
                return
    lock.unlink()
    if not pid.isdigit() or os.path.isdir(f"/proc/{pid}"):
        print(f"testhide: removed {lock}: process {pid} is no PostgreSQL of {cluster}", file=sys.stderr, flush=True)


def _processes_in(cluster: Path) -> list[int]:
    folder = os.path.realpath(cluster)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.readlink(f"/proc/{entry}/cwd") == folder:
                    found.append(int(entry))
            except OSError:
                continue
    return found
