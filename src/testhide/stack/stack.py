"""The second of two programs of `testhide up`: supervises engines, server processes and agent. Uses only the standard
library, to need little memory.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from testhide.engines import Postgres, Valkey
from testhide.engines.folder import reopen_folder
from testhide.operator_errors import Fault
from testhide.supervise.child import Service
from testhide.supervise.program import Program, http_url, local_url
from testhide.supervise.supervisor import Await, Run, Say, Start, Step, Supervisor

AGENT_WAVE, SERVER_WAVE, ENGINE_WAVE = range(3)
PREPARE_TIMEOUT_S = 24 * 3600.0
"""Seconds that `prepare` may take: a release with new read models builds them from the whole log."""
SERVER_PROCESSES = ("serve", "project", "dispatch", "work")
WORK_NICE = 5
"""Niceness of `testhide work`. While the processors are busy, `work` gets a third of the time that each other process
gets. So the server answers hooks and users before `work` runs the reactions to their requests.
"""


@dataclass(frozen=True)
class Plan:
    """Decisions of the first program of `testhide up` (`testhide.stack.up`). The second program gets them as an
    argument, so they contain no secret.
    """

    data: str
    host: str
    port: int
    embedded: tuple[str, ...]
    agent: bool
    trust_builds: bool
    """Whether the local agent runs the builds of all users as its own user."""
    verbose: bool
    opened: str = ""
    """Networks that webhooks of admins may call because only this machine reaches the server; empty if other machines
    reach it, or if the setting `outgoing_allow` names the networks.
    """
    docker_problem: str = ""
    """Why containers of Docker agents cannot reach the server; empty if they probably can."""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Plan":
        fields = json.loads(text)
        return cls(**{**fields, "embedded": tuple(fields["embedded"])})


def steps(plan: Plan, lock_fd: int) -> list[Step]:
    """Return the steps by which the supervisor carries out the plan. Raises Fault if the data folder cannot be used."""
    data = Path(plan.data)
    found: list[Step] = []
    if plan.embedded:
        folder = reopen_folder(data, lock_fd)
        engines = [engine for engine in (Postgres(folder), Valkey(folder)) if engine.name in plan.embedded]
        found.append(Start(tuple(Service(engine.program(), ENGINE_WAVE, engine.ready) for engine in engines)))
    found += [
        Run(_server_program("prepare"), timeout=PREPARE_TIMEOUT_S),
        # `work` prints the links of mails where no mail server is set; its log goes to stderr.
        Start(tuple(Service(_server_program(name), SERVER_WAVE, prints=name == "work") for name in SERVER_PROCESSES)),
        Await(responds(plan.host, plan.port, "/api/v3/readyz"), "The server"),
    ]
    if plan.agent:
        found += _local_agent(plan, data / "agent")
    if plan.opened:
        found.append(
            Say(f"Webhooks of admins may call {plan.opened}, over http too. TESTHIDE_OUTGOING_ALLOW says otherwise.")
        )
    if plan.docker_problem:
        found.append(Say(f"Warning: {plan.docker_problem} (docs/docker.md)."))
    found.append(Say(f"ready {http_url(plan.host, plan.port)}"))
    return found


def _local_agent(plan: Plan, folder: Path) -> list[Step]:
    token = folder / "token"
    builds_are_isolated = os.geteuid() == 0 and not plan.trust_builds
    workdir = _isolated_workdir(folder) if builds_are_isolated else folder / "work"
    options = [] if builds_are_isolated else ["--trust-builds"]
    admins_only = [] if builds_are_isolated or plan.trust_builds else ["--admins-only"]
    found: list[Step] = [
        Run(_server_program("local-node", str(token), *admins_only)),
        Start((Service(_agent_program(plan, token, workdir, options), AGENT_WAVE),)),
    ]
    if admins_only:
        found.append(Say("The local agent runs only builds that administrators start, since they run as you."))
    elif not builds_are_isolated:
        found.append(
            Say(
                "The local agent's builds are trusted: they run as you, and can read the server's secret key in the"
                " data folder."
            )
        )
    return found


def _isolated_workdir(folder: Path) -> Path:
    """Return a work folder for builds, each of which runs as a separate user of the operating system. The work folder
    is in `folder`, the agent's folder. If these users cannot enter `folder`, the work folder is below /var/cache.
    """
    if all(path.stat().st_mode & 0o001 for path in folder.parents):
        folder.chmod(0o711)  # everything else in it is private
        return folder / "work"
    status = folder.stat()
    return Path("/var/cache/testhide-agent") / f"{status.st_dev:x}-{status.st_ino:x}"


def _server_program(verb: str, *arguments: str) -> Program:
    # Two arenas instead of eight per core: less memory that glibc keeps for threads.
    environ = {"MALLOC_ARENA_MAX": "2", **os.environ}
    argv = (sys.executable, "-P", "-m", "testhide", verb, *arguments)
    return Program(verb, argv, env=environ, nice=WORK_NICE if verb == "work" else 0)


def _agent_program(plan: Plan, token: Path, workdir: Path, options: list[str]) -> Program:
    environ = {name: value for name, value in os.environ.items() if name != "TESTHIDE_SETTINGS"}
    server = local_url(plan.host, plan.port)
    argv = [sys.executable, "-P", "-m", "agent", "--server", server, "--token-file", str(token)]
    argv += ["--workdir", str(workdir), "--allow-local-repositories", *options]
    # SIGTERM would let the agent finish its builds first.
    return Program("agent", tuple(argv), env=environ, stop_signal=signal.SIGQUIT)


def responds(host: str, port: int, path: str) -> Callable[[], bool]:
    """Return a function that tells whether a GET of `path` is answered with 200. Does without http.client, which would
    stay in memory.
    """
    address = local_url(host, port).removeprefix("http://").rpartition(":")[0].strip("[]")

    def ask() -> bool:
        try:
            with socket.create_connection((address, port), timeout=1) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
                return client.recv(64)[8:13] == b" 200 "
        except OSError:
            return False

    return ask


def main(argv: list[str]) -> int:
    plan = Plan.decode(argv[0])
    try:
        return Supervisor(steps(plan, int(argv[1])), Path(plan.data), verbose=plan.verbose).run()
    except (Fault, OSError) as error:
        print(f"testhide: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, Fault) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
