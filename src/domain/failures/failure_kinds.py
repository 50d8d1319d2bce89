"""Kinds of failures that are recognised by their words, in messages of tests and in logs: a full disk, a refused
connection, a source that does not compile. docs/assistant.md lists them.
"""

import re
from itertools import islice

import msgspec

from domain.failures.infrastructure_failures import INFRASTRUCTURE, FailureKind, make_kind


class KindMatch(msgspec.Struct, frozen=True):
    kind: FailureKind
    line: str
    """The line with the words of the kind, without spaces around it. If this line only announces an error, the line
    that names the error is added.
    """
    file_line: str = ""
    """The line with the words of the kind if it names a file; otherwise the nearest earlier line that does. Empty if
    none of the MAX_DISTANCE lines before names a file.
    """

    @property
    def is_in_test(self) -> bool:
        """Whether the file in which the failure occurred contains tests."""
        return TEST_FILE.search(self.file_line) is not None


OF_CODE: tuple[FailureKind, ...] = (
    make_kind(
        "fixture_missing",
        "test_bug",
        "The test asks for a fixture that does not exist",
        "Correct the fixture's name, or import the module that defines it",
        r"\bfixture '.{1,100}' not found\b|\bScopeMismatch\b|\bunknown fixture\b"
        r"|\brecursive dependency involving fixture\b",
        0.88,
    ),
    make_kind(
        "collection",
        "test_bug",
        "Tests could not be loaded",
        "Correct the test file, which fails before its first test runs",
        r"\bERROR collecting\b|\bImportError while (?:importing|loading) (?:test|conftest)|\bError collecting\b"
        r"|\bFailed to import test module\b|\bunittest\.loader\._FailedTest\b|\bTest suite failed to run\b"
        r"|\bYour test suite must contain at least one test\b|\bfailed to collect\b|\bNo tests found\b"
        r"|\bcollected 0 items\b|\bimport file mismatch\b|\bNo test suite found in file\b",
        0.72,
    ),
    make_kind(
        "test_double",
        "test_bug",
        "The test uses its mocks wrongly",
        "Correct the mocks of the test",
        r"\bUnnecessaryStubbing|\bInvalidUseOfMatchers|\bUnfinishedStubbing|\bMissingMethodInvocationException\b"
        r"|\bAttributeError: <module .{1,200}> does not have the attribute\b|\bMock(?: object)? has no attribute\b"
        r"|\bStopIteration\b.{0,20}\bmock\b|\bjest\.mock\(\)|\bnock: No match\b|\bWireMock\b.{0,60}\bno stub\b"
        r"|\bno return value for (?:mock|spy)|\bspec(?:ced)? Mock\b",
        0.75,
    ),
    make_kind(
        "test_data",
        "test_bug",
        "A file that the test needs is missing",
        "Add the file to the repository, or correct its path in the test",
        r"\b(?:FileNotFoundError|No such file or directory|ENOENT|NoSuchFileException|FileNotFoundException)\b"
        r".{0,200}\b(?:fixtures?|test_?data|testdata|test-?resources|snapshots?|golden|samples?|tests?)[/\\]",
        0.72,
    ),
    make_kind(
        "element_missing",
        "test_bug",
        "The test did not find an element of the page",
        "Wait for the element, or correct its selector in the test",
        r"\bNoSuchElement(?:Exception|Error)\b|\bUnable to (?:locate|find an) element\b|\bElementNotInteractable"
        r"|\bTestingLibraryElementError\b|\bElementClickIntercepted|\bstrict mode violation\b|\bElement not found\b",
        0.6,
    ),
    make_kind(
        "dependency",
        "product_bug",
        "A dependency cannot be resolved or installed",
        "Correct the name or the version of the dependency, or publish the version",
        r"\bNo matching distribution\b|\bResolutionImpossible\b|\bERESOLVE\b|\bcould not find a version\b"
        r"|\bunmet dependenc|\bversion solving failed\b|\bE404\b|\bETARGET\b|\bNo matching version\b"
        r"|\bcould not (?:find artifact|resolve dependenc|resolve all)|\bConflicting (?:peer )?dependenc"
        r"|\bunable to locate package\b|\bcannot find package\b|\bno required module provides package\b"
        r"|\bconflicting dependencies\b|\bunknown revision\b|\bfailed to select a version\b|\bis not in (?:the npm"
        r"|std)\b"
        r"|\bpackage-lock\.json .{0,80}\bin sync\b|\bmissing go\.sum entry\b|\bchecksum mismatch\b"
        r"|\bTHESE PACKAGES DO NOT MATCH THE HASHES\b|\bEINTEGRITY\b|\bERR_PNPM_OUTDATED_LOCKFILE\b",
        0.78,
    ),
    make_kind(
        "merge_conflict",
        "product_bug",
        "The branch cannot be merged",
        "Merge the target branch into this one, and resolve the conflicts",
        r"\bCONFLICT \(|\bAutomatic merge failed\b|\bMerge conflict in\b|\bcould not apply [0-9a-f]{6,40}\b",
        0.85,
    ),
    make_kind(
        "name_missing",
        "product_bug",
        "A module lacks a name that is imported from it",
        "Correct the import, or add the name to the module",
        r"\bcannot import name\b|\bdoes not provide an export named\b",
        0.68,
    ),
    make_kind(
        "module_missing",
        "product_bug",
        "A module that is imported does not exist",
        "Add the module to the dependencies, or correct the import",
        r"\bModuleNotFoundError\b|\bImportError\b|\bCannot find module\b|\bERR_MODULE_NOT_FOUND\b|\bModule not found\b"
        r"|\bNoClassDefFoundError\b|\bClassNotFoundException\b|\bcannot load such file\b"
        r"|\bpackage .{1,80} does not exist\b"
        r"|\bcannot open shared object file\b|\bFailed to resolve import\b",
        0.68,
    ),
    make_kind(
        "compile_error",
        "product_bug",
        "The source code does not compile",
        "Correct the error in the source code",
        r"^\s{0,8}\S{1,300}[^\s\d:(][:(]\d{1,7}(?:[:,]\d{1,6})?\)?:? {0,3}(?:- )?(?:fatal )?error\b|\bSyntaxError\b"
        r"|\bIndentationError\b|\berror (?:TS|CS|MSB|BC|FS|LNK)\d{1,6}\b|\berror\[E\d{1,6}\]|\bcannot find symbol\b"
        r"|\bundefined reference to\b|\bcould not compile\b|\bCOMPILATION ERROR\b|\bCompilation failed\b"
        r"|^\S{1,300}\.go:\d{1,7}:\d{1,6}: \S|\bParse error\b|\bduplicate symbol\b|\bmissing separator\b"
        r"|\bNo rule to make target\b|^CMake Error\b|\bincompatible types\b|\bis not assignable to\b|\bTS\d{4}:"
        r"|\bTransform failed with\b|\bUnexpected token\b|\bFailed to parse source\b",
        0.82,
    ),
    make_kind(
        "crash",
        "product_bug",
        "The program crashed",
        "Look at the core dump or the stack trace of the crash",
        r"\bSegmentation fault\b|\bSIG(?:SEGV|ABRT|BUS|ILL)\b|\bcore dumped\b|\bexit(?:ed)?(?: with)? (?:code"
        r"|status):? 13[49]\b"
        r"|\bAddressSanitizer\b|\bforked VM terminated\b|\bstack overflow\b|\bStackOverflowError\b|\bRecursionError\b"
        r"|\bMaximum call stack size\b"
        r"|\bterminate called\b|\bfatal error: all goroutines are asleep\b|\bpanicked at\b|^panic: |\bDATA RACE\b"
        r"|\bnil pointer dereference\b|\bNullPointerException\b",
        0.75,
    ),
    make_kind(
        "lint",
        "product_bug",
        "A check of the source code's style or types failed",
        "Correct what the check names",
        r"\bleaks? found\b|\bvulnerabilit(?:y|ies) found\b|\b(?:checkstyle|eslint|tslint|phpcs|rubocop|pylint"
        r"|flake8|ruff|spotless|ktlint)\b.{0,80}\b(?:errors?"
        r"|fail\w{0,4}"
        r"|violations?|problems?)\b|\[ant:checkstyle\]|\bLint found\b|^\s{0,8}\d{1,7} \| ERROR \|"
        r"|^ERROR: \S{1,200}\[\d{1,7}, \d"
        r"|\blicense header\b|\bFound \d{1,6} errors?\b.{0,40}\b(?:files?|fixable)|\bwould (?:be )?reformat"
        r"|\b\d{1,6} problems? \(\d{1,6} errors?"
        r"|\bRun .{1,40}--fix\b|\bviolations? (?:were|was) found\b|\bcode style issues\b|\bNo overload variant\b",
        0.75,
    ),
    make_kind(
        "configuration",
        "product_bug",
        "A setting that the build needs is missing or wrong",
        "Set the variable or correct the configuration of the job",
        r"\b(?:environment variable|env var|required variable|required setting)\b.{0,80}"
        r"\b(?:not set|missing|required|undefined|unset)\b|\bunbound variable\b|\bInvalid (?:workflow|configuration"
        r"|option)\b"
        r"|\bunrecognized arguments?\b|\bunknown option\b|\bmissing script\b|\bNo such option\b|\bUsageError\b"
        r"|\binvalid option\b",
        0.65,
    ),
    make_kind(
        "stale_element",
        "flaky",
        "The test acted on the page before the page was ready",
        "Let the test wait for the state that it needs instead of for a fixed time",
        r"\bStaleElementReference|\belement is not attached\b|\bElement is detached\b|\bnot attached to the DOM\b",
        0.65,
    ),
    make_kind(
        "test_timeout",
        "flaky",
        "A test waited too long for something (timeout)",
        "Let the test wait for the state that it needs, and look for what was slow on this machine",
        r"\bExceeded timeout of \d|\bTest timed out\b|\btimed? ?out (?:after|of|waiting)\b"
        r"|\bTimeout of \d{1,7} ?ms exceeded\b"
        r"|\bwaiting for .{1,100} failed: timeout|\bTimeoutException\b|\bTimeoutError\b|\bFailed: Timeout\b"
        r"|\btest timed out after\b|\bpanic: test timed out\b|\bAwaitility\b|\bConditionTimeout|\bDeadlineExceeded\b",
        0.5,
    ),
    make_kind(
        "database_lock",
        "flaky",
        "Tests were in each other's way in the database",
        "Give each test data of its own, or run these tests one after the other",
        r"\bdatabase is locked\b|\bdeadlock detected\b|\bDeadlock found\b|\bcould not serialize access\b"
        r"|\block wait timeout\b",
        0.6,
    ),
    make_kind(
        "concurrency",
        "flaky",
        "Concurrent work went on in an unexpected order (race condition)",
        "Synchronise the work that the test depends on",
        r"\brace condition\b|\bConcurrentModificationException\b|\bdictionary changed size during iteration\b"
        r"|\bSet changed size during iteration\b|\bevent loop is closed\b",
        0.6,
    ),
)
OF_SOURCE = ("compile_error", "name_missing", "module_missing")
"""Names of the kinds that are mistakes in the test, if the file in which they occur contains tests."""
KINDS = (*INFRASTRUCTURE, *OF_CODE)
"""All kinds of failures, in the order in which they are tried: those with the most specific words first."""

