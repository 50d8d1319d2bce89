"""The command line: reads options and token, checks the machine, and runs a session until the agent has to end."""

from __future__ import annotations

import argparse
import fcntl
import os
import queue
import secrets
import signal
import sys
from pathlib import Path
from typing import IO

from agent import VERSION, credentials, registration
from agent.build import workspace
from agent.cache_store import DEFAULT_LIMIT_GB, CacheStore
from agent.console import print_line
from agent.context import AgentContext, AllowedRepositories
from agent.process import linux, namespaces, orphans, privileges
from agent.process.privileges import BuildAccount, BuildAccounts, NoBuildAccount
from agent.process.supervisor_client import SupervisorPool
from agent.runner import EXIT_BAD_TOKEN, EXIT_FAILED, EXIT_OK, RESTART, TaskRunner
from agent.server_client import RequestRefused, ServerClient, TokenRefused
from agent.session import Session

_POLL_INTERVAL_S = 0.5  # longest delay of a signal that arrives just before a wait begins
_SIGNAL = -2  # in the queue of exit codes: a signal arrived


def run(argv: list[str]) -> int:
    """Run the agent until it ends; return its exit code."""
    options = _parse(argv)
    if sys.platform != "linux":
        print_line("The agent runs on Linux.")
        return EXIT_FAILED
    linux.hide_from_others_of_this_user()
    credentials.leave_environment(argv, keep_token=not options.token_sources)
    os.umask(0o022)  # builds must be able to enter the folders above theirs
    try:
        accounts = privileges.choose_accounts(options.build_user, options.trust_builds)
        if options.registration_file and not options.token_sources:
            token, session_secret = registration.register(options.server, options.registration_file), None
        else:
            token, session_secret = credentials.read_token(options.token_sources[-1] if options.token_sources else None)
        token_file = credentials.find_file(options.token_sources)
        server = ServerClient(options.server, credentials.TokenHolder(token, token_file))
    except (NoBuildAccount, credentials.NoToken, RequestRefused, TokenRefused, ValueError) as error:
        print_line(f"{str(error)[0].upper()}{str(error)[1:].rstrip('.')}.")
        return EXIT_BAD_TOKEN
    account = accounts.example if accounts else None
    workdir = Path(options.workdir or _default_workdir(account)).absolute()
    problem = _prepare_workdir(workdir, account, token_file)
    lock = None if problem else _lock(workdir)
    if not lock:
        print_line(problem or f"Another agent uses {workdir}: give this one its own --workdir.")
        return EXIT_FAILED
    with lock:
        refusal = namespaces.find_refusal() if accounts else None
        _print_start(accounts, refusal)
        isolation = ["isolated"] if accounts and not refusal else []
        supervisors = SupervisorPool([*credentials.own_command_line(), "slot", *isolation])
        allowed = AllowedRepositories(options.allow_local_repositories, options.allow_http_repositories)
        caches = CacheStore(workdir / "caches", int(options.cache_limit_gb * 2**30))
        context = AgentContext(server, supervisors, workdir, accounts, allowed, caches)
        caches.prepare()
        # What a killed agent left behind:
        orphans.end_orphans(context.builds)
        workspace.remove_remains(workdir)
        workspace.remove_folder(context.builds)
        runner = TaskRunner(context, options.once)
        session = Session(context, runner, options.once, session_secret or secrets.token_hex(32))
        code = _run_session(session, runner, context)
    if code == RESTART:
        credentials.restart_program(argv, [server.tokens.token, session.secret])
    return code


def _run_session(session: Session, runner: TaskRunner, context: AgentContext) -> int:
    signals: list[int] = []

    def on_signal(number: int, _: object) -> None:
        signals.append(number)
        runner.exit_codes.put(_SIGNAL)  # `SimpleQueue.put` is safe in a signal handler

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, on_signal)
    session.start()
    code = _wait_for_exit_code(runner, signals)
    runner.close(report=bool(signals) or code == RESTART)
    context.supervisors.close()
    if runner.is_idle and (signals or code == EXIT_OK):
        session.sign_off()
    return EXIT_OK if signals else code


def _wait_for_exit_code(runner: TaskRunner, signals: list[int]) -> int:
    """Wait for the first exit code and return it. The first signal makes the runner take no more builds. A second
    signal, or SIGQUIT, makes the function return `EXIT_OK` at once.
    """
    is_draining = False
    while True:
        try:
            code = runner.exit_codes.get(timeout=_POLL_INTERVAL_S)
        except queue.Empty:
            continue  # Python runs the handler of a signal that arrived just before `get` only after `get`
        if code != _SIGNAL:
            return code
        if is_draining or signal.SIGQUIT in signals:
            return EXIT_OK
        is_draining = True
        runner.drain()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="agent", description="Runs builds for a Testhide server.")
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        action="append",
        default=[],
        dest="token_sources",
        help=f"the node's token; - is standard input; else {credentials.VARIABLE} is read and dropped",
    )
    parser.add_argument(
        "--registration-file",
        metavar="FILE",
        help="instead of --token-file: a registration token, which makes this machine a node and is deleted",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where builds happen (a cache folder of this user)")
    parser.add_argument("--once", action="store_true", help="run one build, then end")
    parser.add_argument("--build-user", metavar="NAME", help="whom root runs all builds as (else: users of their own)")
    parser.add_argument("--trust-builds", action="store_true", help="run builds as the agent's own user")
    parser.add_argument("--allow-local-repositories", action="store_true", help="file URLs and local paths too")
    parser.add_argument("--allow-http-repositories", action="store_true", help="http URLs, not encrypted, too")
    parser.add_argument("--cache-limit-gb", type=float, default=DEFAULT_LIMIT_GB, metavar="GB", help="for all caches")
    return parser.parse_args(argv)


def _default_workdir(account: BuildAccount | None) -> Path:
    if account:
        return Path("/var/cache/testhide-agent")  # builds of another user cannot enter root's own cache folder
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "testhide-agent"


def _prepare_workdir(workdir: Path, account: BuildAccount | None, token_file: str | None) -> str | None:
    """Create the work folder. Return a sentence that says why the agent cannot work there, or None if it can."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if account:
            if not privileges.can_enter(account, workdir):
                return f"Builds cannot enter {workdir}: choose a --workdir that every user can reach."
            if token_file and os.path.isfile(token_file) and privileges.can_read(account, Path(token_file).resolve()):
                return f"Builds could read the token: chmod 600 {token_file}"
    except OSError as error:
        return f"Cannot use {workdir}: {error}"
    return None


def _lock(workdir: Path) -> IO[str] | None:
    """Lock the work folder and return the open lock file. Return None if another agent holds the lock."""
    lock = (workdir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _print_start(accounts: BuildAccounts | None, refusal: str | None) -> None:
    who = "are trusted, they can do whatever this agent's user can"
    if accounts:
        uids = privileges.SLOT_UIDS
        shared = accounts.shared
        who = f"run as user {shared.uid}" if shared else f"run as users {uids[0]} to {uids[-1]}, each as one of its own"
        who += "" if refusal else ", in namespaces of their own"
    print_line(f"Testhide agent {VERSION}: builds {who}.")
    if refusal:
        print_line(
            f"Builds have no namespaces of their own ({refusal}): they see each other's command lines, and share /tmp."
        )
