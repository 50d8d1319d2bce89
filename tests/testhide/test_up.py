"""What `testhide up` refuses: one sentence, an exit code, no trace, nothing started."""

import os
import socket
import threading
from pathlib import Path

import pytest

from testhide.engines.folder import open_folder
from testhide.settings import from_environment
from testhide.stack.stack import Plan, responds, steps
from testhide.supervise.supervisor import Say
from tests.support.forked_process import run_forked


def refused(*arguments: str, **environ: str) -> tuple[int, str]:
    """Returns the exit code and the error of `testhide up`."""
    done = run_forked("up", *arguments, **environ)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_port_in_use(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, errors = refused("--data", str(data / "new" / "folder"), "--port", port)
        assert os.listdir(data) == []
        with open_folder(data / "old"):
            pass
        before = sorted((data / "old").rglob("*"))
        assert refused("--data", str(data / "old"), "--port", port)[0] == 3
        assert sorted((data / "old").rglob("*")) == before
    assert code == 3
    assert errors == (
        f"testhide: Port {port} on 127.0.0.1 cannot be taken (Address already in use): name another one by --port.\n"
    )


def test_locked_folder(data: Path) -> None:
    with open_folder(data):
        code, errors = refused("--data", str(data))
    assert code == 3
    assert "already in use by process" in errors


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("TESTHIDE_DATABASE_URL", "postgresql://u:hush@127.0.0.1:1/x", "The database of TESTHIDE_DATABASE_URL"),
        ("TESTHIDE_DATABASE_URL", "nonsense", "The database of TESTHIDE_DATABASE_URL"),
        ("TESTHIDE_REDIS_URL", "redis://:hush@127.0.0.1:1/0", "The Redis or Valkey of TESTHIDE_REDIS_URL"),
        ("TESTHIDE_REDIS_URL", "nonsense", "The Redis or Valkey of TESTHIDE_REDIS_URL"),
    ],
)
def test_unreachable_services(data: Path, name: str, url: str, message: str) -> None:
    code, errors = refused("--data", str(data), "--port", "18999", **{name: url})
    assert code == 4
    assert message in errors
    assert "hush" not in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TESTHIDE_PORT": "eighty"}, "TESTHIDE_PORT must be a number"),
        ({"TESTHIDE_SECRET_KEY": "short"}, "TESTHIDE_SECRET_KEY must be 32 bytes"),
        ({"TESTHIDE_HOST": "no such host.invalid"}, "--host no such host.invalid"),
    ],
)
def test_wrong_settings(data: Path, environ: dict[str, str], message: str) -> None:
    code, errors = refused("--data", str(data), "--no-agent", **environ)
    assert code == 2
    assert message in errors


def test_loopback_is_no_address_for_docker_agents(data: Path) -> None:
    hosts = {"TESTHIDE_DOCKER_HOSTS": "a=unix:///run/docker.sock"}
    given = {"database_url": "-", "secret_key": b"", "data_dir": str(data)}
    problem = from_environment(hosts, **given).docker_problem
    assert "http://127.0.0.1:8000" in problem
    reached = hosts | {"TESTHIDE_DOCKER_SERVER_URL": "http://172.29.77.1:8000"}
    assert from_environment(reached, **given).docker_problem == ""
    assert from_environment({}, **given).docker_problem == ""
    plan = Plan(str(data), "127.0.0.1", 8000, (), False, False, False, docker_problem=problem)
    printed = [step.text for step in steps(plan, -1) if isinstance(step, Say)]
    assert printed == [f"Warning: {problem} (docs/docker.md).", "ready http://127.0.0.1:8000"]


def test_a_data_folder_that_is_a_file(data: Path) -> None:
    (data / "file").touch()
    code, errors = refused("--data", str(data / "file"))
    assert code == 1
    assert errors == f"testhide: {data / 'file'} is not a folder.\n"


def test_dsn_of_what_does_not_run(data: Path) -> None:
    done = run_forked("dsn", "--data", str(data))
    assert (done.returncode, done.stdout) == (1, "")
    assert "No stack runs on" in done.stderr


def test_readiness_is_a_200_and_nothing_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0)
        assert not responds("127.0.0.1", 1, "/")()
        server.settimeout(5)
        replies = [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]

        def serve() -> None:
            for reply in replies:
                client, _ = server.accept()
                with client:
                    client.recv(1024)
                    client.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        assert [responds("127.0.0.1", port, "/")() for _ in replies] == [False, True]
        thread.join()
