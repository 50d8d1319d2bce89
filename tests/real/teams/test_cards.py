"""Microsoft's own parser takes every card that we send; what people wrote comes through as they wrote it.

Needs Node.js and the packages that are locked beside this file.
"""

import copy
import json
import random
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from domain.adaptive_cards import MAX_FACT, Card, escape_markdown, render_card, shorten
from projections.teams_cards import make_test_card
from testhide.processes import Core
from tests.integrations.receiving import receiving
from tests.workers.hooks import Hooks, open_hooks
from tests.workers.test_cards import EVERYTHING, card
from tests.workers.test_messages import everything_happens

pytestmark = pytest.mark.real("node")

NASTY = (
    "[click](https://evil.example)",
    "<at>ann@example.com</at>",
    "![x](https://evil.example/x.png)",
    "**bold** _it_ `code` ~~gone~~",
    "{{DATE(2017-02-14T06:08:39Z, SHORT)}}",
    "<https://evil.example>",
    "&lt;at&gt;",
    "- a list",
    "1. a list",
    "# a heading",
    "> a quote",
    "---",
    "```",
    "ends in a backslash \\",
    "tests/a.py::test_x[a-b_c*d]",
)
FULL = Card(
    title="Build 8 failed",
    tone="attention",
    mention="ann@example.com",
    facts={f"Fact {number}": text for number, text in enumerate(NASTY)},
    heading="Failed tests",
    lines=[*NASTY],
    more=3,
    link="https://ci.example.com/api/v3/builds/8",
)


class Read(NamedTuple):
    problems: list[list[str]]
    seen: list[str | None]


def read(cards: list[Any], texts: list[str]) -> Read:
    script = Path(__file__).with_name("read.js")
    given = json.dumps({"cards": cards, "texts": texts})
    done = subprocess.run(["node", script], input=given, capture_output=True, text=True, check=True)
    return Read(**json.loads(done.stdout))


def content(made: Card) -> Any:
    return render_card(made)["attachments"][0]["content"]


async def sent(hooks: Hooks) -> list[Any]:
    async with receiving() as receiver:
        await hooks.register_channel(receiver.url, EVERYTHING, mention="ann@example.com")
        await everything_happens(hooks)
        await hooks.deliver()
        return [card(request) for request in receiver.requests]


async def test_every_card_is_taken_whole(parts: Core) -> None:
    async with open_hooks(parts) as hooks:
        cards = await sent(hooks)
    assert len(cards) == 6
    cards += [content(FULL), content(make_test_card("CI", "Shop"))]
    assert read(cards, []).problems == [[] for _ in cards]


@pytest.mark.parametrize(
    ("path_in_card", "change"),
    [
        ((), {"type": None}),
        ((), {"version": None}),
        (("body", 0), {"type": "TextBock"}),
        (("body", 0), {"style": "red"}),
        (("body", 2, "facts", 0), {"name": "x"}),
        (("actions", 0), {"url": None}),
    ],
)
def test_a_card_with_a_mistake_is_not(path_in_card: tuple[Any, ...], change: dict[str, Any]) -> None:
    broken = part = copy.deepcopy(content(FULL))
    for step in path_in_card:
        part = part[step]
    part |= change
    for name in [name for name, value in change.items() if value is None]:
        del part[name]
    (problems,) = read([broken], []).problems
    assert problems


def test_what_people_wrote_is_seen_as_it_is() -> None:
    rng = random.Random(1)
    made = ["".join(rng.choices("ab1. *_[]()<>{}&;#!~`\\-+=|>:/@\t\n", k=rng.randint(1, 20))) for _ in range(3_000)]
    texts = [text for written in (*NASTY, *made) if (text := shorten(written, MAX_FACT))]
    assert read([], [escape_markdown(text) for text in texts]).seen == texts
    unescaped = read([], list(NASTY)).seen
    assert sum(seen == text for seen, text in zip(unescaped, NASTY, strict=True)) <= 4, "or it says nothing"
