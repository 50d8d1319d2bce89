"""`testhide up`, `dsn` and `local-node`: the stack of a data folder."""

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
    trust_local_builds: Flag = False,
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
        Start a local agent. Its builds run as you.
    trust_local_builds
        Start a local agent even if other machines can reach the server.
    unsafe
        Start even on a database that may lose acknowledged writes (fsync or synchronous_commit off).
    verbose
        Show the processes' logs, which are in DATA/logs.
    """
    stack.up(os.environ, host, port, data, agent=agent, trust=trust_local_builds, unsafe=unsafe, verbose=verbose)


def dsn(*, data: Path | None = None) -> None:
    """Print the connection strings of a running stack: PostgreSQL, then Valkey.

    Parameters
    ----------
    data
        Data folder of the stack.
    """
    settings = settings_of_running_stack(data, os.environ)
    print(f"{settings.database_url}\n{settings.redis_url}")


def local_node(token_file: Path) -> None:
    """Register the local agent's node unless it is registered, and write its token to a file."""
    from testhide.preparation import register_local_node

    token = asyncio.run(register_local_node(load_settings()))
    write_private(token_file, token.encode() + b"\n")
