"""vCenter integrations: connections to vCenter servers, whose virtual machines run agents."""

from typing import ClassVar

import msgspec

from domain.core.data_keys import vcenter_key
from domain.core.events import Category, Event, changes_of, copy_fields


class VcenterEvent(Event, frozen=True):
    vcenter_id: int

    @property
    def stream(self) -> str:
        return f"vcenter-{self.vcenter_id}"

    @property
    def data_key(self) -> str | None:
        return vcenter_key(self.vcenter_id)


class VcenterCreated(VcenterEvent, frozen=True):
    name: ClassVar[str] = "vcenter.created"
    sealed: ClassVar[tuple[str, ...]] = ("title", "host", "username", "sealed_password", "datacenter", "cluster")
    title: str = ""
    host: str = ""
    """Name or address of the vCenter, with `:PORT` behind it if the port is not 443."""
    username: str = ""
    sealed_password: bytes = b""
    datacenter: str = ""
    cluster: str = ""
    """Name of the cluster in which new machines are placed; empty for the cluster of the template."""
    insecure: bool = False
    """Whether the vCenter's certificate is not checked."""


class VcenterUpdated(VcenterEvent, frozen=True):
    """The integration was changed. A field that is None is unchanged."""

    name: ClassVar[str] = "vcenter.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "host", "username", "sealed_password", "datacenter", "cluster")
    title: str | None = None
    host: str | None = None
    username: str | None = None
    sealed_password: bytes | None = None
    datacenter: str | None = None
    cluster: str | None = None
    insecure: bool | None = None


class VcenterConnected(VcenterEvent, frozen=True):
    """The server has signed in to the vCenter. The event is recorded only if the server could not sign in before, or if
    the version of the vCenter has changed.
    """

    name: ClassVar[str] = "vcenter.connected"
    version: str


class VcenterDisconnected(VcenterEvent, frozen=True):
    """The server could not sign in to the vCenter. Of several failures in a row with the same error, only the first is
    recorded.
    """

    name: ClassVar[str] = "vcenter.disconnected"
    sealed: ClassVar[tuple[str, ...]] = ("error",)
    error: str = ""


class VcenterDeleted(VcenterEvent, frozen=True):
    name: ClassVar[str] = "vcenter.deleted"
    destroys_key: ClassVar[bool] = True


class Vcenter(msgspec.Struct, frozen=True):
    vcenter_id: int
    title: str
    host: str
    username: str
    sealed_password: bytes
    datacenter: str
    cluster: str
    insecure: bool
    version: str = ""
    """Version of the vCenter; empty if the server could not sign in the last time, or has not tried yet."""
    error: str = ""
    """Why the server could not sign in the last time; empty if it could, or has not tried yet."""
    deleted: bool = False


def evolve(state: Vcenter | None, event: Event) -> Vcenter | None:
    match event:
        case VcenterCreated():
            return copy_fields(Vcenter, event)
        case VcenterUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case VcenterConnected() if state is not None:
            return msgspec.structs.replace(state, version=event.version, error="")
        case VcenterDisconnected() if state is not None:
            return msgspec.structs.replace(state, version="", error=event.error)
        case VcenterDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


VCENTER = Category[Vcenter | None]("vcenter", None, evolve)
EVENTS = (VcenterCreated, VcenterUpdated, VcenterConnected, VcenterDisconnected, VcenterDeleted)
