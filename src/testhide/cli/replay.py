"""`testhide replay`: prints the events of a stream, or simulates the history under what-if rules."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
from cyclopts import Parameter
from cyclopts.validators import Number

from commands.what_if.rules import MAX_BYTES, WhatIfRules, read_rules
from commands.what_if.simulation import BUILD_EVENTS, RULE_EVENTS, Difference, Simulation, TestDiffers, differences
from domain.core.errors import Invalid
from projections import audit_trail
from projections.audit_view.entries import AuditEntry, describe
from projections.audit_view.rule_matches import RuleMatches
from projections.audit_view.stream_changes import StreamFolder, add_matches, find_category
from projections.time_travel.rule_history import RuleHistory
from testhide.cli.options import DataFolder, run_on_stack
from testhide.cli.printing import printable
from testhide.operator_errors import Fault
from testhide.processes import Core, core
from testhide.settings import Settings

LAST_VERSION = 2**62
"""Number above the version of every event, for reading a stream to its end."""
PRINT_INTERVAL_S = 1.0
"""Seconds between two lines of progress."""


def replay(
    stream: str | None = None,
    *,
    rules: Path | None = None,
    project: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    since: str | None = None,
    data: DataFolder = None,
) -> int:
    """Print the events of a stream, such as build-1025. With --rules, simulate the history under other rules.

    Parameters
    ----------
    rules
        JSON file with known_issues, quarantine or both; docs/audit.md describes it.
    project
        Only builds of this project.
    since
        Only builds that were queued at this time or later: 2026-05-20, 2026-05-20T10:00:00Z.
    """
    if (stream is None) == (rules is None):
        raise Fault("Say either whose story you want (testhide replay build-1025) or --rules FILE.", 2)
    from_time = None if since is None else parse_time(since)
    if stream is not None:
        return run_on_stack(data, lambda settings: print_story(settings, stream))
    assert rules is not None
    what_if = read_rules_file(rules)
    return run_on_stack(data, lambda settings: print_differences(settings, what_if, project, from_time))


async def print_story(settings: Settings, stream: str) -> int:
    """Print every event of a stream, and the fields that the event changed. Raises Fault if there is no such stream."""
    async with core(settings, pool_size=2) as parts:
        rules = RuleMatches(parts.pool, parts.log)
        matches = await rules.find_for_stream(stream)
        folder = None if find_category(stream) is None else StreamFolder(stream, range(1, LAST_VERSION), matches)
        positions = (await parts.log.find_stream_positions({stream: LAST_VERSION}))[stream]
        if not positions:
            raise Fault(f"There is no stream {stream!r}; streams are named like build-1025, job-55 or user-7.", 2)
        async for events, _, _ in parts.log.read_pieces(positions):
            names = await _fetch_names(parts, {recorded.event.actor for recorded in events})
            if folder is not None:
                folder.apply(events)
            for recorded in events:
                changes = [] if folder is None else folder.changes.pop(recorded.position)
                changes = add_matches(changes, await rules.find_classified(recorded))
                one = describe(recorded, names.get(recorded.event.actor))
                print("\n".join(format_entry(msgspec.structs.replace(one, changes=changes))))
    return 0


async def print_differences(
    settings: Settings, what_if: WhatIfRules, project_id: int | None, since: datetime | None
) -> int:
    """Print the classifications and verdicts of past builds that would be different under the what-if rules. Raises
    Fault if there is no project with the id `project_id`.
    """
    async with core(settings, pool_size=2) as parts:
        if project_id is not None and not await audit_trail.has_project(parts.pool, project_id):
            raise Fault(f"There is no project {project_id}.", 2)
        simulation = Simulation(what_if)
        history = RuleHistory(
            parts.pool,
            parts.log,
            of_rules=RULE_EVENTS,
            of_builds=BUILD_EVENTS,
            project_id=project_id,
            since=since,
            go_on=_progress_printer(simulation, await parts.log.read_head()),
        )
        tests = verdicts = 0
        async for difference in differences(history, simulation):
            tests += isinstance(difference, TestDiffers)
            verdicts += not isinstance(difference, TestDiffers)
            print(format_difference(difference))
        done = simulation.counts
        print(
            f"{done.failures:,} failures in {done.reports:,} reports of {done.builds:,} builds that ended:"
            f" {tests:,} would be classified otherwise, {verdicts:,} builds would have ended otherwise"
        )
        if done.decided_by_people:
            print(f"{done.decided_by_people:,} failures left out: a person has classified them")
        if done.erased:
            print(f"{done.erased:,} builds left out: they were erased")
    return 0


def read_rules_file(file: Path) -> WhatIfRules:
    """Read what-if rules from a JSON file. Raises Fault if the file cannot be read or a field is invalid."""
    try:
        with file.open("rb") as content:
            return read_rules(content.read(MAX_BYTES + 1))
    except OSError as error:
        raise Fault(f"{file} cannot be read: {error.strerror}.", 2) from None
    except Invalid as error:
        raise Fault(f"{file}: {error.detail}", 2) from None


def parse_time(text: str) -> datetime:
    """Parse a date or an RFC 3339 time; without a time zone, it is in UTC. Raises Fault if the text is neither."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Fault(f"--since {text!r} is no time; write it like 2026-05-20 or 2026-05-20T10:00:00Z.", 2) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def format_entry(one: AuditEntry) -> Iterator[str]:
    yield f"{one.at:%Y-%m-%d %H:%M:%S}  {one.version:>4}  {printable(one.summary)}"
    for change in one.changes or ():
        yield f"{'':27}{printable(change.field)}: {format_value(change.before)} -> {format_value(change.after)}"


def format_difference(difference: Difference) -> str:
    before, after = difference.before or "unclassified", difference.after or "unclassified"
    where = f"build {difference.build_id} of job {difference.job_id}"
    if isinstance(difference, TestDiffers):
        by = f" ({difference.by})" if difference.by else ""
        return printable(f"{where}  result {difference.result_id}  {difference.node_id}: {before} -> {after}{by}")
    return f"{where}: {before} -> {after}, {difference.why}"


def format_value(shown: Any) -> str:
    return "-" if shown is None else printable(shown if isinstance(shown, str) else json.dumps(shown))


def _progress_printer(simulation: Simulation, head: int) -> Callable[[], bool]:
    """Return a function that prints how far a simulation is, at most once in PRINT_INTERVAL_S. The function always
    returns True, which tells the simulation to go on.
    """
    next_at = time.monotonic() + PRINT_INTERVAL_S

    def go_on() -> bool:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + PRINT_INTERVAL_S
            position = simulation.counts.position
            print(f"position {position:,} of {head:,} ({position / max(1, head):.0%})", file=sys.stderr)
        return True

    return go_on


async def _fetch_names(parts: Core, actors: Collection[str]) -> dict[str, str]:
    # A story needs only the log; names of people come from a read model that may not be built.
    with contextlib.suppress(psycopg.errors.UndefinedTable):
        return await audit_trail.fetch_actor_names(parts.pool, actors)
    return {}
