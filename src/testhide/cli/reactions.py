"""`testhide reactions`: shows reactions to events, retries parked ones, and cancels due or parked ones."""

from cyclopts import App

from commands.handler import CommandContext, Handler
from commands.reactions import CancelReaction
from store.clock import utcnow
from store.tables import log_positions, reactions
from testhide.cli.options import on_stack
from testhide.operator_errors import Fault
from testhide.operator_name import find_operator
from testhide.processes import Core

app = App(name="reactions", help="Show, retry and cancel the background work that events cause.")


@app.command
@on_stack
async def status(parts: Core) -> int:
    """Show each reaction's position in the log, its numbers of due and parked events, the progress of long work, and
    errors.
    """
    statuses = await reactions.fetch_statuses(parts.pool)
    beyond = await log_positions.find_beyond(parts.pool)
    head = await parts.log.read_head()
    print(f"{'name':<36} {'position':>12} {'lag':>10} {'due':>7} {'parked':>7}")
    for item in statuses:
        position = "-" if item.position is None else f"{item.position:,}"
        lag = "-" if item.position is None or item.name in beyond else f"{head - item.position:,}"
        print(f"{item.name:<36} {position:>12} {lag:>10} {item.due:>7,} {item.parked:>7,}")
        if item.name in beyond:
            print(f"    stands still: {beyond[item.name]}: run `testhide repair`")
        for progress in item.progress:
            print(f"    at work: {progress}")
        for error in item.errors:
            print(f"    parked: {error}")
    return 0


@app.command
@on_stack
async def retry(parts: Core, name: str | None = None) -> int:
    """Make the parked events of one reaction, or of all reactions, due again."""
    async with parts.pool.connection() as connection:
        known = [item.name for item in await reactions.fetch_statuses(connection)]
        if name is not None and name not in known:
            raise Fault(f"There is no reaction {name!r}; there are: {', '.join(known) or 'none yet'}.", 2)
        count = await reactions.retry_parked(connection, name)
    print(f"{count:,} parked events are due again; a running `testhide work` takes them up within seconds")
    return 0


@app.command
@on_stack
async def cancel(parts: Core, name: str, position: int, *, reason: str) -> int:
    """Cancel a reaction to an event, due or parked, for good. A try that is under way ends within seconds.

    What earlier tries have done is not undone: a cancelled deletion, for example, has deleted only a part. The audit
    trail says who cancelled the reaction and why.

    Parameters
    ----------
    position
        Position of the event, as `status` and the log of `testhide work` show it.
    reason
        Why, for those who read the audit trail.
    """
    operator = find_operator()
    async with parts.pool.connection() as connection:
        # Parked before the event is appended: if this ends in between, the reaction is still there to cancel again.
        if not await reactions.halt(connection, name, position, f"cancelled by {operator}: {reason}"):
            raise Fault(
                f"The reaction {name!r} is not due for position {position}; see `testhide reactions status`.", 2
            )
        command = CancelReaction(name, position, reason, operator)
        await Handler(parts.log, utcnow).execute(command, CommandContext("system:operator"))
        await reactions.remove_parked(connection, name, position)
    print(f"cancelled {name} for position {position:,}")
    return 0
