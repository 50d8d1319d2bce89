"""Signature of a failure: 16 hex digits that are the same whenever the same failure occurs again.

    sha256(exception type, masked message, innermost functions of the project)[:16]

A reporter's `fail_id` changes with every address, time and path in the message, and is missing for errors in setup,
teardown and collection. A signature is computed for every failed case.

These parts of the message are masked, in this order: ANSI escapes, timestamps, UUIDs, hex addresses and long hex
strings, IPv4 addresses, temporary and home paths (all but the file's name), durations, and every number that is left.
White space is collapsed, and all kinds of quotes become one. Only the first 4,096 characters of a message count, since
diffs and dumps come after them.

Of the stack trace, up to three function names count, the innermost first. Files and lines do not count: a line number
changes with every edit above it, a function's name rarely does. Functions of libraries and test runners are left out
(site-packages, node_modules, the JDK). Stack traces of Python, Java, .NET and JavaScript are recognised. For other
texts only the exception type and the message count.

All patterns take linear time: repeats are bounded and not nested, and no two alternatives can match the same text.
"""

import hashlib
import re

from domain.failures.message_masks import mask

TRACE_LENGTH = 64 * 1024
FRAMES = 3

_FRAMES = re.compile(
    r"""^[ \t]{0,16}(?:
        File\ "(?P<pyfile>[^"\n]{1,1024})",\ line\ \d{1,9},\ in\ (?P<py>[^\s]{1,256})
      | at\ (?:async\ )?(?P<js>[^\s(]{1,256})(?:\ \[as\ [^\]\n]{1,64}\])?\ \((?P<jsfile>[^)\n]{1,1024}):\d{1,9}:\d{1,9}\)
      | at\ (?P<java>[\w.$/<>@-]{1,512})\([^)\n:]{1,256}(?::\d{1,9})?\)
      | at\ (?P<net>[\w.`+<>\[\],|]{1,512})\([^)\n]{0,1024}\)(?:\ in\ [^\n]{1,1024})?
    )[ \t]{0,16}$""",  # noqa: E501
    re.MULTILINE | re.VERBOSE,
)
_FOREIGN_FILE = re.compile(
    r"site-packages|dist-packages|[/\\]lib[/\\]python\d|node_modules|node:internal|internal/|<frozen|_pytest|pluggy"
    r"|unittest[/\\]|<anonymous>"
)
_FOREIGN_CODE = re.compile(
    r"(?:java|javax|jdk|sun|com\.sun|kotlin|scala|groovy|junit|org\.(?:junit|testng|assertj|hamcrest|mockito"
    r"|opentest4j|gradle|apache\.maven)|System|Microsoft|Xunit|NUnit|Shouldly|FluentAssertions)[.$/]"
)
_NUMBER = re.compile(r"\d{1,20}")
_GENERATED = re.compile(r"[$<>`]|[Ll]ambda")


def signature(exception_type: str, message: str, trace: str = "") -> str:
    """Returns the signature of a failure. The docstring of this module says what is hashed."""
    parts = [exception_type.strip(), mask(message), *frames(trace)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def frames(trace: str) -> list[str]:
    """Returns the names, without numbers, of up to three functions of a stack trace, the innermost first. Skips
    functions of libraries and test runners.
    """
    return [_NUMBER.sub("", function) for function in find_functions(trace)[:FRAMES]]


def find_functions(trace: str) -> list[str]:
    """Returns the names of all functions of a stack trace, the innermost first. Skips functions of libraries and test
    runners.
    """
    if len(trace) > TRACE_LENGTH:
        trace = trace[: TRACE_LENGTH // 2] + "\n" + trace[-TRACE_LENGTH // 2 :]
    innermost_first: list[str] = []
    python: list[str] = []
    for match in _FRAMES.finditer(trace):
        if (function := match["py"]) is not None:
            if not _FOREIGN_FILE.search(match["pyfile"]):
                python.append(_plain(function))
        elif (function := match["js"]) is not None:
            if not _FOREIGN_FILE.search(match["jsfile"]):
                innermost_first.append(_plain(function))
        else:
            function = match["java"] or match["net"]
            if not _FOREIGN_CODE.match(function):
                innermost_first.append(_plain(function))
    return [*reversed(python), *innermost_first]


def _plain(function: str) -> str:
    """Returns the function's name without the numbers that compilers give to lambdas and generated classes. Other names
    keep their numbers, since `test_1` and `test_2` are different functions.
    """
    return _NUMBER.sub("", function) if _GENERATED.search(function) else function
