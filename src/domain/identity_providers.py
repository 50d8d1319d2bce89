"""Identity providers: outside systems, such as an Active Directory, at which users sign in by SAML."""

from typing import ClassVar, Literal

import msgspec

from domain.core.events import Category, Event, changes_of, copy_fields
from domain.users import Role

Clearable = Literal["default_role", "metadata_url"]


class IdentityProviderEvent(Event, frozen=True):
    provider_id: int

    @property
    def stream(self) -> str:
        return f"identity-provider-{self.provider_id}"


class IdentityProviderCreated(IdentityProviderEvent, frozen=True):
    name: ClassVar[str] = "identity_provider.created"
    title: str
    entity_id: str
    """SAML entity ID of the provider, which its assertions contain."""
    claim: str
    """Id of the claim that keeps `entity_id` unique."""
    sso_url: str
    certificates: list[str]
    """Certificates whose keys sign assertions: DER as base64."""
    active: bool
    allow_idp_initiated: bool
    create_users: bool
    link_by_email: bool
    default_role: Role | None
    email_attribute: str
    role_attribute: str
    roles: dict[str, Role]
    """Value of the attribute `role_attribute` -> role of the user."""
    metadata_url: str | None = None
    """URL from which the server reads `sso_url` and `certificates`; None if an admin enters them."""


class IdentityProviderUpdated(IdentityProviderEvent, frozen=True):
    """The provider was changed. Fields that are not None have their new values; fields in `cleared` were set to
    None.
    """

    name: ClassVar[str] = "identity_provider.updated"
    title: str | None = None
    sso_url: str | None = None
    certificates: list[str] | None = None
    active: bool | None = None
    allow_idp_initiated: bool | None = None
    create_users: bool | None = None
    link_by_email: bool | None = None
    default_role: Role | None = None
    email_attribute: str | None = None
    role_attribute: str | None = None
    roles: dict[str, Role] | None = None
    metadata_url: str | None = None
    cleared: tuple[Clearable, ...] = ()


class IdentityProviderDeleted(IdentityProviderEvent, frozen=True):
    """The provider was deleted. Its identities are no longer linked to users."""

    name: ClassVar[str] = "identity_provider.deleted"


class IdentityProvider(msgspec.Struct, frozen=True):
    provider_id: int
    title: str
    entity_id: str
    claim: str
    sso_url: str
    certificates: list[str]
    active: bool
    allow_idp_initiated: bool
    create_users: bool
    link_by_email: bool
    default_role: Role | None
    email_attribute: str
    role_attribute: str
    roles: dict[str, Role]
    metadata_url: str | None = None
    deleted: bool = False


def evolve(state: IdentityProvider | None, event: Event) -> IdentityProvider | None:
    match event:
        case IdentityProviderCreated():
            return copy_fields(IdentityProvider, event)
        case IdentityProviderUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case IdentityProviderDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


IDENTITY_PROVIDER = Category[IdentityProvider | None]("identity-provider", None, evolve)
EVENTS = (IdentityProviderCreated, IdentityProviderUpdated, IdentityProviderDeleted)
