"""Mails that follow from events: links to set a password, and the notice that one was set."""

from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from commands.handler import CommandContext, Handler
from commands.users import DeleteUser, InviteUser, IssuePasswordLink, UsePasswordLink, register_user
from domain.users import USER
from integrations.blobs import open_blobs
from integrations.mail import SmtpMailer, parse_smtp_url
from integrations.ports import Mailer
from store.clock import utcnow
from store.postgres.notifications import EVENTS, Listener
from store.tables.build_logs import BuildLogs
from store.tables.shared_caches import SharedCaches
from testhide.processes import Core
from tests.support.mail_server import MailServer, mail_server, text_of
from tests.workers.yard import run_due
from workers.reactions.reaction import Tools
from workers.reactions.reaction_dispatcher import ReactionDispatcher
from workers.reactions.registry import REACTIONS

ADMIN, ANN = 1, 7
BASE_URL = "https://ci.example.com"
CALLER = CommandContext("user:1")


class Office:
    """A server with an admin; what it has to mail goes to a mail server."""

    def __init__(self, parts: Core, folder: Path) -> None:
        self._parts, self._folder = parts, folder
        self.handler = Handler(parts.log, utcnow)
        self._reactions = [reaction for reaction in REACTIONS if reaction.name.startswith("mail_")]

    async def begin(self) -> None:
        parts = self._parts
        await register_user(
            self.handler, parts.ids, parts.secrets, CALLER, email="root@example.com", password="x" * 9, role="admin"
        )
        async with parts.pool.connection() as connection:
            for reaction in self._reactions:
                await connection.execute(
                    "INSERT INTO reaction_positions VALUES (%s, %s)", (reaction.name, await parts.log.read_head())
                )

    async def invite(self, hours: int = 1) -> None:
        until = utcnow() + timedelta(hours=hours)
        await self.handler.execute(
            InviteUser(ANN, "ann@example.com", "developer", "email-ann", "link-1", until), CALLER
        )

    async def react(self, mailer: Mailer | None) -> list[str]:
        """Runs what is due now. Returns the errors of what failed."""
        parts = self._parts
        tools = Tools(
            BuildLogs(parts.pool),
            SharedCaches(parts.pool),
            open_blobs(self._folder.as_uri()),
            parts.log,
            parts.secrets,
            mailer,
            BASE_URL,
        )
        listener = Listener(parts.conninfo, EVENTS)
        dispatcher = ReactionDispatcher(parts.pool, parts.log, listener, "redis://127.0.0.1:1", self._reactions, tools)
        for reaction in self._reactions:
            while await dispatcher.note_next(reaction):
                continue
        async with parts.pool.connection() as connection:
            await connection.execute("UPDATE due_reactions SET due_at = now()")
            await run_due(dispatcher)
            rows = await (await connection.execute("SELECT error FROM due_reactions")).fetchall()
        return [str(error) for (error,) in rows]

    async def set_password(self, link: str, days_ago: int = 0) -> None:
        token = link.removeprefix(f"{BASE_URL}/set-password#")
        read = self._parts.secrets.read_link_token(token)
        assert read is not None
        handler = Handler(self._parts.log, lambda: utcnow() - timedelta(days=days_ago))
        await handler.execute(UsePasswordLink(*read, "hash", utcnow()), CALLER)

    async def has_password(self) -> bool:
        user = await self._parts.log.load_state(USER.at(ANN))
        return user is not None and bool(user.password_hash)


def smtp(server: MailServer) -> SmtpMailer:
    return SmtpMailer(parse_smtp_url(server.url), "testhide@ci.example.com")


@pytest.fixture
async def office(parts: Core, tmp_path: Path) -> Office:
    office = Office(parts, tmp_path)
    await office.begin()
    return office


async def test_an_invitation_leads_to_a_password_and_a_notice(office: Office) -> None:
    async with mail_server() as server:
        await office.invite()
        assert await office.react(smtp(server)) == []
        await office.set_password(server.link_of())
        assert await office.has_password()
        assert await office.react(smtp(server)) == []
        assert await office.react(smtp(server)) == []
    assert [(mail["To"], mail["Subject"]) for mail in server.mails] == [
        ("ann@example.com", "You are invited to Testhide"),
        ("ann@example.com", "Your Testhide password was set"),
    ]
    assert "tell an administrator" in text_of(server.mails[1])


async def test_no_notice_is_mailed_days_later(office: Office) -> None:
    """`testhide repair` has reactions begin with the first event."""
    async with mail_server() as server:
        await office.invite()
        assert await office.react(smtp(server)) == []
        await office.set_password(server.link_of(), days_ago=2)
        assert await office.react(smtp(server)) == []
    assert len(server.mails) == 1


async def test_a_mail_waits_for_the_server_to_come_back(office: Office) -> None:
    async with mail_server() as server:
        pass
    await office.invite()
    (error,) = await office.react(smtp(server))
    assert "Connect call failed" in error
    assert "ann@" not in error
    async with mail_server(server):
        assert await office.react(smtp(server)) == []
    assert [mail["To"] for mail in server.mails] == ["ann@example.com"]


async def test_a_link_is_not_sent_when_it_is_of_no_use_any_more(office: Office) -> None:
    async with mail_server() as server:
        await office.invite(hours=-1)
        with capture_logs() as logged:
            assert await office.react(smtp(server)) == []
        assert [line["event"] for line in logged] == ["a link has expired before it could be sent"]
        for link_id in ("link-2", "link-3"):
            until = utcnow() + timedelta(minutes=30)
            await office.handler.execute(IssuePasswordLink(ANN, "reset", link_id, until), CALLER)
        assert await office.react(smtp(server)) == []
        assert [mail["Subject"] for mail in server.mails] == ["Reset your Testhide password"]
        await office.handler.execute(IssuePasswordLink(ANN, "reset", "link-4", until), CALLER)
        await office.handler.execute(DeleteUser(ANN, ADMIN), CALLER)
        assert await office.react(smtp(server)) == []
    assert len(server.mails) == 1


async def test_a_mail_that_is_refused_for_good_is_logged_and_not_repeated(office: Office) -> None:
    async with mail_server() as server:
        server.refusals["ann@example.com"] = "550 no such user ann@example.com"
        await office.invite()
        with capture_logs() as logged:
            assert await office.react(smtp(server)) == []
    assert [(line["event"], line["user"], line["answer"]) for line in logged] == [
        ("a mail was refused", ANN, "127.0.0.1 answered 550 no such user the recipient")
    ]


async def test_without_a_mail_server_the_log_says_so_without_the_link(office: Office) -> None:
    await office.invite()
    with capture_logs() as logged:
        assert await office.react(None) == []
    assert logged == [
        {
            "event": "no mail is sent: TESTHIDE_SMTP_URL is not set",
            "log_level": "warning",
            "user": ANN,
            "subject": "You are invited to Testhide",
        }
    ]
