"""The node's token: how it comes to this process and to no other."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agent.process.entry import command_line

VARIABLE = "TESTHIDE_AGENT_TOKEN"
HANDED_OVER = "fd:"


class NoToken(Exception):
    """Says what to do about it."""


def leave_environment(argv: Sequence[str], hand_over: bool) -> None:
    """
    A variable that was there at the start stays readable in /proc/<pid>/environ for the life of the program:
    so start the program anew without it, and hand the token over through a pipe unless a file is preferred.
    """
    token = os.environ.pop(VARIABLE, None)
    if token is None:
        return
    begin_anew(argv, [token] if hand_over else [])


def begin_anew(argv: Sequence[str], words: Sequence[str]) -> None:
    """This process as at its start; the words go through a pipe: the token and, if it goes on, the session's secret."""
    command = [*command_line(), *_without_handed_over(argv)]
    if words:
        read, write = os.pipe()
        os.write(write, "\n".join(words).encode())
        os.close(write)
        os.set_inheritable(read, True)
        command += ["--token-file", f"{HANDED_OVER}{read}"]
    os.execve(command[0], command, dict(os.environ))  # noqa: S606 (ourselves)


def read(source: str | None) -> tuple[str, str | None]:
    """Token and secret of the session, from a file, `-` (standard input) or the pipe of `begin_anew`."""
    if source is None:
        raise NoToken(f"the agent needs a token: --token-file FILE, --token-file - or {VARIABLE}")
    try:
        if source == "-":
            text = sys.stdin.readline()
        else:
            file = int(source[len(HANDED_OVER) :]) if _is_pipe(source) else source
            with open(file, encoding="utf-8") as opened:
                text = opened.read()
    except (OSError, ValueError) as error:
        raise NoToken(f"cannot read the token from {source}: {error}") from None
    session = None
    if _is_pipe(source):
        text, _, session = text.partition("\n")
    token = text.strip()
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise NoToken(f"{source} holds no token")
    return token, session or None


def _without_handed_over(argv: Sequence[str]) -> list[str]:
    """Without the pipe that this process itself was given, which is read."""
    given = [at for at, word in enumerate(argv) if at and argv[at - 1] == "--token-file" and _is_pipe(word)]
    return [word for at, word in enumerate(argv) if at not in given and at + 1 not in given]


def _is_pipe(source: str) -> bool:
    return source.startswith(HANDED_OVER)
