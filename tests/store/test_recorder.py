"""Our recorder is a real `eventsourcing` recorder: it passes the library's own test cases."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from eventsourcing.tests.persistence import (
    AggregateRecorderTestCase,
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)

from store.log.recorder import GroupCommitRecorder, datastore
from testhide.engines import Engines


@pytest.fixture(autouse=True)
def _recorder(request: pytest.FixtureRequest, engines: Engines) -> Iterator[None]:
    recorder = GroupCommitRecorder(
        datastore(engines.database_url), events_table_name=f"stored_events_{uuid4().hex[:12]}"
    )
    recorder.create_table()
    setattr(request.instance, "recorder", recorder)  # noqa: B010 - the instance is the test case
    yield
    recorder.close()
    recorder.datastore.close()


class _Ours:
    recorder: GroupCommitRecorder

    def create_recorder(self) -> GroupCommitRecorder:
        return self.recorder

    def new_originator_id(self) -> str:
        return str(uuid4())


class TestAggregateRecorder(_Ours, AggregateRecorderTestCase):
    def test_insert_and_select(self) -> None:
        # The case inserts and expects no positions back, as an aggregate recorder has none; ours is an application
        # recorder, like the library's own, and answers them.
        recorder = self.recorder

        class WithoutPositions:
            def insert_events(self, *args: object, **kwargs: object) -> None:
                recorder.insert_events(*args, **kwargs)  # type: ignore[arg-type]

            def __getattr__(self, name: str) -> object:
                return getattr(recorder, name)

        self.create_recorder = WithoutPositions  # type: ignore[assignment, method-assign]
        super().test_insert_and_select()


class TestApplicationRecorder(_Ours, ApplicationRecorderTestCase[GroupCommitRecorder]):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestNonInterleavingNotificationIDs(_Ours, NonInterleavingNotificationIDsBaseCase):
    pass


del AggregateRecorderTestCase, ApplicationRecorderTestCase, NonInterleavingNotificationIDsBaseCase
