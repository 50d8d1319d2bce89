"""Secrets are found in every form in which programs write them, and replacing them damages nothing else."""

from __future__ import annotations

import base64
import html
import json
import random
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import pytest

from agent.build.encoded_forms import ENCODINGS
from agent.build.lines import LineReader
from agent.build.masking import Masker
from agent.build.report_markup import is_markup

SECRETS = (
    'pä"ss\\w0rd & <tag>/€',
    "-----BEGIN KEY-----\nbGluZQ==\tx\n",
    "it's 100% 'sürê' 𝄞",
    "plain-token_0123456789+/=",
)
WRITTEN: dict[str, Callable[[str], str]] = {
    "json": lambda text: json.dumps(text)[1:-1],
    "json, not in ASCII": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "json with \\/": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "json in json": lambda text: json.dumps(json.dumps(text))[3:-3],
    "json in xml": lambda text: quoteattr(json.dumps(text)[1:-1], {'"': "&quot;"})[1:-1],
    "xml": lambda text: escape(text, {'"': "&quot;", "'": "&apos;"}),
    "xml, numbers": lambda text: "".join(c if c.isalnum() and c.isascii() else f"&#{ord(c)};" for c in text),
    "xml, hex numbers": lambda text: "".join(c if c.isalnum() and c.isascii() else f"&#x00{ord(c):X};" for c in text),
    "html": html.escape,
    "html twice": lambda text: html.escape(html.escape(text)),
    "cdata": lambda text: text[:3] + "<![CDATA[" + text[3:6] + "]]>" + text[6:],
    "percent": lambda text: quote(text, safe=""),
    "percent, lower": lambda text: quote(text).replace("%C3%A4", "%c3%a4"),
    "form": quote_plus,
    "python": lambda text: repr(text)[1:-1],
    "python, ascii": lambda text: ascii(text)[1:-1],
    "python, bytes": lambda text: repr(text.encode())[2:-1],
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", WRITTEN)
def test_written_forms(name: str, secret: str) -> None:
    secret = secret.strip()
    written = WRITTEN[name](secret)
    for encoding in ENCODINGS:
        masked = Masker([secret]).mask(f"x={written};y".encode(encoding)).decode(encoding)
        assert masked.replace("<![CDATA[]]>", "") == "x=***;y", written


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("before", ["", "u", "u:", "user:", "user:x"])
def test_base64_at_every_alignment(before: str, secret: str) -> None:
    data = f"{before}{secret.strip()};tail".encode()
    for encoded in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
        for written in (encoded, quote(encoded.decode(), safe="").encode()):
            around = base64.b64encode(before.encode()) + base64.b64encode(b";tail")
            visible = Masker([secret]).mask(written).replace(b"***", b"")
            assert visible != written
            assert len(visible) <= len(quote(around)) + 6, visible


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-16"])
def test_a_report_stays_readable(encoding: str) -> None:
    """Marks of CDATA within a secret stay: without them the rest of the file could not be parsed."""
    secret = 'pä"ss-<w0rd>'
    text = f"""<?xml version="1.0" encoding="{encoding}"?><r a="p&#228;&#34;ss-&lt;w0rd&gt;" b="pä&quot;ss-&#x3C;w0rd>">
pä"ss<![CDATA[-<w0]]>rd><![CDATA[pä"ss-<w0rd>]]><c>pä"s<![CDATA[s-<w0rd> and more]]></c></r>"""
    for size in (7, 1000):
        data = text.encode(encoding)
        chunks = (data[start : start + size] for start in range(0, len(data), size))
        root = ElementTree.fromstring(b"".join(Masker([secret]).mask_chunks(chunks, is_markup)))
        assert (root.attrib, (root.text or "").strip()) == ({"a": "***", "b": "***"}, "******")
        assert [child.text for child in root] == ["*** and more"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("secret", ["test", "suite", "testcase", "fail", "failure", "name", "message", "error"])
def test_a_secret_that_is_a_word_of_the_markup_destroys_no_report(secret: str, encoding: str) -> None:
    text = (
        '<j:testsuites xmlns:j="urn:x"><testsuite name="s" tests="2" failures="1"><testcase  name = "a" classname="c">'
        '<failure message="boom">x</failure><system-out>test fail name case suite message error &lt;failure'
        "</system-out></testcase ><testcase name='b'/></testsuite></j:testsuites>"
    )
    data = text.encode(encoding)
    for size in (250, 1000):
        chunks = (data[start : start + size] for start in range(0, len(data), size))
        masked = b"".join(Masker([secret]).mask_chunks(chunks, is_markup)).decode(encoding)
        before, after = ElementTree.fromstring(text), ElementTree.fromstring(masked)
        assert [(one.tag, list(one.attrib)) for one in after.iter()] == [
            (one.tag, list(one.attrib)) for one in before.iter()
        ]
        assert secret not in "".join(after.itertext())


def test_ordinary_text_stays() -> None:
    masker = Masker(SECRETS)
    text = b"tests/test_a.py::test_b[50%] PASSED \\u00e9 &quot;a&quot; %20 -----BEGIN <![CDATA[x]]>\n"
    assert masker.mask(text) == text


@pytest.mark.parametrize(
    "unit", ['\\"', "%5C", "\\\n", "]]>", "<![CDATA[", "]]><![CDATA[", "&amp;", "'\\''", "Ã\x83", "+ "]
)
def test_no_secret_makes_it_slow(unit: str) -> None:
    """A build chooses both the secret and what it prints: some patterns took longer than the age of the universe."""
    chosen, begun = random.Random(1), time.process_time()
    masker = Masker([unit * 24])
    for repeated in (unit * 23, json.dumps(unit)[1:-1] * 60, quote(unit) * 60, "\\" * 300, html.escape(unit) * 60):
        masker.mask((repeated + "!").encode())
        masker.mask("".join(chosen.choice([unit, repeated[:4], "\\"]) for _ in range(500)).encode())
    assert time.process_time() - begun < 2


def test_a_long_secret_is_masked_whole() -> None:
    secret = "".join(random.Random(1).choice("abcXYZ019+/=-_ &<") for _ in range(5000)).strip()
    masker = Masker([secret])
    for name in ("json", "html", "hex", "percent"):
        masked = masker.mask(f"x={WRITTEN[name](secret)};y".encode()).decode()
        assert masked.replace("***", "") == "x=;y", name


@pytest.mark.parametrize(
    ("secret", "line"),
    [
        ("-" * 8000, ("-" * 7999 + "a") * 7),
        ("a" * 8000, "a" * 8000 + ("a" * 7999 + "b") * 6),
        ("\n".join("-" * 60 + str(number) for number in range(500)), "-" * 60_000 + " ".join(map(str, range(500)))),
    ],
)
def test_a_line_that_is_nearly_a_secret_over_and_over_takes_little_time(secret: str, line: str) -> None:
    """No other thread of the agent runs during a search, so the node went offline. Each took from 30 s to hours."""
    begun, masker = time.process_time(), Masker([secret])
    assert len(masker.mask(line.encode())) <= len(line)
    assert len("".join(LineReader(masker).feed(f"{line}\n".encode()))) <= len(line)
    assert time.process_time() - begun < 10


def test_what_takes_too_long_to_search_is_masked_whole() -> None:
    secrets = ["-" * 60 + str(number) for number in range(10, 30)]
    masked = Masker(secrets).mask((f"begin {secrets[0]} " + "-" * 30_000 + " ".join(secrets)).encode()).decode()
    assert masked.startswith("begin *** -")
    assert masked.endswith("***")
    assert not any(secret in masked for secret in secrets)
