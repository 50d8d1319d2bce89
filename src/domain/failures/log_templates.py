"""Templates of log lines: groups lines that the same statement of a program wrote. Lines are added one after the other.

After Drain (He, Zhu, Zheng, Lyu: "Drain: An Online Log Parsing Approach with Fixed Depth Tree", ICWS 2017), with two
changes:

- Volatile parts (numbers, times, addresses, paths, sizes) are masked before (`volatile_text.py`), by the same
  patterns for every program.
- A family is what Drain calls a group: lines with the same number of words and the same first words, which also have
  enough other words in common. Drain puts a wildcard where the lines of a group differ. Here a position is a wildcard
  only if it has had more than MAX_WORDS different words, or a value that is no word. So `VM started` and `VM stopped`
  are two templates, while names, of which there are many, are a wildcard. The template of an earlier line can become
  more general when later lines arrive; it never becomes more specific.

The work for a line is bounded by MAX_TOKENS and MAX_SIBLINGS, and does not depend on the number of lines before.
"""

import re
from typing import Final

import msgspec

from domain.failures import volatile_text

VERSION: Final = 1
"""Version of the grouping. A new version may group the same lines differently."""
MAX_LENGTH = 2000
"""Number of characters at the beginning of a line that are read. The rest of a longer line is ignored."""
MAX_TOKENS = 128
LEADING = 2
"""Number of words at the beginning that all lines of a family have in common. A word with a digit or a masked part
counts as a wildcard.
"""
SIMILARITY = 0.6
"""Least share of equal words with which a line belongs to a family."""
MAX_WORDS = 5
MAX_SIBLINGS = 100
"""Largest number of families with the same number of words and the same first words. Once there are that many, a line
that fits none of them joins the most similar one.
"""
MAX_LEAVES = 20_000
"""Lines are searched for families by the combination of their number of words and their first words. This is the
largest number of such combinations. Lines with further combinations are grouped by their number of words only.
"""

WILDCARD = "<*>"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}"
_DATE = re.compile(
    rf"\b(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]{{0,6}},? {{1,2}})?(?:{_MONTH} {{1,2}}\d\d?"
    rf"|\d\d? {_MONTH})\b(?:,? \d{{4}}\b)?"
)
_SIZE = re.compile(
    r"\b\d{1,20}(?:[.,]\d{1,20}){0,4} ?(?:[KMGT]i?B|[KMGT]?[Bb]ytes|B|ms|us|ns|secs?|seconds|min|hours)\b"
)
_USER = re.compile(r"(?<=\b[uU]ser )[\w.\-$@]{1,100}(?=\s|$)|(?<=\bfor )[\w.\-$@]{1,100}(?= from\b)")
"""Matches the name of a user, in texts such as `user ann` and `for ann from 10.0.0.7`."""
_URL = re.compile(r"\bhttps?://[^\s,;\"'>)\]]{1,2000}")
_PATH = re.compile(r"(?<!\w)(?:/[\w.@+\-$%#]{1,255}){2,40}/?")
_COLON_HEX = re.compile(r"\b(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}\b")
"""Matches an IPv6 address or the address of a network card."""
_SHORT_HEX = re.compile(r"\b(?=[a-fA-F]{0,63}\d)(?=\d{0,63}[a-fA-F])[0-9a-fA-F]{6,64}\b")
_NUMBER = re.compile(r"-?\d{1,64}(?:[.,:]\d{1,64}){0,16}")
_MASKS = (
    *(_DATE, _SIZE, _USER, _URL, volatile_text.UUID, volatile_text.HEX_NUMBER, _PATH, _COLON_HEX, _SHORT_HEX, _NUMBER),
)
_WORD = re.compile(r"\W{0,20}(?:[\w.]{1,100}[=:])?\W{0,20}[A-Za-z]{2,60}(?:[\-'][A-Za-z]{1,60}){0,8}\W{0,20}")


def tokenize(line: str) -> list[str]:
    """Returns the words of a line, with WILDCARD for volatile parts."""
    text = volatile_text.ANSI.sub("", line[:MAX_LENGTH])
    for pattern in _MASKS:
        text = pattern.sub(WILDCARD, text)
    return text.split(None, MAX_TOKENS)[:MAX_TOKENS]


class TemplateMatch(msgspec.Struct, frozen=True):
    """A line's family and words. `TemplateMiner.template` returns the line's template as of now."""

    family: int
    tokens: tuple[str, ...]


class _Family(msgspec.Struct):
    id: int
    tokens: list[str]
    """The words of the family's lines, with WILDCARD at each position where the lines differ."""
    words: list[set[str] | None]
    """The different words at each position; None at a position that has had too many of them, or a value that is no
    word.
    """


class TemplateMiner:
    """Finds the templates of lines that arrive one after the other."""

    def __init__(self) -> None:
        self._leaves: dict[tuple[int | str, ...], list[_Family]] = {}
        self._families: list[_Family] = []

    def add(self, line: str) -> TemplateMatch:
        tokens = tokenize(line)
        leading = (WILDCARD if _is_variable(token) else token for token in tokens[:LEADING])
        key: tuple[int | str, ...] = (len(tokens), *leading)
        if key not in self._leaves and len(self._leaves) >= MAX_LEAVES:
            key = (len(tokens),)
        siblings = self._leaves.setdefault(key, [])
        family = self._find(siblings, tokens)
        if family is None:
            family = _Family(len(self._families), tokens, [_words_of(token) for token in tokens])
            self._families.append(family)
            siblings.append(family)
        else:
            _join(family, tokens)
        return TemplateMatch(family.id, tuple(tokens))

    def template(self, match: TemplateMatch) -> str:
        """Returns the template of a line as of now; it may become more general later. Lines with the same template and
        family form a group.
        """
        family = self._families[match.family]
        tokens = zip(match.tokens, family.tokens, family.words, strict=True)
        return " ".join(common if words is None else token for token, common, words in tokens)

    def _find(self, siblings: list[_Family], tokens: list[str]) -> _Family | None:
        best, most = None, -1
        for family in siblings:
            equal = sum(map(str.__eq__, family.tokens, tokens))
            if equal > most:
                best, most = family, equal
        if best is None or (most < SIMILARITY * len(tokens) and len(siblings) < MAX_SIBLINGS):
            return None
        return best


def _is_variable(token: str) -> bool:
    return WILDCARD in token or any(character.isdigit() for character in token)


def _words_of(token: str) -> set[str] | None:
    return {token} if _is_word(token) else None


def _is_word(token: str) -> bool:
    return WILDCARD not in token and _WORD.fullmatch(token) is not None


def _join(family: _Family, tokens: list[str]) -> None:
    """Adds the words of a line to the words that its family has had at each position."""
    for position, token in enumerate(tokens):
        if family.tokens[position] != token:
            family.tokens[position] = WILDCARD
        words = family.words[position]
        if words is not None and token not in words:
            words.add(token)
            if len(words) > MAX_WORDS or not _is_word(token):
                family.words[position] = None
