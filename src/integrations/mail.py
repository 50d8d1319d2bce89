"""Sends mails over SMTP, or prints their links if no mail server is set up."""

import asyncio
import re
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from html import escape
from urllib.parse import unquote, urlsplit

from integrations.ports import Mail, MailNotSent, MailRefused

TIMEOUT_S = 20.0
"""Longest time in seconds of a try to send a mail, from the wait for a connection to the server's last answer."""
MAX_CONNECTIONS = 3
"""Largest number of connections to the mail server at once. Large providers refuse more."""
PORTS = {"smtp": 587, "smtps": 465}
FORM = "must be like smtp://USER:PASSWORD@mail.example.com:587, or smtps://… for TLS from the first byte"
MAX_ANSWER = 200
"""Largest number of characters of a server's answer that errors show."""
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")


@dataclass(frozen=True)
class SmtpServer:
    host: str
    port: int
    username: str | None
    password: str | None
    is_tls: bool
    """Whether the connection is TLS from its first byte."""
    must_start_tls: bool
    """Whether the connection must become TLS by STARTTLS before anything is sent."""

    def __repr__(self) -> str:
        return f"SmtpServer({self.host}:{self.port})"


def parse_smtp_url(text: str) -> SmtpServer:
    """Returns the server that a URL names. Connections by smtp:// to this machine itself are not encrypted.

    Raises ValueError if the URL is not usable. The error's message continues a sentence that begins with the name of
    the setting.
    """
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port or PORTS[url.scheme]
    except (ValueError, KeyError):
        raise ValueError(FORM) from None
    if not host or url.path not in ("", "/") or url.query or url.fragment:
        raise ValueError(FORM)
    username, password = (None if part is None else unquote(part) for part in (url.username, url.password))
    if (username is None) != (password is None):
        raise ValueError(f"has a user or a password alone: it {FORM}")
    is_tls = url.scheme == "smtps"
    return SmtpServer(host, port, username, password, is_tls, not is_tls and not _LOOPBACK.fullmatch(host))


def must_be_sender(text: str) -> None:
    """Raises ValueError if the text is not an email address; a person's name may precede it (`CI <ci@example.com>`).
    The error's message continues a sentence that begins with the name of the setting.
    """
    _, address = parseaddr(text)
    local, _, domain = address.rpartition("@")
    if not local or not domain or not text.isprintable():
        raise ValueError("must be an address like testhide@example.com, or Testhide <testhide@example.com>")


class SmtpMailer:
    """Implements `Mailer`. Opens a connection for each mail."""

    def __init__(
        self, server: SmtpServer, sender: str, *, tls: ssl.SSLContext | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._server = server
        self._sender = sender
        self._tls = tls
        self._timeout_s = timeout_s
        self._connections = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(self, mail: Mail) -> None:
        # Imported with the first mail, since many processes never send one.
        import aiosmtplib

        server = self._server
        try:
            async with asyncio.timeout(self._timeout_s), self._connections:
                await aiosmtplib.send(
                    compose(mail, self._sender),
                    recipients=[mail.to],
                    hostname=server.host,
                    port=server.port,
                    username=server.username,
                    password=server.password,
                    use_tls=server.is_tls,
                    start_tls=server.must_start_tls,
                    tls_context=self._tls or ssl.create_default_context(),
                    timeout=self._timeout_s,
                )
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPResponseException) as refused:
            error = refused.recipients[0] if isinstance(refused, aiosmtplib.SMTPRecipientsRefused) else refused
            answer = f"{server.host} answered {error.code} {_without_address(error.message, mail)}"
            # The operator can mend the causes of other refusals: the account, the sender or the connection.
            is_of_mail = isinstance(error, aiosmtplib.SMTPRecipientRefused | aiosmtplib.SMTPDataError)
            raise (MailRefused if is_of_mail and error.code >= 500 else MailNotSent)(answer) from None
        except TimeoutError:
            raise MailNotSent(f"{server.host} did not answer within {self._timeout_s:.0f} s") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise MailNotSent(f"{server.host}: {_without_address(str(error), mail)}") from None


def compose(mail: Mail, sender: str) -> EmailMessage:
    """Returns the mail as a message with a plain text part and an HTML part."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, mail.to, mail.subject
    message["Date"] = formatdate(usegmt=True)
    message["Message-ID"] = f"<{mail.key}@{parseaddr(sender)[1].rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # so that nobody's out-of-office note answers
    first, *rest = mail.sentences
    link = [mail.link] if mail.link else []
    message.set_content("\n\n".join([first, *link, *rest]) + "\n", cte="quoted-printable")
    paragraphs = [escape(first), *(f'<a href="{escape(url)}">{escape(url)}</a>' for url in link), *map(escape, rest)]
    body = "\n".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    html = f'<!doctype html>\n<html lang="en">\n<title>{escape(mail.subject)}</title>\n{body}\n</html>\n'
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message


def _without_address(text: str, mail: Mail) -> str:
    """Returns a server's answer for logs: shortened, and without the address of the recipient."""
    return re.sub(re.escape(mail.to), "the recipient", text, flags=re.IGNORECASE)[:MAX_ANSWER]


class PrintedLinks:
    """Implements `Mailer` without a mail server. Prints the link of a mail; drops a mail without a link."""

    async def send(self, mail: Mail) -> None:
        if mail.link:
            print(f"no mail is set up; for {mail.to} ({mail.subject}): {mail.link}  (shown once)", flush=True)
