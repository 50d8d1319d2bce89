"""Secrets of every kind are planted in a server and looked for afterwards: none is anywhere in clear. The secret key is
rotated in the middle, while an agent runs builds.
"""

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import msgspec
import psycopg
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from domain.users import PasswordLinkIssued
from testhide.engines import Engines
from testhide.engines.client_programs import run_client
from testhide.processes import core
from testhide.settings import save_settings
from tests.support.builders import Shop, finish, upload
from tests.support.http import Client
from tests.support.server import ADMIN, Server, server_on_new_database

JOB, TEMPLATE, BUILD, WEBHOOK, CHANNEL, SCM, JIRA, LATER = (
    f"planted-in-{name}-5e9c7d" for name in ("job", "template", "build", "hook", "teams", "scm", "jira", "change")
)
SMTP, INVITED, RESET = "planted-for-smtp-5e9c7d", "planted password of an invitation", "planted password of a reset"
PLANTED = {
    "job": JOB,
    "template": TEMPLATE,
    "build": BUILD,
    "webhook": WEBHOOK,
    "teams": CHANNEL,
    "scm": SCM,
    "jira": JIRA,
    "a secret that replaces another": LATER,
    "smtp": SMTP,
}
APP_KEY = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
FAILURE = b'<testsuite name="s"><testcase classname="t" name="a"><failure message="boom"/></testcase></testsuite>'
NEW_KEY = bytes(range(32))
READ_BY_TYPE: dict[bytes, tuple[Any, ...]] = {
    b"string": ("GET",),
    b"list": ("LRANGE", 0, -1),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", 0, -1),
    b"hash": ("HGETALL",),
    b"stream": ("XRANGE", "-", "+"),
}
"""Type of a Redis key -> the command that reads all of it, and its arguments after the key."""


@pytest.fixture
def planted(engines: Engines, tmp_path: Path) -> Iterator[Server]:
    logs = tmp_path / "logs"
    logs.mkdir()
    mail = {"smtp_url": f"smtp://ci:{SMTP}@127.0.0.1:1", "mail_from": "testhide@example.com"}
    data = tmp_path / "data"
    data.mkdir()
    names = ("serve", "project", "dispatch", "work")
    with server_on_new_database(engines, data, *names, outgoing_allow="127.0.0.0/8", logs=logs, **mail) as server:
        yield server


def plant(shop: Shop) -> tuple[dict[str, str], int]:
    """Uses each of them in a way that fails or shows where it may. Returns name -> value, and a job whose builds use
    some.
    """
    admin, found = shop.admin, dict(PLANTED)
    template = admin.create(
        "/pipeline-templates", name="Planted", setup=[], command="true", env={}, artifacts=[], secrets={"T": TEMPLATE}
    )["id"]
    job = shop.new_job(pipeline_template_id=template)
    command = 'echo "$J"; echo "$B"; echo "$T"; sh -c "sleep 0.3; exit 3"; true'
    configuration = {"command": command, "setup": [], "env": {}, "artifacts": [], "secrets": {"J": JOB}}
    admin.when("PUT", f"/jobs/{job}/configuration", json=configuration).then(200)
    admin.create("/webhooks", url="http://127.0.0.1:1/", events=["build.finished"], secret=WEBHOOK)
    url = f"https://127.0.0.1:1/{CHANNEL}"
    admin.create("/ms-teams", name="C", webhook_url=url, project_id=shop.project, events=["build.finished"])
    project = admin.create("/projects", name="Planted")
    found["project's webhook"] = project["webhook_secret"]
    endpoint = {"name": "S", "type": "github", "repo": "a/b", "token": SCM, "host": "http://127.0.0.1:1"}
    admin.create("/scm", project_id=project["id"], **endpoint)
    app = {"name": "App", "type": "github", "repo": "a/b", "token": APP_KEY, "host": "http://127.0.0.1:1"}
    of_app = admin.create("/projects", name="App")["id"]
    admin.create("/scm", project_id=of_app, app_id=7, installation_id=8, **app)
    tracker = {"name": "J", "host": "http://127.0.0.1:1", "email": "u@acme.com", "project_key": "BACK"}
    tickets = {"api_token": JIRA, "auto_create": True, "deployment": "data_center"}
    admin.create("/jira", testhide_project_id=project["id"], **tracker, **tickets)
    # Its status and its ticket are tried at the hosts, where nobody listens.
    for project_id in (project["id"], of_app):
        reported = admin.create("/jobs", name="S", project_id=project_id)["id"]
        build = admin.create("/builds/start", job_id=reported, external=True, commit_sha="1" * 40)["id"]
        upload(admin, build, FAILURE).then(201)
        finish(shop.server, build)
    changed = {"command": "true", "setup": [], "env": {}, "artifacts": [], "secrets": {"J": LATER}}
    admin.when("PUT", f"/jobs/{reported}/configuration", json=changed).then(200)
    found["API token"] = admin.create("/api-tokens", name="Planted")["secret"]
    found["session"] = admin.token
    found["agent token"] = shop.new_token()
    found["the key of an app"] = APP_KEY.splitlines()[1]
    found |= {"the admin's password": ADMIN[1], "an invited user's password": INVITED, "a new password": RESET}
    return found, job


