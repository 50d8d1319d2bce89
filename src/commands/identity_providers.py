"""Commands on identity providers, and on the identities that they vouch for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from commands.handler import Command, must_exist
from domain.claims import CLAIM, Claim, release_claim, take_claim
from domain.core.errors import Conflict, Forbidden
from domain.core.events import AnyStream, Event
from domain.identity_providers import (
    IDENTITY_PROVIDER,
    Clearable,
    IdentityProvider,
    IdentityProviderCreated,
    IdentityProviderDeleted,
    IdentityProviderUpdated,
)
from domain.users import USER, IdentityLinked, IdentityUnlinked, Role, UserAccount, UserRegistered, UserUpdated

TAKEN = "This name at the identity provider is linked to another user already."


@dataclass(frozen=True)
class CreateIdentityProvider(Command):
    """Creates an identity provider. `claim` is the id of the claim that keeps `entity_id` unique."""

    provider_id: int
    title: str
    entity_id: str
    claim: str
    sso_url: str
    certificates: Sequence[str]
    active: bool = True
    allow_idp_initiated: bool = True
    create_users: bool = True
    link_by_email: bool = False
    default_role: Role | None = "viewer"
    email_attribute: str = ""
    role_attribute: str = ""
    roles: Mapping[str, Role] = field(default_factory=dict)
    metadata_url: str | None = None

    def reads(self) -> Sequence[AnyStream]:
        return (IDENTITY_PROVIDER.at(self.provider_id), CLAIM.at(self.claim))

    def decide(self, provider: IdentityProvider | None, claim: Claim) -> Iterable[Event]:
        if provider is not None:
            return
        refusal = f"There already is an identity provider {self.entity_id}."
        yield from take_claim(self.claim, claim, IDENTITY_PROVIDER.at(self.provider_id).name, refusal)
        yield self.event(IdentityProviderCreated)


@dataclass(frozen=True)
class UpdateIdentityProvider(Command, of=IDENTITY_PROVIDER):
    """Changes the given fields. A field that is None stays unchanged, or becomes None if `cleared` names it."""

    provider_id: int
    title: str | None = None
    sso_url: str | None = None
    certificates: Sequence[str] | None = None
    active: bool | None = None
    allow_idp_initiated: bool | None = None
    create_users: bool | None = None
    link_by_email: bool | None = None
    default_role: Role | None = None
    email_attribute: str | None = None
    role_attribute: str | None = None
    roles: Mapping[str, Role] | None = None
    metadata_url: str | None = None
    cleared: tuple[Clearable, ...] = ()

    def decide(self, provider: IdentityProvider | None) -> Iterable[Event]:
        provider = must_exist(provider, f"identity provider {self.provider_id}")
        yield from self.update(IdentityProviderUpdated, provider)


@dataclass(frozen=True)
class RefreshIdentityProvider(Command, of=IDENTITY_PROVIDER):
    """Updates a provider from the metadata that were read at `metadata_url`. Does nothing if the provider has another
    metadata URL by now. Raises Conflict if the metadata describe another provider.
    """

    provider_id: int
    metadata_url: str
    entity_id: str
    sso_url: str
    certificates: Sequence[str]

    def decide(self, provider: IdentityProvider | None) -> Iterable[Event]:
        provider = must_exist(provider, f"identity provider {self.provider_id}")
        if provider.metadata_url != self.metadata_url:
            return
        if provider.entity_id != self.entity_id:
            raise Conflict(f"The metadata now describes {self.entity_id}, which is another provider; create it anew.")
        yield from self.update(IdentityProviderUpdated, provider)


@dataclass(frozen=True)
class DeleteIdentityProvider(Command, of=IDENTITY_PROVIDER):
    """Deletes a provider. Nobody can sign in by it any more, not even if a provider with its `entity_id` is created
    later: the new provider has no linked identities.
    """

    provider_id: int

    def then_reads(self, provider: IdentityProvider | None) -> Sequence[AnyStream]:
        return () if provider is None or provider.deleted else (CLAIM.at(provider.claim),)

    def decide(self, provider: IdentityProvider | None, *claims: Claim) -> Iterable[Event]:
        provider = must_exist(provider, f"identity provider {self.provider_id}")
        for claim in claims:
            yield from release_claim(provider.claim, claim, IDENTITY_PROVIDER.at(self.provider_id).name)
        yield IdentityProviderDeleted(provider_id=self.provider_id)


@dataclass(frozen=True)
class LinkIdentity(Command):
    """Links a user to a NameID at an identity provider. From then on, a person who signs in there under this NameID is
    this user.

    `identity` is the id of the claim that keeps the NameID unique. `by_email` is True if the user was found only by
    email address. Then the command raises Forbidden for an admin and for an inactive user.
    """

    user_id: int
    provider_id: int
    identity: str
    name_id: str
    by_email: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), CLAIM.at(self.identity), IDENTITY_PROVIDER.at(self.provider_id))

    def decide(self, user: UserAccount | None, claim: Claim, provider: IdentityProvider | None) -> Iterable[Event]:
        user = must_exist(user, f"user {self.user_id}")
        must_exist(provider, f"identity provider {self.provider_id}")
        if self.by_email and (user.role == "admin" or not user.active):
            raise Forbidden("An admin must link this account to your name at the identity provider first.")
        linked = user.identity_at(self.provider_id)
        if linked is not None and linked.claim != self.identity:
            raise Conflict(f"User {self.user_id} is linked to another name at this identity provider; unlink it first.")
        yield from take_claim(self.identity, claim, USER.at(self.user_id).name, TAKEN)
        if linked is None:
            yield self.event(IdentityLinked, claim=self.identity)


@dataclass(frozen=True)
class UnlinkIdentity(Command, of=USER):
    """Ends a user's right to sign in by a provider. Does nothing if the user has no identity at this provider."""

    user_id: int
    provider_id: int

    def then_reads(self, user: UserAccount | None) -> Sequence[AnyStream]:
        linked = None if user is None else user.identity_at(self.provider_id)
        return () if linked is None else (CLAIM.at(linked.claim),)

    def decide(self, user: UserAccount | None, *claims: Claim) -> Iterable[Event]:
        user = must_exist(user, f"user {self.user_id}")
        linked = user.identity_at(self.provider_id)
        for claim in claims:
            assert linked is not None
            yield from release_claim(linked.claim, claim, USER.at(self.user_id).name)
            yield self.event(IdentityUnlinked, claim=linked.claim)


