"""Intents of chat messages: what a message asks for, found by the words in it. docs/assistant.md lists the intents."""

import re
from typing import Literal

Intent = Literal[
    "flaky",
    "history",
    "changed",
    "next",
    "times",
    "ranking",
    "quarantined",
    "tests",
    "duration",
    "summary",
    "why",
    "unknown",
]
LISTED_ELSEWHERE: tuple[Intent, ...] = ("times", "ranking", "quarantined")
"""Intents of questions for which the assistant looks nothing up. The reply names the API request that answers the
question.
"""

BUILD_INTENTS: tuple[Intent, ...] = ("why", "changed", "next", "tests", "duration")
"""Intents of questions that can only be answered about a build."""

_WORDS: tuple[tuple[Intent, re.Pattern[str]], ...] = (
    (
        "unknown",
        re.compile(
            r"\b(?:which|what) (?:\w+ ){0,2}(?:combinations?|matrix|matrices|platforms?|environments?|browsers?"
            r"|operating systems?)\b"
        ),
    ),
    (
        "ranking",
        re.compile(
            r"\b(?:which|what) (?:tests?|cases?) (?:\w+ ){0,2}(?:fail|failed|fails|break|breaks|broke) (?:the )?most\b"
            r"|\bmost (?:often |frequently )?failing (?:tests?|cases?)\b"
        ),
    ),
    (
        "quarantined",
        re.compile(
            r"\b(?:which|what|list|how many|show)\b.{0,40}\b(?:quarantined|in (?:the )?quarantine)\b"
            r"|\b(?:which|what) (?:tests?|cases?) (?:\w+ ){0,3}quarantine\b"
        ),
    ),
    (
        "flaky",
        re.compile(
            r"\b(?:flak(?:y|e|es|iness)|unstable|intermittent(?:ly)?|sporadic(?:ally)?|random(?:ly)?|reliable"
            r"|non-?deterministic|by (?:chance|accident)|sometimes (?:pass|fail))\w{0,4}\b"
        ),
    ),
    (
        "history",
        re.compile(
            r"\b(?:history|ever (?:pass|fail)|(?:pass|fail|happen|seen|occur)\w{0,4} (?:\w+ ){0,3}"
            r"(?:before|earlier|often)"
            r"|how (?:often|many times)|first time|seen (?:this|that|it)|similar (?:failures?|errors?|problems?)|recur"
            r"|known issues?|how long has|track record|(?:last|past|previous) (?:runs?|builds?|failures?|results?))"
        ),
    ),
    (
        "changed",
        re.compile(
            r"\b(?:chang(?:e|ed|es)|commit(?:s|ted)?|since when|who\b|blame|culprit|regress\w{0,6}|introduced|bisect"
            r"|(?:broke|broken) (?:it|this|the)|what broke|last (?:good|green|passing)|first (?:bad|failing|red|failed)"
            r"|(?:start|began|begin)\w{0,4} (?:to )?fail\w{0,4}|diff(?:erence|erent)?|new(?:ly)? fail\w{0,4})\b"
        ),
    ),
    (
        "next",
        re.compile(
            r"\b(?:next|what now|now what|should (?:i|we|you)|shall (?:i|we)|what (?:can|to|do) (?:i|we|do)"
            r"|fix(?:es|ed)?|solve|repair"
            r"|mend|how (?:do|can|to|would|could) (?:i|we|you)? ?(?:\w+ )?(?:fix|solve|repair|resolve"
            r"|avoid|prevent)|resolve|recommend\w{0,6}|suggest\w{0,4}|advice|advise|quarantine|re-?run|retry"
            r"|restart|ticket|action)\b"
        ),
    ),
    (
        "times",
        re.compile(
            r"\b(?:slow(?:er|est)?|fast(?:er|est)?|longest|quickest|time-consuming) (?:\w+ ){0,3}(?:tests?|cases?)\b"
            r"|\b(?:tests?|cases?)\b (?:\w+ ){0,3}(?:slow(?:er|est)?|longest|fast(?:er|est)?|quickest)\b"
        ),
    ),
    (
        "summary",
        re.compile(
            r"\b(?:which|what|list|how many|show)\b.{0,40}\b(?:tests?|cases?) (?:\w+ ){0,3}"
            r"(?:pass(?:ed|es)?|skipped|ran|run)\b"
        ),
    ),
    (
        "tests",
        re.compile(r"\b(?:which|what|list|how many|show)\b.{0,40}\b(?:tests?|cases?|failures|failed|failing)\b"),
    ),
    ("duration", re.compile(r"\bhow long\b|\b(?:duration|slow(?:er|est)?|runtime|time did it take)\b")),
    (
        "summary",
        re.compile(
            r"\b(?:summar(?:y|ize|ise|izes|ized)|overview|tl;?dr|in short|status|what happened|tell me about|describe"
            r"|recap|result of|how did|how (?:is|are|was|were)|healthy?|report|trend"
            r"|pass(?:ed|es|ing)?|green|succe\w{2,6}|finished|(?:is|was|are|were) (?:\w+ ){1,5}(?:ok|okay|fine))\b"
        ),
    ),
    (
        "why",
        re.compile(
            r"\b(?:why|cause[sd]?|reasons?|explain|diagnos\w{1,4}|investigat\w{1,4}|wrong|root|fail(?:ed|s|ing|ure"
            r"|ures)?"
            r"|red|broke|broken|crash(?:ed|es)?|error|errors|problem|problems|issue|infra(?:structure)?|mean(?:s|ing)?"
            r"|hang(?:s|ing)?|hung|aborted|happen(?:s|ing|ed)?)\b"
        ),
    ),
)
"""Intents with the words that ask for them, in the order in which they are tried. If a message contains words of
several intents, the first of these intents counts.
"""


def find_intent(message: str) -> Intent:
    """Returns the intent of a message; `unknown` if it has the words of no intent."""
    text = " ".join(message.lower().split())[:2_000]
    for intent, words in _WORDS:
        if words.search(text):
            return intent
    return "unknown"
