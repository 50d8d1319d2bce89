"""Texts of tickets as Jira stores them. Tests choose these texts, so nothing in them may be markup."""

import hypothesis
from hypothesis import strategies as st

from integrations.jira.markup import to_document, to_wiki
from integrations.ticket_ports import Bullets, Paragraph, Preformatted, TicketText


def test_a_document_holds_texts_as_they_are() -> None:
    text: TicketText = [Paragraph("Build 7", "https://ci.acme.com/7"), Bullets(["a", ""]), Preformatted("x\n\ty\0")]
    link = {"type": "link", "attrs": {"href": "https://ci.acme.com/7"}}
    first = {"type": "paragraph", "content": [{"type": "text", "text": "a"}]}
    assert to_document(text) == {
        "type": "doc",
        "version": 1,
        "content": [
            {"type": "paragraph", "content": [{"type": "text", "text": "Build 7", "marks": [link]}]},
            {
                "type": "bulletList",
                "content": [
                    {"type": "listItem", "content": [first]},
                    {"type": "listItem", "content": [{"type": "paragraph", "content": []}]},
                ],
            },
            {"type": "codeBlock", "content": [{"type": "text", "text": "x\n\ty "}]},
        ],
    }


def test_wiki_text_has_no_markup_of_others() -> None:
    hostile = "[~admin] !http://x/y.png! {code}*a*{code} h1. big"
    assert to_wiki([Paragraph(hostile)]) == (r"\[\~admin\] \!http\://x/y.png\! \{code\}\*a\*\{code\} h1\. big")
    assert to_wiki([Paragraph("one\n* two\n")]) == r"one \* two"
    assert to_wiki([Paragraph("Build 7", "https://ci.acme.com/7")]) == "[Build 7|https://ci.acme.com/7]"
    assert to_wiki([Bullets(["a-b", "c"])]) == "* a\\-b\n* c"


@hypothesis.given(
    st.lists(st.sampled_from(["{noformat}", "{NoFormat:title=x}", "{noformat", "{", "x", "\n"])).map("".join)
)
def test_no_text_ends_its_block(text: str) -> None:
    lines = to_wiki([Preformatted(text)])
    assert lines.lower().count("{noformat") == 2
    assert lines.startswith("{noformat}\n")
    assert lines.endswith("\n{noformat}")
