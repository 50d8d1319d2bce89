"""A kind of change that `./dev long tampering` makes, and the detectors that must notice it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.tampering import Intruder

from bench.support.tampering.changes import lose
from bench.support.tampering.scene import Scene

SEALED = (
    "stored_events",
    "audit_tiles",
    "audit_checkpoints",
    "audit_keys",
    "audit_sealing",
    "alarms",
    "stored_events_keys",
)


@dataclass(frozen=True)
class Kind:
    area: str
    what: str
    """Description of the change, for the table in docs/audit.md."""
    change: Callable[[Scene], object]
    noticed_by: tuple[str, ...] = ()
    """Detectors that must notice the change; empty if none can."""
    tables: tuple[str, ...] = ()
    """Tables that are put back afterwards, in addition to the tables of the log."""
    read: Callable[[Scene], str | None] = lambda scene: None
    """Sends a request for the changed data. Returns what the reader notices, or None."""
    model: str | None = None
    """Name of the read model that is compared with the log."""
    because: str = ""
    """Why no detector can notice the change."""


def of_log(what: str, change: Callable[[Intruder], set[int]]) -> Kind:
    return Kind("log", what, lambda scene: change(scene.intruder()), ("sealer", "verify"))


def of_model(model: str, table: object, what: str, change: Callable[[Scene], None], *more: str, **options: Any) -> Kind:
    return Kind(
        "read models", what, change, ("diff", *more), (str(table), "projection_positions"), model=model, **options
    )


def of_state(what: str, table: str, change: Callable[[Scene], object], because: str) -> Kind:
    return Kind("working state", what, change, (), (table,), because=because)


def of_lost(what: str, table: object, *more: str) -> Kind:
    return Kind("tables", f"`{table}` is dropped: {what}", lose(table), ("readyz", *more))


NO_EVENT = "no event holds it: what is still to be done, not what happened"
