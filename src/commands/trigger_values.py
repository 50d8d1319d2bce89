"""Types and checks of triggers that users enter for jobs."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from commands.configurations import Branch, Glob
from commands.time_tables import find_faults
from commands.value_checks import ValueCheck, described_as
from domain import globs
from domain.core.errors import FieldError, Invalid
from domain.triggers import CronTrigger, Triggers

MAX_TIME_TABLES = 20
"""Largest number of time tables of one job."""
MAX_NEEDS = 50
"""Largest number of jobs that one job needs."""
GLOB_FIELDS = ("branches", "tags", "paths")


class TimeTable(msgspec.Struct):
    expression: Annotated[str, Meta(min_length=9, max_length=200), described_as(format="cron")]
    """Minute, hour, day of the month, month and day of the week, as cron reads them."""
    timezone: Annotated[str, Meta(min_length=1, max_length=100), described_as(format="time-zone")] = "UTC"
    """Name of a time zone in the IANA database, such as Europe/Berlin."""
    branch: Branch | None = None
    """Branch to build; null for the job's default branch."""


def check_globs(field: str, given: Sequence[str]) -> None:
    if errors := [*_find_wrong_globs(field, given), *_find_lone_exclusions(field, given)]:
        raise Invalid.fields(errors)


def check_time_tables(field: str, tables: Sequence[TimeTable]) -> None:
    if errors := list(_find_wrong_time_tables(field, tables)):
        raise Invalid.fields(errors)


def _find_wrong_globs(field: str, given: Sequence[str]) -> Iterator[FieldError]:
    for number, glob in enumerate(given):
        if (fault := globs.find_fault(glob)) is not None:
            yield FieldError(f"{field}[{number}]", fault)


def _find_lone_exclusions(field: str, given: Sequence[str]) -> Iterator[FieldError]:
    if given and all(glob.startswith("!") for glob in given):
        yield FieldError(field, "must have a glob without `!` before it: the others only take out")


def _find_wrong_time_tables(field: str, tables: Sequence[TimeTable]) -> Iterator[FieldError]:
    for number, table in enumerate(tables):
        faults = find_faults(CronTrigger(table.expression, table.timezone, table.branch))
        yield from (FieldError(f"{field}[{number}].{name}", message) for name, message in faults)
        if not faults and table in tables[:number]:
            yield FieldError(f"{field}[{number}]", "is given twice")


Globs = Annotated[list[Annotated[Glob, described_as(format="glob")]], Meta(max_length=100), ValueCheck(check_globs)]
TimeTables = Annotated[list[TimeTable], Meta(max_length=MAX_TIME_TABLES), ValueCheck(check_time_tables)]


class NewTriggers(msgspec.Struct):
    """Triggers of a job. A trigger that is left out is off."""

    branches: Globs = []
    """Globs of the branches whose pushes start the job. `*` stands for any characters but `/`, and `**` for any
    characters. A glob that begins with `!` excludes the branches that it matches.
    """
    paths: Globs = []
    """Globs of paths. A push or pull request starts the job only if it changes a path that the globs select. Without
    globs, it may change any path.
    """
    tags: Globs = []
    """Globs of the tags that start the job."""
    pull_requests: bool = False
    """Whether pull requests within the repository start the job."""
    fork_pull_requests: bool = False
    """Whether pull requests from forks start the job. Their builds get no secrets, run on nodes of pools with
    `untrusted`, and wait until a writer of the project approves them.
    """
    cron: TimeTables = []
    """Time tables that start builds."""
    cancel_superseded: bool = False
    """Whether a new change of a branch or pull request ends the queued builds of its older changes."""

    @property
    def stored(self) -> Triggers:
        return msgspec.convert(msgspec.to_builtins(self), Triggers)


def show_time_tables(triggers: Triggers) -> list[TimeTable]:
    return [TimeTable(table.expression, table.timezone, table.branch) for table in triggers.cron]


def check_triggers(data: NewTriggers, *, are_whole: bool = True) -> None:
    """Raises Invalid for values that have the right type but do not make sense, such as an unknown time zone. With
    `are_whole=False`, checks only each value by itself: the caller has then left out values with other mistakes.
    """
    errors: list[FieldError] = []
    for name in GLOB_FIELDS:
        errors += _find_wrong_globs(name, getattr(data, name))
        if are_whole:
            errors += _find_lone_exclusions(name, getattr(data, name))
    if are_whole and data.paths and not (data.branches or data.pull_requests or data.fork_pull_requests):
        errors.append(FieldError("paths", "have no effect without branches or pull_requests"))
    errors += _find_wrong_time_tables("cron", data.cron)
    if errors:
        raise Invalid.fields(errors)
