"""Reads the node's token and keeps it from other processes, also when the program starts itself again."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Sequence

from agent.console import print_line

VARIABLE = "TESTHIDE_AGENT_TOKEN"
_PIPE_PREFIX = "fd:"
"""Prefix by which `--token-file` names a pipe instead of a file: `fd:7` is the pipe that is open as file descriptor 7.
Only `restart_program` passes such a name.
"""


class NoToken(Exception):
    """There is no usable token; the message says why."""


class TokenHolder:
    """Holds the token that requests use. Takes up a new token when one is written to the token's file; without a file
    the token never changes. Thread-safe.
    """

    def __init__(self, token: str, file: str | None) -> None:
        self.token = token
        self._file = file
        self._before: str | None = None
        self._refused: set[str] = set()
        self._lock = threading.Lock()

    def reload(self) -> None:
        """Replace the token by the token in the file, if the two differ and the server has not refused the token in the
        file.
        """
        with self._lock:
            self._reload_locked()

    def replace(self, refused: str) -> bool:
        """Replace the token `refused`, which the server has refused, by the token in the file. If the file has no token
        that the server may accept, go back to the token that was used before. Return whether `token` is now a token
        that the server has not refused.
        """
        with self._lock:
            self._refused.add(refused)
            if self.token == refused:
                self._reload_locked()
            if self.token == refused and self._before is not None and self._before not in self._refused:
                print_line(f"The server does not accept the token in {self._file}: going on with the one before.")
                self.token, self._before = self._before, None
            return self.token not in self._refused

    def _reload_locked(self) -> None:
        try:
            # Not a pipe, which would block.
            if self._file is None or not stat.S_ISREG(os.stat(self._file).st_mode):
                return
            found = read_token(self._file)[0]
        except (OSError, NoToken):
            return  # the file is being written
        if found != self.token and found not in self._refused:
            self.token, self._before = found, self.token
            print_line(f"Using the new token in {self._file}.")


def own_command_line() -> list[str]:
    """Return the command that starts this program: the interpreter in isolated mode (-I), and the zipapp or folder."""
    package = os.path.dirname(os.path.abspath(__file__))
    archive = os.path.dirname(package)
    return [sys.executable, "-I", archive if os.path.isfile(archive) else package]


def leave_environment(argv: Sequence[str], keep_token: bool) -> None:
    """Restart the program without the environment variable that contains the token. Do nothing if that variable is not
    set.

    Deleting the variable would not be enough: /proc/<pid>/environ would go on showing it. With `keep_token`, the
    restarted program reads the token from a pipe. Otherwise it reads the token from the file that the options name, and
    the token in the variable is dropped.
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
    """Return the token, and the secret of the session that this program continues. The secret is None unless
    `restart_program` has passed one.

    `source` is a file, `-` for standard input, or the pipe of `restart_program`. Raises `NoToken` if `source` is None,
    cannot be read or has no valid token, and if every user of the machine can read the file.
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


def find_file(sources: Sequence[str]) -> str | None:
    """Return the path of the file from which the agent reads the token again: before each heartbeat, and if the server
    refuses the token. Return None if the options name no file, but only standard input (`-`) or nothing.

    `sources` are the values of all options `--token-file`. A restart adds a pipe as the last option. Pipes are ignored
    here: the last of the other options counts.
    """
    files = [source for source in sources if not _is_pipe(source)]
    return files[-1] if files and files[-1] != "-" else None


def _without_pipe_option(argv: Sequence[str]) -> list[str]:
    """Return `argv` without `--token-file` if that option names a pipe. The pipe is of no use any more, since this
    process has read it to its end.
    """
    pipes = [at for at, word in enumerate(argv) if at and argv[at - 1] == "--token-file" and _is_pipe(word)]
    return [word for at, word in enumerate(argv) if at not in pipes and at + 1 not in pipes]


def _is_pipe(source: str) -> bool:
    return source.startswith(_PIPE_PREFIX)
