"""Names of projects, jobs and branches in a chat message.

A name that consists of common words of questions, such as `Tests`, counts only if the message marks it as a name: `job
Tests`, `the Tests job`, or in quotes. All patterns take linear time: each begins at the beginning of a word only.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from domain.assistant.chat_mentions import find_build_numbers

NameKind = Literal["project", "job", "branch"]

MIN_NAME = 3
"""Least number of characters of a name that counts wherever it is in a message. A shorter name counts only if the
message marks it as a name.
"""
MIN_MISSPELT = 5
"""Least number of letters of a word that may be a misspelt name."""
MAX_WORDS = 100
"""Largest number of words of a message, the first ones, that are compared with the names of branches, and with the
names that they may misspell.
"""
_WORDS = """
a about action actions after again all already also always an and any anything are as at avoid back bad be because
been before began begin being best better between big both branch branches break breaking broke broken bug bugs
build builds but by can case cases cause causes change changed changes check checks commit commits compare could
crash crashed current currently day days did diff difference do does done down duration each earlier either else
end ended ending ends error errors ever every explain fail failed failing fails failure failures fast faster fine
finish finished first fix fixed flake flakes flaky for from get gets getting go goes going good got green had hang
hanging hangs happen happened happening happens has have healthy help here history how i if in inside into
investigate is issue issues it its job jobs just know known last late lately latest least left less list log logs
long look made make many me mean merge minutes month more most much my need new newest next no none not nothing now
of off often ok old on once one only open or other our out over overall pass passed passes passing pending please
previous problem problems project projects pull quarantine queue queued random randomly rate reason recent recently
red report reports request rerun result results retry right run running runs said same say see seen should show
since skip skipped slow slower slowest so some stable start started starting starts state stats status still stop
stopped stuck succeed succeeded success suite suites summary take taken takes tell test testing tests than that the
their them then there these they this those ticket time timeout to today together too took trend trends try two
under unstable until up us use very was we week weeks well went were what when where whether which while who whole
why will with without work worked working works worse would wrong yes yesterday yet you your
"""
"""Common words of questions. A name that consists of these words alone counts only if the message marks it as a name.
"""
_QUESTION_WORDS = frozenset(_WORDS.split())
_NAMES_OF_JOBS = frozenset(("build", "builds", "check", "checks", "report", "reports", "test", "tests"))
"""Common words of questions that count as names if the message marks them as such and they begin with a capital letter.
"""
_DETERMINERS = "the|this|that|these|those|my|our|your|its|their|a|an|any|every|each|which|what|whose|no|all|some|per"
_BEFORE_NAMES = "about|did|does|for|from|in|is|of|on|was"
"""Words, besides articles and the like (_DETERMINERS), after which a name may come."""
_NO_NAMES = frozenset(
    ("another", "called", "default", "id", "main", "name", "named", "number", "own", "parent", "such")
)
"""Words that are no names although they stand next to `branch` or `job`, as in `default branch`. The common words of
questions are no names either.
"""
_NAME = r"[\w][\w./-]*"
_OPENING, _CLOSING = "[\"'“‘`]", "[\"'”’`]"
_AFTER = re.compile(
    rf"(?:\b(?P<article>{_DETERMINERS}) )?\b(?P<kind>project|job|branch):? (?:(?:called|named) )?"
    rf"(?:{_OPENING}(?P<quoted>[^\"'“”‘’`]{{1,100}}){_CLOSING}|(?P<name>{_NAME}))",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    rf"(?:{_OPENING}(?P<quoted>[^\"'“”‘’`]{{1,100}}){_CLOSING}|\b(?:{_DETERMINERS}|{_BEFORE_NAMES}) (?P<name>{_NAME}))"
    r" (?P<kind>project|job|branch)\b",
    re.IGNORECASE,
)
_ORDER: tuple[NameKind, ...] = ("branch", "job", "project")


class MarkedName(msgspec.Struct, frozen=True):
    kind: NameKind
    name: str


def names(message: str, kind: NameKind, name: str) -> bool:
    """Returns whether a message names `name` as a whole word: `capital` does not name `api`. A short name, or a name of
    common words of questions, must be in quotes or next to the word for its kind, such as `job`.
    """
    text, word = message.lower(), re.escape(name.lower())
    if len(name) >= MIN_NAME and not _is_common(name):
        return re.search(rf"(?<!\w){word}(?!\w)", text) is not None
    return (
        re.search(
            rf"\b{kind}:? (?:(?:called|named) )?{_OPENING}?{word}(?!\w)|(?<!\w){word}{_CLOSING}? {kind}\b"
            rf"|{_OPENING}{word}{_CLOSING}",
            text,
        )
        is not None
    )


def remove_name(message: str, name: str) -> str:
    """Returns a message with a bullet character in place of each mention of the name."""
    return re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "\N{BULLET}", message, flags=re.IGNORECASE)


def find_marked_names(message: str) -> tuple[MarkedName, ...]:
    """Returns the names that a message marks as those of a project, a job or a branch, such as `job Nightly` and `the
    release branch`: branches first, then jobs, then projects.
    """
    text = " ".join(message.split())
    found = dict.fromkeys((*_find_after(text), *_find_before(text)))
    return tuple(sorted(found, key=lambda named: _ORDER.index(named.kind)))


def find_branch_words(message: str) -> list[str]:
    """Returns the words of a message that may be names of branches, in lower case."""
    words = [word.strip("./-").lower() for word in re.findall(_NAME, message)]
    marked = [named.name.lower() for named in find_marked_names(message) if named.kind == "branch"]
    return list(dict.fromkeys((*marked, *(word for word in words if word not in _QUESTION_WORDS))))[:MAX_WORDS]


def find_misspelt(message: str, known: Sequence[str]) -> tuple[str, int] | None:
    """Returns the first words of a message that are a misspelt name, and the index of that name in `known`. Misspelt
    means that one letter is wrong, missing or too many, or that two adjacent letters are swapped. Returns None if the
    message has no misspelt name.
    """
    words = re.findall(r"[\w./-]*\w", message)[:MAX_WORDS]
    lowered = [name.lower() for name in known]
    for size in sorted({len(name.split()) for name in known}):
        for start in range(max(0, len(words) - size + 1)):
            written = " ".join(words[start : start + size])
            found = next((index for index, name in enumerate(lowered) if _is_misspelt(written.lower(), name)), None)
            if found is not None and not _is_common(written):
                return written, found
    return None


def describe_missing(message: str, job: str = "") -> str:
    """Returns a sentence that says what was not found. It is about the first of these that the message has: numbers of
    builds; names that the message marks as those of a project, job or branch; a misspelling of `job`, the name of a
    job. Returns an empty text if the message has none of them.
    """
    numbers = [str(number) for number in find_build_numbers(message)]
    if numbers:
        what = f"build {numbers[0]}" if len(numbers) == 1 else f"builds {', '.join(numbers[:-1])} and {numbers[-1]}"
        return f"No {what} {'was' if len(numbers) == 1 else 'were'} found that you can read."
    if marked := find_marked_names(message):
        what = " of ".join(f"{named.kind} {named.name}" for named in marked)
        return f"No {what} was found that you can read."
    if job and (found := find_misspelt(message, [job])) is not None:
        return f"No job {found[0]} was found that you can read; there is a job {job}."
    return ""


def _find_after(text: str) -> Iterable[MarkedName]:
    for match in _AFTER.finditer(text):
        kind: NameKind = match["kind"].lower()  # type: ignore[assignment]
        if match["quoted"] is not None:
            yield MarkedName(kind, match["quoted"])
            continue
        name = match["name"].rstrip("./-")
        # `the job hangs` has no name, but `job hangs` and `the job Hangs` have one.
        if _may_name(name) and (match["article"] is None or not name.islower()):
            yield MarkedName(kind, name)


def _find_before(text: str) -> Iterable[MarkedName]:
    for match in _BEFORE.finditer(text):
        name = match["quoted"] or match["name"].rstrip("./-")
        if match["quoted"] is not None or _may_name(name):
            yield MarkedName(match["kind"].lower(), name)  # type: ignore[arg-type]


def _may_name(word: str) -> bool:
    if word.istitle() and word.lower() in _NAMES_OF_JOBS:
        return True
    return bool(word) and word.lower() not in _QUESTION_WORDS | _NO_NAMES


def _is_common(name: str) -> bool:
    """Returns whether a name consists of common words of questions alone."""
    return all(word in _QUESTION_WORDS for word in re.findall(r"\w+", name.lower()))


def _is_misspelt(written: str, name: str) -> bool:
    if min(len(written), len(name)) < MIN_MISSPELT or abs(len(written) - len(name)) > 1 or written[0] != name[0]:
        return False
    start = _count_equal(written, name)
    if start == min(len(written), len(name)):
        return False  # another form of the word, such as its plural
    end = _count_equal(written[start:][::-1], name[start:][::-1])
    one, other = written[start : len(written) - end], name[start : len(name) - end]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])


def _count_equal(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns the number of characters at the beginning that both texts have in common."""
    return next(
        (position for position, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
