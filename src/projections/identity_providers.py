"""Read model of identity providers, and of the users who may sign in by them."""

from collections.abc import Iterable
from datetime import datetime
from typing import Unpack

import msgspec

from domain.core.events import Recorded, copy_fields
from domain.identity_providers import (
    IdentityProviderCreated,
    IdentityProviderDeleted,
    IdentityProviderEvent,
    IdentityProviderUpdated,
)
from domain.users import IdentityLinked, IdentityUnlinked, UserDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Projection, Row, Rows, Table, changed_columns, row_of
from projections.engine.queries import Window, fetch_all, find_row
from store.postgres.queries import Source

VERSION = 2


class IdentityProviderRow(Row, frozen=True):
    table = Table("identity_providers", VERSION)
    id: int
    name: str
    entity_id: str
    sso_url: str
    certificates: list[str]
    active: bool
    allow_idp_initiated: bool
    create_users: bool
    link_by_email: bool
    default_role: str | None
    email_attribute: str
    role_attribute: str
    roles: dict[str, str]
    metadata_url: str | None
    created_at: datetime
    updated_at: datetime


class IdentityRow(Row, frozen=True):
    table = Table("identities", VERSION, indexes=("(user_id)", "(provider_id, user_id)"))
    id: str
    """Id of the identity's claim, which keeps a NameID unique at its provider."""
    provider_id: int
    user_id: int
    name_id: str
    manages_role: bool
    linked_at: datetime


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case IdentityProviderCreated():
            columns = {"id": event.provider_id, "name": event.title}
            yield copy_fields(IdentityProviderRow, event, **columns, created_at=event.at, updated_at=event.at)
        case IdentityProviderUpdated():
            if provider := rows.get(IdentityProviderRow, event.provider_id):
                yield msgspec.structs.replace(provider, **changed_columns(provider, event), updated_at=event.at)
        case IdentityProviderDeleted():
            yield Delete(IdentityProviderRow, event.provider_id)
            yield DeleteWhere(IdentityRow, "provider_id", event.provider_id)
        case IdentityLinked():
            yield copy_fields(IdentityRow, event, id=event.claim, linked_at=event.at)
        case IdentityUnlinked():
            yield Delete(IdentityRow, event.claim)
        case UserDeleted():
            yield DeleteWhere(IdentityRow, "user_id", event.user_id)


PROJECTION = Projection(
    "identity_providers",
    VERSION,
    (IdentityProviderRow, IdentityRow),
    row_of(IdentityProviderRow, "provider_id", IdentityProviderUpdated),
    apply,
    handles=(IdentityProviderEvent, IdentityLinked, IdentityUnlinked, UserDeleted),
)


async def find(source: Source, provider_id: int) -> IdentityProviderRow | None:
    return await find_row(source, IdentityProviderRow, provider_id)


async def fetch_active(source: Source) -> list[IdentityProviderRow]:
    query = f"SELECT * FROM {IdentityProviderRow.table} WHERE active ORDER BY id"
    return await fetch_all(source, IdentityProviderRow, query, {})


async def fetch_refreshable(source: Source) -> list[IdentityProviderRow]:
    """Returns the identity providers whose metadata can be loaded from a URL."""
    query = f"SELECT * FROM {IdentityProviderRow.table} WHERE metadata_url IS NOT NULL ORDER BY id"
    return await fetch_all(source, IdentityProviderRow, query, {})


async def fetch_page(source: Source, **window: Unpack[Window]) -> list[IdentityProviderRow]:
    query = (
        f"SELECT * FROM {IdentityProviderRow.table} WHERE id > %(after)s ORDER BY id OFFSET %(offset)s LIMIT %(limit)s"
    )
    return await fetch_all(source, IdentityProviderRow, query, window)


async def fetch_identities(source: Source, provider_id: int, **window: Unpack[Window]) -> list[IdentityRow]:
    """Returns a page of the identities of a provider, ordered by user id."""
    query = (
        f"SELECT * FROM {IdentityRow.table} WHERE provider_id = %(provider)s AND user_id > %(after)s"
        " ORDER BY user_id OFFSET %(offset)s LIMIT %(limit)s"
    )
    return await fetch_all(source, IdentityRow, query, {"provider": provider_id, **window})
