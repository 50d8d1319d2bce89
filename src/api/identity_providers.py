"""Identity providers, at which users sign in by SAML, and identities, which link users to their names at a provider."""

import hashlib
from base64 import b64decode
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from msgspec import UNSET, Meta, UnsetType

from api.http.paging import Paged, paginate
from api.http.permissions import admins_only
from api.http.request_context import RequestContext
from api.http.types import Id, Name, changes_in, fields_of, to_view
from commands.identity_providers import (
    CreateIdentityProvider,
    DeleteIdentityProvider,
    LinkIdentity,
    RefreshIdentityProvider,
    UnlinkIdentity,
    UpdateIdentityProvider,
)
from commands.value_checks import described_as
from domain.core.errors import Conflict, Invalid, OutsideFailure
from domain.endpoints import mask_url
from domain.users import Role
from integrations.ports import (
    MAX_METADATA,
    MetadataRefused,
    ProviderMetadata,
    Refused,
    Unanswered,
    fetch_metadata,
)
from projections import identity_providers
from projections.identity_providers import IdentityProviderRow
from store.crypto.secrets import Secrets

READERS, MANAGERS = admins_only("see identity providers", "read"), admins_only("manage identity providers")

Url = Annotated[
    str,
    Meta(max_length=2_000, pattern=r"^https?://\S+$", description="an address that begins with http:// or https://"),
]
MetadataUrl = Annotated[Url, described_as(format="https-url")]
EntityId = Annotated[
    str, Meta(min_length=1, max_length=1_024, pattern=r"^\S+$", description="an entity id without spaces")
]
Certificates = Annotated[list[Annotated[str, Meta(max_length=20_000)]], Meta(min_length=1, max_length=10)]
Metadata = Annotated[str, Meta(min_length=1, max_length=MAX_METADATA)]
Attribute = Annotated[str, Meta(max_length=500)]
Roles = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=500)], Role], Meta(max_length=1_000)]


class NewIdentityProvider(msgspec.Struct):
    """A new identity provider. Send one of three descriptions: `metadata`; `metadata_url`; or `entity_id`, `sso_url`
    and `certificates`.
    """

    name: Name
    metadata: Metadata | UnsetType = UNSET
    """SAML metadata of the provider, as XML."""
    metadata_url: MetadataUrl | UnsetType | None = UNSET
    """URL of the provider's SAML metadata, which the server reads now and every hour."""
    entity_id: EntityId | UnsetType = UNSET
    """Name by which the provider calls itself in assertions."""
    sso_url: Url | UnsetType = UNSET
    """Address to which browsers are sent to sign in, by the binding HTTP-Redirect."""
    certificates: Certificates | UnsetType = UNSET
    """X.509 certificates whose keys sign assertions, as PEM or as base64 of DER."""
    active: bool = True
    """Whether users may sign in by the provider."""
    allow_idp_initiated: bool = True
    """Whether `POST /sso` accepts assertions that no request of this server asked for. The sign-in by redirects in a
    browser never accepts such assertions.
    """
    create_users: bool = True
    """Whether people without an account get one when they first sign in."""
    link_by_email: bool = False
    """Whether a person who signs in for the first time is linked to the existing account with the email address that
    the provider asserts. Accounts of admins are never linked in this way.
    """
    default_role: Role | None = "viewer"
    """Role of new users for whom no value of `role_attribute` is in `roles`. If it is null, such people cannot sign in.
    """
    email_attribute: Attribute = ""
    """Name of the attribute that contains the email address. If it is empty, the server looks for attributes with
    common names such as `email` and `mail`, and takes the NameID if there are none.
    """
    role_attribute: Attribute = ""
    """Name of the attribute whose values decide a user's role, such as the attribute with the groups; empty if no
    attribute does.
    """
    roles: Roles = {}
    """Role for each value of the attribute `role_attribute`. If several values fit, the highest role counts. The role
    is decided again at every sign-in.
    """


