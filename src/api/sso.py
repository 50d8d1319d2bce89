"""Single sign-on by SAML: `POST /sso` for scripts, and a sign-in by redirects for browsers.

A sign-in by redirects has three steps:

1. The server sends the browser to the identity provider with a request. The browser gets the request's id, signed by
   the server, as a cookie.
2. The identity provider makes the browser post an assertion that answers this request.
3. The server sends the browser back to the page where the sign-in began, with a code. The page exchanges the code for a
   session.

The code works once, for a minute, and only with the cookie. So nobody can sign in another person's browser, and no URL
contains a token.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.params import Parameter
from msgspec import Meta

from api.auth import OpenedSession, counting_attempts, open_session
from api.http.authentication import PUBLIC
from api.http.body_limits import MAX_BODY
from api.http.request_context import RequestContext
from api.http.types import Email
from api.identity_providers import identity_claim
from api.users import must_have_seat
from commands.identity_providers import LinkIdentity, RegisterByIdentity, SignInByIdentity
from domain.claims import CLAIM
from domain.core.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from domain.identity_providers import IDENTITY_PROVIDER, IdentityProvider
from domain.users import Role
from integrations.ports import Assertion, AssertionRefused, TrustedProvider
from projections import auth, identity_providers
from store.clock import utcnow
from store.crypto.secrets import Secrets, new_token
from store.tables.used_once import UsedOnce

MAX_RESPONSE = 256 * 1024
"""Largest number of characters of an encoded SAML response. A response with 500 groups has about 100,000 characters."""
SIGN_IN_TIMEOUT = timedelta(minutes=10)
"""Time within which a browser must come back from the identity provider, counted from the beginning of the sign-in."""
SIGN_IN_CODE_LIFETIME = timedelta(minutes=1)
"""Time within which the code of a completed sign-in must be exchanged for a session."""
PATH = "/api/v3/sso"
FORM = "application/x-www-form-urlencoded"
OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
"""Pattern of a path on this server. It excludes paths that begin with `//` or `/\\`, which browsers take for another
server. It also excludes tabs and newlines, which browsers skip.
"""
ROLES: Sequence[Role] = ("admin", "developer", "viewer")
"""Roles, from the highest to the lowest."""

_CLAIMS = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims"
EMAILS = ("email", "mail", "emailAddress", "urn:oid:0.9.2342.19200300.100.1.3", f"{_CLAIMS}/emailaddress")
FIRST_NAMES = ("givenName", "firstName", "first_name", "urn:oid:2.5.4.42", f"{_CLAIMS}/givenname")
LAST_NAMES = ("sn", "surname", "lastName", "last_name", "urn:oid:2.5.4.4", f"{_CLAIMS}/surname")


class SamlLogin(msgspec.Struct):
    saml_response: Annotated[str, Meta(min_length=1, max_length=MAX_RESPONSE)]
    """Response of the identity provider: base64 of its XML."""


class SignInCode(msgspec.Struct):
    code: Annotated[str, Meta(min_length=1, max_length=500)]
    """Code that follows `#code=` in the address of the page."""


class SignInChoice(msgspec.Struct):
    name: str
    """Name of the identity provider."""
    url: str
    """URL that begins the sign-in when a browser opens it."""


ACS_FORM = {
    "type": "object",
    "properties": {
        "SAMLResponse": {"type": "string", "description": "Response of the identity provider: base64 of its XML"},
        "RelayState": {"type": "string", "description": "Path of the page to return to, as the request named it"},
    },
    "required": ["SAMLResponse"],
}


class SsoController(Controller):
    path = "/sso"
    tags = ["Single sign-on"]

    @post(
        status_code=200,
        opt={**PUBLIC, MAX_BODY: 2 * MAX_RESPONSE, "problems": (Unauthenticated, Forbidden, Conflict, Unavailable)},
    )
    async def sign_in_with_saml(self, ctx: RequestContext, data: SamlLogin) -> OpenedSession:
        """Opens a session for the person whom an identity provider's assertion names. The assertion must be signed and
        meant for this server. It works once, within 5 minutes after it was issued.
        """
        async with counting_attempts(ctx.request, ctx.services):
            provider, assertion = await verify(ctx, data.saml_response, "")
            user_id = await find_or_register_user(ctx, provider, assertion)
        return await open_session(ctx, user_id)

    @get(opt=PUBLIC)
    async def list_sign_in_choices(self, ctx: RequestContext) -> list[SignInChoice]:
        """Returns the identity providers at which users can sign in."""
        rows = await identity_providers.fetch_active(ctx.source)
        return [SignInChoice(row.name, f"{ctx.services.base_url}{PATH}/login/{row.id}") for row in rows]

    @get("/metadata", opt=PUBLIC, media_type="application/samlmetadata+xml")
    async def get_saml_metadata(self, ctx: RequestContext) -> str:
        """Returns the SAML metadata of this server, to be entered at the identity provider."""
        return ctx.services.saml.describe_service()

    @get("/login/{provider_id:int}", opt=PUBLIC, status_code=303, include_in_schema=False)
    async def begin_sign_in(
        self,
        ctx: RequestContext,
        provider_id: int,
        return_to: Annotated[
            str, Parameter(max_length=1_000, description="Path of the page to return to, on this server")
        ] = "/",
    ) -> Response[None]:
        """Sends a browser to an identity provider, where the person signs in."""
        ctx.services.license.require("sso", utcnow())
        provider = await find_active(ctx, provider_id)
        if provider is None:
            raise NotFound(f"There is no identity provider {provider_id}.")
        if not OWN_PATH.fullmatch(return_to):
            raise Invalid.field("return_to", "must be a path on this server, such as /projects/1")
        now, secrets = utcnow(), ctx.services.secrets
        request_id = make_token(secrets, "request", provider_id, (now + SIGN_IN_TIMEOUT).timestamp(), new_token(""))
        url = ctx.services.saml.sign_in_url(to_trusted(provider), request_id, return_to, now)
        return redirect(url, {"Set-Cookie": browser_cookie(request_id, ctx.services.base_url)})

    @post(
        "/acs",
        status_code=303,
        opt={**PUBLIC, MAX_BODY: 2 * MAX_RESPONSE, "content": {FORM: ACS_FORM}},
        include_in_schema=False,
    )
    async def finish_sign_in(self, ctx: RequestContext, request: Request[Any, Any, Any]) -> Response[None]:
        """Receives an identity provider's response, which the browser posts. Sends the browser back to the page where
        the sign-in began, with a code after `#code=` that the page exchanges for a session.
        """
        form = await read_form(request)
        return_to = form.get("RelayState", "/")
        if not OWN_PATH.fullmatch(return_to):
            raise Invalid.field("RelayState", "must be a path on this server")
        async with counting_attempts(request, ctx.services):
            provider, assertion = await verify(ctx, form["SAMLResponse"], "/acs")
            assert assertion.request_id is not None, "verify refused an assertion without a request"
            user_id = await find_or_register_user(ctx, provider, assertion)
        expires = (utcnow() + SIGN_IN_CODE_LIFETIME).timestamp()
        code = make_token(
            ctx.services.secrets, "code", user_id, expires, cookie_name(assertion.request_id, ctx.services.base_url)
        )
        return redirect(f"{ctx.services.base_url}{return_to.partition('#')[0]}#code={code}")

    @post("/session", status_code=200, opt={**PUBLIC, "problems": (Unauthenticated,)})
    async def exchange_sign_in_code(
        self, ctx: RequestContext, request: Request[Any, Any, Any], data: SignInCode
    ) -> OpenedSession:
        """Returns a session for the code with which a sign-in ended. The request must have the cookie of the browser
        that signed in.
        """
        refused = Unauthenticated("The code is not valid (any more): begin the sign-in again.")
        async with counting_attempts(request, ctx.services):
            read = read_token(ctx.services.secrets, "code", data.code)
            if (
                read is None
                or not is_bound(request, read[1], ctx.services.base_url)
                or not await UsedOnce(ctx.services.pool).use("code", data.code)
            ):
                raise refused
            user = await auth.find(ctx.source, read[0])
            if user is None or not user.active:
                raise refused
        return await open_session(ctx, user.id)


async def find_active(ctx: RequestContext, provider_id: int) -> IdentityProvider | None:
    """Returns the identity provider, or None if there is none or it is not active. Reads the log: whoever can change
    rows of the read model could otherwise sign in as anybody.
    """
    provider = await ctx.services.log.load_state(IDENTITY_PROVIDER.at(provider_id))
    return None if provider is None or provider.deleted or not provider.active else provider


async def verify(ctx: RequestContext, response: str, path: str) -> tuple[IdentityProvider, Assertion]:
    """Returns the identity provider that made a SAML response, and the assertion in the response. Marks the assertion
    as used. `path` is the path below `/sso` that received the response; empty for `/sso` itself.

    Raises Unauthenticated if the assertion is not valid, was used before, or does not answer a request that this server
    made for the same provider. `POST /sso` also accepts an assertion without a request, if the provider's settings
    allow that.
    """
    services, now = ctx.services, utcnow()
    services.license.require("sso", now)
    found = [await find_active(ctx, row.id) for row in await identity_providers.fetch_active(ctx.source)]
    providers = {provider.provider_id: provider for provider in found if provider is not None}
    urls = [f"{services.base_url}{PATH}{ending}" for ending in {path, "/acs"}]
    try:
        assertion = await services.saml.verify(response, [to_trusted(item) for item in providers.values()], urls, now)
    except AssertionRefused as error:
        raise Unauthenticated(f"The SAML response is refused: {error}.") from None
    provider = providers[assertion.provider_id]
    used = UsedOnce(services.pool)
    if assertion.request_id is not None:
        read = read_token(services.secrets, "request", assertion.request_id)
        if read is None or read[0] != provider.provider_id:
            raise Unauthenticated("The SAML response answers a request that this server did not make, or too long ago.")
    elif path or not provider.allow_idp_initiated:
        raise Unauthenticated("This server did not ask for the SAML response: begin the sign-in here.")
    if path and (assertion.request_id is None or not has_cookie(ctx.request, assertion.request_id, services.base_url)):
        raise Unauthenticated("This browser did not ask for this sign-in (any more): begin again.")
    if not await used.use("assertion", f"{provider.provider_id} {assertion.assertion_id}") or (
        assertion.request_id is not None and not await used.use("request", assertion.request_id)
    ):
        raise Unauthenticated("The SAML response was used already: sign in again.")
    return provider, assertion


async def find_or_register_user(ctx: RequestContext, provider: IdentityProvider, assertion: Assertion) -> int:
    """Returns the id of the user that an assertion is about. Registers or links the user at their first sign-in, if the
    provider's settings allow that.

    Raises Forbidden if the person has no linked account and the settings allow neither to link nor to register one, or
    if the user may not sign in. Raises Conflict if the NameID or the email address is taken.
    """
    identity = identity_claim(ctx.services.secrets, provider.provider_id, assertion.name_id)
    role = find_role(provider, assertion.attributes)
    actor = "system:sso"
    admin_ids = () if role == "admin" else await auth.fetch_admin_ids(ctx.source)
    receipt = await ctx(SignInByIdentity(identity, provider.provider_id, role, admin_ids), actor=actor)
    if owner := receipt.state(CLAIM.at(identity)).owner:
        return int(owner.removeprefix("user-"))
    email = find_email(provider, assertion)
    if (user := await auth.find_by_email(ctx.source, email)) is not None:
        if not provider.link_by_email:
            raise Forbidden(f"{email} has an account here: an admin must link it to {assertion.name_id!r} first.")
        await ctx(LinkIdentity(user.id, provider.provider_id, identity, assertion.name_id, by_email=True), actor=actor)
        return user.id
    if not provider.create_users or role is None:
        raise Forbidden("You have no account here, and this identity provider makes none for you; ask an admin.")
    await must_have_seat(ctx)
    user_id = await ctx.services.ids.draw("users")
    await ctx(
        RegisterByIdentity(
            user_id,
            provider.provider_id,
            identity,
            assertion.name_id,
            email=email,
            claim=ctx.services.secrets.claim("email", email),
            role=role,
            first_name=find_text(assertion.attributes, FIRST_NAMES)[:100],
            last_name=find_text(assertion.attributes, LAST_NAMES)[:100],
        ),
        actor=actor,
    )
    return user_id


def find_role(provider: IdentityProvider, attributes: Mapping[str, Sequence[str]]) -> Role | None:
    """Returns the highest role that `provider.roles` gives to a value of the role attribute. If `provider.roles` has
    none of the values, returns the provider's default role, which may be None.
    """
    found = {provider.roles.get(value) for value in attributes.get(provider.role_attribute, ())}
    highest: Role | None = next((role for role in ROLES if role in found), None)
    return highest or provider.default_role


def find_email(provider: IdentityProvider, assertion: Assertion) -> str:
    names = (provider.email_attribute,) if provider.email_attribute else EMAILS
    email = find_text(assertion.attributes, names) or ("" if provider.email_attribute else assertion.name_id)
    try:
        return msgspec.convert(email, Email)
    except msgspec.ValidationError:
        raise Forbidden(f"The identity provider asserts no email address ({' or '.join(names)}).") from None


def find_text(attributes: Mapping[str, Sequence[str]], names: Sequence[str]) -> str:
    return next((values[0] for name in names if (values := attributes.get(name))), "")


def to_trusted(provider: IdentityProvider) -> TrustedProvider:
    return TrustedProvider(provider.provider_id, provider.entity_id, provider.sso_url, provider.certificates)


def make_token(secrets: Secrets, purpose: str, number: int, expires: float, text: str) -> str:
    """Returns a signed token that contains a number and a text and is valid until `expires`, in seconds since 1970. The
    token begins with `_`, since the id of a SAML request must be an XML name.
    """
    return secrets.sign(f"sso {purpose}", f"_{number}.{int(expires)}.{text}")


def read_token(secrets: Secrets, purpose: str, token: str) -> tuple[int, str] | None:
    """Returns the number and the text in a token. Returns None if the token has expired or this server did not make
    it.
    """
    signed = secrets.read_signed(f"sso {purpose}", token)
    if signed is None:
        return None
    number, expires, text = signed.removeprefix("_").split(".", 2)
    return (int(number), text) if int(expires) > utcnow().timestamp() else None


def cookie_name(request_id: str, base_url: str) -> str:
    """Returns the name of the cookie of a SAML request. Each request has its own cookie, so that several tabs can sign
    in at once. The prefix `__Host-` keeps other hosts of the domain, and plain http, from setting the cookie.
    """
    prefix = "__Host-" if base_url.startswith("https:") else ""
    return f"{prefix}testhide-sso-{hashlib.sha256(request_id.encode()).hexdigest()[:16]}"


def browser_cookie(request_id: str, base_url: str) -> str:
    # The provider's page posts to this server. Browsers then send only cookies with SameSite=None, which must be
    # Secure; over plain http, a cookie without SameSite is sent for two minutes. A `__Host-` cookie has the path `/`.
    ending = "/; Secure; SameSite=None" if base_url.startswith("https:") else PATH
    seconds = int((SIGN_IN_TIMEOUT + SIGN_IN_CODE_LIFETIME).total_seconds())
    return f"{cookie_name(request_id, base_url)}={request_id}; Max-Age={seconds}; HttpOnly; Path={ending}"


def is_bound(request: Request[Any, Any, Any], name: str, base_url: str) -> bool:
    """Returns whether the HTTP request has a cookie with this name, and the value of the cookie is the id of the SAML
    request that the name was made from.
    """
    return name in request.cookies and has_cookie(request, request.cookies[name], base_url)


def has_cookie(request: Request[Any, Any, Any], request_id: str, base_url: str) -> bool:
    return request.cookies.get(cookie_name(request_id, base_url)) == request_id


def redirect(url: str, headers: Mapping[str, str] = MappingProxyType({})) -> Response[None]:
    return Response(None, status_code=303, headers={"Location": url, **headers})


async def read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Returns the fields of the form that an identity provider's page makes the browser post. Raises Invalid if the
    body is no such form, and HTTPException (415) for another media type.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise HTTPException(f"Send the response as `Content-Type: {FORM}`.", status_code=415)
    try:
        fields = parse_qs((await request.body()).decode("ascii"), strict_parsing=True, max_num_fields=10)
    except ValueError:
        raise Invalid("The body is no form.") from None
    if any(len(values) > 1 for values in fields.values()) or "SAMLResponse" not in fields:
        raise Invalid.field("SAMLResponse", "must be given once")
    return {name: values[0] for name, values in fields.items()}
