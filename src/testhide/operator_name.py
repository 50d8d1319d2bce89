"""Finds the name of the operator for the audit trail. Does not use `getpass.getuser`, which trusts the variable
LOGNAME.
"""

import os
import pwd


def find_operator() -> str:
    """Returns the name of the account that runs this process, or its number if it has no name, as in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
