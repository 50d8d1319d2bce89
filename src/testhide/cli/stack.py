"""`testhide up`, `dsn` and `local-node`: start the stack of a data folder, print its connection strings, register its
node.
"""

import asyncio
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from testhide.cli.options import Flag
from testhide.engines.folder import write_private
from testhide.settings import load_settings
from testhide.stack import up as stack
from testhide.stack.offline import settings_of_running_stack


def up(
    *,
    host: str | None = None,
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    data: Path | None = None,
    agent: bool = True,
    trust_builds: Flag = False,
    unsafe: Flag = False,
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative=())] = False,
) -> None:
    """Start everything: PostgreSQL and Valkey unless they are configured, the server, one local agent.

    Parameters
    ----------
    host
        Address to listen on [127.0.0.1].
    port
        Port to listen on [8000].
    data
        Data folder [/var/lib/testhide as root, else ~/.local/share/testhide].
    agent
        Start a local agent. If you are root, each build runs as a separate user. If not, the agent runs only builds
        of admins, as you.
    trust_builds
        The local agent runs everybody's builds as you: they can read all of this server's data, and change it.
    unsafe
        Start even on a database that may lose acknowledged writes (fsync or synchronous_commit off).
    verbose
        Show the processes' logs, which are in DATA/logs.
    """
    stack.up(os.environ, host, port, data, agent=agent, trust=trust_builds, unsafe=unsafe, verbose=verbose)


def dsn(*, data: Path | None = None) -> None:
    """Print the connection strings of a running stack: PostgreSQL, then Valkey.

    Parameters
    ----------
    data
        Data folder of the stack.
    """
    settings = settings_of_running_stack(data, os.environ)
    print(f"{settings.database_url}\n{settings.redis_url}")


def local_node(token_file: Path, *, admins_only: Flag = False) -> None:
    """Register the node of the local agent, if it is not registered yet, and write the node's token to a file.

    Parameters
    ----------
    admins_only
        The node runs only builds that an administrator has queued.
    """
    from testhide.preparation import register_local_node

    token = asyncio.run(register_local_node(load_settings(), admins_only=admins_only))
    write_private(token_file, token.encode() + b"\n")
