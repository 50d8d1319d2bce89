"""The verbs and their options, as the command line's parser sees them."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from testhide.cli.audit_verbs import audit
from testhide.cli.main import run_agent, run_process
from testhide.cli.projection_verbs import app as projections
from testhide.cli.reaction_verbs import app as reactions
from testhide.operator_errors import Fault


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
    from testhide.stack.up import up

    up(os.environ, host, port, data, agent=agent, trust=trust_local_builds, unsafe=unsafe, verbose=verbose)


@app.command
def dsn(*, data: Path | None = None) -> None:
    """Print the connection strings of a running stack: PostgreSQL, then Valkey.

    Parameters
    ----------
    data
        Its data folder.
    """
    from testhide.cli.dsn import connection_strings

    print("\n".join(connection_strings(data, os.environ)))


@app.command
def demo(*, exit: Annotated[bool, Parameter(name="--exit", negative=())] = False) -> int:
    """Start a stack on a folder of its own, run an example through it and show what it found.

    Parameters
    ----------
    exit
        Stop everything afterwards.
    """
    from testhide.cli import demo

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

app.command(audit)
app.command(projections)
app.command(reactions)


@app.command
def replay(
    stream: str | None = None,
    *,
    rules: Path | None = None,
    project: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    since: str | None = None,
    data: Path | None = None,
) -> None:
    """Tell the story of a stream, like build-1025; or with --rules what other rules would have made of the history.

    Parameters
    ----------
    rules
        JSON file with known_issues, quarantine or both; docs/audit.md describes it.
    project
        Only builds of this project.
    since
        Only builds that were queued at this time or later: 2026-05-20, 2026-05-20T10:00:00Z.
    data
        Data folder of an embedded database.
    """
    from testhide.cli.replay import counterfactual, point_in_time, rules_of, story
    from testhide.stack.offline import settings_of

    if (stream is None) == (rules is None):
        raise Fault("Say either whose story you want (testhide replay build-1025) or --rules FILE.", 2)
    from_time = None if since is None else point_in_time(since)
    supposed = None if rules is None else rules_of(rules)
    with settings_of(data, os.environ) as settings:
        if stream is not None:
            asyncio.run(story(settings, stream))
        elif supposed is not None:
            asyncio.run(counterfactual(settings, supposed, project, from_time))


@app.command(name="local-node", show=False)
def local_node(token_file: Path) -> None:
    """Register the local agent's node and write its token."""
    from testhide import preparation
    from testhide.engines.folder import write_private
    from testhide.settings import load_settings

    token = asyncio.run(preparation.register_local_node(load_settings()))
    if token:
        write_private(token_file, token.encode() + b"\n")
