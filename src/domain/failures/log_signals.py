"""Signals in a line of a build's log: how strongly the line says that something failed, and which kind of line it is.

The patterns know how compilers, test runners, package managers and shells report failures. None knows a project. The
weight of a line is between 0 and 12:

- 12: the header of one failed test
- 11: a compiler or linter names a file and a line, or a time limit ended the build
- 8: an exception, a crash, a system error such as "No such file or directory", or the header of a list of failed
  tests; a build tool says why it stops
- 6: a part of such a report: a cause, an assertion, expected and actual values
- 3: a word such as "error"
- 2: the outcome of a whole step, such as "BUILD FAILED", which says that something failed but not why

A line about success, progress or a warning has less weight, or none. All patterns take linear time: repeats are bounded
and not nested. Only the first MAX_LINE characters of a line are looked at.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

MAX_LINE = 400

Reason = Literal[
    "test_failure",
    "source_error",
    "time_limit",
    "failure_list",
    "exception",
    "system_error",
    "tool_error",
    "detail",
    "error_word",
    "outcome",
]


class Signal(NamedTuple):
    weight: float
    reason: Reason


_ANSI = re.compile(
    r"\x1b\[[0-9;?]{0,16}[ -/]{0,2}[@-~]|\x1b[()][0-9A-Z]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
"""Matches escape sequences, control characters, and characters that change the direction of text: those could make a
line look different from what it is.
"""
_RED = re.compile(r"\x1b\[(?:[0-9]{1,3};){0,4}(?:31|91|41)[;m]")
_PREFIX = re.compile(
    r"\s?(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?\]?"
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?\]?)[ \t]"
)
"""Matches the time that many tools print at the beginning of each line."""

HINTS = (
    *("err", "fail", "exce", "panic", "fatal", "abort", "denied", "refused", "timeout", "timed out", "not found"),
    *("no such", "could not", "cannot", "can't", "couldn't", "unable", "undefined", "unresolved", "invalid", "missing"),
    *("traceback", "assert", "expected", "exited", "exit code", "exit status", "not ok", "segfault", "segmentation"),
    *("killed", "caused by", "conflict", "unauthorized", "forbidden", "no space", "out of memory", "violation"),
    *("went wrong", "unknown", "unexpected", "unrecognized", "not exist", "broken", "offense", "✗", "✕", "✘", "×", "●"),
    *("warning", ": ***", "reset by", "unreachable", "mismatch", "crash", "core dumped", "stderr", "____", "not a "),
    *(
        "exceeded",
        "no output",
        "does not",
        "doesn't",
        "not installed",
        "not defined",
        "not resolve",
        "rspec ",
        ".go:",
        ") test ",
        "#test_",
        "(wstat:",
        "nothing provides",
        "no match for",
        "candidate",
    ),
)
"""Texts of which every line with a signal contains at least one. Nearly all other lines are excluded by this fast test.
"""

_NOTHING_FAILED = re.compile(
    r"\b(?:no|0) (?:\w{1,20} )?(?:errors?|failures?|failed|failing|exceptions?|offenses|problems|issues|warnings?"
    r"|violations)\b|\b(?:errors?|failures?|failed)['\"]?\s{0,3}[:=]\s{0,3}(?:0\b|none\b|null\b|false\b)",
    re.IGNORECASE,
)
_SOMETHING_FAILED = re.compile(
    r"\b[1-9]\d{0,8} (?:\w{1,20} )?(?:errors?|failures?|failed|failing|exceptions?|offenses|problems)\b"
    r"|\b(?:errors?|failures?|failed)\s{0,3}[:=]\s{0,3}[1-9]|<<< (?:FAILURE|ERROR)!|\(Wstat: [1-9]",
    re.IGNORECASE,
)
_PASSED = re.compile(
    r"^\s{0,40}(?:[✓✔√☑]|ok \d|--- PASS|PASS\b|\[\s{0,9}(?:OK|RUN|PASSED)\s{0,9}\])"
    r"|(?:\bPASSED|\bpassed|\.\.\. ?ok|\bSKIPPED|\bSTARTED|\[\s{0,3}OK\s{0,3}\])[\s)]{0,4}(?:\[\s{0,3}\d{1,3}%\])?$"
)
_PROGRESS = re.compile(
    r"^\s{0,12}(?:\[INFO\]\s{1,4})?(?:Download(?:ed|ing)?|Get:\d|Fetch(?:ed|ing)|Unpacking|Selecting|Setting up"
    r"|Preparing"
    r"|Compiling|Collecting|Using|Copying|creating|copying|adding|inflating|extracting|remote:|Receiving|Resolving"
    r"|Building"
    r"|Installing|Successfully|Requirement already|Running|Generating|Processing|Checking|Loading|Loaded|Removing"
    r"|Parsing|\[\s{0,3}\d{1,3}%\]|\d{1,3}%|drwx|-rw|Hit:|Ign:)\b"
)
_GOES_ON = ("PASSED", "passed", "... ok", "STARTED", "SUCCESS")
_COMMAND = re.compile(r"==> (?:Command: |Setup: |Build \d{1,20} of job )|\+{1,4} (?![-+])")
"""Matches the beginning of a line that repeats a command. The agent prints the name and the commands of a job, and a
shell after `set -x` prints the commands that it runs.
"""
_PYTEST_HEADER = re.compile(r"_{3,80} (?!_).{1,120} _{3,80}$")
_SHOWN_SOURCE = re.compile(r" {4}|>  |_ _ |[A-Za-z_]\w{0,60} {1,60}= ")
_ECHOED = re.compile(r"^\s{0,8}(?:\$|\+{1,4}|>|%|#) ")
_WARNING = re.compile(r"\bwarn(?:ing)?s?\b|\bdeprecat|\[WARN|\bnotice\b|\bhint\b|\bnote:", re.IGNORECASE)
_QUIET_LEVEL = re.compile(r"\[?\b(?:INFO|DEBUG|TRACE|FINE|VERBOSE|info|debug|trace)\b[\]: ]")
_RETRIED = re.compile(
    r"\bretry(?:ing)?\b|\btry(?:ing)? again\b|\battempt \d{1,4}(?: of |/)\d|\bignor(?:ed|ing)\b|\ballowed to fail\b"
    r"|\bfall(?:ing)? ?back\b|\bskipp(?:ed|ing)\b",
    re.IGNORECASE,
)

_OUTCOME = re.compile(
    r"\bBUILD FAIL(?:ED|URE)\b|\bexited with (?:code |status |exit )?\(?[1-9]"
    r"|\bexit(?:ed)?(?: with)?(?: non-zero)? (?:code|status)[: =]{0,3}\(?[1-9]"
    r"|: \*\*\* |\bFailed to execute goal\b|\bERR! (?:code |errno|A complete log|\s{0,4}$)|\bELIFECYCLE\b"
    r"|^error Command failed"
    r"|\bTests run: \d{1,9}, F|\b\d{1,9} (?:tests? |specs? |examples?, \d{1,9} |scenarios? )?(?:failed|failing"
    r"|failures?|errors?|offenses detected|problems)\b"
    r"|^FAILURES!|\bReactor Summary|\bFAILURE \[|\bre-run Maven\b|\bTests? failed\b(?!:)|\bThere are test failures"
    r"|\bThere were failing tests"
    r"|\bExecution failed for task\b|\btests? completed, \d|\bfailed with exit\b|\berror: could not compile\b"
    r"|\baborting due to"
    r"|\bYour build exited\b|^rake aborted|^Error: Process completed|\bInvocationError\b|\bERR! Failed at\b"
    r"|\bTest Suites?: \d"
    r"|\breturned a non-zero code\b|\bscript returned exit|^FAIL\s{0,4}$|^FAIL\s{1,8}\S{1,200}\s{1,8}(?:[\d.]{1,9}s$"
    r"|\[build failed\])|\b(?:job|build) failed\b|^FAILED\s{0,4}$|\bSee the console output|^Failed in \d|^make: "
    r"|\bfailed to run custom build command\b|\bBad exit status\b"
    r"|^ {0,4}error: (?:[a-z]{1,40}-){1,8}(?:failed|failure|error)$"
    r"|\bcommand\b.{0,300}\bfailed\b|^ninja: build stopped|\bErrors were encountered"
    r"|\bFor more information about the errors|\bTo see the full stack trace",
    re.IGNORECASE,
)
"""Matches lines that say how a step of a build ended. The last line of a test runner, such as `Tests run: 3, Failures:
1`, is one of them.
"""

_TIME_LIMIT = re.compile(
    r"\bexceeded the (?:maximum )?(?:time|run ?time)|\bNo output has been received\b|\b(?:job|build"
    r"|step) (?:has )?timed out\b"
    r"|\bcancel(?:l?ed|ing) .{0,80}\btime ?out\b|\bexecution time limit\b|\bno activity for\b",
    re.IGNORECASE,
)
_TOOL_ERROR = re.compile(
    r"\bFailed to execute goal (?!.{0,200}(?:surefire|failsafe|There (?:are|were) test failures|Compilation failure))"
    r"|^\* What went wrong:|\bforked VM terminated\b|\bstarting fork\b|\bGC overhead limit\b|\(Wstat: [1-9]|^> (?!Task "
    r"|There were failing|Run with|Compilation|Get more)\w.{0,200}\b(?:found|failed|violations?|errors?|not)\b",
    re.IGNORECASE,
)
"""Matches sentences in which a build tool says why it stops. Leaves out failed tests and errors in sources, which
earlier lines have reported.
"""

_PATTERNS: tuple[tuple[Reason, float, re.Pattern[str]], ...] = (
    (
        "test_failure",
        12,
        re.compile(
            r"^\S.{0,300} > .{1,300} FAILED$|<<< (?:FAILURE|ERROR)!|^\s{0,16}--- FAIL: "
            r"|^\s{0,8}not ok\b(?!.{0,200}# (?:TODO|SKIP))|^(?:FAIL|ERROR): \w{1,200} \("
            r"|^\s{0,8}\d{1,5}\) (?:Failure|Error)\b"
            r"|^\[  FAILED  \] \S{1,300} \(\d|^test .{1,300} \.\.\. FAILED|^\s{0,4}● \S.{0,200} › "
            r"|^_{3,80} (?:ERROR )?.{1,120} _{3,80}$"
            r"|^---- .{1,200} stdout ----$|\bFailure/Error:|^\s{0,4}Failed {1,4}\S{1,300} \[\d|\[FAIL\]\s{0,4}$"
            r"|\*\*\* (?:Failed|FAILED)\b|^FAILED(?: CONFIGURATION)?: \S|^\S.{10,300}\) .{1,200} FAILED$"
            r"|^#\s{1,6}Failed test"
            r"|^\s{0,8}\d{1,5}\) test .{1,200} \(|\bTest Failed at\b|\bFAILED \[\d|^\s{0,12}\[junit\] +FAILED$"
            r"|^\s{0,8}\d{1,5}\) \w.{0,200}[#:]{1,2}\w{0,40}test"
            r"|\.{3,80} {0,2}(?:FAILED?|Failed)$|^\S{0,200}\.{2,80}\*{3}Failed|\bTEST-UNEXPECTED-[A-Z]"
            r"|^\s{0,4}FAIL {1,4}\S{1,300} > \S"
        ),
    ),
    (
        "source_error",
        11,
        re.compile(
            r"^.{0,12}?\S{0,300}[^\s\d:(][:(]\d{1,7}(?:[:,]\d{1,6})?\)?:? {0,3}(?:- )?(?:fatal |syntax |parse )?error\b"
            r"|\berror(?:\[E\d{1,6}\])(?:: |$)|\berror (?:TS|CS|MSB|BC|FS|C|LNK)\d{1,6}\b"
            r"|^\[ERROR\] .{0,300}\.\w{1,8}:\[?\d|^\s{0,8}\d{1,7}:\d{1,6}:? {1,8}(?:error|✖)\b"
            r"|^\S{1,300}:\d{1,7}:\d{1,6}: [CEF]: |^(?-i:e): "
            r"|^(?-i:error): (?!could not compile|aborting|process|command)\S"
            r"|\bSyntaxError\b|\bParse error\b|\bundefined reference to\b|^\S{1,200}:\d{1,7}:\d{1,6}: (?:[EF]\d{1,4}"
            r"|undefined:|cannot |syntax )|\bcannot find symbol\b|^\S{1,300}:\d{1,7}: Failure$|^\[error\] \S{1,300}:\d"
            r"|\bCOMPILATION ERROR\b|\bduplicate symbol\b|^ld: |\bModuleNotFoundError\b|\bImportError\b"
            r"|\bCannot find module\b|^ERROR: \S{1,300}(?:\[\d{1,7}, \d|:\d{1,7}:\d)|^\S{1,300}\.go:\d{1,7}:\d{1,6}: \S"
            r"|^\s{0,8}\d{1,7} \| ERROR \||^ {0,8}CMake Error\b|^\[ant:\w{1,30}\] \[ERROR\] \S{1,300}:\d",
            re.IGNORECASE,
        ),
    ),
    ("time_limit", 11, _TIME_LIMIT),
    (
        "failure_list",
        8,
        re.compile(
            r"^(?:\[\w{1,9}\] {1,4})?(?:Failed tests|Failed scenarios|Tests in error|Failures|Failing tests|Offenses"
            r"|Errors):(?:\s|$)"
            r"|^(?:There (?:was|were) )?\d{1,6} (?:failure|error)s?:$|^\[  FAILED  \] \w|^The following tests FAILED"
            r"|^rspec \S{1,300}:\d|^=+ (?:FAILURES|ERRORS|short test summary info) =+$"
            r"|^\s{0,4}FAIL(?:ED)?:? {1,4}\S{1,200}(?:\.|::|/|#)\S|^\s{0,12}[✗✕✘×] \S"
            r"|^[A-Z][\w:]{0,200}#test_\w{1,200}(?::$| \[)"
        ),
    ),
    (
        "exception",
        8,
        re.compile(
            r"\bTraceback \(most recent call last\)|\bException in thread\b|^\s{0,8}(?:[\w$]{1,80}[./]"
            r"|[\w$]{1,80}::){0,12}[\w$]{0,80}(?:Error|Exception|Failure|Fault)(?: \[\w{1,40}\])?(?::|$| -|\s{0,2}\()"
            r"|^panic: |\bpanicked at\b|\bUncaught\b|\bUnhandled (?:exception|rejection|promise|error)|^fatal error: "
            r"|\bAssertion .{0,200}failed|\bSegmentation fault\b|\bcore dumped\b"
            r"|^=+\d{0,8}=*ERROR: \w{1,40}Sanitizer|\bSIG(?:SEGV|ABRT|KILL|BUS|ILL)\b|\bPHP Fatal\b|^E {2,8}\w"
            r"|\bstack overflow\b|^thrown: |\bterminate called\b"
        ),
    ),
    (
        "system_error",
        8,
        re.compile(
            r"^\s{0,4}fatal: |##\[error\]|^::error|^E: |\bcommand not found\b|: not found$"
            r"|\bNo such file or directory\b|\bPermission denied\b|\bKilled$|\bKilled process\b|\bout of memory\b"
            r"|\bOutOfMemory|\bNo space left\b|\bCould not (?:resolve|find|connect|transfer|read|open|load|get"
            r"|determine|create)\b|\bConnection (?:refused|reset|timed out|closed)\b"
            r"|\bConnection(?:Refused|Reset)\b|\bexceeded the maximum"
            r"|\b(?:command|test|request|operation) (?:has )?timed out\b|\bunable to (?:access|connect"
            r"|locate|resolve|find|open|load|execute|create)\b"
            r"|\bauthentication (?:failed|required)\b|\baccess denied\b|\b(?:401|403|404"
            r"|50[0234])\b.{0,40}(?:Unauthorized|Forbidden|Not Found|Server Error|Bad Gateway|Unavailable|Time-?out)"
            r"|\bRequested URL returned error\b|\bNo matching (?:distribution|version|package)|\bunmet dependenc"
            r"|\bversion (?:conflict|solving failed)|\bCONFLICT \(|\bAutomatic merge failed\b"
            r"|\bdid not match any file|\bcould not be (?:found|resolved|read)|\bdoes not exist\b|\bdoesn't exist\b"
            r"|\bCannot connect\b|\bno such (?:image|container|host|module|option|command|table|target)\b"
            r"|\bis not recognized\b"
            r"|\bcertificate (?:verify failed|has expired)|\bHost key verification failed\b|\b(?:ECONNREFUSED"
            r"|ECONNRESET|ENOTFOUND|ENOENT|EACCES|ETIMEDOUT|ERESOLVE|E404|ENOSPC)\b|\bunsupported\b.{0,40}\bversion\b"
            r"|\bexternal link\b.{0,200}\bfailed\b"
            r"|\bnothing provides\b|\bNo match for\b|\bno installation candidate\b"
            r"|^[\w.+/\-]{1,80}: (?:fatal )?error: \S|^[│|] {0,2}Error: \S",
            re.IGNORECASE,
        ),
    ),
    (
        "detail",
        6,
        re.compile(
            r"\bCaused by: |\bAssertionError\b|\bexpected\b.{0,200}\b(?:but|got|actual|was|found|to (?:be|equal|have"
            r"|match|contain))\b|^\s{0,16}(?:[Ee]xpected|[Aa]ctual|[Rr]eceived|got)\b.{0,4}[:=]|\bExpecting\b"
            r"|^\s{0,8}but (?:was|got)\b"
            r"|^\[ERROR\] {1,4}\S{1,200}(?:\.|:)\S{1,200}:\d|^\s{0,8}[\w$.]{1,200}[.:>]\w{1,100}:\d{1,7}\b.{1,300}"
            r"|^error:? |^\[error\] \S|\bERR! |\b[Ff]ailed to \w|\b[Uu]nable to \w|\b[Cc](?:ould not|ouldn't"
            r"|annot) \w|^Failed \w|^ERROR\b|^\[ERROR\] \S|^\s{0,8}Error: "
            r"|\bnot installed\b|\bis not defined\b|\bis required\b|\bmust (?:not )?be\b|\bmismatch\b"
        ),
    ),
    (
        "error_word",
        3,
        re.compile(
            r"(?<![\w./\-])(?:errors?|failed|fail|fails|failure|failures|exception|fatal|abort(?:ed|ing)?|crash(?:ed)?"
            r"|denied|refused|cannot|can't|could not|couldn't|unable|unexpected|invalid|"
            r"missing|undefined|unresolved|unknown|broken|not found|no such|unauthorized|forbidden|violation|conflict"
            r"|timed out|timeout|unreachable|does not|offenses?)(?![\w/\-]|\.\w)",
            re.IGNORECASE,
        ),
    ),
)

_FRAME = re.compile(
    r"^[ \t]{0,24}(?:at .{1,300}[():]|File \".{1,300}\", line \d|from .{1,300}:\d{1,7}(?::in\b|$)"
    r"|#\d{1,4} {1,4}(?:0x)?\S|\.\.\. \d{1,6} (?:more|common)|\d{1,4}: {1,8}0x[0-9a-f]|goroutine \d"
    r"|\S{1,300}\.(?:rb|go|py|php|js|ts|exs?|c|cc|cpp|rs):\d{1,7}(?::in\b| \+0x|:|$))"
)


def clean(line: str, *, keep_time: bool = False) -> str:
    """Returns the line as a terminal finally shows it: without escape sequences, control characters, and text that a
    carriage return overwrites. Cuts it at MAX_LINE characters. Drops the time at its beginning, unless `keep_time`.
    """
    if "\r" in line:
        line = next((part for part in reversed(line[-8 * MAX_LINE :].split("\r")) if part.strip()), "")
    line = line[: 2 * MAX_LINE]
    if not line.isprintable():
        line = _ANSI.sub("", line.replace("\t", "    "))
    if not keep_time and line[:1] in "[ 0123456789" and (match := _PREFIX.match(line)):
        line = line[match.end() :]
    return line[:MAX_LINE].rstrip()


def looks_red(line: str) -> bool:
    """Returns whether a part of a raw line, before `clean`, is red."""
    return "\x1b[" in line and _RED.search(line[: 2 * MAX_LINE]) is not None


def is_frame(line: str) -> bool:
    """Returns whether a line is a frame of a stack trace."""
    return _FRAME.match(line) is not None


def is_command(line: str) -> bool:
    """Returns whether a line that `clean` returned only repeats a command. Such a line says nothing about what
    happened.
    """
    return _COMMAND.match(line) is not None


def drop_commands(lines: Iterable[str]) -> list[str]:
    """Returns the lines of a log, without those that only repeat a command."""
    return [line for line in lines if not is_command(clean(line))]


def begins_pytest_failure(line: str) -> bool:
    """Returns whether a line that `clean` returned is pytest's header of a failed test. After the header, pytest prints
    the source of each function of the traceback, up to a line that begins with `===` or the like.
    """
    return _PYTEST_HEADER.match(line) is not None


def is_shown_source(line: str) -> bool:
    """Returns whether a line after pytest's header shows source code or an argument of a function. Such a line says
    what was run, and not what failed.
    """
    return _SHOWN_SOURCE.match(line) is not None


def is_progress(line: str) -> bool:
    """Returns whether a line that `clean` returned says that the build goes on: a step begins, or a test has passed."""
    return line.endswith(_GOES_ON) or _PROGRESS.match(line) is not None


def signal_of(line: str, is_red: bool = False) -> Signal | None:
    """Returns the signal of a line that `clean` returned; None if the line has no signal. A red line (`is_red`) gets
    more weight, since tools print errors in red.
    """
    if is_command(line):
        return None
    lower = line.lower()
    if not any(hint in lower for hint in HINTS):
        return None
    if _PASSED.search(line) or _PROGRESS.match(line):
        return None
    something = _SOMETHING_FAILED.search(line) is not None
    if not something and _NOTHING_FAILED.search(line):
        return None
    found = _find(line, something)
    if found is None or found.reason == "test_failure":
        return found
    weight = found.weight
    if is_red:
        weight += 1
    if _ECHOED.match(line):
        weight *= 0.1
    if _WARNING.search(line):
        weight *= 0.25
    elif _QUIET_LEVEL.search(line[:80]):
        weight *= 0.4
    if _RETRIED.search(line):
        weight *= 0.25
    return Signal(weight, found.reason)


def _find(line: str, something: bool) -> Signal | None:
    is_outcome = _OUTCOME.search(line) is not None
    reason, weight, pattern = _PATTERNS[0]
    if not is_outcome and pattern.search(line):
        return Signal(weight, reason)
    if _TOOL_ERROR.search(line):
        return Signal(8, "tool_error")
    if is_outcome:
        return Signal(2, "outcome")
    for reason, weight, pattern in _PATTERNS[1:]:
        if pattern.search(line):
            return Signal(weight, reason)
    return Signal(2, "outcome") if something else None
