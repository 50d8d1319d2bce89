"""A mail server for tests: a real SMTP server that keeps the mails it accepts, and refuses recipients as a test tells
it.
"""

import asyncio
import contextlib
import re
import ssl
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "ci@example.com", "p@ss/wörd"


@dataclass
class MailServer:
    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    """Recipient -> answer by which the server refuses the recipient."""
    tls_used: list[bool] = field(default_factory=list)
    logins: list[bool] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"smtp://ci%40example.com:p%40ss%2Fw%C3%B6rd@127.0.0.1:{self.port}"

    def link_of(self, number: int = -1) -> str:
        """Returns the link in the text of a mail."""
        (link,) = re.findall(r"http\S+#\S+", text_of(self.mails[number]))
        return str(link)

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password) == (USER.encode(), PASSWORD.encode()))
        return AuthResult(success=self.logins[-1], handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := self.refusals.get(address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, EmailMessage, policy=policy.default)
        self.mails.append(message)
        self.tls_used.append(session.ssl is not None)
        return "250 OK"


def text_of(message: EmailMessage, kind: str = "plain") -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


@contextlib.asynccontextmanager
async def mail_server(
    made: MailServer | None = None, *, tls: ssl.SSLContext | None = None, is_tls: bool = False
) -> AsyncIterator[MailServer]:
    """Runs a mail server while the block runs. `tls` is offered by STARTTLS, or spoken from the first byte if `is_tls`.
    An earlier server, given as `made`, listens at its port again.
    """
    server = made or MailServer()

    starttls = None if is_tls else tls
    needs_tls = starttls is not None

    def new_session() -> SMTP:
        with warnings.catch_warnings(action="ignore"):  # aiosmtpd warns of passwords without TLS
            return SMTP(
                server,
                tls_context=starttls,
                require_starttls=needs_tls,
                authenticator=server.authenticate,
                auth_required=True,
                auth_require_tls=needs_tls,
                hostname="mail.example.com",
            )

    loop, first_bytes = asyncio.get_running_loop(), tls if is_tls else None
    async with await loop.create_server(new_session, "127.0.0.1", server.port, ssl=first_bytes) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
