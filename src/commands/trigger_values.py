"""Types and checks of triggers that users enter for jobs."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from commands.configurations import Branch, Glob
from commands.time_tables import find_fault
from domain import globs
from domain.core.errors import FieldError, Invalid
from domain.triggers import CronTrigger, Triggers

Globs = Annotated[list[Glob], Meta(max_length=100)]
GLOB_FIELDS = ("branches", "tags", "paths")


class TimeTable(msgspec.Struct):
    expression: Annotated[str, Meta(min_length=9, max_length=200)]
    """Minute, hour, day of the month, month and day of the week, as cron reads them."""
    timezone: Annotated[str, Meta(min_length=1, max_length=100)] = "UTC"
    """Name of a time zone in the IANA database, such as Europe/Berlin."""
    branch: Branch | None = None
    """Branch to build; null for the job's default branch."""


class NewTriggers(msgspec.Struct):
    """Triggers of a job. Those that are left out are off."""

    branches: Globs = []
    """Globs of the branches whose pushes start the job. `*` stands for any characters but `/`, `**` for any, and `!`
    before a glob takes out what it matches.
    """
    paths: Globs = []
    """Globs of paths. A push must change a path that one of them matches; without any, it may change what it likes."""
    tags: Globs = []
    """Globs of the tags that start the job."""
    pull_requests: bool = False
    """Whether pull requests within the repository start the job."""
    cron: Annotated[list[TimeTable], Meta(max_length=20)] = []
    """Time tables."""
    cancel_superseded: bool = False
    """Whether a change stops builds of older changes of its branch, or pull request, that are still queued."""

    @property
    def stored(self) -> Triggers:
        return msgspec.convert(msgspec.to_builtins(self), Triggers)


def check_triggers(data: NewTriggers) -> None:
    """Raises Invalid for values that the types of the fields allow but that are not valid."""
    errors: list[FieldError] = []
    for name in GLOB_FIELDS:
        given: Sequence[str] = getattr(data, name)
        found = ((f"{name}[{number}]", globs.find_fault(glob)) for number, glob in enumerate(given))
        errors += [FieldError(field, fault) for field, fault in found if fault is not None]
        if given and all(glob.startswith("!") for glob in given):
            errors.append(FieldError(name, "must have a glob without `!` before it: the others only take out"))
    if data.paths and not data.branches and not data.pull_requests:
        errors.append(FieldError("paths", "have no effect without branches or pull_requests"))
    for number, table in enumerate(data.cron):
        fault = find_fault(CronTrigger(table.expression, table.timezone, table.branch))
        if fault is not None:
            errors.append(FieldError(f"cron[{number}].{fault[0]}", fault[1]))
        elif table in data.cron[:number]:
            errors.append(FieldError(f"cron[{number}]", "is given twice"))
    if errors:
        raise Invalid.fields(errors)
