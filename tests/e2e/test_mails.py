"""Links that a running server mails over SMTP: an invitation and a reset, from the request to the new password."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testhide.engines import Engines
from tests.support.http import Client
from tests.support.mail_server import MailServer, mail_server
from tests.support.server import Server, server_on_new_database

ANN, FIRST, SECOND = "ann@example.com", "the first good password", "the second good password"
SUBJECTS = ["You are invited to Testhide", "Your Testhide password was set", "Reset your Testhide password"]


async def test_an_invitation_and_a_reset_by_the_links_that_were_sent(engines: Engines, tmp_path: Path) -> None:
    async with mail_server() as mails:
        settings: dict[str, Any] = {"smtp_url": mails.url, "mail_from": "testhide@ci.example.com"}
        mails.refusals[ANN] = "451 4.7.1 come back later"  # until it is invited, and tried once
        context = server_on_new_database(engines, tmp_path, "serve", "project", "work", **settings)
        server = await asyncio.to_thread(context.__enter__)
        try:
            await walk(server, mails)
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)
    assert [mail["Subject"] for mail in mails.mails] == [*SUBJECTS, SUBJECTS[1]]
    assert {mail["To"] for mail in mails.mails} == {ANN}
    assert set(mails.logins) == {True}


async def walk(server: Server, mails: MailServer) -> None:
    assert (await asyncio.to_thread(server.admin.fetch, "/config"))["mail"] == {"enabled": True}
    invited = await asyncio.to_thread(lambda: server.admin.create("/users", email=ANN, role="developer"))
    assert invited["invitation_url"] is None, "the link is in the mail alone"
    await until(lambda: mails.logins)
    mails.refusals.clear()

    await until(lambda: mails.mails)
    ann = await asyncio.to_thread(use_link, server, mails.link_of(), FIRST)
    await until(lambda: len(mails.mails) == 2)
    request = {"json": {"email": ANN}}
    await asyncio.to_thread(lambda: server.client().when("POST", "/reset-password", **request).then(202))
    await until(lambda: len(mails.mails) == 3)
    again = await asyncio.to_thread(use_link, server, mails.link_of(), SECOND)
    statuses = [(await asyncio.to_thread(one.when, "GET", "/me")).status_code for one in (ann, again)]
    assert statuses == [401, 200]
    await until(lambda: len(mails.mails) == 4)


def use_link(server: Server, link: str, password: str) -> Client:
    """Sets the password by a link, which works once, and signs in."""
    page, _, token = link.partition("#")
    client, body = server.client(), {"token": token, "new_password": password}
    assert client.get(page.removeprefix(server.url)).status_code == 200
    client.when("POST", "/reset-password/confirm", json=body).then(200)
    client.when("POST", "/reset-password/confirm", json=body).then(422)
    return server.client(ANN, password)


async def until(found: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not found():
            await asyncio.sleep(0.02)  # between two looks
