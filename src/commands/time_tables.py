"""Time tables: reads cron expressions as Debian's cron does, also on days on which the clocks change."""

import zoneinfo
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

from domain.triggers import CronTrigger

FIELDS = 5
"""Number of fields of a cron expression: minute, hour, day of the month, month and day of the week."""


def find_faults(trigger: CronTrigger) -> list[tuple[str, str]]:
    """Returns (field, message) for each wrong field of a time table."""
    faults = []
    zone: tzinfo = UTC
    try:
        zone = zoneinfo.ZoneInfo(trigger.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        faults.append(("timezone", "is not known: give a name of the IANA database, such as Europe/Berlin or UTC"))
    if (fault := _find_wrong_expression(trigger.expression, zone)) is not None:
        faults.append(("expression", fault))
    return faults


def _find_wrong_expression(expression: str, zone: tzinfo) -> str | None:
    if len(expression.split()) != FIELDS:
        return f"must have {FIELDS} fields, such as 30 3 * * 1-5: minute, hour, day, month, day of week"
    try:
        next(CronSim(expression, datetime.now(zone)))
    except CronSimError as error:
        return f"is no cron expression: its {str(error).removeprefix('Bad ')} is wrong; 30 3 * * 1-5 is one"
    except StopIteration:
        return "names a time that never comes"
    return None


def find_next(trigger: CronTrigger, after: datetime) -> datetime | None:
    """Returns the first time of a time table after `after`, in UTC; None if there is none."""
    return next((_utc(at) for at in CronSim(trigger.expression, _local(trigger, after))), None)


def find_latest(trigger: CronTrigger, until: datetime) -> datetime | None:
    """Returns the last time of a time table up to and including `until`, in UTC; None if there is none."""
    after = _local(trigger, until + timedelta(seconds=1))
    times = (_utc(at) for at in CronSim(trigger.expression, after, reverse=True))
    return next((at for at in times if at <= until), None)


def _local(trigger: CronTrigger, at: datetime) -> datetime:
    return at.astimezone(zoneinfo.ZoneInfo(trigger.timezone))


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)
