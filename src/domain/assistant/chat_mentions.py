"""Tests and builds that a chat message names. Builds are named by their numbers.

All patterns take linear time: a match begins only at the beginning of a word, and words are separated by single spaces.
A slow pattern would block the event loop of `testhide work`, which searches a message once for each test of a build.
"""

import re
from functools import lru_cache

from domain.assistant.answers import Question
from domain.assistant.evidence import Evidence, FailedTest

MAX_NAMES = 20
"""Largest number of test names, and of build numbers, that are read from one message. Further ones are ignored."""
_TEST = re.compile(r"(?<![\w./:-])[\w./-]*::[\w:.]*\w|(?<![\w/.-])test_\w+|(?<![\w/.-])Test[A-Z]\w+")
_NAME = re.compile(r"[\W\d_]|[a-z][A-Z]")
"""Matches a part of a word that shows that the word is the name of a test, and not a common word such as `build`."""
_OTHER_SUBJECT = re.compile(
    r"\b(?:builds?|jobs?|projects?|branch(?:es)?|tests?|cases?|failures?|everything|all|summary)\b", re.IGNORECASE
)
"""Matches words which show that a message is about something else than the test that the conversation was about before.
"""
_BUILD = re.compile(r"\bbuild ?(?:#|no\.?|number)? ?(\d{1,15})\b", re.IGNORECASE)


def find_asked_tests(evidence: Evidence) -> tuple[FailedTest, ...]:
    """Returns the failed tests that the question is about; none if it is about no tests, or about tests that were not
    looked at.
    """
    return tuple(test for test in evidence.failures if is_asked(evidence.question, test.result_id, test.name))


def is_asked(question: Question, result_id: int, test: str) -> bool:
    """Returns whether a question is about a result of a test: the question has the id of the result, or its message
    names the test.
    """
    if question.result_id is not None:
        return question.result_id == result_id
    return question.kind == "chat" and names_test(find_asked_message(question), test)


@lru_cache(maxsize=16)
def find_asked_message(question: Question) -> str:
    """Returns the message of a question. If the message does not say what it is about, like `since when?`, adds the
    names of the tests that the earlier conversation was about.
    """
    message = question.message
    if question.build_choice or question.result_id is not None or find_names_of_tests(message):
        return message
    for earlier in (message, *(asked for asked, _ in reversed(question.earlier))):
        if names := find_names_of_tests(earlier):
            return f"{message} ({', '.join(names)})"
        if _OTHER_SUBJECT.search(earlier):
            break
    return message


def find_text_with_tests(question: Question) -> str:
    """Returns the text in which the assistant looks for names of tests. Returns an empty text if the question is no
    chat message, or if the request named a single result by its id.
    """
    is_named = question.result_id is None or question.build_choice == "newest_failure"
    return find_asked_message(question) if question.kind == "chat" and is_named else ""


def names_test(message: str, test: str) -> bool:
    """Returns whether a message names a test: the message contains the last part of the test's id (without parameters),
    or a word of the message that looks like the name of a test is a part of the id.
    """
    last = re.split(r"::| > ", test)[-1].partition("[")[0]
    return (_NAME.search(last) is not None and _has_word(message, last)) or any(
        _has_word(test, word) for word in find_names_of_tests(message)
    )


def find_names_of_tests(message: str) -> list[str]:
    """Returns the words of a message that look like names of tests, each once, MAX_NAMES at most."""
    return list(_find_names(message))


def find_build_numbers(message: str) -> list[int]:
    """Returns the numbers of the builds that a message names in words, such as `build 12`, each once, MAX_NAMES at
    most.
    """
    return list(dict.fromkeys(int(number) for number in _BUILD.findall(" ".join(message.split()))))[:MAX_NAMES]


@lru_cache(maxsize=16)
def _find_names(message: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_TEST.findall(message)))[:MAX_NAMES]


def _has_word(text: str, word: str) -> bool:
    return bool(word.strip()) and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
