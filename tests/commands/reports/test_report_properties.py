"""Properties over made-up reports: counts survive, cuts never raise, and well-formed XML reads as lxml reads it."""

import re
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from tests.commands.reports import samples
from tests.commands.reports.reading import parsed

from commands.reports.parser import Limits
from commands.reports.parser.notes import Notes
from commands.reports.parser.scanner import Scanner

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff\ufdd0"), max_size=20)
STATUS = st.sampled_from(["passed", "failure", "error", "skipped"])
CASES = st.lists(st.tuples(TEXT.map(lambda name: name or "x"), TEXT, STATUS, TEXT), max_size=12)


def as_xml(cases: list[tuple[str, str, str, str]]) -> str:
    written = []
    for name, classname, status, message in cases:
        inner = "" if status == "passed" else f"<{status} message={quoteattr(message)}>{escape(message)}</{status}>"
        written.append(f"<testcase name={quoteattr(name)} classname={quoteattr(classname)}>{inner}</testcase>\n")
    kinds = [case[2] for case in cases]
    return (
        f'<testsuites><testsuite name="s" tests="{len(cases)}" failures="{kinds.count("failure")}" '
        f'errors="{kinds.count("error")}" skipped="{kinds.count("skipped")}">'
        f"{''.join(written)}</testsuite></testsuites>"
    )


@given(CASES)
@settings(deadline=None)
def test_counts_and_texts_survive(cases: list[tuple[str, str, str, str]]) -> None:
    report = parsed(as_xml(cases))
    assert report.kinds == set()
    expected = [{"failure": "failed", "error": "failed"}.get(status, status) for _, _, status, _ in cases]
    assert report.statuses == expected
    assert [(case.name, case.classname) for case in report.cases] == [case[:2] for case in cases]
    for case, (_, _, status, message) in zip(report.cases, cases, strict=True):
        if status in ("failure", "error") and message:
            assert case.message == message
            assert case.error_kind == status


@pytest.mark.parametrize("name", sorted(set(samples.ALL) - {"trx"}))
def test_cut_anywhere_every_whole_case_is_read(name: str) -> None:
    data = samples.ALL[name].encode()
    whole = parsed(data).cases
    closing = rb"</(?:j:)?(?:testcase|test-case|test)>|<(?:j:)?test(?:-?case)[^>]*/>"
    ends = [match.end() for match in re.finditer(closing, data)]
    elements = [len(parsed(data[:end]).cases) for end in ends]
    for (cut, count), (after, _) in pairwise([*zip(ends, elements, strict=True), (len(data), 0)]):
        for at in {cut, (cut + after) // 2, after - 1}:
            cases = parsed(data[:at]).cases
            assert len(cases) >= count
            assert cases[:count] == whole[:count]


@given(st.sampled_from(sorted(samples.ALL)), st.data())
@settings(deadline=None, max_examples=50)
def test_any_damage_never_raises(name: str, data: st.DataObject) -> None:
    original = samples.ALL[name].encode()
    at = data.draw(st.integers(0, len(original)))
    until = data.draw(st.integers(at, min(len(original), at + 60)))
    parsed(original[:at] + data.draw(st.binary(max_size=20)) + original[until:])


@given(st.sampled_from(sorted(samples.ALL)), st.integers(1, 200))
@settings(deadline=None, max_examples=40)
def test_chunks_do_not_matter(name: str, size: int) -> None:
    data = samples.ALL[name].encode()
    assert parsed(data) == parsed(data[at : at + size] for at in range(0, len(data), size))


class Events:
    """What a parser says, with neighbouring texts joined."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        local = {etree.QName(key).localname: value for key, value in dict(attributes).items()}
        self.events.append(("start", etree.QName(name).localname, local))

    def end(self, name: str) -> None:
        self.events.append(("end", etree.QName(name).localname))

    def text(self, text: str) -> None:
        if self.events and self.events[-1][0] == "text":
            text = self.events.pop()[1] + text
        if text:
            self.events.append(("text", text))

    data = text

    def close(self) -> None:
        pass


def scanned(document: str, window: int, notes: Notes) -> list[tuple[Any, ...]]:
    events = Events()
    scanner = Scanner(events, notes, Limits())
    for at in range(0, len(document), window):
        scanner.feed(document[at : at + window])
    scanner.close()
    return events.events


def ours(document: str, window: int) -> list[tuple[Any, ...]]:
    notes = Notes(1)
    events = scanned(document, window, notes)
    assert notes.warnings() == ()
    depth, inside = 0, []
    for event in events:
        depth += {"start": 1, "end": -1}.get(event[0], 0)
        if depth or event[0] == "end":
            inside.append(event)
    return inside


def lxml_events(document: str) -> list[tuple[Any, ...]]:
    events = Events()
    # Told not to resolve entities, lxml leaves even &amp; in attributes as it is.
    target: Any = events
    options: dict[str, Any] = {"resolve_entities": "internal"}
    parser = etree.XMLParser(target=target, no_network=True, **options)
    parser.feed(document.encode())
    parser.close()
    return events.events


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True).filter(
    lambda name: not name.lower().startswith("xml")
)
PIECES = st.one_of(
    TEXT.map(lambda text: escape(text)),
    TEXT.filter(lambda text: "]]>" not in text).map(lambda text: f"<![CDATA[{text}<&>]]>"),
    st.sampled_from(["<!-- <a b='&'> -->", "<?do <this> ?>", "&#233;", "&#xe9;", "&quot;&apos;&lt;", "\n\t", "]] >"]),
)


def element(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    attributes = st.dictionaries(NAMES, st.tuples(TEXT, st.sampled_from(["", "\n", "\t", "&#10;"])), max_size=3)

    def write(name: str, attributes: dict[str, tuple[str, str]], inner: list[str], space: str) -> str:
        written = "".join(
            f"{space or ' '}{key}{space}={space}{quoteattr(text)[:-1]}{end}{quoteattr(text)[-1]}"
            for key, (text, end) in attributes.items()
        )
        return f"<{name}{written}{space}/>" if not inner else f"<{name}{written}>{''.join(inner)}</{name}{space}>"

    return st.builds(write, NAMES, attributes, st.lists(children, max_size=4), st.sampled_from(["", " ", "\n"]))


@given(element(st.recursive(PIECES, element, max_leaves=10)), st.integers(1, 40))
@settings(deadline=None, max_examples=75)
def test_well_formed_documents_read_as_lxml_reads_them(document: str, window: int) -> None:
    assert ours('<?xml version="1.0"?>\n' + document, window) == lxml_events('<?xml version="1.0"?>\n' + document)


@pytest.mark.parametrize("name", sorted(samples.ALL))
def test_the_samples_read_as_lxml_reads_them(name: str) -> None:
    document = samples.ALL[name].removeprefix("\ufeff")
    assert ours(document, 1000) == lxml_events(document)


BROKEN = st.lists(
    st.sampled_from(["<a", "<b ", 'x="1"', "y='2'", '"', "'", "=", ">", "/>", "</a>", " ", '<testcase name="q">', "é"]),
    max_size=14,
).map("".join)


@given(BROKEN, st.integers(1, 9))
@settings(deadline=None, max_examples=200)
def test_windows_do_not_matter_where_tags_are_broken(broken: str, window: int) -> None:
    """A tag that is not complete waits for the next window and is read on from where its reading stopped."""
    document = f"<s>{broken}<z/>"
    assert scanned(document, window, Notes(1)) == scanned(document, len(document), Notes(1))
