"""Splits text into tags and the text between them, in files that are often not valid XML.

An XML parser must stop at a fault, but this scanner has to go on. libxml2 in recover mode is no help. It reads nothing
after a text such as `1 < 2`. If an element has lost its end tag, libxml2 puts the next cases inside of that element.
Its event interface expands internal entities even if this is switched off. This scanner knows only the five entities of
XML and skips document type declarations. At a fault it loses only the element that contains the fault. For well-formed
documents it sends the same events as lxml, as tests show.

Every step takes time linear in what it reads: patterns are possessive, a search that found nothing is repeated only
when there is new text, and `Limits.tag` bounds the text that is kept for the next window.
"""

import re
from itertools import islice
from typing import Protocol

from commands.reports.parser.limits import Limits
from commands.reports.parser.names import NAMES, cut_name, show_forbidden
from commands.reports.parser.notes import Notes

_NAME = r"[^\W\d][\w.:\-]*+"
_START = re.compile(rf"""<({_NAME})((?>\s++{_NAME}\s*+=\s*+(?>"[^"<]*+"|'[^'<]*+'))*+)\s*+(/?)>""")
_END = re.compile(rf"</({_NAME})\s*+>")
_ATTRIBUTE = re.compile(rf"""({_NAME})\s*+=\s*+(?:"([^"]*+)"|'([^']*+)')""")
# Matches attributes, also values without quotes, and a value whose closing quote was lost. Bare words match without a
# value, so that they are consumed and the time stays linear.
_LENIENT_ATTRIBUTE = re.compile(rf"""({_NAME})(?:\s*+=\s*+(?:"([^"]*+)(?:"|\Z)|'([^']*+)(?:'|\Z)|([^\s"'<>]++)))?+""")
_BRACKETS = re.compile(r"<++")
_TAG_NAME = re.compile(rf"</?({_NAME})")
_OUTSIDE_QUOTES = re.compile(r"""[^"'<>]*+""")
_REFERENCE = re.compile(r"&(?:#(\d{1,8}|[xX][0-9A-Fa-f]{1,8});|([A-Za-z][\w.\-]{0,40});)?(\[[0-9;:?]{0,64}[@-~])?")
_UNFINISHED_REFERENCE = re.compile(r"&(?:#?\w{0,40}|#(?:27|[xX]0{0,5}1[bB]);(?:\[[0-9;:?]{0,64})?)\Z")
_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
# Tags whose presence in an attribute value shows that the value has lost its closing quote.
_MARKUP = re.compile(
    r"</?(?:\w{1,20}:)?(?:testcase|testsuites?|failure|error|skipped|propert(?:y|ies)|system-(?:out|err)|test-(?:case|suite|run)"
    r"|UnitTestResult|assembl(?:y|ies)|collection)(?=[\s/>])"
)
# Number of characters within which an instruction or a declaration must end. A longer one is read as text.
_ASIDE = 64 * 1024


