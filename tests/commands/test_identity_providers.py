"""Identity providers, and whom they vouch for."""

from typing import Any

import hypothesis
import pytest

from commands.identity_providers import (
    CreateIdentityProvider,
    DeleteIdentityProvider,
    LinkIdentity,
    RefreshIdentityProvider,
    RegisterByIdentity,
    SignInByIdentity,
    UnlinkIdentity,
    UpdateIdentityProvider,
)
from commands.users import DeleteUser
from domain import claims, identity_providers, users
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.errors import Conflict, Forbidden, NotFound
from domain.core.events import Event
from domain.identity_providers import (
    IDENTITY_PROVIDER,
    IdentityProviderCreated,
    IdentityProviderDeleted,
    IdentityProviderUpdated,
)
from domain.users import IdentityLinked, IdentityUnlinked, UserDeleted, UserRegistered, UserUpdated
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

CREATE = CreateIdentityProvider(
    4, "Company", "urn:idp", "idp-1", "https://idp.example.com", ["MII="], default_role=None
)
CREATED = IdentityProviderCreated(
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
    default_role=None,
    email_attribute="",
    role_attribute="",
    roles={},
)
CLAIMED = ClaimTaken(claim="idp-1", owner="identity-provider-4")
DELETED = IdentityProviderDeleted(provider_id=4)


def test_create() -> None:
    given().when(CREATE).then(CLAIMED, CREATED)
    with pytest.raises(Conflict, match="urn:idp"):
        given(ClaimTaken(claim="idp-1", owner="identity-provider-3")).when(CREATE)


def test_only_what_is_given_changes() -> None:
    same = UpdateIdentityProvider(4, title="Company", certificates=["MII="], cleared=("default_role",))
    given(CREATED).when(same).then_nothing()
    given(CREATED).when(UpdateIdentityProvider(4, default_role="viewer", active=False)).then(
        IdentityProviderUpdated(provider_id=4, default_role="viewer", active=False)
    )
    with pytest.raises(NotFound):
        given(CREATED, DELETED).when(same)


def test_metadata_is_taken_over_from_the_url_that_counts() -> None:
    url = "https://idp.example.com/metadata"
    refresh = RefreshIdentityProvider(4, url, "urn:idp", "https://idp.example.com", ["newer"])
    given(CREATED).when(refresh).then_nothing()
    with_url = IdentityProviderUpdated(provider_id=4, metadata_url=url)
    newer = IdentityProviderUpdated(provider_id=4, certificates=["newer"])
    given(CREATED, with_url).when(refresh).then(newer)
    given(CREATED, with_url, newer).when(refresh).then_nothing()
    given(CREATED, with_url, IdentityProviderUpdated(provider_id=4, cleared=("metadata_url",))).when(
        refresh
    ).then_nothing()
    with pytest.raises(Conflict, match="another provider"):
        given(CREATED, with_url).when(RefreshIdentityProvider(4, url, "urn:other", "https://x.example.com", []))
    with pytest.raises(NotFound):
        given(CREATED, with_url, DELETED).when(refresh)


def test_a_deleted_provider_leaves_its_entity_id() -> None:
    released = ClaimReleased(claim="idp-1", owner="identity-provider-4")
    given(CREATED, CLAIMED).when(DeleteIdentityProvider(4)).then(released, DELETED)


USER = UserRegistered(user_id=7, role="viewer", email="a@example.com", claim="email-1")
TAKEN = ClaimTaken(claim="identity-1", owner="user-7")
LINKED = IdentityLinked(user_id=7, provider_id=4, claim="identity-1", name_id="u-1")
MANAGED = IdentityLinked(user_id=7, provider_id=4, claim="identity-1", name_id="u-1", manages_role=True)
LINK = LinkIdentity(7, 4, "identity-1", "u-1")
SIGN_IN = SignInByIdentity("identity-1", 4, "developer")


