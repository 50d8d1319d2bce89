"""Writes the texts of tickets as Jira stores them: in the Atlassian Document Format (Cloud) or as wiki text (Data
Center). The texts come from tests, so characters that Jira would read as markup are escaped.
"""

import re
from typing import Any

from integrations.ticket_ports import Bullets, Paragraph, Preformatted, TicketBlock, TicketText

_WIKI = re.compile(r"[\\{}\[\]*_+^~?!|#\-]|(?<=\b[hH][1-6])\.|(?<=\bbq)\.|[:;](?=[)(DP/|])")
"""Characters that Jira's wiki text may read as markup. Includes the dot after `h1` or `bq`, and the colon or semicolon
of URLs and smileys.
"""
_MACRO = re.compile(r"\{(?=noformat)", re.IGNORECASE)
ZERO_WIDTH_SPACE = "\u200b"


def to_document(text: TicketText) -> dict[str, Any]:
    return {"type": "doc", "version": 1, "content": [_node(block) for block in text]}


def _node(block: TicketBlock) -> dict[str, Any]:
    match block:
        case Paragraph(shown, link):
            marks = [{"type": "link", "attrs": {"href": link}}] if link else []
            return {"type": "paragraph", "content": _words(shown, marks)}
        case Bullets(items):
            listed = [{"type": "listItem", "content": [_node(Paragraph(item))]} for item in items]
            return {"type": "bulletList", "content": listed}
        case Preformatted(shown):
            return {"type": "codeBlock", "content": _words(_printable(shown, keep="\n\t"), [])}


def _words(text: str, marks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not text:
        return []  # Jira refuses empty texts
    node: dict[str, Any] = {"type": "text", "text": text}
    return [node | {"marks": marks} if marks else node]


def to_wiki(text: TicketText) -> str:
    return "\n\n".join(_wiki(block) for block in text)


def _wiki(block: TicketBlock) -> str:
    match block:
        case Paragraph(shown, link):
            words = _escape(shown)
            return f"[{words}|{link}]" if link else words
        case Bullets(items):
            return "\n".join(f"* {_escape(item)}" for item in items)
        case Preformatted(shown):
            # The only markup in a block without format is its end.
            inside = _MACRO.sub("{" + ZERO_WIDTH_SPACE, _printable(shown, keep="\n\t"))
            return f"{{noformat}}\n{inside}\n{{noformat}}"


def _escape(text: str) -> str:
    line = " ".join(_printable(text).split())
    return _WIKI.sub(lambda found: "".join(f"\\{character}" for character in found[0]), line)


def _printable(text: str, keep: str = "") -> str:
    return "".join(character if character.isprintable() or character in keep else " " for character in text)
