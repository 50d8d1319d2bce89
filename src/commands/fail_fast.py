"""Finds options in a job's configuration by which a test runner stops after the first failures. With such an option,
some tests may not run, and most reports do not show that. The search does not cover options in files of the repository.
"""

import re

from domain.jobs import Configuration

_OFF = r"(?![\w-])(?!(?:=|\s+)(?:0|false|no|off)\b)"
_NAMED = re.compile(
    # --bail, --fail-fast, -failfast, --gtest_fail_fast, --exitfirst, --maxfail=1, --stop-on-failure, xUnit.StopOnFail
    r"(?:(?<![\w-])--?(?:gtest_)?|(?<=\w)\.)"
    r"(?:bail|fail[-_]?fast|exit-?first|max-?fail(?:ures)?|stop-?on-?(?:fail(?:ure)?|error|defect)|exit-?on-?failure)"
    rf"{_OFF}|skipAfterFailureCount(?==[1-9])|\b(?:bail|fail_?fast)[\"']?\s{{0,8}}[:=]\s{{0,8}}(?:true|[1-9])",
    re.IGNORECASE,
)
_SHORT = (
    (re.compile(r"(?:.*/)?(?:pytest|py\.test|playwright)"), re.compile(r"-[qvsl]*x[qvsl]*")),
    (re.compile(r"(?:.*/)?(?:unittest|xmlrunner|manage\.py)"), re.compile(r"-[qvbc]*f[qvbc]*")),
    (re.compile(r"(?:.*/)?(?:jest|mocha)(?:\.sh)?"), re.compile(r"-b")),
)
"""Pairs of patterns: a test runner, and its one-letter option to stop after a failure. The option has this meaning only
in a command line of that runner.
"""


def find_fail_fast(configuration: Configuration) -> str | None:
    """Returns the first option that makes a test runner stop after failures; None if there is none. Searches the
    command, the setup lines and the variables of a job.
    """
    for text in (configuration.command, *configuration.setup, *configuration.env.values()):
        line = text.replace("\\\n", " ")
        if found := _NAMED.search(line):
            return found.group().strip("=.")
        for part in re.split(r"[\n;&|]", line):
            if option := _find_short(part.split()):
                return option
    return None


def _find_short(words: list[str]) -> str | None:
    for runner, option in _SHORT:
        start = next((number for number, word in enumerate(words) if runner.fullmatch(word)), len(words))
        if found := next(filter(option.fullmatch, words[start:]), None):
            return found
    return None