class IdentityProviderChanges(msgspec.Struct):
    """Changes of an identity provider. Fields that are left out stay unchanged."""

    name: Name | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    """SAML metadata of the same provider, as XML. An alternative to `sso_url` and `certificates`."""
    metadata_url: MetadataUrl | UnsetType | None = UNSET
    """URL of the same provider's SAML metadata, which the server reads now and every hour. Null ends the hourly
    reading.
    """
    sso_url: Url | UnsetType = UNSET
    """Address to which browsers are sent to sign in, by the binding HTTP-Redirect."""
    certificates: Certificates | UnsetType = UNSET
    """X.509 certificates whose keys sign assertions, as PEM or as base64 of DER. They replace the earlier ones."""
    active: bool | UnsetType = UNSET
    """Whether users may sign in by the provider. Open sessions go on if this becomes false."""
    allow_idp_initiated: bool | UnsetType = UNSET
    """Whether `POST /sso` accepts assertions that no request of this server asked for. The sign-in by redirects in a
    browser never accepts such assertions.
    """
    create_users: bool | UnsetType = UNSET
    """Whether people without an account get one when they first sign in."""
    link_by_email: bool | UnsetType = UNSET
    """Whether a person who signs in for the first time is linked to the existing account with the email address that
    the provider asserts. Accounts of admins are never linked in this way.
    """
    default_role: Role | UnsetType | None = UNSET
    """Role of new users for whom no value of `role_attribute` is in `roles`. If it is null, such people cannot sign in.
    """
    email_attribute: Attribute | UnsetType = UNSET
    """Name of the attribute that contains the email address. If it is empty, the server looks for attributes with
    common names such as `email` and `mail`, and takes the NameID if there are none.
    """
    role_attribute: Attribute | UnsetType = UNSET
    """Name of the attribute whose values decide a user's role, such as the attribute with the groups; empty if no
    attribute does.
    """
    roles: Roles | UnsetType = UNSET
    """Role for each value of the attribute `role_attribute`. If several values fit, the highest role counts. The role
    is decided again at every sign-in.
    """


class IdentityProviderItem(msgspec.Struct):
    id: int
    name: str
    entity_id: str
    """Name by which the provider calls itself in assertions."""
    sso_url: str
    """Address to which browsers are sent to sign in."""
    certificates: list[str]
    """X.509 certificates whose keys sign assertions, as base64 of DER."""
    metadata_url: str | None
    """URL of the metadata that `sso_url` and `certificates` come from; null if a request contained them."""
    active: bool
    """Whether users may sign in by the provider."""
    allow_idp_initiated: bool
    """Whether `POST /sso` accepts assertions that this server did not ask for."""
    create_users: bool
    """Whether people without an account get one when they first sign in."""
    link_by_email: bool
    """Whether a person who signs in for the first time is linked to the existing account with the email address that
    the provider asserts.
    """
    default_role: str | None
    """Role of new users for whom no value of `role_attribute` is in `roles`. If it is null, such people cannot sign in.
    """
    email_attribute: str
    """Name of the attribute that contains the email address. If it is empty, the server looks for attributes with
    common names such as `email` and `mail`, and takes the NameID if there are none.
    """
    role_attribute: str
    """Name of the attribute whose values decide a user's role; empty if no attribute does."""
    roles: dict[str, str]
    """Role for each value of the attribute `role_attribute`."""
    created_at: datetime
    updated_at: datetime


class RefreshedIdentityProvider(msgspec.Struct):
    """Changes that the server found in the provider's metadata."""

    id: int
    sso_url: str
    """Address to which browsers are now sent to sign in."""
    sso_url_before: str
    """Address to which browsers were sent before."""
    certificates: list[str]
    """SHA-256, in hex, of each certificate whose key may sign assertions now."""
    certificates_added: list[str]
    """Items of `certificates` that are new."""
    certificates_removed: list[str]
    """SHA-256, in hex, of each certificate that is no longer trusted."""


class NewIdentity(msgspec.Struct):
    user_id: Id
    name_id: Annotated[str, Meta(min_length=1, max_length=1_024)]
    """NameID that the provider asserts for the user."""


class IdentityItem(msgspec.Struct):
    id: int
    """Id of the user."""
    name_id: str
    """NameID that the provider asserts for the user."""
    manages_role: bool
    """Whether the provider decides the user's role. It does so if the account was created when the user first signed in
    by this provider.
    """
    linked_at: datetime
    """Time at which the user was linked to the NameID."""


