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

MESSAGE_LENGTH = 4096
TRACE_LENGTH = 64 * 1024
FRAMES = 3

_MASKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\x1b?\[[0-9;]{1,16}m|\x1b\[[0-9;?]{0,16}[@-~]"), ""),
    (
        re.compile(
            r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
            r"|\b\d\d?/\d\d?/\d{4}(?: \d\d?:\d\d(?::\d\d)?(?: [AP]M)?)?"
            r"|\b\d\d?:\d\d:\d\d(?:[.,]\d{1,9})?"
        ),
        "<time>",
    ),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"\b0[xX][0-9a-fA-F]{1,32}\b"), "<hex>"),
    # Java prints an object as Type@1b6d3586. A long hex string without any digit is a word.
    (re.compile(r"@[0-9a-f]{5,16}\b"), "@<hex>"),
    # Masked like a number, since a hash may happen to have no letter.
    (re.compile(r"\b(?=[a-fA-F]{0,63}\d)(?=\d{0,63}[a-fA-F])[0-9a-fA-F]{12,64}\b"), "<n>"),
    (re.compile(r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b"), "<ip>"),
    (
        re.compile(
            r"(?:[A-Za-z]:)?[/\\](?:tmp|temp|Temp|var[/\\]folders|var[/\\]tmp|private|home|Users|root|builds?|workspace|work|opt|runner|__w)"
            r"[/\\](?:[^\s/\\'\"<>|:,;()\[\]]{1,255}[/\\]){0,40}"
        ),
        "<path>/",
    ),
    (
        re.compile(
            r"\b\d[\d,]{0,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,4})?"
            r"\s?(?:ns|us|µs|ms|s|sec|secs|seconds|min|minutes|h|hours)\b"
        ),
        "<duration>",
    ),
    (re.compile(r"-?\d[\d,_]{0,64}(?:\.\d{1,64})?(?:[eE][+-]?\d{1,4})?"), "<n>"),
    (re.compile(r"[`´‘’“”\"]"), "'"),
    (re.compile(r"\s{1,4096}"), " "),
)
_TEMP_NAME = re.compile(r"<path>/[^\s'\"<>|:,;()\[\]]{0,255}")

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


def signature(exception_type: str, message: str, trace: str = "") -> str:
    """Returns the signature of a failure. The docstring of this module says what is hashed."""
    parts = [exception_type.strip(), mask(message), *frames(trace)]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


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


def frames(trace: str) -> list[str]:
    """Returns the names of up to three functions of a stack trace, the innermost first. Skips functions of libraries
    and test runners.
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
    return [*reversed(python), *innermost_first][:FRAMES]


def _plain(function: str) -> str:
    """Returns the function's name without the numbers that compilers give to lambdas and generated classes."""
    return re.sub(r"\d{1,20}", "", function)
