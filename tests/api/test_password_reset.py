"""Setting a new password by a link that is mailed, and links of invitations where mail is set up."""

import asyncio
import hashlib
import secrets
from base64 import b64encode
from html.parser import HTMLParser

import requests

from domain.users import PasswordLinkIssued
from integrations.blobs import open_blobs
from integrations.mail import SmtpMailer, parse_smtp_url
from store.log.event_log import EventLog
from store.tables.build_logs import BuildLogs
from store.tables.shared_caches import SharedCaches
from testhide.processes import core
from tests.support.http import Answer, Client
from tests.support.in_process_server import serve_in_process
from tests.support.mail_server import mail_server, text_of
from tests.support.server import Server
from workers.reactions.reaction import Tools
from workers.reactions.registry import when_password_link_issued_mail_it

PASSWORD = "another good password"
SENT = {"detail": "Reset link sent if the account exists."}


def ask(server: Server, email: str) -> Answer:
    return server.client().when("POST", "/reset-password", json={"email": email})


def confirm(server: Server, token: str) -> Answer:
    body = {"token": token, "new_password": PASSWORD}
    return server.client().when("POST", "/reset-password/confirm", json=body)


def email_of(client: Client) -> str:
    return str(client.fetch("/me")["email"])


async def links_after(log: EventLog, position: int) -> list[PasswordLinkIssued]:
    """The links that were issued after a position, at least one: they are issued after the answer."""
    async with asyncio.timeout(20):
        while not (found := await log.read(position, 10, [PasswordLinkIssued.name])):
            await asyncio.sleep(0.02)  # between two looks
    return [recorded.event for recorded in found if isinstance(recorded.event, PasswordLinkIssued)]


async def mailed_link(server: Server, email: str, others: list[str]) -> str:
    """The link that is mailed to who has the address, after some asked for addresses that get none."""
    async with core(server.settings, pool_size=2) as parts, mail_server() as mails:
        mailer = SmtpMailer(parse_smtp_url(mails.url), "testhide@example.com")
        blobs = open_blobs(f"file://{server.settings.data_dir}/blobs")
        tools = Tools(
            BuildLogs(parts.pool), SharedCaches(parts.pool), blobs, parts.log, parts.secrets, mailer, server.url
        )
        head = await parts.log.read_head()
        for address in (*others, email.upper()):
            assert ask(server, address).then(202) == SENT
        (event,) = await links_after(parts.log, head)
        assert event.purpose == "reset"
        await when_password_link_issued_mail_it(event, tools)
    assert mails.mails[0]["To"] == email
    assert "If it was not you, do nothing" in text_of(mails.mails[0])
    return mails.link_of()


def test_a_password_is_reset_by_the_link_that_is_mailed(server: Server) -> None:
    ann, gone = server.make_user("developer"), server.make_user("developer")
    email, inactive = email_of(ann), email_of(gone)
    server.admin.when("PUT", f"/users/{gone.fetch('/me')['id']}", json={"active": False}).then(200)
    invited = server.admin.create("/users", email=f"{secrets.token_hex(6)}@example.com", role="viewer")["email"]
    bot = server.client().authorize(ann.create("/api-tokens", name="bot")["secret"])
    link = asyncio.run(mailed_link(server, email, [f"x{email}", invited, inactive]))
    page, _, token = link.partition("#")
    assert page == f"{server.url}/set-password"
    assert confirm(server, token).then(200) == {"detail": "Password updated successfully."}
    assert [client.when("GET", "/me").status_code for client in (ann, bot)] == [401, 200]
    confirm(server, token).then(422)
    server.client(email, PASSWORD)


class Page(HTMLParser):
    """The elements of a page that are of interest: attributes by tag, and what scripts and styles contain."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.contents: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.attributes and (tag := self.attributes[-1][0]) in ("script", "style"):
            self.contents.setdefault(tag, data)

    def values(self, tag: str, name: str) -> list[str | None]:
        return [attributes.get(name) for found, attributes in self.attributes if found == tag]


def test_the_page_of_a_link_runs_its_script_and_nothing_else(server: Server) -> None:
    answer = requests.get(f"{server.url}/set-password", timeout=10)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
    assert answer.headers.items() >= headers.items()
    page = Page(answer.text)
    policy = dict(part.split(maxsplit=1) for part in answer.headers["Content-Security-Policy"].split("; "))
    for tag in ("script", "style"):
        digest = b64encode(hashlib.sha256(page.contents[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert (policy["default-src"], policy["connect-src"], policy["frame-ancestors"]) == ("'none'", "'self'", "'none'")
    assert not [name for _, attributes in page.attributes for name in attributes if name in ("src", "href", "action")]
    assert page.values("label", "for") == page.values("input", "id") == ["first", "second"]
    assert page.values("html", "lang") == ["en"]
    assert 'fetch("api/v3/reset-password/confirm"' in page.contents["script"]
    assert "JSON.stringify({token, new_password: first.value})" in page.contents["script"]


def test_nobody_floods_a_mailbox(server: Server) -> None:
    for email in (email_of(server.make_user("viewer")), f"{secrets.token_hex(6)}@example.com"):
        assert [ask(server, email).status_code for _ in range(3)] == [202, 202, 202]
        refused = ask(server, email.upper())
        assert refused.then(429)["detail"].startswith("Too many links were asked for; try again in ")
        assert 0 < int(refused.headers["Retry-After"]) <= 300
    ask(server, "no address").then(422)


def test_where_mail_is_set_up_no_answer_shows_a_link(server: Server) -> None:
    mail = {"smtp_url": "smtp://mail.example.com", "mail_from": "testhide@example.com"}
    with serve_in_process(server, **mail) as inside:
        admin = Client(inside.url).authorize(server.admin.token)
        assert admin.fetch("/config")["mail"] == {"enabled": True}
        invited = admin.create("/users", email=f"{secrets.token_hex(6)}@example.com", role="viewer")
        assert invited["invitation_url"] is None
        again = admin.when("POST", f"/users/{invited['id']}/invite").then(201)
        assert again["invitation_url"] is None
