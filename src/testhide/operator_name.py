"""Finds the name of the operator for the audit trail. `getpass.getuser` would trust the variable LOGNAME."""

import os
import pwd


def find_operator() -> str:
    """Returns the name of the account that runs this process. If the account has no name, as in a container, returns
    its number, for example `uid 1000`.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
