"""The verbs and their options, as the command line's parser sees them."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from testhide.cli import run_agent, run_process


def _version() -> str:
    from importlib.metadata import version

    return version("testhide-server")


def _process_verb(verb: str) -> Callable[[], int]:
    return lambda: run_process(verb)


app = App(name="testhide", help="A self-hosted CI server with test analytics.", version=_version)


@app.command
def up(
    *,
    host: str | None = None,
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    data: Path | None = None,
    agent: bool = True,
    trust_local_builds: Annotated[bool, Parameter(negative=())] = False,
    unsafe: Annotated[bool, Parameter(negative=())] = False,
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
        Start it also when others can reach the server.
    unsafe
        Start also on a database that may lose what it acknowledged (fsync or synchronous_commit off).
    verbose
        Show the processes' logs, which are in DATA/logs.
    """
    from testhide.up import up

    up(os.environ, host, port, data, agent=agent, trust=trust_local_builds, unsafe=unsafe, verbose=verbose)


@app.command
def dsn(*, data: Path | None = None) -> None:
    """Print the connection strings of a running stack: PostgreSQL, then Valkey.

    Parameters
    ----------
    data
        Its data folder.
    """
    from testhide.dsn import connection_strings

    print("\n".join(connection_strings(data, os.environ)))


@app.command
def demo(*, exit: Annotated[bool, Parameter(name="--exit", negative=())] = False) -> int:
    """Start a stack on a folder of its own, run an example through it and show what it found.

    Parameters
    ----------
    exit
        Stop everything afterwards.
    """
    from testhide import demo

    return demo.main(exit) or 0


@app.command
def agent(
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
) -> int:
    """Run the agent: --server URL --token-file FILE [--workdir DIR] [--once]; see agent --help."""
    return run_agent(list(arguments))


helps: dict[str, str] = {
    "serve": "Answer HTTP.",
    "project": "Build the read models from the event log.",
    "dispatch": "Give queued builds to agents.",
    "work": "Do what follows from events: webhooks, mail, statuses.",
    "migrate": "Make or change the database's tables.",
}
for verb, text in helps.items():
    app.command(_process_verb(verb), name=verb, help=text)
app.command(
    _process_verb("prepare"),
    name="prepare",
    help="Migrate, then make the first administrator.",
    show=False,
)

projections = App(name="projections", help="Read models.")
app.command(projections)


@projections.command
def rebuild(*names: str, data: Path | None = None) -> int:
    """Build read models anew from the event log; without names all of them. Nothing else may run.

    Parameters
    ----------
    data
        Data folder of an embedded database, which is started for it.
    """
    return _projections("rebuild", names, data)


@projections.command
def status(*, data: Path | None = None) -> int:
    """Show how far each read model is.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    return _projections("status", (), data)


@app.command(name="local-node", show=False)
def local_node(token_file: Path) -> None:
    """Register the local agent's node and write its token."""
    from testhide import processes
    from testhide.engines.folder import write_private
    from testhide.settings import load_settings

    token = asyncio.run(processes.register_local_node(load_settings()))
    if token:
        write_private(token_file, token.encode() + b"\n")


def _projections(action: Literal["rebuild", "status"], names: Sequence[str], data: Path | None) -> int:
    from testhide import processes
    from testhide.stopped import settings_of

    with settings_of(data, os.environ) as settings:
        return asyncio.run(processes.projections(settings, action, tuple(names)))
