"""Decisions about operations on vCenters."""

import hypothesis
import pytest

from commands.vcenter_operations import CompleteVcenterOperation, FailVcenterOperation, RequestVcenterOperation
from domain import vcenter, vcenter_operations
from domain.core.errors import NotFound
from domain.core.events import Event
from domain.vcenter import VcenterCreated, VcenterDeleted
from domain.vcenter_operations import (
    VCENTER_OPERATION,
    VcenterOperationCompleted,
    VcenterOperationFailed,
    VcenterOperationRequested,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

CREATED = VcenterCreated(vcenter_id=5)
REQUEST = RequestVcenterOperation(9, 5, "test")
REQUESTED = VcenterOperationRequested(operation_id=9, vcenter_id=5, kind="test")
COMPLETED = VcenterOperationCompleted(operation_id=9, vcenter_id=5, version="8.0.2", latency_ms=45)
FAILED = VcenterOperationFailed(operation_id=9, vcenter_id=5, failure="outside", error="no answer")


def test_request() -> None:
    given(CREATED).when(REQUEST).then(REQUESTED)
    given(CREATED, REQUESTED).when(REQUEST).then_nothing()
    for history in ([], [CREATED, VcenterDeleted(vcenter_id=5)]):
        with pytest.raises(NotFound, match="no vCenter 5"):
            given(*history).when(REQUEST)


def test_an_operation_ends_once() -> None:
    complete = CompleteVcenterOperation(9, version="8.0.2", latency_ms=45)
    fail = FailVcenterOperation(9, "outside", "no answer")
    given(REQUESTED).when(complete).then(COMPLETED)
    given(REQUESTED).when(fail).then(FAILED)
    for ended in (COMPLETED, FAILED):
        given(REQUESTED, ended).when(complete).then_nothing()
        given(REQUESTED, ended).when(fail).then_nothing()
    given().when(complete).then_nothing()


@hypothesis.given(histories(*vcenter_operations.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(VCENTER_OPERATION, history)


@hypothesis.given(commands(RequestVcenterOperation), histories(*vcenter.EVENTS, *vcenter_operations.EVENTS))
def test_decided_once(made: RequestVcenterOperation, history: list[Event]) -> None:
    is_decided_once(made, history)
