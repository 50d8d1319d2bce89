"""Cards for Microsoft Teams. A card is an Adaptive Card inside a message. A Teams channel receives messages through a
workflow or an Office connector. Both accept messages of the same format.

Teams interprets markdown in text blocks and facts, and `<at>` as a mention. Texts that users or programs wrote must
appear literally. Therefore facts are escaped with backslashes, and the lines of a list are sent as text runs, which
Teams does not interpret. Teams limits a message to 28 KB (of UTF-16, according to some sources). Texts are cut so that
the longest card stays below this limit.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

MAX_BYTES = 28 * 1024
"""Size limit of Teams for a message, in bytes."""
MAX_FACT = 120
MAX_LINE = 250
"""Largest number of characters of a line. A message with MAX_LINES such lines, and with all facts at their MAX_FACT
characters, stays below MAX_BYTES.
"""
MAX_LINES = 8
HEADERS = {"Content-Type": "application/json; charset=utf-8"}

Tone = Literal["default", "good", "attention", "warning"]

_MARKS = re.compile(r"[\\`*_~\[\]<>{&]|^[-+#=]|^\d+[.)]")


class Card(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    """Title of the card. It is not escaped, so it must not contain text that a user wrote."""
    tone: Tone = "default"
    mention: str = ""
    """The email of the user to mention; empty for nobody."""
    facts: dict[str, str] = {}
    """Name -> value. Facts whose value is empty are left out."""
    heading: str = ""
    lines: list[str] = []
    more: int = 0
    """Number of further lines, which are not in `lines`. The card ends in "and N more", where N counts all lines that
    it leaves out.
    """
    link: str = ""
    """The URL that the button opens; empty for no button."""


def render_card(card: Card) -> dict[str, Any]:
    content: dict[str, Any] = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": card.title,
        "body": list(_body(card)),
        "msteams": {"width": "Full"},
    }
    if card.mention:
        mentioned = {"id": card.mention, "name": card.mention}
        content["msteams"]["entities"] = [{"type": "mention", "text": _at(card.mention), "mentioned": mentioned}]
    if card.link:
        content["actions"] = [{"type": "Action.OpenUrl", "title": "Open build", "url": card.link}]
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": content}
    return {"type": "message", "attachments": [attachment]}


def _body(card: Card) -> Iterator[dict[str, Any]]:
    title = _text(card.title, size="Large", weight="Bolder")
    yield {"type": "Container", "style": card.tone, "bleed": True, "items": [title]}
    if card.mention:
        yield _text(_at(card.mention))
    facts = [{"title": name, "value": escape_markdown(shorten(value, MAX_FACT))} for name, value in card.facts.items()]
    if facts := [fact for fact in facts if fact["value"]]:
        yield {"type": "FactSet", "facts": facts}
    if card.lines:
        yield _text(card.heading, weight="Bolder", separator=True)
        for line in card.lines[:MAX_LINES]:
            run = {"type": "TextRun", "text": shorten(line, MAX_LINE), "fontType": "Monospace"}
            yield {"type": "RichTextBlock", "spacing": "Small", "inlines": [run]}
    if more := card.more + len(card.lines[MAX_LINES:]):
        yield _text(f"and {more:,} more", isSubtle=True)


def _text(text: str, **looks: Any) -> dict[str, Any]:
    return {"type": "TextBlock", "text": text, "wrap": True, **looks}


def _at(email: str) -> str:
    return f"<at>{email}</at>"


def shorten(text: str, most: int) -> str:
    """Returns the text as one line without unprintable characters. A text of more than `most` characters is cut to
    `most`, of which the last is `…`.
    """
    plain = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"


def escape_markdown(text: str) -> str:
    """Returns markdown that renders as exactly this line of text."""
    return _MARKS.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)
