"""Commands on vCenter integrations: create, update, record whether the vCenter can be reached, delete."""

from collections.abc import Iterable
from dataclasses import dataclass

from commands.handler import Command, must_exist
from domain.core.errors import Invalid, NotFound
from domain.core.events import Event
from domain.vcenter import (
    VCENTER,
    Vcenter,
    VcenterConnected,
    VcenterCreated,
    VcenterDeleted,
    VcenterDisconnected,
    VcenterUpdated,
)


@dataclass(frozen=True)
class CreateVcenter(Command, of=VCENTER):
    vcenter_id: int
    title: str
    host: str
    username: str
    sealed_password: bytes
    datacenter: str
    cluster: str = ""
    insecure: bool = False

    def decide(self, vcenter: Vcenter | None) -> Iterable[Event]:
        if vcenter is None:
            yield self.event(VcenterCreated)


@dataclass(frozen=True)
class UpdateVcenter(Command, of=VCENTER):
    """Changes the given fields. A field that is None stays unchanged.

    Raises Invalid if the stored password would be sent to another host, or to a host whose certificate is no longer
    checked. Otherwise people who do not know the password could find it out.
    """

    vcenter_id: int
    title: str | None = None
    host: str | None = None
    username: str | None = None
    sealed_password: bytes | None = None
    datacenter: str | None = None
    cluster: str | None = None
    insecure: bool | None = None

    def decide(self, vcenter: Vcenter | None) -> Iterable[Event]:
        vcenter = must_exist(vcenter, f"vCenter {self.vcenter_id}")
        is_other_host = self.host not in (None, vcenter.host)
        if self.sealed_password is None and (is_other_host or (self.insecure and not vcenter.insecure)):
            change = "host" if is_other_host else "insecure"
            raise Invalid.field("password", f"must be given again if `{change}` changes")
        yield from self.update(VcenterUpdated, vcenter)


@dataclass(frozen=True)
class RecordVcenterConnection(Command, of=VCENTER):
    """Records that the server signed in to the vCenter, or why it could not. Records nothing if the result is the same
    as last time.
    """

    vcenter_id: int
    version: str = ""
    """Version of the vCenter; empty if the server could not sign in."""
    error: str = ""
    """Why the server could not sign in; empty if it could."""

    def decide(self, vcenter: Vcenter | None) -> Iterable[Event]:
        if vcenter is None or vcenter.deleted or (vcenter.version, vcenter.error) == (self.version, self.error):
            return
        yield self.event(VcenterDisconnected if self.error else VcenterConnected)


@dataclass(frozen=True)
class DeleteVcenter(Command, of=VCENTER):
    vcenter_id: int

    def decide(self, vcenter: Vcenter | None) -> Iterable[Event]:
        if vcenter is None:
            raise NotFound(f"There is no vCenter {self.vcenter_id}.")
        if not vcenter.deleted:
            yield self.event(VcenterDeleted)
