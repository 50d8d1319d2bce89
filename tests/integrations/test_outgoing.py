"""The only way out: what it refuses, and that what it checked is what it connects to."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from integrations.addresses import parse_networks, parse_url
from integrations.outgoing import HttpOutgoing
from integrations.outgoing_calls import MAX_RESPONSE_BYTES
from integrations.ports import Outgoing, Refused, Unanswered
from tests.integrations.receiving import receiving

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.216.34"
LOOPBACK = parse_networks("127.0.0.0/8")

MISWRITTEN = {
    "https://2130706433/": "four decimal numbers",
    "https://127.1/": "four decimal numbers",
    "https://127.0.1/": "four decimal numbers",
    "https://0/": "four decimal numbers",
    "https://0177.0.0.1/": "four decimal numbers",
    "https://0x7f.0.0.1/": "four decimal numbers",
    "https://0x7f000001/": "four decimal numbers",
    "https://0X7F.1/": "four decimal numbers",
    "https://017700000001/": "four decimal numbers",
    "https://127.000.000.001/": "four decimal numbers",
    "https://169.254.43518/": "four decimal numbers",
    "https://256.1.1.1/": "four decimal numbers",
    "https://1.2.3.4.5/": "four decimal numbers",
    "https://4294967297/": "four decimal numbers",
    "https://127.0.0.1./": "ends in a dot",
    "https://localhost./": "ends in a dot",
    "https://１２７.０.０.１/": "not ASCII",
    "https://127。0。0。1/": "not ASCII",
    "https://ⓛocalhost/": "not ASCII",
    "https://①②⑦.⓪.⓪.①/": "not ASCII",
    "https://%31%32%37.0.0.1/": "% in its host",
    "https://localhost%00.example.com/": "% in its host",
    "https://[fe80::1%25eth0]/": "% in its host",
    "https://[::1%eth0]/": "% in its host",
    "https://[127.0.0.1]/": "no URL",
    "https://[v1.fe80]/": "no URL",
    "https://user:secret@example.com/": "credentials",
    "https://example.com@127.0.0.1/": "credentials",
    "https://@example.com/": "credentials",
    "https://127.0.0.1#@example.com/": "is this machine",
    "https://127.0.0.1?@example.com/": "is this machine",
    "https://example.com\\@127.0.0.1/": "backslash",
    "https:\\\\127.0.0.1/": "backslash",
    "https://127.0.0.1\t.example.com/": "control character",
    "https://example.com/\r\nHost: 127.0.0.1": "control character",
    " https://example.com/": "space",
    "http://example.com/": "https://",
    "ftp://example.com/": "https://",
    "file:///etc/passwd": "https://",
    "gopher://127.0.0.1:6379/_INFO": "https://",
    "javascript:alert(1)": "https://",
    "unix:///run/docker.sock": "https://",
    "//example.com/": "https://",
    "example.com/hook": "https://",
    "": "https://",
    "https://": "names no host",
    "https:///path": "names no host",
    "https:example.com": "names no host",
    "https://?": "names no host",
    "https://example.com:0/": "no URL",
    "https://example.com:65536/": "no URL",
    "https://example.com:port/": "no URL",
    "https://[::1/": "no URL",
    "https://exa_mple..com/": "no name",
    "https://-example.com/": "no name",
    "https://a,b.example.com/": "no name",
    "https://" + "a" * 300 + ".com/": "no name",
    "https://example.com/" + "x" * 2_000: "longer than",
}

LITERAL = {
    "127.0.0.1": "this machine",
    "127.255.255.254": "this machine",
    "0.0.0.0": "this machine",  # noqa: S104 - refused
    "0.1.2.3": "this machine",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "100.64.0.1": "carrier",
    "100.100.100.200": "carrier",
    "169.254.169.254": "link-local",
    "169.254.170.2": "link-local",
    "168.63.129.16": "metadata",
    "192.0.0.192": "protocols",
    "192.0.2.1": "documentation",
    "192.88.99.1": "6to4",
    "198.18.0.1": "measurements",
    "203.0.113.7": "documentation",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "[::]": "this machine",
    "[::1]": "this machine",
    "[0:0:0:0:0:0:0:1]": "this machine",
    "[::ffff:127.0.0.1]": "in disguise",
    "[::ffff:7f00:1]": "in disguise",
    "[::ffff:8.8.8.8]": "in disguise",
    "[0:0:0:0:0:ffff:10.0.0.1]": "in disguise",
    "[::ffff:0:127.0.0.1]": "in disguise",
    "[::127.0.0.1]": "in disguise",
    "[64:ff9b::127.0.0.1]": "NAT64",
    "[64:ff9b::7f00:1]": "NAT64",
    "[64:ff9b::8.8.8.8]": "NAT64",
    "[64:ff9b:1::a00:1]": "NAT64",
    "[2002:7f00:1::]": "6to4",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]": "Teredo",
    "[2001:db8::1]": "documentation",
    "[fc00::1]": "private",
    "[fd00:ec2::254]": "private",
    "[fe80::1]": "link-local",
    "[fec0::1]": "private",
    "[ff02::1]": "multicast",
    "[2001:470::5efe:7f00:1]": "ISATAP",
    "[2001:470::200:5efe:10.0.0.1]": "ISATAP",
    "[2606:4700:0:0:0:5efe:a9fe:a9fe]": "ISATAP",
    "[100::1]": "not public",
    "[64:ff9b:2::1]": "not public",
    "[5f00::1]": "not public",
    "[4000::1]": "not public",
}


async def nowhere(name: str) -> Sequence[str]:
    raise AssertionError(f"{name} is looked up")


@contextlib.asynccontextmanager
async def outgoing(resolve: Any = nowhere, **more: Any) -> AsyncIterator[HttpOutgoing]:
    async with HttpOutgoing(more.pop("allowed", ()), resolve=resolve, **more) as client:
        yield client


async def is_refused(client: Outgoing, url: str, why: str) -> None:
    for call in (
        lambda url: client.check(url, is_admin=True),
        lambda url: client.post(url, b"{}", {}),
        lambda url: client.fetch(url, 1_000),
    ):
        with pytest.raises(Refused) as refused:
            await call(url)
        assert why in str(refused.value), refused.value
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("url", "why"), MISWRITTEN.items())
async def test_what_is_written_oddly_is_refused(url: str, why: str) -> None:
    async with outgoing() as client:
        await is_refused(client, url, why)


@pytest.mark.parametrize("port", ["", ":443", ":8080"])
@pytest.mark.parametrize(("host", "why"), LITERAL.items())
async def test_what_is_not_public_is_refused(host: str, why: str, port: str) -> None:
    async with outgoing() as client:
        await is_refused(client, f"https://{host}{port}/hook", why)


@pytest.mark.parametrize("host", LITERAL)
async def test_a_name_that_leads_there_is_refused(host: str) -> None:
    async def resolve(name: str) -> Sequence[str]:
        return [PUBLIC, host.strip("[]")]  # one bad address is one too many

    async with outgoing(resolve) as client:
        await is_refused(client, "https://hooks.example.com/", LITERAL[host])


@pytest.mark.parametrize("name", ["localhost", "hooks.localhost", "a.b.LOCALHOST", "127.0.0.1.localhost"])
async def test_names_of_this_machine_are_refused_without_a_name_server(name: str) -> None:
    async with HttpOutgoing() as client:
        await is_refused(client, f"https://{name}/", "this machine")


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/testhide",
        "https://hooks.example.com:8443/a?b=c#d",
        f"https://{PUBLIC}/",
        "https://[2606:2800:220:1::1]/x",
        "https://[2606:2800:0220:0001:0000:0000:0000:0001]/x",
        "https://xn--bcher-kva.example/",
        "https://a_b.example.com/",
        "HTTPS://HOOKS.EXAMPLE.COM/",
    ],
)
async def test_public_ones_are_taken(url: str) -> None:
    async def resolve(name: str) -> Sequence[str]:
        return [PUBLIC]

    async with outgoing(resolve) as client:
        await client.check(url, is_admin=False)
        assert parse_url(url).is_https


async def test_a_name_that_cannot_be_looked_up_passes_until_it_is_called() -> None:
    async def resolve(name: str) -> Sequence[str]:
        raise OSError("no name server")

    async with outgoing(resolve) as client:
        await client.check("https://hooks.example.com/", is_admin=False)
        with pytest.raises(Refused):
            await client.check("http://hooks.example.com/", is_admin=False)
        with pytest.raises(Unanswered, match="looked up"):
            await client.post("https://hooks.example.com/", b"", {})


async def test_a_name_that_changes_after_the_look() -> None:
    """DNS rebinding: public when the URL is set, this machine when it is called."""
    answers = [[PUBLIC], ["127.0.0.1"]]

    async def resolve(name: str) -> Sequence[str]:
        return answers.pop(0)

    async with receiving() as receiver, outgoing(resolve) as client:
        url = f"https://rebinding.example.com:{receiver.port}/"
        await client.check(url, is_admin=False)
        with pytest.raises(Refused, match="this machine"):
            await client.post(url, b"{}", {})
        assert receiver.requests == []


async def test_it_connects_to_what_it_checked_and_looks_once() -> None:
    """A second look-up would be another answer: here one that is refused."""
    looks: list[str] = []

    async def resolve(name: str) -> Sequence[str]:
        looks.append(name)
        return ["127.0.0.1"] if len(looks) == 1 else ["10.0.0.1"]

    async with receiving() as receiver, outgoing(resolve, allowed=LOOPBACK) as client:
        answer = await client.post(f"http://hooks.example.com:{receiver.port}/a?b=c", b"{}", {"X-One": "1"})
        assert answer.status == 200
        (request,) = receiver.requests
        assert (request.path, request.headers["Host"]) == ("/a?b=c", f"hooks.example.com:{receiver.port}")
        assert (request.headers["X-One"], request.body) == ("1", b"{}")
        assert looks == ["hooks.example.com"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers(status: int) -> None:
    async with receiving() as inside, receiving() as receiver, outgoing(allowed=LOOPBACK) as client:
        receiver.answers.append((status, {"Location": inside.url}, b""))
        assert (await client.post(receiver.url, b"{}", {})).status == status
        assert inside.requests == []


async def test_a_document_is_whole_or_refused() -> None:
    async with receiving() as inside, receiving() as receiver, outgoing(allowed=LOOPBACK) as client:
        for body in (b"", b"x" * 1_000):
            receiver.answers.append((200, {}, body))
            assert await client.fetch(receiver.url, 1_000) == body
        for status, body, why in (
            (200, b"x" * 1_001, "more than 1,000 bytes"),
            (404, b"secret", "status 404"),
            (302, b"", "redirects are not followed"),
        ):
            receiver.answers.append((status, {"Location": inside.url}, body))
            with pytest.raises(Unanswered, match=why) as unanswered:
                await client.fetch(receiver.url, 1_000)
            assert "secret" not in str(unanswered.value)
        assert inside.requests == []
        with pytest.raises(Unanswered, match="connection refused"):
            await client.fetch("http://127.0.0.1:1/", 1_000)


async def test_what_the_operator_opens() -> None:
    async with receiving() as receiver, outgoing(allowed=LOOPBACK) as client:
        await client.check(receiver.url, is_admin=False)
        assert (await client.post(receiver.url, b"{}", {})).status == 200
        await is_refused(client, "http://10.0.0.1/", "https://")
        await is_refused(client, "https://10.0.0.1/", "private")
        await is_refused(client, "http://[::ffff:127.0.0.1]/", "https://")
        await is_refused(client, f"http://{PUBLIC}/", "https://")
        await is_refused(client, "http://2130706433/", "four decimal numbers")


@pytest.mark.parametrize("text", ["127.0.0.1/8", "loopback", "10.0.0.0/33", "10.0.0.0-10.0.0.9"])
def test_ranges_are_checked(text: str) -> None:
    with pytest.raises(ValueError):
        parse_networks(f"10.0.0.0/8, {text}")


async def test_bodies_are_cut() -> None:
    async with receiving() as receiver, outgoing(allowed=LOOPBACK) as client:
        receiver.answers.append((500, {}, b"x" * (10 * MAX_RESPONSE_BYTES)))
        answer = await client.post(receiver.url, b"{}", {})
        assert (answer.status, len(answer.excerpt)) == (500, MAX_RESPONSE_BYTES)
        receiver.answers.append((200, {"Content-Encoding": "gzip"}, b"\xff\xfe no gzip"))
        assert "no gzip" in (await client.post(receiver.url, b"{}", {})).excerpt


async def test_no_cookies_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with receiving() as receiver, outgoing(allowed=LOOPBACK) as client:
        receiver.answers.append((200, {"Set-Cookie": "a=b"}, b""))
        for _ in range(2):
            assert (await client.post(receiver.url, b"{}", {})).status == 200
        assert "Cookie" not in receiver.requests[1].headers


async def test_who_never_answers() -> None:
    async with receiving() as receiver, outgoing(allowed=LOOPBACK, timeout_s=0.2) as client:
        receiver.hold = asyncio.Event()
        with pytest.raises(Unanswered, match="no answer within"):
            await client.post(receiver.url, b"{}", {})
        receiver.hold.set()


async def test_a_body_that_never_ends_takes_nothing_back() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\nbegun")
        await reader.read()
        writer.close()

    async with speaking(serve) as port, outgoing(allowed=LOOPBACK, timeout_s=0.3) as client:
        answer = await client.post(f"http://127.0.0.1:{port}/", b"", {})
        assert (answer.status, answer.excerpt) == (202, "begun")


async def test_what_is_no_http() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await reader.read()
        writer.close()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with speaking(serve) as port, outgoing(allowed=LOOPBACK) as client:
        with pytest.raises(Unanswered, match="no HTTP"):
            await client.post(f"http://127.0.0.1:{port}/", b"", {})
    async with speaking(hang_up) as port, outgoing(allowed=LOOPBACK) as client:
        with pytest.raises(Unanswered, match=r"closed without an answer|connection reset"):
            await client.post(f"http://127.0.0.1:{port}/", b"", {})
        with pytest.raises(Unanswered, match="connection refused"):
            await client.post("http://127.0.0.1:1/", b"", {})


async def test_tls_knows_the_name_and_nobody_unknown(tmp_path: Path) -> None:
    """The certificate must be the name's, although the connection goes to an address."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=x"
    files = ["-addext", "subjectAltName=DNS:hooks.example.com", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    names: list[str | None] = []
    serving.sni_callback = lambda socket, name, context: names.append(name)

    async def resolve(name: str) -> Sequence[str]:
        return ["127.0.0.1"]

    trusting = ssl.create_default_context(cafile=str(certificate))
    async with receiving(tls=serving) as receiver:
        async with outgoing(resolve, allowed=LOOPBACK, tls=trusting) as client:
            assert (await client.post(f"https://hooks.example.com:{receiver.port}/", b"", {})).status == 200
            assert names == ["hooks.example.com"]
            with pytest.raises(Unanswered, match="TLS"):
                await client.post(f"https://other.example.com:{receiver.port}/", b"", {})
        async with outgoing(resolve, allowed=LOOPBACK) as client:
            with pytest.raises(Unanswered, match="TLS"):
                await client.post(f"https://hooks.example.com:{receiver.port}/", b"", {})


@contextlib.asynccontextmanager
async def speaking(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_the_list_is_long() -> None:
    assert len(MISWRITTEN) + len(LITERAL) >= 100
