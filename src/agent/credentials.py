"""The node's token: how it comes to this process and to no other."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from agent.entry import command_line

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
    command = [*command_line(), *argv]
    if hand_over:
        read, write = os.pipe()
        os.write(write, token.encode())
        os.close(write)
        os.set_inheritable(read, True)
        command += ["--token-file", f"{HANDED_OVER}{read}"]
    os.execve(command[0], command, dict(os.environ))  # noqa: S606 (ourselves)


def read(source: str | None) -> str:
    """From a file, `-` (standard input) or the pipe of `leave_environment`."""
    if source is None:
        raise NoToken(f"the agent needs a token: --token-file FILE, --token-file - or {VARIABLE}")
    try:
        if source == "-":
            text = sys.stdin.readline()
        else:
            file = int(source[len(HANDED_OVER) :]) if source.startswith(HANDED_OVER) else source
            with open(file, encoding="utf-8") as opened:
                text = opened.read()
    except (OSError, ValueError) as error:
        raise NoToken(f"cannot read the token from {source}: {error}") from None
    token = text.strip()
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise NoToken(f"{source} holds no token")
    return token