def test_link() -> None:
    given(CREATED, USER).when(LINK).then(TAKEN, LINKED)
    given(CREATED, USER, TAKEN, LINKED).when(LINK).then_nothing()
    with pytest.raises(Conflict, match="another user"):
        given(CREATED, USER, ClaimTaken(claim="identity-1", owner="user-6")).when(LINK)
    with pytest.raises(Conflict, match="unlink it first"):
        given(CREATED, USER, TAKEN, LINKED).when(LinkIdentity(7, 4, "identity-2", "u-2"))
    with pytest.raises(NotFound):
        given(CREATED, DELETED, USER).when(LINK)


def test_an_address_alone_is_not_enough_for_an_admin() -> None:
    by_email = LinkIdentity(7, 4, "identity-1", "u-1", by_email=True)
    given(CREATED, USER).when(by_email).then(TAKEN, LINKED)
    for change in (UserUpdated(user_id=7, role="admin"), UserUpdated(user_id=7, active=False)):
        with pytest.raises(Forbidden):
            given(CREATED, USER, change).when(by_email)


def test_unlink() -> None:
    released = ClaimReleased(claim="identity-1", owner="user-7")
    unlinked = IdentityUnlinked(user_id=7, provider_id=4, claim="identity-1")
    given(USER, TAKEN, LINKED).when(UnlinkIdentity(7, 4)).then(released, unlinked)
    given(USER, TAKEN, LINKED).when(UnlinkIdentity(7, 5)).then_nothing()
    admin = UserRegistered(user_id=1, role="admin", email="admin@example.com", claim="email-9")
    given(admin, USER, TAKEN, LINKED).when(DeleteUser(7, 1)).then(released, UserDeleted(user_id=7))


def test_a_user_is_registered_by_an_identity() -> None:
    command = RegisterByIdentity(7, 4, "identity-1", "u-1", "a@example.com", "email-1", "viewer")
    email = ClaimTaken(claim="email-1", owner="user-7")
    given().when(command).then(email, TAKEN, USER, MANAGED)
    for claim in ("email-1", "identity-1"):
        with pytest.raises(Conflict):
            given(ClaimTaken(claim=claim, owner="user-6")).when(command)


def test_the_provider_decides_the_role_of_whom_it_brought() -> None:
    given().when(SIGN_IN).then_nothing()
    given(USER, TAKEN, LINKED).when(SIGN_IN).then_nothing()
    given(USER, TAKEN, MANAGED).when(SIGN_IN).then(UserUpdated(user_id=7, role="developer"))
    given(USER, TAKEN, MANAGED).when(SignInByIdentity("identity-1", 4, "viewer")).then_nothing()
    with pytest.raises(Forbidden, match="no role"):
        given(USER, TAKEN, MANAGED).when(SignInByIdentity("identity-1", 4))
    for change in (UserUpdated(user_id=7, active=False), UserDeleted(user_id=7)):
        with pytest.raises(Forbidden, match="not active"):
            given(USER, TAKEN, LINKED, change).when(SIGN_IN)


@pytest.mark.parametrize(
    ("others", "keeps_role"),
    [
        ([], True),
        ([UserRegistered(user_id=8, role="admin", password_hash="h")], False),
        ([UserRegistered(user_id=8, role="developer", password_hash="h")], True),
        ([UserRegistered(user_id=8, role="admin")], True),  # the invitation is open
        ([UserRegistered(user_id=8, role="admin", password_hash="h"), UserUpdated(user_id=8, active=False)], True),
        ([UserRegistered(user_id=8, role="admin", password_hash="h"), UserDeleted(user_id=8)], True),
    ],
)
def test_a_sign_in_leaves_the_last_admin_the_role(others: list[Event], keeps_role: bool) -> None:
    history = (USER, TAKEN, MANAGED, UserUpdated(user_id=7, role="admin"), *others)
    decided = given(*history).when(SignInByIdentity("identity-1", 4, "viewer", admin_ids=(7, 8)))
    decided.then(*([] if keeps_role else [UserUpdated(user_id=7, role="viewer")]))


@pytest.mark.parametrize(
    "kind", [CreateIdentityProvider, UpdateIdentityProvider, LinkIdentity, UnlinkIdentity, RegisterByIdentity]
)
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*identity_providers.EVENTS, *users.EVENTS, *claims.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*identity_providers.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(IDENTITY_PROVIDER, history)
