"""A way to an engine on another machine: `ssh` to an `sshd` of the tests' own."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.server import free_port

READY_S = 30.0


@contextmanager
def running_sshd(folder: Path, docker_url: str) -> Iterator[str]:
    """Runs `sshd` on loopback, through which programs reach the engine at `docker_url`. Yields the URL of the Docker
    host. The folder then has a program `ssh`, which knows the server's key and has one that the server accepts.
    """
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on this folder
    port = free_port()
    for name in ("server", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    settings = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "server",
        "AuthorizedKeysFile": folder / "client.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "SetEnv": f"DOCKER_HOST={docker_url}",
    }
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'server.pub').read_text()}")
    options = {"IdentityFile": "client", "UserKnownHostsFile": "known_hosts"}
    given = " ".join(f"-o {name}={folder / file}" for name, file in options.items())
    ssh = folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F none -o BatchMode=yes {given} "$@"\n')
    ssh.chmod(0o755)
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + READY_S
            while "Server listening" not in (folder / "log").read_text():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "sshd does not start"
                time.sleep(0.05)  # between two looks; the deadline is above
            yield f"ssh://root@127.0.0.1:{port}"
        finally:
            process.terminate()