MAX_DISTANCE = 8
"""A failure's file is searched for in this many lines before the line with the words of its kind, and its error in this
many lines after it.
"""
_ANNOUNCES = re.compile(r"\b(?:suite failed to run|COMPILATION ERROR|went wrong|ERROR collecting|code E[A-Z]{3,20})\b")
_NAMES_ERROR = re.compile(
    r"\b\w{0,60}(?:Error|Exception)\b|\b(?:cannot|error|could not|not found|no module)\b", re.IGNORECASE
)
NAMES_FILE = re.compile(r"\b[\w.-]{1,100}\.[A-Za-z]{1,5}\b(?:[\"':(]|, line|$| at )")
_HEADING = re.compile(r"[-=_*#>|\s]{1,200}$")
_MARK = re.compile(r"^E {2,8}")
MAX_MATCHES = 5
"""Largest number of matches of a kind's words that are examined in one text."""
ASSERTION = re.compile(
    r"\A(?:E {1,6})?\s{0,8}(?:[\w.$]{0,100}\b)?(?:Assertion(?:Failed)?Error|AssertionException|ComparisonFailure"
    r"|ExpectationFailed|assert\b|assertion\b|expect\(|expected\b|Failed asserting)|\A.{0,120}\bto (?:equal|be|have)\b"
    r"|\A.{0,120}\bshould (?:be|have|equal)\b|\A.{0,200}\bexpected\b.{0,120}\b(?:but|got|was|actual|received)\b",
    re.IGNORECASE,
)
"""Matches the beginning of the message of a failed assertion."""
ERROR_IN_TEST = re.compile(
    r"^(?:E {1,6})?\s{0,4}(?:NameError|UnboundLocalError|ReferenceError|IndentationError"
    r"|TypeError: .{0,200}\bmissing \d"
    r"|AttributeError: 'NoneType'|AttributeError: module)\b",
    re.MULTILINE,
)
"""Matches errors, such as NameError, that are mistakes in the code which raised them. If the code of a test raised one,
the test is wrong, not the tested code.
"""
TEST_FILE = re.compile(
    r"(?:^|[/\\\s\"'(])(?:tests?|specs?|__tests__)[/\\]\S{1,200}:\d|\b(?:test_\w{1,100}|\w{1,100}_test"
    r"|\w{1,100}[.-](?:test|spec))"
    r"\.(?:py|js|jsx|ts|tsx|mjs|go|rb)\b|\b\w{1,100}Tests?\.(?:java|kt|cs|php)\b",
)
"""Matches names of files with tests, in stack traces."""


