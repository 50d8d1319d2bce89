"""The command line: options, token, and a clean end."""

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

from agent import VERSION, credentials
from agent.build import workspace
from agent.console import say
from agent.process import linux, orphans, privileges
from agent.process.privileges import Account, NoAccount
from agent.process.supervisor import Slots
from agent.server import Server
from agent.session import Session
from agent.settings import Settings
from agent.sign_off import release
from agent.work import BAD_TOKEN, OK, REFUSED, RESTART, Work

_LOOK_AGAIN = 0.5
_SIGNAL = -2  # no exit code either


def run(argv: list[str]) -> int:
    options = _parse(argv)
    if sys.platform != "linux":
        say("The agent runs on Linux.")
        return REFUSED
    linux.hide_from_others_of_this_user()
    credentials.leave_environment(argv, hand_over=options.token_file is None)
    os.umask(0o022)  # builds must be able to enter the folders above theirs
    try:
        account = privileges.choose(options.build_user, options.trust_builds)
        token, session_secret = credentials.read(options.token_file)
        server = Server(options.server, token)
    except (NoAccount, credentials.NoToken, ValueError) as error:
        say(f"{str(error)[0].upper()}{str(error)[1:]}.")
        return BAD_TOKEN
    workdir = Path(options.workdir or _default_workdir(account)).absolute()
    trouble = _check(workdir, account, options.token_file)
    lock = None if trouble else _lock(workdir)
    if not lock:
        say(trouble or f"Another agent uses {workdir}: give this one its own --workdir.")
        return REFUSED
    with lock:
        _introduce(account)
        settings = Settings(server, Slots(), workdir, account, options.allow_local_repositories)
        # Of an agent that was killed:
        orphans.end_all(settings.builds)
        workspace.remove(settings.builds)
        work = Work(settings, options.once)
        session = Session(settings, work, options.once, session_secret or secrets.token_hex(32))
        code = _serve(session, work, settings)
    if code == RESTART:
        credentials.begin_anew(argv, [token, session.secret])
    return code


def _serve(session: Session, work: Work, settings: Settings) -> int:
    signals: list[int] = []

    def asked(number: int, _: object) -> None:
        signals.append(number)
        work.outcome.put(_SIGNAL)  # a SimpleQueue may be filled from a signal handler

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, asked)
    session.start()
    code = _outcome(work, signals)
    work.close(report=bool(signals) or code == RESTART)
    settings.slots.close()
    if session.is_connected and work.is_over and (signals or code == OK):
        release(settings.server, session.id)
    return OK if signals else code


def _outcome(work: Work, signals: list[int]) -> int:
    """The first signal lets builds end by themselves, the second one and SIGQUIT do not."""
    draining = False
    while True:
        try:
            code = work.outcome.get(timeout=_LOOK_AGAIN)
        except queue.Empty:
            continue  # a signal that comes just before the wait does not end it, and its handler has to wait too
        if code != _SIGNAL:
            return code
        if draining or signal.SIGQUIT in signals:
            return OK
        draining = True
        work.drain()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="agent", description="Runs builds for a Testhide server.")
    parser.add_argument("--version", action="version", version=VERSION)
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help=f"the node's token; - is standard input; else {credentials.VARIABLE} is read and dropped",
    )
    parser.add_argument("--workdir", metavar="DIR", help="where builds happen (a cache folder of this user)")
    parser.add_argument("--once", action="store_true", help="run one build, then end")
    parser.add_argument("--build-user", metavar="NAME", help="whom root runs builds as (testhide-build, else nobody)")
    parser.add_argument("--trust-builds", action="store_true", help="run builds as the agent's own user")
    parser.add_argument("--allow-local-repositories", action="store_true", help="file URLs and local paths too")
    return parser.parse_args(argv)


def _default_workdir(account: Account | None) -> Path:
    if account:
        return Path("/var/cache/testhide-agent")  # root's own cache folder cannot be entered by builds
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "testhide-agent"


def _check(workdir: Path, account: Account | None, token_file: str | None) -> str | None:
    """Makes the folders; the sentence that says why it cannot work."""
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
    lock = (workdir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _introduce(account: Account | None) -> None:
    who = f"run as user {account.uid}" if account else "are trusted, they can do whatever this agent's user can"
    say(f"Testhide agent {VERSION}: builds {who}.")
