"""Noting who reads the audit trail."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from commands.handler import Command
from domain.audit import AUDIT_READ, AuditRead, What
from domain.core.events import AnyStream, Event


@dataclass(frozen=True)
class NoteReading(Command):
    read_id: int
    what: What
    filter: Mapping[str, str] = field(default_factory=dict)
    shown: int | None = None
    project_id: int | None = None

    def reads(self) -> Sequence[AnyStream]:
        return (AUDIT_READ.at(self.read_id),)

    def decide(self, noted: AuditRead | None) -> Iterable[Event]:
        if noted is None:
            yield AuditRead(
                read_id=self.read_id,
                what=self.what,
                filter=dict(self.filter),
                shown=self.shown,
                project_id=self.project_id,
            )
