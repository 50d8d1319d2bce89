"""`testhide users`: sets the password of a user, for example of one who cannot sign in."""

import getpass
import sys

from cyclopts import App

from commands.handler import CommandContext, Handler
from commands.users import SetPassword
from domain.claims import CLAIM
from store.clock import utcnow
from store.crypto.passwords import find_weakness, hash_password
from testhide.cli.options import on_stack
from testhide.operator_errors import Fault
from testhide.processes import Core

app = App(name="users", help="Set the passwords of users.")


@app.command
@on_stack
async def set_password(parts: Core, email: str) -> int:
    """Set a user's password and end the user's sessions. Reads the password from a prompt, or from one line of standard
    input.
    """
    owner = (await parts.log.load_state(CLAIM.at(parts.secrets.claim("email", email)))).owner
    if not owner:
        raise Fault(f"There is no user with the address {email}.")
    # Never from an argument, which every account of the machine can read.
    password = getpass.getpass("New password: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if why := find_weakness(password):
        raise Fault(f"This password is {why}: choose another one.", 2)
    command = SetPassword(int(owner.removeprefix("user-")), await hash_password(password))
    await Handler(parts.log, utcnow).execute(command, CommandContext("system:operator"))
    print(f"{email} has a new password; sessions have ended, API tokens stay")
    return 0
