"""Mails over SMTP, against a real SMTP server: TLS, sign-in, refusals, and what both forms of a mail show."""

import dataclasses
import ssl
import subprocess
from pathlib import Path

import pytest

from integrations.mail import PrintedLinks, SmtpMailer, SmtpServer, must_be_sender, parse_smtp_url
from integrations.ports import Mail, MailNotSent, MailRefused
from tests.support.mail_server import PASSWORD, USER, MailServer, mail_server, text_of

SENDER = "Testhide <testhide@ci.example.com>"
MAIL = Mail(
    "ann@example.com",
    "You are invited — welcome",
    ("Hello <b>, set a password here:", "It works once."),
    f"https://ci.example.com/set-password#7.{'x' * 90}",
    "link-7-abc",
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The certificate and the key of localhost."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    files = [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(folder / "key"),
        "-out",
        str(folder / "certificate"),
    ]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    return folder / "certificate", folder / "key"


@pytest.fixture
def serving(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))


def elsewhere(server: MailServer, **changes: object) -> SmtpServer:
    """The server as if it were on another machine, by a name that its certificate has."""
    return dataclasses.replace(parse_smtp_url(server.url), host="localhost", must_start_tls=True, **changes)  # type: ignore[arg-type]


async def test_a_mail_has_text_and_html() -> None:
    async with mail_server() as server:
        await SmtpMailer(parse_smtp_url(server.url), SENDER).send(MAIL)
    (mail,) = server.mails
    assert server.logins == [True]
    assert [mail[name] for name in ("From", "To", "Subject", "Message-ID", "Auto-Submitted")] == [
        SENDER, MAIL.to, MAIL.subject, "<link-7-abc@ci.example.com>", "auto-generated",
    ]  # fmt: skip
    assert text_of(mail) == f"Hello <b>, set a password here:\n\n{MAIL.link}\n\nIt works once.\n"
    html = text_of(mail, "html")
    assert "<p>Hello &lt;b&gt;, set a password here:</p>" in html
    assert f'<p><a href="{MAIL.link}">{MAIL.link}</a></p>' in html


async def test_elsewhere_nothing_is_sent_before_tls(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async with mail_server(tls=serving) as server:
        await SmtpMailer(elsewhere(server), SENDER, tls=trusting).send(MAIL)
        assert server.tls_used == [True]
        with pytest.raises(MailNotSent, match=r"localhost: .*certificate"):
            await SmtpMailer(elsewhere(server), SENDER).send(MAIL)
    async with mail_server() as server:
        with pytest.raises(MailNotSent, match=r"localhost: .*STARTTLS"):
            await SmtpMailer(elsewhere(server), SENDER, tls=trusting).send(MAIL)
    assert (server.logins, server.mails) == ([], [])
    async with mail_server(tls=serving, is_tls=True) as server:
        there = elsewhere(server, is_tls=True)
        await SmtpMailer(dataclasses.replace(there, must_start_tls=False), SENDER, tls=trusting).send(MAIL)
    assert len(server.mails) == 1


async def test_what_the_server_refuses() -> None:
    async with mail_server() as server:
        mailer = SmtpMailer(parse_smtp_url(server.url), SENDER)
        server.refusals[MAIL.to] = f"550 5.1.1 <{MAIL.to}>: nobody here"
        with pytest.raises(MailRefused) as refused:
            await mailer.send(MAIL)
        assert str(refused.value) == "127.0.0.1 answered 550 5.1.1 <the recipient>: nobody here"
        server.refusals[MAIL.to] = "451 4.7.1 come back later"
        with pytest.raises(MailNotSent, match=r"451 4\.7\.1 come back later"):
            await mailer.send(MAIL)
        wrong = dataclasses.replace(parse_smtp_url(server.url), password="hush")
        with pytest.raises(MailNotSent, match=r"127\.0\.0\.1 answered 535 ") as failed:
            await SmtpMailer(wrong, SENDER).send(MAIL)
        assert "hush" not in str(failed.value) + repr(wrong)
    with pytest.raises(MailNotSent, match="Connect call failed"):
        await mailer.send(MAIL)
    async with mail_server(server):
        server.refusals.clear()
        await mailer.send(MAIL)
    assert len(server.mails) == 1


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.example.com", SmtpServer("mail.example.com", 587, None, None, False, True)),
        ("smtp://a%40b:c%3A@mail.example.com:25/", SmtpServer("mail.example.com", 25, "a@b", "c:", False, True)),
        ("smtps://mail.example.com", SmtpServer("mail.example.com", 465, None, None, True, False)),
        ("smtp://127.0.0.1:25", SmtpServer("127.0.0.1", 25, None, None, False, False)),
        ("smtp://[::1]", SmtpServer("::1", 587, None, None, False, False)),
        ("smtp://127.0.0.1.example.com", SmtpServer("127.0.0.1.example.com", 587, None, None, False, True)),
    ],
)
def test_urls_of_mail_servers(url: str, server: SmtpServer) -> None:
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url", ["", "mail.example.com", "http://mail.example.com", "smtp://", "smtp://h:x", "smtp://h/p", "smtp://u@h"]
)
def test_what_is_no_url_of_a_mail_server(url: str) -> None:
    with pytest.raises(ValueError, match="must be like smtp://USER:PASSWORD@"):
        parse_smtp_url(url)


def test_senders() -> None:
    for sender in (SENDER, USER):
        must_be_sender(sender)
    for wrong in ("", "testhide", "@example.com", "a@", "a@example.com\nBcc: b@example.com"):
        with pytest.raises(ValueError, match="must be an address"):
            must_be_sender(wrong)


async def test_links_are_printed_where_no_mail_server_is(capsys: pytest.CaptureFixture[str]) -> None:
    await PrintedLinks().send(MAIL)
    await PrintedLinks().send(dataclasses.replace(MAIL, link=""))
    assert capsys.readouterr().out == f"no mail is set up; for {MAIL.to} ({MAIL.subject}): {MAIL.link}  (shown once)\n"
    assert PASSWORD not in repr(parse_smtp_url(MailServer(port=25).url))
