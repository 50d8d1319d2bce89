"""Reads the node's token and keeps it from other processes, also when the program starts itself again."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence

VARIABLE = "TESTHIDE_AGENT_TOKEN"
_PIPE_PREFIX = "fd:"
"""`--token-file fd:7` reads the pipe that is open as file descriptor 7. Only `restart_program` passes it."""


class NoToken(Exception):
    """There is no usable token; the message says why."""


def own_command_line() -> list[str]:
    """Return the command that starts this program: the interpreter in isolated mode (-I), and the zipapp or folder."""
    package = os.path.dirname(os.path.abspath(__file__))
    archive = os.path.dirname(package)
    return [sys.executable, "-I", archive if os.path.isfile(archive) else package]


def leave_environment(argv: Sequence[str], keep_token: bool) -> None:
    """Restart the program without the environment variable that contains the token. Do nothing if that variable is not
    set.

    Deleting the variable would not be enough, since /proc/<pid>/environ goes on showing the environment that the
    process started with. With `keep_token`, the restarted program reads the token from a pipe. Otherwise the token of
    the variable is not used, since the options name a token file.
    """
    token = os.environ.pop(VARIABLE, None)
    if token is not None:
        restart_program(argv, [token] if keep_token else [])


def restart_program(argv: Sequence[str], secrets: Sequence[str]) -> None:
    """Replace this process by a new start of the program, which reads `secrets` from a pipe. Never returns.

    `secrets` is one of these: nothing; the token; or the token and the secret of the session that the restarted program
    continues.
    """
    command = [*own_command_line(), *_without_pipe_option(argv)]
    if secrets:
        read, write = os.pipe()
        os.write(write, "\n".join(secrets).encode())
        os.close(write)
        os.set_inheritable(read, True)
        command += ["--token-file", f"{_PIPE_PREFIX}{read}"]
    os.execve(command[0], command, dict(os.environ))  # noqa: S606 (ourselves)


def read_token(source: str | None) -> tuple[str, str | None]:
    """Return the token, and the secret of the session if `restart_program` passed one, otherwise None. Raises
    `NoToken`.

    `source` is a file, `-` for standard input, or the pipe of `restart_program`.
    """
    if source is None:
        raise NoToken(f"the agent needs a token: --token-file FILE, --token-file - or {VARIABLE}")
    name = VARIABLE if _is_pipe(source) else "standard input" if source == "-" else source
    try:
        if source == "-":
            text = sys.stdin.readline()
        else:
            file = int(source[len(_PIPE_PREFIX) :]) if _is_pipe(source) else source
            with open(file, encoding="utf-8") as opened:
                mode = os.fstat(opened.fileno()).st_mode
                text = opened.read()
            if stat.S_ISREG(mode) and mode & stat.S_IROTH:
                raise NoToken(f"every user of this machine can read the token: chmod 600 {source}")
    except (OSError, ValueError) as error:
        raise NoToken(f"cannot read the token from {name}: {error}") from None
    session = None
    if _is_pipe(source):
        text, _, session = text.partition("\n")
    token = text.strip()
    if not token:
        raise NoToken(f"{name} is empty: it must hold the node's token")
    if not token.isascii() or any(character.isspace() for character in token):
        raise NoToken(f"{name} holds no token: one has neither spaces nor line breaks")
    return token, session or None


def _without_pipe_option(argv: Sequence[str]) -> list[str]:
    """Return `argv` without `--token-file` if that option names a pipe. The pipe is of no use any more, since this
    process has read it to its end.
    """
    pipes = [at for at, word in enumerate(argv) if at and argv[at - 1] == "--token-file" and _is_pipe(word)]
    return [word for at, word in enumerate(argv) if at not in pipes and at + 1 not in pipes]


def _is_pipe(source: str) -> bool:
    return source.startswith(_PIPE_PREFIX)
