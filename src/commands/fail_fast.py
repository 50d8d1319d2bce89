"""Finds options with which a test runner ends after a failure, in what a job says about its runs.

With such an option other tests may never have run, and most reports do not show that. Options in the files of the
repository are not found.
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
_SHORT = re.compile(
    r"\b(?:pytest|py\.test|playwright)\b[^\n;&|]{0,2000}?\s(-[qvsl]{0,8}x[qvsl]{0,8})(?![\w-])"
    r"|\b(?:unittest|xmlrunner|manage\.py)\b[^\n;&|]{0,2000}?\s(-[qvbc]{0,8}f[qvbc]{0,8})(?![\w-])"
    r"|\b(?:jest|mocha)\b[^\n;&|]{0,2000}?\s(-b)(?![\w-])"
)


def find_fail_fast(configuration: Configuration) -> str | None:
    """Returns the first such option in the command, the setup lines or the variables of a job; None without one."""
    for text in (configuration.command, *configuration.setup, *configuration.env.values()):
        line = text.replace("\\\n", " ")
        if found := _NAMED.search(line):
            return found.group().strip("=.")
        if found := _SHORT.search(line):
            return str(next(filter(None, found.groups())))
    return None
