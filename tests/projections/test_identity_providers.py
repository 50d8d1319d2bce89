"""Identity providers and the identities of users as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import identity_providers, users
from domain.core.events import Event
from domain.identity_providers import IdentityProviderCreated, IdentityProviderDeleted, IdentityProviderUpdated
from domain.users import IdentityLinked, IdentityUnlinked, UserDeleted
from projections.identity_providers import PROJECTION, IdentityProviderRow, IdentityRow
from tests.support.spec import given
from tests.support.strategies import histories

NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
CREATED = IdentityProviderCreated(
    at=NOW,
    provider_id=4,
    title="Company",
    entity_id="urn:idp",
    claim="idp-1",
    sso_url="https://idp.example.com",
    certificates=["MII="],
    active=True,
    allow_idp_initiated=True,
    create_users=True,
    link_by_email=False,
    default_role="viewer",
    email_attribute="",
    role_attribute="groups",
    roles={"ops": "admin"},
)
LINKED = IdentityLinked(at=NOW, user_id=7, provider_id=4, claim="identity-1", name_id="u-1", manages_role=True)


def test_a_provider_changes() -> None:
    update = IdentityProviderUpdated(at=LATER, provider_id=4, title="Group", active=False, cleared=("default_role",))
    row = given(CREATED, update).when(PROJECTION).one(IdentityProviderRow)
    assert (row.name, row.active, row.default_role, row.roles) == ("Group", False, None, {"ops": "admin"})
    assert (row.created_at, row.updated_at) == (NOW, LATER)


def test_identities_end() -> None:
    row = given(CREATED, LINKED).when(PROJECTION).one(IdentityRow)
    assert row == IdentityRow("identity-1", 4, 7, "u-1", True, NOW)
    for end in (
        IdentityProviderDeleted(provider_id=4),
        IdentityUnlinked(user_id=7, provider_id=4, claim="identity-1"),
        UserDeleted(user_id=7),
    ):
        assert given(CREATED, LINKED, end).when(PROJECTION).all(IdentityRow) == []


@hypothesis.given(histories(*identity_providers.EVENTS, *users.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