_LOADED_CODE_FAILS = make_kind(
    "loaded_code_fails",
    "product_bug",
    "Tests could not be loaded, since code that they import fails",
    "Correct the code that fails, or its dependencies",
    r"",
    0.68,
)
_RAISED = re.compile(
    r"^(?:E {1,8})?((?:\w{1,60}\.){0,8}\w{0,60}(?:Error|Exception): (?!Failed to import test).*)", re.MULTILINE
)
"""Matches the line of a traceback that has the error."""


def find_kind(text: str) -> KindMatch | None:
    """Returns the first of KINDS whose words are in the text; None if the text has words of no kind. Words of
    infrastructure and flakiness do not count in lines of failed assertions, since an assertion checks the code,
    whatever it compares.
    """
    for kind in KINDS:
        for match in islice(kind.pattern.finditer(text), MAX_MATCHES):
            line = _line_at(text, match.start())
            if kind.classification not in ("infra", "flaky") or ASSERTION.search(line) is None:
                found = KindMatch(
                    kind, _with_detail(text, match.start(), line), _find_file_line(text, match.start(), line)
                )
                return _add_raised(text, match.end(), found) if kind.name == "collection" else found
    return None


def _add_raised(text: str, position: int, found: KindMatch) -> KindMatch:
    """Returns `found`, completed by the error that kept tests from being loaded; unchanged if the text has no such
    error. If a file without tests raised the error, returns a match with a kind that blames the code in this file.
    """
    raised = _RAISED.search(text, position)
    if raised is None:
        return found
    file_line = _find_file_line(text, raised.start(), "")
    if not file_line or TEST_FILE.search(file_line) or "conftest" in file_line:
        known = found.line if raised[1] in found.line else f"{_line_at(text, position)} {raised[1]}"
        return KindMatch(found.kind, known, found.file_line)
    of_line = (kind for kind in OF_CODE if kind.classification == "product_bug" and kind.pattern.search(raised[1]))
    return KindMatch(next(of_line, _LOADED_CODE_FAILS), raised[1], file_line)


def _line_at(text: str, position: int) -> str:
    begin = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[begin : len(text) if end < 0 else end].strip()


def _with_detail(text: str, position: int, line: str) -> str:
    """Returns the line. If it only announces an error, adds the next line that names the error."""
    if not (line.endswith((":", "'.")) or _ANNOUNCES.search(line)):
        return line
    end = text.find("\n", position)
    following = [] if end < 0 else text[end + 1 :].splitlines()[:MAX_DISTANCE]
    details = [_MARK.sub("", one.strip()) for one in following if one.strip() and not _HEADING.match(one.strip())]
    errors = [one for one in details if _NAMES_ERROR.search(one)]
    return " ".join([line, *(errors or details)[:1]])


def _find_file_line(text: str, position: int, line: str) -> str:
    before = text[: text.rfind("\n", 0, position) + 1].splitlines()[-MAX_DISTANCE:]
    return next((one for one in (line, *reversed(before)) if NAMES_FILE.search(one)), "")
