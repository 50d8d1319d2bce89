"""Users: their invitations, roles and memberships, and the deletion of their accounts."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter
from msgspec import UNSET, Meta, UnsetType

from api.auth import Permissions, permissions
from api.http.as_of import as_of
from api.http.idempotency import SHOWN_ONCE
from api.http.paging import check_one_offset, next_page
from api.http.permissions import CAN_CHANGE_ACCOUNT, CAN_READ, Level, User, admins_only
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Email, Id, fields_of, to_view
from commands.handler import Receipt
from commands.users import DeleteUser, InviteUser, IssuePasswordLink, SignOutUser, UpdateUser
from domain.core.errors import Forbidden, Invalid, NotFound, Unavailable
from domain.projects import Access
from domain.users import USER, Role, UserAccount
from projections import auth, projects
from projections.auth import UserView
from projections.time_travel.historical_reads import PERMISSIONS_HISTORY
from store.clock import utcnow
from store.crypto.secrets import LINK_LIFETIME, new_token

INVITATION_LIFETIME = LINK_LIFETIME
"""Time for which the link in an invitation is valid."""

PersonName = Annotated[str, Meta(max_length=100)]
Projects = Annotated[list[Id], Meta(max_length=1_000)]


class Membership(msgspec.Struct):
    project_id: Id
    access: Level


Memberships = Annotated[list[Membership], Meta(max_length=1_000)]


class NewUser(msgspec.Struct):
    email: Email
    role: Role
    first_name: PersonName = ""
    last_name: PersonName = ""
    project_ids: Projects | UnsetType = UNSET
    """Ids of the projects that the user becomes a member of. Viewers get read access to them, and all other users write
    access.
    """
    memberships: Memberships | UnsetType = UNSET
    """Projects that the user becomes a member of, with the access to each. An alternative to `project_ids`."""


class UserChanges(msgspec.Struct):
    role: Role | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    """Whether the user may sign in. A change to false also ends their sessions and API tokens for good."""
    can_manage_nodes: bool | UnsetType = UNSET
    first_name: PersonName | UnsetType = UNSET
    last_name: PersonName | UnsetType = UNSET
    project_ids: Projects | UnsetType = UNSET
    """Ids of all projects that the user is to be a member of. In projects of which they are a member already, their
    access stays unchanged.
    """
    memberships: Memberships | UnsetType = UNSET
    """All memberships that the user is to have, with the access to each. An alternative to `project_ids`."""


class UserPage(msgspec.Struct):
    total: int
    """Number of users that match `search`, on all pages."""
    results: list[UserView]
    """Users on the page, ordered by id."""


class UserDetail(UserView):
    memberships: list[Membership]
    """Projects that the user is a member of, with the access to each."""


class UpdatedUser(UserDetail):
    project_ids: list[int]
    """Ids of the projects that the user is a member of; equal to `projects`."""


class Invitation(msgspec.Struct):
    id: int
    email: str
    role: str
    first_name: str
    last_name: str
    project_ids: list[int]
    """Ids of the projects that the user is a member of."""
    invited_at: datetime
    expires_at: datetime
    """Time at which the invitation expires."""
    invitation_url: str | None
    """Link with which the invited person sets a password. Only this answer shows the link; give it to nobody else. Null
    if the server sends mails: then the link is in the mail.
    """


class UserPermissions(Permissions):
    user_id: int


class UserController(Controller):
    path = "/users"
    tags = ["Users"]

    @get(guards=[admins_only("see the list of users", "read")])
    async def list_users(
        self,
        ctx: RequestContext,
        page: Annotated[int, Parameter(ge=1, le=1_000_000, description="Page of the list, from 1")] = 1,
        limit: Annotated[int, Parameter(ge=1, le=200, description="Items on a page")] = 50,
        after: Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Only users after this id")] = None,
        search: Annotated[
            str | None, Parameter(max_length=200, description="Part of the email address or the name, in any case")
        ] = None,
    ) -> Response[UserPage]:
        """Returns a page of all users, ordered by id, with their roles and projects."""
        check_one_offset(ctx.request, "after")
        async with ctx.reading() as connection:
            offset = 0 if after else (page - 1) * limit
            found = await auth.fetch_page(connection, search=search, after=after or 0, offset=offset, limit=limit)
            total = await auth.count(connection, search)
        return Response(UserPage(total, found), headers=next_page(ctx.request, limit, [user.id for user in found]))

    @post(opt={**SHOWN_ONCE, "problems": (NotFound,)}, guards=[admins_only("invite users")])
    async def create_user(self, ctx: RequestContext, data: NewUser) -> Invitation:
        """Invites somebody to be a user. They have seven days to set a password through a link. The server mails the
        link to them; without a mail server, it returns the link as `invitation_url`.
        """
        await must_have_seat(ctx)
        user_id, link_id = await ctx.services.ids.draw("users"), new_token("")
        access = read_access(data, data.role) or {}
        receipt = await ctx(
            InviteUser(
                user_id=user_id,
                email=data.email,
                role=data.role,
                claim=ctx.services.secrets.claim("email", data.email),
                link_id=link_id,
                expires_at=utcnow() + INVITATION_LIFETIME,
                first_name=data.first_name,
                last_name=data.last_name,
                access=access,
            )
        )
        user = receipt.existing(USER.at(user_id))
        return to_invitation(ctx, user, receipt, sorted(access))

    @get("/{user_id:int}", opt={"problems": (Forbidden,)}, guards=[CAN_READ])
    async def get_user(self, ctx: RequestContext, user_id: int) -> UserDetail:
        """Returns a user. Admins can get any user, and other users only themselves."""
        must_be_admin_or(ctx.user, user_id)
        return await find_detail(ctx, user_id)

    @put("/{user_id:int}", guards=[admins_only("change users")])
    async def update_user(self, ctx: RequestContext, user_id: int, data: UserChanges) -> UpdatedUser:
        """Changes a user: names, role, memberships, and whether the user may sign in. Admins cannot take away their own
        role or account, so there always is an admin.
        """
        user = await find_detail(ctx, user_id)
        changes = fields_of(data)
        if changes.get("active") and not user.active:
            await must_have_seat(ctx)
        role = changes.get("role", user.role)
        present: dict[int, Access] = {membership.project_id: membership.access for membership in user.memberships}
        access = read_access(data, role, present)
        for name in ("project_ids", "memberships"):
            changes.pop(name, None)
        # If the read models had not caught up, a membership that they do not show yet would stay.
        if access is not None and not await ctx.wait_for_head():
            raise Unavailable("The memberships are not up to date; try again.")
        member_of = () if access is None else sorted(await projects.fetch_access(ctx.source, user_id))
        await ctx(UpdateUser(user_id, ctx.user.user_id, access=access, member_of=member_of, **changes))
        changed = await find_detail(ctx, user_id)
        return to_view(UpdatedUser, changed, project_ids=changed.projects)

    @post("/{user_id:int}/invite", opt=SHOWN_ONCE, guards=[admins_only("invite users")])
    async def invite_user(self, ctx: RequestContext, user_id: int) -> Invitation:
        """Sends a new invitation to a user who has not set a password yet. The link of the earlier invitation is no
        longer valid.
        """
        command = IssuePasswordLink(user_id, "invitation", new_token(""), utcnow() + INVITATION_LIFETIME)
        receipt = await ctx(command)
        access = await projects.fetch_access(ctx.source, user_id)
        return to_invitation(ctx, receipt.existing(USER.at(user_id)), receipt, sorted(access))

    @post("/{user_id:int}/sign-out", status_code=204, opt={"problems": (Forbidden,)}, guards=[CAN_CHANGE_ACCOUNT])
    async def sign_out_user(self, ctx: RequestContext, user_id: int) -> None:
        """Ends all sessions of a user, on all devices. API tokens stay valid. Admins can sign out any user, and other
        users only themselves.
        """
        must_be_admin_or(ctx.user, user_id)
        await ctx(SignOutUser(user_id))

    @get("/{user_id:int}/permissions", guards=[CAN_READ], **as_of(PERMISSIONS_HISTORY, "user_id"))
    async def get_user_permissions(self, ctx: RequestContext, user_id: int) -> UserPermissions:
        """Returns the rights of a user, in general and in each project. Admins can get anybody's rights, and other
        users only their own.
        """
        must_be_admin_or(ctx.user, user_id)
        async with ctx.reading() as connection:
            row = await auth.find(connection, user_id)
            if row is None:
                raise NotFound(f"There is no user {user_id}.")
            access = await projects.fetch_access(connection, user_id)
            user = User(user_id, row.email, row.role, access, can_manage_nodes=row.can_manage_nodes)
            visible = user.projects
            if visible is None:
                visible = [project.id for project in await projects.fetch_visible(connection, None)]
        if not row.active:
            return UserPermissions(False, False, False, {}, user_id)
        return UserPermissions(**msgspec.structs.asdict(permissions(user, visible)), user_id=user_id)

    @delete("/{user_id:int}", guards=[admins_only("delete users")])
    async def delete_user(self, ctx: RequestContext, user_id: int) -> None:
        """Deletes a user's account for good, with name, email address and credentials. Ends the user's sessions and API
        tokens.
        """
        await ctx(DeleteUser(user_id, ctx.user.user_id))


async def must_have_seat(ctx: RequestContext) -> None:
    """Raises Forbidden if the licence allows no further active user."""
    ctx.services.license.require_seat(await auth.count_active(ctx.source), utcnow())


def must_be_admin_or(caller: User, user_id: int) -> None:
    """Raises Forbidden if the caller is neither an admin nor the user `user_id`."""
    if not caller.is_admin and caller.user_id != user_id:
        raise Forbidden("Only admins see other users; what you may do is at GET /api/v3/me.")


def read_access(
    data: NewUser | UserChanges, role: str, present: Mapping[int, Access] = MappingProxyType({})
) -> dict[int, Access] | None:
    """Returns the access to projects that a body asks for: project id -> access. Returns None if the body names no
    projects. `present` is the user's present access. Raises Invalid if the body contradicts itself.
    """
    if data.memberships is not UNSET and data.project_ids is not UNSET:
        raise Invalid.field("memberships", "are instead of project_ids: send either of them")
    if data.project_ids is not UNSET:
        default: Access = "read" if role == "viewer" else "write"
        return {project_id: present.get(project_id, default) for project_id in data.project_ids}
    if data.memberships is UNSET:
        return None
    access: dict[int, Access] = {membership.project_id: membership.access for membership in data.memberships}
    if len(access) < len(data.memberships):
        raise Invalid.field("memberships", "name a project twice")
    return access


async def find_detail(ctx: RequestContext, user_id: int) -> UserDetail:
    async with ctx.reading() as connection:
        user = await auth.find_view(connection, user_id)
        if user is None:
            raise NotFound(f"There is no user {user_id}.")
        access = await projects.fetch_access(connection, user_id)
    # A membership may have ended between the two queries.
    memberships = [Membership(number, access[number]) for number in user.projects if number in access]
    return to_view(UserDetail, user, memberships=memberships)


def to_invitation(ctx: RequestContext, user: UserAccount, receipt: Receipt, project_ids: list[int]) -> Invitation:
    assert user.link is not None, "an invitation was issued"
    services, token = ctx.services, ctx.services.secrets.link_token(user.user_id, user.link.link_id)
    return to_view(
        Invitation,
        user,
        id=user.user_id,
        project_ids=project_ids,
        invited_at=receipt.at,
        expires_at=user.link.expires_at,
        # The token is in the fragment, which browsers send to no server.
        invitation_url=None if services.sends_mail else f"{services.base_url}/set-password#{token}",
    )
