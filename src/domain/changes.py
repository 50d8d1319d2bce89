"""Changes of repositories that were reported to the server, by the hook of a host or by `git-notify`."""

from typing import ClassVar, Literal

from domain.core.data_keys import project_key
from domain.core.events import Category, Event
from domain.triggers import RepositoryChange

Reporter = Literal["github", "gitlab", "bitbucket", "git-notify"]


class ChangeReceived(Event, frozen=True):
    """A change of a repository was reported. Whether the change starts a build is decided later, for each job
    separately.
    """

    name: ClassVar[str] = "change.received"
    sealed: ClassVar[tuple[str, ...]] = ("change", "delivery_id")
    change_id: int
    project_id: int
    reporter: Reporter
    delivery_id: str = ""
    """Id that the host gave to its message; empty if it gave none."""
    change: RepositoryChange = RepositoryChange()

    @property
    def stream(self) -> str:
        return f"change-{self.change_id}"

    @property
    def data_key(self) -> str | None:
        return project_key(self.project_id)


def evolve(state: ChangeReceived | None, event: Event) -> ChangeReceived | None:
    return event if isinstance(event, ChangeReceived) else state


CHANGE = Category[ChangeReceived | None]("change", None, evolve)
EVENTS = (ChangeReceived,)
