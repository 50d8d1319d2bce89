"""SCM endpoints as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import scm
from domain.core.events import Event
from domain.projects import ProjectDeleted
from domain.scm import ScmEndpointCreated, ScmEndpointDeleted, ScmEndpointUpdated
from projections.scm import PROJECTION, ScmEndpointRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
CREATED = ScmEndpointCreated(
    at=NOW, scm_endpoint_id=5, project_id=3, type="git", title="Main", repo="https://git.acme.com/web"
)


def test_no_token_is_in_a_row() -> None:
    row = ScmEndpointRow(5, 3, "git", "Main", "", "https://git.acme.com/web", False, None, None, NOW, NOW)
    assert given(CREATED).when(PROJECTION).one(ScmEndpointRow) == row
    update = ScmEndpointUpdated(
        at=LATER, scm_endpoint_id=5, project_id=3, title="New", repo="https://git.acme.com/x", sealed_token=b"t"
    )
    row = ScmEndpointRow(5, 3, "git", "New", "", "https://git.acme.com/x", True, None, None, NOW, LATER)
    assert given(CREATED, update).when(PROJECTION).one(ScmEndpointRow) == row


def test_what_is_deleted_leaves_no_row() -> None:
    for end in (ScmEndpointDeleted(scm_endpoint_id=5, project_id=3), ProjectDeleted(project_id=3)):
        assert given(CREATED, end).when(PROJECTION).all(ScmEndpointRow) == []


@hypothesis.given(histories(*scm.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
