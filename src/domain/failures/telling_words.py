"""Selects the words of a failure's message by which similar messages of other tests are found."""

import re
from collections.abc import Iterable

from domain.phrases import first_line
from domain.search import find_query_words

MAX_LINE = 300
"""Number of characters of a message's first line from which the words are taken."""
MAX_WORDS = 6
"""Largest number of words of a message, the longest ones, by which similar messages are searched for. A similar message
contains all of them.
"""
MIN_TELLING = 3
"""Least number of words that must tell what failed, among the MAX_WORDS longest words of a message. With fewer, no
similar messages are searched for.
"""
_GENERAL = re.compile(
    r"a|actual|also|an|and|another|any|are|as|assert|asserted|assertion|at|attribute|be|been|but|by|can|caused"
    r"|comparison|condition|equal|equality|equals|error|errors|exception|expect|expectation|expected|expecting"
    r"|fail|failed|fails|failure|failures|false|for|found|from|given|got|had|has|have|in|instead|into|is|it|its"
    r"|java|junit|lang|left|match|matches|no|none|nonetype|not|null|object|of|on|opentest4j|or|org|python"
    r"|raised|received|result|return|returned|returns|right|runtime|so|than|that|the|then|this|to|true|type"
    r"|undefined|unexpected|value|values|was|were|with"
)
"""Matches words of messages of any kind of failure. They tell nothing: messages need other words in common to be
similar.
"""


def find_telling_words(message: str) -> list[str]:
    """Returns the longest words of the first line of a message, without words that contain digits. Returns an empty
    list if too few of them tell what failed.
    """
    longest = sorted(_find_words(message), key=len, reverse=True)[:MAX_WORDS]
    return longest if _count_telling(longest) >= MIN_TELLING else []


def count_telling_words(message: str) -> int:
    """Returns the number of words in the first line of a message that tell what failed."""
    return _count_telling(_find_words(message))


def _find_words(message: str) -> list[str]:
    words = find_query_words(first_line(message)[:MAX_LINE])
    return [word for word in words if not any(map(str.isdigit, word))]


def _count_telling(words: Iterable[str]) -> int:
    return sum(_GENERAL.fullmatch(word) is None for word in words)