class IdentityProviderController(Controller):
    path = "/identity-providers"
    tags = ["Identity providers"]

    @get(guards=[READERS])
    async def list_identity_providers(self, ctx: RequestContext, paged: Paged) -> Response[list[IdentityProviderItem]]:
        """Returns a page of the identity providers, ordered by id."""
        rows = await identity_providers.fetch_page(ctx.source, **paged.window)
        return paginate(ctx.request, paged, [to_view(IdentityProviderItem, row) for row in rows])

    @post(opt={"problems": (OutsideFailure,)}, guards=[MANAGERS])
    async def create_identity_provider(self, ctx: RequestContext, data: NewIdentityProvider) -> IdentityProviderItem:
        """Creates an identity provider from its metadata, from the URL of its metadata, or from `entity_id`, `sso_url`
        and `certificates`.
        """
        fields = await self._read(ctx, data)
        for name in ("entity_id", "sso_url", "certificates"):
            if name not in fields:
                raise Invalid.field(name, "is missing: send it, `metadata` or `metadata_url`")
        provider_id = await ctx.services.ids.draw("identity_providers")
        claim = ctx.services.secrets.claim("identity-provider", fields["entity_id"])
        await ctx(CreateIdentityProvider(provider_id, claim=claim, **fields))
        return to_view(IdentityProviderItem, await self._find(ctx, provider_id))

    @get("/{id:int}", guards=[READERS])
    async def get_identity_provider(self, ctx: RequestContext, id: int) -> IdentityProviderItem:
        """Returns an identity provider."""
        return to_view(IdentityProviderItem, await self._find(ctx, id))

    @put("/{id:int}", opt={"problems": (OutsideFailure,)}, guards=[MANAGERS])
    async def update_identity_provider(
        self, ctx: RequestContext, id: int, data: IdentityProviderChanges
    ) -> IdentityProviderItem:
        """Changes an identity provider. Before the provider uses a new certificate, send that certificate together with
        the present ones.
        """
        row = await self._find(ctx, id)
        fields = await self._read(ctx, data)
        if row.metadata_url and "metadata_url" not in fields and fields.keys() & {"sso_url", "certificates"}:
            raise Invalid.field("metadata_url", "is where these come from: set it to null in the same request")
        if fields.pop("entity_id", row.entity_id) != row.entity_id:
            raise Invalid.field("metadata", f"describes another provider than {row.entity_id}; create that one anew")
        await ctx(UpdateIdentityProvider(id, **fields))
        return to_view(IdentityProviderItem, await self._find(ctx, id))

    @post("/{id:int}/refresh", status_code=200, opt={"problems": (OutsideFailure,)}, guards=[MANAGERS])
    async def refresh_identity_provider(self, ctx: RequestContext, id: int) -> RefreshedIdentityProvider:
        """Reads the provider's metadata at its URL now, and returns what has changed."""
        before = await self._find(ctx, id)
        if before.metadata_url is None:
            raise Conflict(f"Identity provider {id} has no metadata_url; give it one by PUT.")
        found = await self._fetch(ctx, before.metadata_url)
        await ctx(RefreshIdentityProvider(id, before.metadata_url, **vars(found)))
        row = await self._find(ctx, id)
        old, new = _fingerprints(before.certificates), _fingerprints(row.certificates)
        return RefreshedIdentityProvider(id, row.sso_url, before.sso_url, new, *_difference(old, new))

    @delete("/{id:int}", guards=[MANAGERS])
    async def delete_identity_provider(self, ctx: RequestContext, id: int) -> None:
        """Deletes an identity provider and its links to users. Users and their sessions stay."""
        await ctx(DeleteIdentityProvider(id))

    @get("/{id:int}/identities", guards=[READERS])
    async def list_identities(self, ctx: RequestContext, id: int, paged: Paged) -> Response[list[IdentityItem]]:
        """Returns a page of the users who may sign in by the provider, ordered by their ids."""
        async with ctx.reading():
            await self._find(ctx, id)
            rows = await identity_providers.fetch_identities(ctx.source, id, **paged.window)
        return paginate(ctx.request, paged, [to_view(IdentityItem, row, id=row.user_id) for row in rows])

    @post("/{id:int}/identities", guards=[MANAGERS])
    async def link_identity(self, ctx: RequestContext, id: int, data: NewIdentity) -> IdentityItem:
        """Links a user to a name at the provider. Whoever signs in at the provider under this name is then signed in as
        the user. The user's role stays unchanged.
        """
        identity = identity_claim(ctx.services.secrets, id, data.name_id)
        receipt = await ctx(LinkIdentity(data.user_id, id, identity, data.name_id))
        if not receipt.events:
            raise Conflict(f"User {data.user_id} is linked to this name already.")
        return IdentityItem(data.user_id, data.name_id, False, receipt.at)

    @delete("/{id:int}/identities/{user_id:int}", guards=[MANAGERS])
    async def unlink_identity(self, ctx: RequestContext, id: int, user_id: int) -> None:
        """Removes the link between a user and a name at the provider. The user's open sessions go on."""
        await self._find(ctx, id)
        await ctx(UnlinkIdentity(user_id, id))

    async def _find(self, ctx: RequestContext, provider_id: int) -> IdentityProviderRow:
        return await ctx.find(identity_providers.find, "identity provider", provider_id)

    async def _read(self, ctx: RequestContext, data: NewIdentityProvider | IdentityProviderChanges) -> dict[str, Any]:
        """Returns the fields of the body as arguments of a command. Adds the fields that the metadata contain, if the
        body has metadata or their URL. Raises Invalid if the body contradicts itself, and if metadata or certificates
        cannot be read.
        """
        read = changes_in if isinstance(data, IdentityProviderChanges) else fields_of
        fields = read(data, name="title")
        saml, metadata, url = ctx.services.saml, fields.pop("metadata", None), fields.get("metadata_url")
        given = fields.keys() & set(ProviderMetadata.__annotations__)
        for name, source in (("metadata", metadata), ("metadata_url", url)):
            if source is not None and (others := given | ({"metadata_url"} if url and name == "metadata" else set())):
                raise Invalid.field(name, f"is instead of {', '.join(sorted(others))}: send either")
        if url is not None:
            return fields | vars(await self._fetch(ctx, url))
        try:
            if metadata is not None:
                return fields | vars(await saml.read_metadata(metadata))
        except MetadataRefused as error:
            raise Invalid.field("metadata", str(error)) from None
        try:
            if "certificates" in fields:
                fields["certificates"] = [saml.read_certificate(text) for text in fields["certificates"]]
        except MetadataRefused as error:
            raise Invalid.field("certificates", str(error)) from None
        return fields

    async def _fetch(self, ctx: RequestContext, url: str) -> ProviderMetadata:
        """Returns the contents of the metadata at a URL. Raises Invalid if the server may not call the URL, and
        OutsideFailure if the URL does not return usable metadata.
        """
        try:
            return await fetch_metadata(ctx.services.outgoing, ctx.services.saml, url)
        except Refused as error:
            raise Invalid.field("metadata_url", str(error)) from None
        except Unanswered as error:
            raise OutsideFailure(f"{mask_url(url)} gives no metadata: {error}.") from None
        except MetadataRefused as error:
            raise OutsideFailure(f"The metadata at {mask_url(url)} {error}.") from None


def _fingerprints(certificates: Sequence[str]) -> list[str]:
    return [hashlib.sha256(b64decode(certificate)).hexdigest() for certificate in certificates]


def _difference(old: list[str], new: list[str]) -> tuple[list[str], list[str]]:
    """Returns two lists: the items that are only in `new`, and the items that are only in `old`."""
    return [one for one in new if one not in old], [one for one in old if one not in new]


def identity_claim(secrets: Secrets, provider_id: int, name_id: str) -> str:
    """Returns the id of the claim that keeps a NameID unique at a provider. The claim distinguishes capital from small
    letters, since NameIDs do.
    """
    return secrets.claim("identity", f"{provider_id}\0{name_id.encode().hex()}")
