"""Decisions about vCenter integrations."""

from typing import Any

import hypothesis
import pytest

from commands.vcenter import CreateVcenter, DeleteVcenter, RecordVcenterConnection, UpdateVcenter
from domain import vcenter
from domain.core.errors import Invalid, NotFound
from domain.core.events import Event
from domain.vcenter import (
    VCENTER,
    VcenterConnected,
    VcenterCreated,
    VcenterDeleted,
    VcenterDisconnected,
    VcenterUpdated,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

FIELDS: dict[str, Any] = {
    "title": "Prod vCenter",
    "host": "vcenter.corp.local",
    "username": "svc-testhide",
    "sealed_password": b"p",
    "datacenter": "DC-East",
    "cluster": "Compute-01",
}
CREATED = VcenterCreated(vcenter_id=5, **FIELDS)
DELETED = VcenterDeleted(vcenter_id=5)


def test_create() -> None:
    given().when(CreateVcenter(5, **FIELDS)).then(CREATED)
    given(CREATED).when(CreateVcenter(5, **FIELDS)).then_nothing()


def test_update_records_what_changed() -> None:
    given(CREATED).when(UpdateVcenter(5, datacenter="DC-West", title="Prod vCenter", cluster="")).then(
        VcenterUpdated(vcenter_id=5, datacenter="DC-West", cluster="")
    )
    given(CREATED).when(UpdateVcenter(5, host="vcenter.corp.local", insecure=False)).then_nothing()
    with pytest.raises(NotFound):
        given(CREATED, DELETED).when(UpdateVcenter(5, title="x"))


@pytest.mark.parametrize("changes", [{"host": "evil.example.com"}, {"insecure": True}])
def test_the_stored_password_goes_nowhere_else(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="password: must be given again"):
        given(CREATED).when(UpdateVcenter(5, **changes))
    updated = VcenterUpdated(vcenter_id=5, sealed_password=b"q", **changes)
    given(CREATED).when(UpdateVcenter(5, sealed_password=b"q", **changes)).then(updated)
    is_insecure = given(VcenterCreated(vcenter_id=5, insecure=True, **FIELDS))
    is_insecure.when(UpdateVcenter(5, insecure=False)).then(VcenterUpdated(vcenter_id=5, insecure=False))


def test_a_connection_is_recorded_once() -> None:
    connected = VcenterConnected(vcenter_id=5, version="8.0.2")
    failed = VcenterDisconnected(vcenter_id=5, error="no answer")
    given(CREATED).when(RecordVcenterConnection(5, version="8.0.2")).then(connected)
    given(CREATED, connected).when(RecordVcenterConnection(5, version="8.0.2")).then_nothing()
    given(CREATED, connected).when(RecordVcenterConnection(5, error="no answer")).then(failed)
    given(CREATED, failed).when(RecordVcenterConnection(5, error="no answer")).then_nothing()
    given(CREATED, DELETED).when(RecordVcenterConnection(5, error="late")).then_nothing()


def test_delete() -> None:
    given(CREATED).when(DeleteVcenter(5)).then(DELETED)
    given(CREATED, DELETED).when(DeleteVcenter(5)).then_nothing()
    with pytest.raises(NotFound):
        given().when(DeleteVcenter(5))


@hypothesis.given(histories(*vcenter.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(VCENTER, history)


@hypothesis.given(commands(UpdateVcenter), histories(*vcenter.EVENTS))
def test_decided_once(made: UpdateVcenter, history: list[Event]) -> None:
    is_decided_once(made, history)