@dataclass(frozen=True)
class RegisterByIdentity(Command):
    """Registers a user for a person whom an identity provider vouches for, and links the user to the person's identity.
    From then on the provider decides the user's role. `claim` is the id of the claim that keeps the email address
    unique, and `identity` the id of the claim that keeps the identity unique.
    """

    user_id: int
    provider_id: int
    identity: str
    name_id: str
    email: str
    claim: str
    role: Role
    first_name: str = ""
    last_name: str = ""

    def reads(self) -> Sequence[AnyStream]:
        return (USER.at(self.user_id), CLAIM.at(self.claim), CLAIM.at(self.identity))

    def decide(self, user: UserAccount | None, email: Claim, identity: Claim) -> Iterable[Event]:
        if user is not None:
            return
        owner = USER.at(self.user_id).name
        yield from take_claim(self.claim, email, owner, f"There already is a user with the address {self.email}.")
        yield from take_claim(self.identity, identity, owner, TAKEN)
        yield self.event(UserRegistered, password_hash="")
        yield self.event(IdentityLinked, claim=self.identity, manages_role=True)


@dataclass(frozen=True)
class SignInByIdentity(Command):
    """Finds the user to whom an identity is linked, and updates the user's role. In the receipt, the claim `identity`
    has this user as its owner; it has no owner if the identity is linked to nobody. Raises Forbidden if the user may
    not sign in.

    `role` is the role that the provider asserts; None for no role. It counts only for users whose role the provider
    decides.
    """

    identity: str
    provider_id: int
    role: Role | None = None
    admin_ids: Sequence[int] = ()
    """Ids of some admins, from the read model. They show whether this user is the last admin, who keeps the role even
    if the provider asserts another one.
    """

    def reads(self) -> Sequence[AnyStream]:
        return (CLAIM.at(self.identity),)

    def then_reads(self, claim: Claim) -> Sequence[AnyStream]:
        if not claim.owner:
            return ()
        user_id = int(claim.owner.removeprefix("user-"))
        return (USER.at(user_id), *(USER.at(admin_id) for admin_id in self.admin_ids if admin_id != user_id))

    def decide(self, claim: Claim, *users: UserAccount | None) -> Iterable[Event]:
        if not users:
            return
        user, *others = users
        if user is None or user.deleted or not user.active:
            raise Forbidden("Your account here is not active; ask an admin.")
        linked = user.identity_at(self.provider_id)
        if linked is None or not linked.manages_role or self.role == user.role:
            return
        if self.role is None:
            raise Forbidden("The identity provider asserts no role for you here; ask its administrator.")
        if user.role != "admin" or any(other is not None and other.can_sign_in_as_admin for other in others):
            yield UserUpdated(user_id=user.user_id, role=self.role)