def run_build(shop: Shop, job: int, token: str, folder: Path) -> str:
    """Runs a build by an agent of its own. Returns what the agent printed, its log and the command lines meanwhile."""
    (folder / "token").write_text(token)
    (folder / "token").chmod(0o600)
    build = shop.start(job, secrets={"B": BUILD})
    arguments = [sys.executable, "-m", "agent", "--server", shop.server.url, "--token-file", str(folder / "token")]
    arguments += ["--workdir", str(folder / "work"), "--trust-builds"]
    seen = set[str]()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder) as agent:
        try:
            with ThreadPoolExecutor(1) as thread:
                ending = thread.submit(shop.ended, build, within_s=60)
                while not ending.done():
                    seen |= read_command_lines()
            ended = ending.result()
        finally:
            agent.terminate()
            output, _ = agent.communicate(timeout=30)
    lines = shop.admin.fetch(f"/builds/{build}/pipeline_logs")["lines"]
    assert ended["status"] == "passed", f"{ended} {lines}"
    assert sum("***" in line for line in lines) == 3, lines
    assert any("exit 3" in commands for commands in seen), "the command ran while they were read"
    return "\n".join([str(lines), output.decode(), *seen])


def read_command_lines() -> set[str]:
    found = set[str]()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add((process / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue  # it has ended
    return found


def use_links(server: Server) -> dict[str, str]:
    """Has the server make links of an invitation and of a reset, which no mail server takes, and sets a password by the
    first. Returns their tokens, and what only the server can add to the ids in them.
    """
    server.admin.create("/users", email="ann@example.com", role="viewer", project_ids=[])
    server.client().when("POST", "/reset-password", json={"email": ADMIN[0]}).then(202)

    async def read_tokens() -> dict[str, str]:
        async with core(server.settings, pool_size=2) as parts, asyncio.timeout(20):
            tokens: dict[str, str] = {}
            while set(tokens) != {"invitation", "reset"}:
                for recorded in (await parts.log.read_batch(0, 1_000)).events:
                    if isinstance(event := recorded.event, PasswordLinkIssued):
                        tokens[event.purpose] = parts.secrets.link_token(event.user_id, event.link_id)
                await asyncio.sleep(0.02)  # between two looks
        return tokens

    tokens = asyncio.run(read_tokens())
    for token, password in [
        (tokens["invitation"], "short"),
        (tokens["reset"], "short"),
        (tokens["invitation"], INVITED),
    ]:
        body = {"token": token, "new_password": password}
        server.client().when("POST", "/reset-password/confirm", json=body).then(422 if password == "short" else 200)
    return {
        f"{name} of the link of the {purpose}": text
        for purpose, token in tokens.items()
        for name, text in {"token": token, "proof": token.rpartition(".")[2]}.items()
    }


def refusals(server: Server) -> str:
    """The bodies of answers to requests that are wrong, with secrets in them."""
    admin = server.admin
    bodies = [
        admin.when("POST", "/webhooks", json={"url": 5, "events": [], "secret": WEBHOOK}).text,
        admin.when("POST", "/webhooks", data=f'{{"secret": "{WEBHOOK}"').text,
        admin.when("PUT", "/jobs/1/configuration", json={"command": 1, "secrets": {"J": JOB}}).text,
        server.client().when("POST", "/authenticate", json={"username": ADMIN[0], "password": RESET}).text,
        server.client().when("POST", "/reset-password/confirm", json={"token": "1.2.3", "password": INVITED}).text,
        Client(server.url).authorize(JOB).when("GET", "/me").text,
    ]
    return "\n".join(bodies)


def read_trail(client: Client) -> list[Any]:
    found: list[Any] = []
    while page := client.fetch("/audit/events", limit=200, order="oldest", after=found[-1]["position"] if found else 0):
        found += page
    return found


def read_redis(url: str) -> str:
    found = []
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            command, *rest = READ_BY_TYPE[cast(bytes, client.type(key))]
            found.append(f"{key!r} {client.execute_command(command, key, *rest)!r}")
    return "\n".join(found)


def rotate(server: Server) -> None:
    """By the program, as an operator does it."""
    settings, folder = server.settings, Path(server.settings.data_dir)
    keys = {"TESTHIDE_SECRET_KEY": NEW_KEY, "TESTHIDE_OLD_SECRET_KEY": settings.secret_key}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    environ |= {"TESTHIDE_DATABASE_URL": settings.database_url, "TESTHIDE_REDIS_URL": settings.redis_url}
    for name, key in keys.items():
        file = folder / f"{name}.key"
        file.write_bytes(base64.b64encode(key))
        environ[f"{name}_FILE"] = str(file)
    command = [sys.executable, "-P", "-m", "testhide", "secrets", "rotate"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the secret key is rotated" in done.stdout


def test_no_secret_is_anywhere_in_clear(planted: Server, tmp_path: Path) -> None:
    shop = Shop(planted)
    secrets, job = plant(shop)
    secrets |= use_links(planted)
    texts = {"refusals before": refusals(planted)}
    texts["a build before"] = run_build(shop, job, secrets["agent token"], tmp_path)
    session = shop.admin.token

    with psycopg.connect(planted.settings.database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO root_key_wraps VALUES (1, 'key-that-was-not-kept', '')")
    assert "a rotation of the secret key was interrupted" in planted.admin.fetch("/readyz")["status"]
    rotate(planted)
    assert "a rotation of the secret key" not in planted.admin.fetch("/readyz")["status"]
    assert all(process.is_alive() for process in planted.processes.values())
    assert shop.admin.token == session
    texts["a build after"] = run_build(shop, job, secrets["agent token"], tmp_path)
    texts["refusals after"] = refusals(planted)

    planted.kill("project")
    planted.start("project")
    assert planted.processes["project"].wait(30) == 1, "the old key opens nothing"
    rotated = msgspec.structs.replace(planted.settings, secret_key=NEW_KEY)
    save_settings(rotated, Path(planted.settings.data_dir, "settings.json"))
    for name in list(planted.processes):
        planted.kill(name)
        planted.start(name)
    planted.wait_until_projected()
    texts["a build by restarted processes"] = run_build(shop, job, secrets["agent token"], tmp_path)
    secrets |= {"the old key": "s" * 32}

    dump = tmp_path / "dump.sql"
    run_client("pg_dump", planted.settings.database_url, f"--file={dump}")
    texts["database"] = dump.read_text()
    assert "Planted" in texts["database"], "names are in the read models"
    # The dump has events as bytes, which may be compressed; these have what they say.
    texts["events"] = planted.admin.when("GET", "/audit/export").text
    texts["trail"] = str(read_trail(planted.admin))
    assert texts["events"].count("build.finished") >= 3
    texts["redis"] = read_redis(planted.settings.redis_url)
    texts["logs"] = "\n".join(file.read_text() for file in (tmp_path / "logs").iterdir())
    assert "The secret key does not open what is in the database" in texts["logs"]
    found = [
        f"{name} in {where}"
        for name, value in secrets.items()
        for where, text in texts.items()
        for form in (value, value.encode().hex(), base64.b64encode(value.encode()).decode().rstrip("="))
        if form in text
    ]
    assert found == []