class Target(Protocol):
    """Receiver of the tags and texts of a file, in their order."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...
    def text(self, text: str) -> None: ...
    def end(self, name: str) -> None: ...


class Scanner:
    def __init__(self, target: Target, notes: Notes, limits: Limits) -> None:
        self._target = target
        self._notes = notes
        self._limits = limits
        self._held = ""
        self._line = 1
        self._until = ""  # in a comment or a CDATA section: the text that ends it
        self._skipping = ""  # in an attribute value that is too long: the quote that ends it
        self._at_end = False
        self._cut = ""
        self._found: dict[str, tuple[int, int]] = {}  # text -> (index where its search began, its index)
        self._read = 0  # of a tag that waits for more input: number of its characters that were read
        self._read_before = 0  # value of _read when the current call of _scan began

    @property
    def line(self) -> int:
        """Number of the line that is being read, from 1."""
        return self._line

    def feed(self, window: str) -> None:
        if self._skipping:
            window = self._skip(window)
        buffer = self._held + window
        self._found.clear()
        stop = self._scan(buffer)
        self._line += buffer.count("\n", 0, stop)
        self._held, self._cut = self._cut or buffer[stop:], ""

    def close(self) -> None:
        self._at_end = True
        buffer, self._held = self._held, ""
        self._found.clear()
        self._scan(buffer)

    def _note(self, kind: str, buffer: str, at: int, detail: str = "") -> None:
        if not self._notes.count_repeat(kind):
            self._notes.add(kind, detail, line=self._line + buffer.count("\n", 0, at))

    def _find(self, what: str, buffer: str, start: int) -> int:
        """Returns the same index as `buffer.find(what, start)`. Remembers the last result for each `what`: otherwise
        each of many tags would search the whole buffer for text that never comes.
        """
        since, at = self._found.get(what, (0, -2))
        if at == -2 or start < since or 0 <= at < start:
            at = buffer.find(what, start)
            self._found[what] = (start, at)
        return at

    def _scan(self, buffer: str) -> int:
        """Sends all complete tags and texts in the buffer to the target. Returns the index of the first character that
        must wait for the next call.
        """
        at, size = 0, len(buffer)
        self._read_before, self._read = self._read, 0
        target = self._target
        while at < size:
            if self._until:
                at, done = self._section(buffer, at)
                if not done:
                    return at
                continue
            bracket = buffer.find("<", at)
            if bracket != at:
                stop = size if bracket < 0 else bracket
                text = buffer[at:stop]
                if "&" in text:
                    if (
                        bracket < 0
                        and not self._at_end
                        and (cut := _UNFINISHED_REFERENCE.search(text, max(0, len(text) - 128)))
                    ):
                        stop, text = at + cut.start(), text[: cut.start()]
                    text = self._resolved(text, buffer, at)
                if text:
                    target.text(text)
                if bracket < 0:
                    return stop
                at = bracket
            if (tag := _START.match(buffer, at)) is not None:
                name, attributes, empty = tag.groups()
                target.start(_local(name), self._attributes(attributes, buffer, at, _ATTRIBUTE) if attributes else {})
                if empty:
                    target.end(_local(name))
                at = tag.end()
            elif (tag := _END.match(buffer, at)) is not None:
                target.end(_local(tag.group(1)))
                at = tag.end()
            else:
                after = self._oddity(buffer, at)
                if after < 0:
                    return at
                at = after
        return size

    def _section(self, buffer: str, at: int) -> tuple[int, bool]:
        """Reads the next part of a comment or a CDATA section. Returns the index at which to continue, and whether the
        section has ended.
        """
        cdata = self._until == "]]>"
        stop = buffer.find(self._until, at)
        if stop >= 0:
            if cdata and stop > at:
                self._target.text(buffer[at:stop])
            self._until = ""
            return stop + 3, True
        # The mark that ends the section may be split between two windows.
        stop = len(buffer) if self._at_end else max(at, len(buffer) - 2)
        if cdata and stop > at:
            self._target.text(buffer[at:stop])
        return stop, False

    def _oddity(self, buffer: str, at: int) -> int:
        """Processes text that begins with `<` but is no complete tag. Returns the index at which to continue, or -1 if
        more input is needed.
        """
        if buffer.startswith("<![CDATA[", at):
            self._until = "]]>"
            return at + 9
        if buffer.startswith("<!--", at):
            self._until = "-->"
            return at + 4
        left = len(buffer) - at
        if left < 10 and not self._at_end and "<![CDATA[".startswith(buffer[at:]):
            return -1
        if left < 4 and not self._at_end and "<!--".startswith(buffer[at:]):
            return -1
        if buffer.startswith("<?", at):
            stop = self._find("?>", buffer, at)
            if 0 <= stop < at + _ASIDE:
                return stop + 2
            return -1 if self._waits(left, _ASIDE) else self._bare(buffer, at)
        if buffer.startswith("<!", at):
            return self._declaration(buffer, at)
        name = _TAG_NAME.match(buffer, at)
        if name is None:
            return -1 if left <= 2 and not self._at_end and buffer[at:] in ("<", "</") else self._bare(buffer, at)
        return self._malformed(buffer, at, name)

    def _waits(self, held: int, limit: int) -> bool:
        return not self._at_end and held < limit

    def _bare(self, buffer: str, at: int) -> int:
        self._note("bare_bracket", buffer, at)
        # Of several brackets in a row, only the last can begin a tag.
        run = _BRACKETS.match(buffer, at)
        after = max(at + 1, run.end() - 1) if run is not None else at + 1
        self._target.text(buffer[at:after])
        return after

    def _declaration(self, buffer: str, at: int) -> int:
        """Skips a <!DOCTYPE ...> with its internal subset, or an <!ENTITY ...> outside of a <!DOCTYPE ...>. Returns the
        index at which to continue, or -1 if more input is needed.
        """
        stop = self._find(">", buffer, at)
        subset = self._find("[", buffer, at)
        if subset >= 0 and (stop < 0 or subset < stop):
            inner = self._find("]", buffer, subset)
            stop = self._find(">", buffer, inner) if inner >= 0 else -1
        if stop >= 0 and stop - at < _ASIDE:
            self._note("doctype", buffer, at)
            return stop + 1
        if self._waits(len(buffer) - at, _ASIDE):
            return -1
        return self._bare(buffer, at)

    def _malformed(self, buffer: str, at: int, name: re.Match[str]) -> int:
        """Reads a tag that has faults or is not complete yet. The tag ends at a '>' outside of quotes, or where other
        markup begins. Returns the index at which to continue, or -1 if more input is needed.
        """
        # A tag that waited is at the start of the buffer. It is not read again from its beginning: with many windows,
        # a long tag would take time that grows with the square of its length.
        position = name.end() if at else max(name.end(), self._read_before)
        stop = after = -1
        while True:
            position = _OUTSIDE_QUOTES.match(buffer, position).end()  # type: ignore[union-attr]  # it matches the empty string
            if position >= len(buffer):
                break
            mark = buffer[position]
            if mark == ">":
                stop, after = position, position + 1
                break
            if mark == "<":
                stop = after = position
                break
            closing = self._find(mark, buffer, position + 1)
            markup = self._markup(buffer, position + 1, closing)
            if markup >= 0:
                stop = after = markup
                break
            if closing < 0:
                self._read = position - at
                return self._unclosed_value(buffer, at, position)
            position = closing + 1
        if stop < 0:
            if self._waits(len(buffer) - at, self._limits.tag):
                self._read = position - at
                return -1
            if self._at_end:
                return len(buffer)  # cut off within a tag: the element is lost with it, which `truncated` says
            stop = after = len(
                buffer
            )  # too long to wait for its end: the part that was read counts, since a failure must not be lost
        body = buffer[name.end() : stop]
        self._note("malformed_tag", buffer, at, buffer[at : min(stop + 1, at + 80)])
        local = _local(name.group(1))
        if buffer[at + 1] == "/":
            self._target.end(local)
            return after
        self._target.start(local, self._attributes(body, buffer, at, _LENIENT_ATTRIBUTE))
        if body.endswith("/"):
            self._target.end(local)
        return after

    def _markup(self, buffer: str, start: int, closing: int) -> int:
        """Returns the index of the first tag of a report between an opening quote (`start`) and its closing quote; -1
        if there is none.
        """
        found = _MARKUP.search(buffer, start, closing if closing >= 0 else len(buffer))
        return -1 if found is None else found.start()

    def _unclosed_value(self, buffer: str, at: int, quote: int) -> int:
        """Waits for the closing quote of an attribute value. If the value is too long, keeps its beginning and skips
        the rest. Returns -1 if more input is needed, and the end of the buffer if there is no more.
        """
        if self._at_end:
            return len(buffer)
        if len(buffer) - at < self._limits.tag:
            return -1
        self._note("cut", buffer, at, "an attribute of " + buffer[at : at + 40])
        kept = buffer[at : quote + 1 + self._limits.message]
        self._line += buffer.count("\n") - kept.count("\n")
        self._skipping = buffer[quote]
        self._cut = kept
        return -1

    def _skip(self, window: str) -> str:
        """Drops the rest of an attribute value that is too long, up to its closing quote or to a tag of a report.
        Returns the text from this quote or tag on; an empty text if the value goes on.
        """
        quote = window.find(self._skipping)
        markup = _MARKUP.search(window, 0, quote if quote >= 0 else len(window))
        stop = markup.start() if markup is not None else quote
        if stop < 0:
            self._line += window.count("\n")
            return ""
        self._line += window.count("\n", 0, stop)
        rest = window[stop:] if markup is None else self._skipping + ">" + window[stop:]
        self._skipping = ""
        return rest

    def _attributes(self, body: str, buffer: str, at: int, pattern: re.Pattern[str]) -> dict[str, str]:
        if len(body) < 4096:
            pairs: list[tuple[str, ...]] = pattern.findall(body)
        else:
            pairs = [match.groups("") for match in islice(pattern.finditer(body), self._limits.attributes)]
        if pattern is _LENIENT_ATTRIBUTE:
            pairs = [(name, one, two or three) for name, one, two, three in pairs if one or two or three]
        attributes = {name: one or two for name, one, two in pairs}
        if len(attributes) != len(pairs):
            self._note("duplicate_attribute", buffer, at, buffer[at : at + 80])
        if len(body) > self._limits.message:
            for name, value in attributes.items():
                if len(value) > self._limits.message:
                    self._note("cut", buffer, at, f"the attribute {name[:40]}")
                    cut = cut_name if name in NAMES else _cut_end
                    attributes[name] = cut(value, self._limits.message)
        if "\n" in body or "\t" in body:
            attributes = {name: value.replace("\n", " ").replace("\t", " ") for name, value in attributes.items()}
        if "&" in body:
            attributes = {
                name: self._resolved(value, buffer, at, is_name=name in NAMES) if "&" in value else value
                for name, value in attributes.items()
            }
        if "xmlns" in attributes or (":" in body and ":" in "".join(attributes)):
            attributes = {_local(name): value for name, value in attributes.items() if not name.startswith("xmlns")}
        return attributes

    def _resolved(self, text: str, buffer: str, at: int, *, is_name: bool = False) -> str:
        def resolve(match: re.Match[str]) -> str:
            number, entity, escape = match.groups("")
            if entity:
                known = _ENTITIES.get(entity)
                if known is None:
                    self._note("entities", buffer, at, match.group())
                    return match.group()
                return known + escape
            if not number:
                self._note("bare_ampersand", buffer, at)
                return match.group()
            code = int(number[1:], 16) if number[0] in "xX" else int(number)
            if code >= 0x20 or code in (9, 10, 13):
                if not (0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF) or code > 0x10FFFF):
                    return chr(code) + escape
            elif code == 0x1B and escape:
                escape = ""
            self._note("bad_references", buffer, at, match.group())
            return show_forbidden(code) + escape if is_name and code != 0x1B else escape

        return _REFERENCE.sub(resolve, text)


def _cut_end(text: str, limit: int) -> str:
    return text[:limit]


def _local(name: str) -> str:
    return name.rpartition(":")[2] if ":" in name else name
