"""Masks the parts of failures' messages that change from run to run. Also selects the messages that show, when they are
equal, that failures have one cause.
"""

import re

from domain.failures import volatile_text
from domain.failures.telling_words import count_telling_words

MESSAGE_LENGTH = 4096
"""Number of characters of a message that `mask` reads. Later characters are mostly diffs and dumps."""
SHARED_LENGTH = 500
"""Number of characters of a message that `find_shared_message` compares. It is less than MESSAGE_LENGTH, since masking
that many characters takes 1 ms.
"""
MIN_TELLING = 2
"""Failures with equal messages count as having one cause only if at least this many words of the message tell what
failed.
"""

_MASKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (volatile_text.ANSI, ""),
    (volatile_text.TIME, "<time>"),
    (volatile_text.UUID, "<id>"),
    (volatile_text.HEX_NUMBER, "<hex>"),
    (volatile_text.OBJECT_HASH, "@<hex>"),
    # Masked like a number, since a hash may happen to have no letter.
    (volatile_text.LONG_HEX, "<n>"),
    (volatile_text.IP_ADDRESS, "<ip>"),
    (volatile_text.TEMPORARY_PATH, "<path>/"),
    (volatile_text.DURATION, "<duration>"),
    (volatile_text.NUMBER, "<n>"),
    (re.compile(r"[`´‘’“”\"]"), "'"),
    (re.compile(r"\s{1,4096}"), " "),
)
_TEMP_NAME = re.compile(r"<path>/[^\s'\"<>|:,;()\[\]]{0,255}")


def mask(message: str) -> str:
    """Returns the message with placeholders, such as `<path>`, for the parts that change from run to run."""
    text = message[:MESSAGE_LENGTH]
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
        if word == "<path>/":
            text = _TEMP_NAME.sub(_masked_path, text)
    return text.strip()


def _masked_path(match: re.Match[str]) -> str:
    """Returns the masked form of a path. Keeps the name of a source file. Masks any other file name, since a temporary
    file has a new name in each run.
    """
    name = match.group()[len("<path>/") :]
    return (
        f"<path>/{name}"
        if re.fullmatch(r"[\w\-]{1,128}\.(?:py|java|kt|cs|js|ts|tsx|jsx|go|rb|php|cc|cpp|c|h|rs|swift|scala)", name)
        else "<path>"
    )


def find_shared_message(message: str) -> str:
    """Returns the masked message. Failures of one build with equal masked messages have one cause, whatever their
    traces are. Returns an empty text if too few words tell what failed: `assert 1 == 2` has many causes.
    """
    return mask(message[:SHARED_LENGTH]) if count_telling_words(message) >= MIN_TELLING else ""
