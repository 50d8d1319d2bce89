"""Runs a build's setup lines and command as shell scripts. Each script passes the variables that it exports on to the
next.

Each script runs in a shell process of its own (docs/decisions/0013-setup-lines.md). At its end, a setup line writes its
exported variables, its umask and its current folder to a file; bash also writes its functions. The next shell starts
with these.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from shlex import quote

from agent.build.workspace import Workspace

_MAX_STATE_BYTES = 4 << 20  # twice what Linux lets a program's arguments and environment have
_OF_ONE_SHELL = ("_", "SHLVL", "PWD", "OLDPWD")  # variables that each shell sets for itself


class ShellRefused(Exception):
    """This machine does not have the build's shell or the program `env`, or a setup line or the command contains
    a NUL character. The message says which.
    """


class Shell:
    """Makes the command lines of one build's steps. Its `env` is the environment of the next step."""

    def __init__(self, workspace: Workspace, env: dict[str, str], name: str) -> None:
        self.env = env
        program = "/bin/sh" if name == "sh" else shutil.which(name, path=env.get("PATH"))
        if not program:
            raise ShellRefused(f"this job runs in {name}, which this machine does not have on its PATH")
        self.program = program
        self._is_bash = name == "bash"
        self._workspace = workspace
        self._folder = workspace.folder / "shell"
        self._folder.mkdir(mode=0o755)
        self._begin = ["set -o pipefail"] if self._is_bash else []
        env_program = shutil.which("env", path=env.get("PATH"))
        if not env_program:
            raise ShellRefused("this machine has no program `env` on its PATH")
        self._env_program = env_program
        # Opened before the build begins. It cannot put a link here: the folder is the agent's.
        self._state = self._open("state")
        os.close(self._open("functions"))

    def close(self) -> None:
        os.close(self._state)

    def write_setup(self, number: int, line: str) -> list[str]:
        """Write the script of a setup line. Return the command line that runs it."""
        os.ftruncate(self._state, 0)
        leave = [
            'set -- "$?"',  # positional parameters, since `set -a` would export a variable
            '[ "$1" = 0 ] || exit "$1"',
            # `>|` also writes after `set -C`.
            f"{{ {quote(self._env_program)} -0 && umask && command pwd; }} >| {quote(self._path('state'))} || exit",
            *([f"declare -f >| {quote(self._path('functions'))} || exit"] if self._is_bash else []),
        ]
        return self._write(f"setup-{number}", line, ["set -e"], leave)

    def write_command(self, command: str) -> list[str]:
        """Write the script of the command. Return the command line that runs it."""
        # Of several lines, the first that fails ends the command. Within one line, `;` means to go on after a failure.
        return self._write("command", command, ["set -e"] if "\n" in command.strip() else [], [])

    def carry_over(self) -> bool:
        """Take over the variables, umask, folder and functions that the last setup line wrote to files. Return False if
        the setup line wrote nothing, because it ended its shell itself.
        """
        *pairs, rest = os.pread(self._state, _MAX_STATE_BYTES, 0).split(b"\0")
        umask, _, folder = rest.partition(b"\n")
        if not folder or not umask.isdigit():
            return False
        variables: list[str] = [os.fsdecode(pair) for pair in pairs]
        named = {name: value for name, _, value in (variable.partition("=") for variable in variables)}
        self.env = {name: value for name, value in named.items() if name and name not in _OF_ONE_SHELL}
        self._begin = [f"umask {umask.decode()}", f"cd -- {quote(os.fsdecode(folder[:-1]))} || exit"]
        if self._is_bash:
            self._begin += [f". {quote(self._path('functions'))}", "set -o pipefail"]
        return True

    def _write(self, name: str, text: str, options: list[str], leave: list[str]) -> list[str]:
        """Write `text`, a setup line or the command, to a file, and a script that runs this file. Return the command
        line that runs the script. An open quote or bracket in the text does not affect the script around it, since the
        text has a file of its own. Raises `ShellRefused` if the text contains a NUL character.
        """
        if "\0" in text:
            raise ShellRefused(f"{name} contains a NUL character")
        path = _create(self._folder / name, f"{text}\n")
        script = [*self._begin, *options, f". {quote(path)}", *leave]
        return [self.program, _create(self._folder / f"run-{name}", "\n".join([*script, ""]))]

    def _path(self, name: str) -> str:
        return str(self._folder / name)

    def _open(self, name: str) -> int:
        """Create a file that the build can write, and return its file descriptor."""
        fd = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if account := self._workspace.account:
            os.fchown(fd, account.uid, account.gid)
        return fd


def _create(path: Path, text: str) -> str:
    path.write_bytes(os.fsencode(text))
    path.chmod(0o644)  # whatever the umask: the build's user reads it
    return str(path)
