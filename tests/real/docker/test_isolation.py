"""Builds in containers that try to get out, and the limits and secrets of containers."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.real.docker.yard import DockerYard

pytestmark = pytest.mark.real("dockerd")
TRIES = {
    "socket": "ls /run/docker.sock /var/run/docker.sock",
    "root": "touch /usr/x",
    "mount": "mount -t tmpfs none /tmp",
    "device": "dd if=/dev/sda of=/dev/null count=1",
    "kernel": "cat /proc/kcore",
    "agent": "cat /proc/1/environ",
    "token": "cat /testhide/agent/registration",
    "time": "python3 -c 'import time; time.clock_settime(time.CLOCK_REALTIME, 0)'",
    "user": "python3 -c 'import os; os.setuid(0)'",
}
TOKEN = re.compile(r"da-[0-9a-f]{16}\.[0-9a-f]{32}\.[0-9a-f]{32}")


def test_a_build_does_not_get_out(yard: DockerYard) -> None:
    neighbour = yard.spawn()
    yard.wait_online(neighbour)
    address = yard.inspect(neighbour)["NetworkSettings"]["Networks"]["testhide-tests"]["IPAddress"]
    yard.server.admin.post(f"/api/v3/nodes/{yard.show(neighbour)['node_id']}/quarantine").then(200)
    # Refused at once if the neighbour could be reached: nothing listens there.
    connect = f"import socket; socket.create_connection(('{address}', 9), 2)"
    tries = TRIES | {"neighbour": f'python3 -c "{connect}" 2>&1 | grep -q refused'}
    report = "if {} >/dev/null 2>&1; then echo {}: out; else echo {}: in; fi"
    lines = [report.format(command, name, name) for name, command in tries.items()]
    status = "cat /proc/self/status"
    build = yard.build(yard.job("\n".join([*lines, status, "id -u", "ls -a /"])))
    agent_id = yard.spawn()
    yard.wait_build(build, status="passed")
    log = yard.log(build)
    for name in tries:
        assert f"{name}: in" in log, log
    for field in ("CapEff", "CapPrm", "CapBnd"):
        assert re.search(rf"{field}:\s+0{{16}}\b", log), log
    assert re.search(r"NoNewPrivs:\s+1\b", log)
    assert re.search(r"Seccomp:\s+2\b", log)
    config = yard.inspect(agent_id)["HostConfig"]
    assert (config["Privileged"], config["CapDrop"], config["ReadonlyRootfs"]) == (False, ["ALL"], True)
    assert (config["Binds"], config["PidMode"], config["PidsLimit"], config["CapAdd"]) == (None, "", 2048, None)
    yard.destroy(agent_id, neighbour)


def test_the_memory_limit_holds(yard: DockerYard) -> None:
    take = 'python3 -c \'print(bytearray(400 * 2**20)[:0] + b"ta" + b"ken")\''
    build = yard.build(yard.job(take))
    agent_id = yard.spawn(memory_mb=128)
    yard.wait_build(build, status="failed", reason="command_failed")
    assert "taken" not in yard.log(build)
    config = yard.inspect(agent_id)["HostConfig"]
    assert (config["Memory"], config["MemorySwap"]) == (128 * 2**20, 128 * 2**20)
    yard.destroy(agent_id)


def test_the_registration_token_is_shown_nowhere(yard: DockerYard) -> None:
    agent_id = yard.spawn(env={"GREETING": "hello-from-env"})
    yard.wait_online(agent_id)
    inspected = yard.inspect(agent_id)
    names = {variable.partition("=")[0] for variable in inspected["Config"]["Env"]}
    assert names == {"GREETING", "HOME", "LANG", "PATH"}
    events = yard.server.admin.get(f"/api/v3/audit/streams/docker-agent-{agent_id}").then(200)
    assert "docker_agent.registered" in [event["type"] for event in events]
    container_log = yard.server.admin.get(f"/api/v3/docker-agents/{agent_id}/logs").then(200)
    answers = {"inspect": inspected, "events": events, "shown": yard.show(agent_id), "log": container_log}
    logs = Path(yard.server.settings.data_dir)
    texts = {name: json.dumps(answer) for name, answer in answers.items()}
    texts |= {name: (logs / name).read_text() for name in ("serve", "work")}
    assert [name for name, text in texts.items() if TOKEN.search(text)] == []
    assert "hello-from-env" not in texts["shown"]
    yard.destroy(agent_id)


def test_a_registration_token_works_once(yard: DockerYard) -> None:
    """Somebody who saw the token cannot become the node with it."""
    agent_id = yard.spawn()
    yard.wait_online(agent_id)
    token = yard.registration_token(agent_id)
    assert TOKEN.fullmatch(token)
    body = {"registration_token": token, "agent_token": "agt_" + "x" * 32}
    refused = yard.server.client().post("/api/v3/agent/register", json=body)
    assert (refused.status_code, "works once" in refused.json()["detail"]) == (401, True)
    forged = body | {"registration_token": token[:-1] + ("0" if token[-1] != "0" else "1")}
    assert yard.server.client().post("/api/v3/agent/register", json=forged).status_code == 401
    assert urlsplit(yard.server.url).hostname != "127.0.0.1", "the containers reach it by their own network"
    yard.destroy(agent_id)
