"""Words for full-text search: splits texts into words, and cuts snippets out of them.

Names in tests and stack traces are written together, so they are split: `PaymentFlowTest` has the words `payment`,
`flow` and `test`, and `test_login/user.py` has `test`, `login`, `user` and `py`. Words are in small letters.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice, takewhile

MAX_WORD = 64
"""Largest number of characters of a word. Longer words are cut into several, also in queries."""
MAX_WORDS = 300
"""Largest number of different words of one text by which the text can be found."""
MAX_QUERY_WORDS = 12
"""Largest number of words of a query that are searched for. Further words are ignored."""
SNIPPET_LENGTH = 160
"""Largest number of characters of a snippet, without the dots at its ends."""
TIMED_OUT = "timeout"
"""Word that stands for "timed out", "times out" and similar phrases in the index, so that each finds all of them."""

_RUN = re.compile(rf"[^\W_]{{1,{MAX_WORD}}}")
_SPACED = "".join(character if character.isalnum() else " " for character in map(chr, range(128)))
"""Table that replaces each ASCII character that is no letter or digit by a space."""
_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_TIMED_OUT = re.compile(r"\btim(?:ed?|es|ing)[ _-]out\b", re.IGNORECASE)


def _find_runs(text: str) -> list[str]:
    """Returns the sequences of letters and digits in a text. A sequence has at most MAX_WORD characters."""
    if text.isascii():
        runs = text.translate(_SPACED).split()
        if len(text) <= MAX_WORD or max(map(len, runs), default=0) <= MAX_WORD:
            return runs  # takes a third of the time of the regular expression
    return _RUN.findall(text.replace("İ", "I"))  # the only letter that is two characters in small


def _is_joined(run: str) -> bool:
    """Returns whether a sequence of letters and digits has several words, as `PaymentFlow` and `HTTPServer` have."""
    return not (run[1:].islower() or run.islower() or run.isupper())


def find_words(text: str) -> list[str]:
    """Returns the words by which a text can be found, each once. Words that are written together are also found as a
    whole: `PaymentFlow` is found by `payment`, `flow` and `paymentflow`.
    """
    runs = _find_runs(text)
    words = dict.fromkeys(map(str.lower, runs))
    if not text.islower():  # words are joined by capitals, so runs in small letters are single words
        joined = " ".join([run for run in runs if run not in words and _is_joined(run)])
        words.update(dict.fromkeys(_CASE.sub(" ", joined).lower().split()))
    if "out" in words and _TIMED_OUT.search(text):
        words[TIMED_OUT] = None
    return list(words)[:MAX_WORDS] if len(words) > MAX_WORDS else list(words)


def find_query_words(query: str) -> list[str]:
    """Returns the words that a text must have to match a query, each once and in the order of the query. Words that are
    written together count as several: `PaymentFlow` also finds `payment_flow`.
    """
    runs = _find_runs(_TIMED_OUT.sub(TIMED_OUT, query))
    parts = (part for run in runs for part in (_CASE.split(run) if _is_joined(run) else [run]))
    return list(dict.fromkeys(part.lower() for part in parts))[:MAX_QUERY_WORDS]


def make_snippet(text: str, words: Iterable[str]) -> str:
    """Returns the part of a text that has the most of `words`, in one line. Dots stand for what is left out. If the
    text has none of the words, returns its beginning.
    """
    text = " ".join(text.split())
    if len(text) <= SNIPPET_LENGTH:
        return text
    start = _choose_start(text, words)
    end = min(len(text), start + SNIPPET_LENGTH)
    if start > 0 and (space := text.find(" ", start, start + MAX_WORD)) >= 0:
        start = space + 1
    if end < len(text) and (space := text.rfind(" ", end - MAX_WORD, end)) >= 0:
        end = space
    return f"{'...' if start > 0 else ''}{text[start:end]}{'...' if end < len(text) else ''}"


def _choose_start(text: str, words: Iterable[str]) -> int:
    """Returns the index at which the snippet begins, a fourth of a snippet's length before its first searched word.
    Chooses the snippet with the most searched words. Returns 0 if the text has none of them.
    """
    lower, found = text.lower(), list[tuple[int, str]]()
    for word in words:
        spellings = (word,) if word != TIMED_OUT else (word, "timed out", "time out", "times out", "timing out")
        for spelling in spellings:
            position = lower.find(spelling)
            while position >= 0 and len(found) < 500:
                found.append((position, word))
                position = lower.find(spelling, position + 1)
    if not found:
        return 0
    found.sort()
    best = max(range(len(found)), key=lambda index: (_count_words(found, index), -index))
    return max(0, min(found[best][0] - SNIPPET_LENGTH // 4, len(text) - SNIPPET_LENGTH))


def _count_words(found: Sequence[tuple[int, str]], index: int) -> int:
    """Returns the number of different searched words in the snippet that begins shortly before `found[index]`."""
    end = found[index][0] + SNIPPET_LENGTH * 3 // 4
    shown = takewhile(lambda item: item[0] < end, islice(found, index, None))
    return len({word for _, word in shown})
