"""All commands of the command line. A command's module is imported only when the command runs."""

from functools import partial
from typing import Annotated

from cyclopts import App, Parameter

from testhide.cli.processes import PROCESSES, run_agent, run_process
from testhide.version import VERSION

app = App(name="testhide", help="A self-hosted CI server with test analytics.", version=VERSION)

for verb, text in PROCESSES.items():
    app.command(partial(run_process, verb), name=verb, help=text)


@app.command
def agent(*arguments: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Run the agent: --server URL --token-file FILE [--workdir DIR] [--once]; see agent --help."""
    return run_agent(*arguments)


# The help is repeated here, so that listing all commands does not import their modules.
app.command("testhide.cli.migrate:migrate", help="Make or change the database's tables.")
app.command(
    "testhide.cli.stack:up",
    help="Start everything: PostgreSQL and Valkey unless they are configured, the server, one local agent.",
)
app.command("testhide.cli.stack:dsn", help="Print the connection strings of a running stack: PostgreSQL, then Valkey.")
app.command("testhide.cli.stack:local_node", show=False)
app.command(
    "testhide.cli.demo:demo",
    help="Start a stack on a folder of its own, run an example through it and show what it found.",
)
app.command("testhide.cli.backup:backup", help="Back everything up into a new folder, while the stack runs or not.")
app.command("testhide.cli.backup:restore", help="Restore a backup into a new data folder, and check it.")
app.command(
    "testhide.cli.backup:after_restore",
    help="Check and repair a database that was restored from a copy by pg_dump or pg_basebackup.",
)
app.command(
    "testhide.cli.backup:repair",
    help="Create the tables that the database has lost, and say what was lost with them.",
)
app.command(
    "testhide.cli.audit:app",
    name="audit",
    help="Verify that nobody altered the log; manage signing keys and checkpoints.",
)
app.command("testhide.cli.projections:app", name="projections", help="Show, rebuild, compare and switch read models.")
app.command("testhide.cli.secrets:app", name="secrets", help="Rotate the server's secret key.")
app.command("testhide.cli.users:app", name="users", help="Set the passwords of users.")
app.command(
    "testhide.cli.reactions:app", name="reactions", help="Show, retry and cancel the background work that events cause."
)
app.command(
    "testhide.cli.replay:replay",
    help="Print the events of a stream, such as build-1025. With --rules, simulate the history under other rules.",
)
app.command("testhide.cli.evals:app", name="evals", help="Grade the answers to cases whose right answers are known.")
app.command("testhide.cli.lint:lint", help="Check a file that describes pipelines, without a server.")
