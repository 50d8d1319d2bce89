"""Who may do what in a project."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from commands.projects import existing
from domain.core.events import AnyStream, Event
from domain.projects import PROJECT, Access, MemberAdmitted, Project


@dataclass(frozen=True)
class AdmitMember(Command):
    project_id: int
    user_id: int
    access: Access

    def reads(self) -> Sequence[AnyStream]:
        return (PROJECT.at(self.project_id),)

    def decide(self, project: Project | None) -> Iterable[Event]:
        project = existing(project, self.project_id)
        if project.members.get(self.user_id) != self.access:
            yield MemberAdmitted(project_id=self.project_id, user_id=self.user_id, access=self.access)
