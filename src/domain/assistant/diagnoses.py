"""Diagnosis of a failed build by rules and statistics. If tests failed, it is the most important of the causes of their
failures. If none failed, it is the cause that the build's log names, or else the reason of the build's end.
"""

import re
from collections.abc import Mapping, Sequence

import msgspec

from domain.assistant.evidence import BuildFacts, Evidence, FailedTest, LogExcerpt, log_ref
from domain.assistant.evidence import build_ref as ref_of_build
from domain.assistant.failure_causes import ASSERTION_ONLY, DECIDED, FIXES, MAX_LINE, OF_CODE, ProbableCause, judge
from domain.failures.failure_kinds import ERROR_IN_TEST, OF_SOURCE, TEST_FILE, KindMatch, find_kind
from domain.failures.log_signals import clean, drop_commands, is_progress, signal_of
from domain.failures.message_masks import find_shared_message
from domain.triage import Classification

HIGHEST_CONFIDENCE = 0.97
NO_EVIDENCE = 0.1
"""Confidence of an answer that nothing supports."""
FROM_LOG = 0.95
"""Factor by which the confidence in a kind of failure is multiplied if the words of the kind are in the log, and not in
the message of a test.
"""
MIXED = 0.55
"""The confidence in the main cause of a build is multiplied by this factor if nearly all failures have other causes.
The factor rises to 1 with the share of failures that have the main cause.
"""
FAR_MORE = 3
"""If a build has lasting failures (failures whose cause is the code), the infrastructure counts as the main cause only
if it has caused at least this many times as many failures. The lasting failures may then be mere consequences.
"""

CODE_SIGNALS: Mapping[str, float] = {
    "test_failure": 0.6,
    "failure_list": 0.5,
    "source_error": 0.6,
    "exception": 0.5,
    "detail": 0.45,
    "tool_error": 0.45,
}
"""Kind of a log line's signal that points to the code -> confidence that the product is the cause. The strongest signal
of a log excerpt decides.
"""
UNKNOWN_LINES = 0.3
"""Confidence in a cause that is read from a log excerpt whose strongest signal is not in CODE_SIGNALS."""
ERROR_WEIGHT = 3.0
"""Least weight of a log line's signal with which the line explains the failure of a build that has failed tests.
Lighter lines are warnings, or say that something is tried again. A line that says how a step ended counts with any
weight.
"""
DETAIL_SIGNALS = frozenset({"exception", "detail", "source_error", "system_error"})
"""Kinds of signals of the log lines that say what is wrong. Lines with other signals say where it went wrong."""
_SAYS_NOTHING = re.compile(r"Traceback \(most recent|==> |\+ |\* What went wrong:")
"""Matches the beginnings of log lines that never say what is wrong: headings, and commands that the log repeats."""
_MARKS = re.compile(r"^(?:_{3,80} |E {2,8})|(?: _{3,80})$")
"""Matches the marks that pytest puts around names of tests and before messages."""

_REASONS: dict[str, tuple[Classification | None, str, str, float]] = {
    "agent_lost": ("infra", "The agent was lost while it ran the build", "Check the machine and its network", 0.85),
    "not_acknowledged": ("infra", "The agent did not take the build", "Check the agent on the machine", 0.85),
    "agent_stopped": ("infra", "The agent was stopped while it ran the build", "Run the build again", 0.85),
    "node_removed": ("infra", "The node was removed while it ran the build", "Run the build again", 0.85),
    "checkout_failed": (
        "infra",
        "The source code could not be checked out",
        "Check the repository's address, the credentials and the commit",
        0.75,
    ),
    "setup_failed": ("infra", "The setup commands of the job failed", "Correct the first command that failed", 0.5),
    "timeout": (
        "infra",
        "The build exceeded its time limit",
        "Look for the step that hangs, or raise the time limit of the job",
        0.5,
    ),
    "reports_unreadable": (
        "infra",
        "A test report is missing or cannot be read, so results are missing",
        "Look for what ended the tests before their report was complete",
        0.5,
    ),
    "stopped_by_user": ("no_defect", "A user stopped the build", "Run the build again if it is still needed", 0.9),
    "superseded": ("no_defect", "A newer change replaced the build", "Look at the newer build", 0.9),
    "pull_request_closed": ("no_defect", "The pull request of the build was closed", "Nothing to do", 0.9),
    "job_deleted": ("no_defect", "The job of the build was deleted", "Nothing to do", 0.9),
    "command_failed": (None, "The command of the job failed", "Read the end of the build's log", 0.2),
    "selected_tests_not_run": (
        "test_bug",
        "Tests that the build was restricted to did not run",
        "Check whether these tests were renamed or removed",
        0.5,
    ),
}
"""Reason of a build's end -> classification, root cause, suggested fix and confidence, for a build about which nothing
else is known.
"""


class Diagnosis(msgspec.Struct, frozen=True):
    cause: ProbableCause
    tests: tuple[FailedTest, ...] = ()
    """Tests with this cause, of those that were looked at."""
    affected: int = 0
    """Number of failed results of the build with this cause. Results that were not looked at count if they have the
    signature of a test with this cause.
    """
    others: tuple[ProbableCause, ...] = ()
    """Causes of the other failures of the build: first causes that came with a commit, then other causes that will
    last, then the rest. Within each of these groups, causes of more failures come first.
    """
    is_joined: bool = False
    """Whether failures were given this one cause only because they began in the same build."""
    looked_at: int = 0
    """Number of failed results of the build whose causes were judged. Results that were not looked at count if they
    have the signature of a test that was looked at.
    """

    @property
    def confidence(self) -> float:
        return self.cause.confidence


def diagnose(evidence: Evidence) -> Diagnosis:
    """Returns the most likely cause of a failed build."""
    single = _join_by_message([(test, judge(evidence, test)) for test in evidence.failures])
    if not single:
        return Diagnosis(_find_in_log(evidence) or _by_reason(evidence))
    of_log = _find_in_log(evidence, least_weight=ERROR_WEIGHT)
    judged = _join_by_start(single)
    weights = _weigh(evidence, judged)
    order = _rank(judged, weights)
    causes = {cause.key: cause for _, cause in judged}
    best, total = order[0], sum(weights.values())
    cause, share = causes[best], weights[best] / total
    tests = tuple(test for test, other in judged if other.key == best)
    if of_log is not None and cause.confidence <= ASSERTION_ONLY and of_log.classification == "infra":
        confidence = max(0.5, of_log.confidence - 0.2)
        return Diagnosis(
            msgspec.structs.replace(of_log, confidence=confidence), evidence.failures, total, looked_at=total
        )
    confidence = cause.confidence * (MIXED + (1 - MIXED) * share)
    others = [causes[key] for key in order[1:]]
    return Diagnosis(
        msgspec.structs.replace(cause, confidence=round(min(HIGHEST_CONFIDENCE, confidence), 2)),
        tests,
        weights[best],
        tuple(sorted(others, key=lambda other: (other.began is None, not other.is_lasting))),
        is_joined=len({one.key for (_, one), (_, other) in zip(single, judged, strict=True) if other.key == best}) > 1,
        looked_at=total,
    )


def _join_by_message(judged: Sequence[tuple[FailedTest, ProbableCause]]) -> list[tuple[FailedTest, ProbableCause]]:
    """Returns the failures with their causes. If a message tells what failed, all failures with this message get one
    cause: the most certain of their causes. Flakiness that only the history of a test shows is chosen only if it is the
    cause of all these failures. Failures that a person or a rule has classified keep their causes.
    """
    groups: dict[str, list[tuple[FailedTest, ProbableCause]]] = {}
    for test, cause in judged:
        if test.classified_by not in DECIDED and (message := find_shared_message(test.message)):
            groups.setdefault(message, []).append((test, cause))
    joined: dict[int, ProbableCause] = {}
    for group in groups.values():
        _, first = min(group, key=lambda one: (one[1].is_by_history, -one[1].confidence, one[0].name))
        joined |= {test.result_id: first for test, _ in group}
    return [(test, joined.get(test.result_id, cause)) for test, cause in judged]


def _join_by_start(judged: Sequence[tuple[FailedTest, ProbableCause]]) -> list[tuple[FailedTest, ProbableCause]]:
    """Returns the failures with their causes. Failures by defects of the product that began in the same build get one
    cause, the most certain of their causes, since one commit has probably broken all these tests. Failures of known
    issues keep their causes.
    """
    groups: dict[int, list[tuple[FailedTest, ProbableCause]]] = {}
    for test, cause in judged:
        if cause.classification == "product_bug" and cause.began is not None and test.known_issue_id is None:
            groups.setdefault(cause.began.build_id, []).append((test, cause))
    joined: dict[str, ProbableCause] = {}
    for group in groups.values():
        _, first = min(group, key=lambda one: (-one[1].confidence, one[0].name))
        joined |= {cause.key: first for _, cause in group}
    return [(test, joined.get(cause.key, cause)) for test, cause in judged]


def _rank(judged: Sequence[tuple[FailedTest, ProbableCause]], weights: Mapping[str, int]) -> list[str]:
    """Returns the keys of the causes, the main cause of the build first. The order of `judged` has no effect. More
    frequent causes come first. But a lasting cause becomes the main cause instead of flakiness, and also instead of the
    infrastructure, unless the infrastructure has caused FAR_MORE times as many failures as lasting causes.
    """
    causes = {cause.key: cause for _, cause in judged}
    names = {key: min(test.name for test, cause in judged if cause.key == key) for key in causes}
    order = sorted(
        causes,
        key=lambda key: (
            -weights[key],
            causes[key].began is None,
            not causes[key].is_lasting,
            -causes[key].confidence,
            names[key],
        ),
    )
    first = next((key for key in order if causes[key].is_lasting), None)
    if first is None or causes[order[0]].classification in OF_CODE:
        return order
    infra = sum(weights[key] for key in order if causes[key].classification == "infra")
    lasting = sum(weights[key] for key in order if causes[key].is_lasting)
    if causes[order[0]].classification == "infra" and infra >= FAR_MORE * lasting:
        return order
    return [first, *(key for key in order if key != first)]


def _find_in_log(evidence: Evidence, least_weight: float = 0.0) -> ProbableCause | None:
    """Returns the cause that the log names; None if the log names none. Lines whose signals have less than
    `least_weight` do not count, unless they say how a step ended.
    """
    build = evidence.build
    if build is None:
        return None
    for excerpt in evidence.excerpts:
        signals = [(line, signal_of(clean(line))) for line in _from_failed_test(excerpt)]
        lines = [
            line
            for line, signal in signals
            if signal is None or signal.reason == "outcome" or signal.weight >= least_weight
        ]
        found = find_kind("\n".join(lines))
        if found is not None:
            return _cause_of_log(excerpt, found, log_ref(build, excerpt))
    return None


def _from_failed_test(excerpt: LogExcerpt) -> Sequence[str]:
    """Returns the lines of an excerpt from the header of its first failed test on, since tests that passed before that
    test may have printed errors that they expected. Returns all lines if no failed test has a header. Leaves out lines
    that only repeat a command.
    """
    lines = drop_commands(excerpt.lines)
    signals = [signal_of(clean(line)) for line in lines]
    first = next((at for at, one in enumerate(signals) if one is not None and one.reason == "test_failure"), 0)
    return lines[first:]


def _cause_of_log(excerpt: LogExcerpt, found: KindMatch, ref: str) -> ProbableCause:
    classification = found.kind.classification
    if found.kind.name in OF_SOURCE and found.is_in_test:
        classification = "test_bug"
    return ProbableCause(
        f"kind {found.kind.name}",
        classification,
        f"{found.kind.title}: {found.line[:MAX_LINE]}",
        found.kind.fix,
        round(found.kind.confidence * FROM_LOG, 2),
        (ref,),
        f"The log says so in lines {excerpt.first_line} to {excerpt.last_line}.",
        (ref,),
    )


def _by_reason(evidence: Evidence) -> ProbableCause:
    """Returns the cause that the reason of the build's end names. Used if neither tests nor the log name a cause."""
    build = evidence.build
    if build is None:
        return ProbableCause("none", None, "", "", NO_EVIDENCE, (), "", is_guess=True)
    ref = ref_of_build(build.id)
    classification, root_cause, fix, confidence = _REASONS.get(
        build.reason or "", (None, "Nothing that was found says why", "Read the build's log", NO_EVIDENCE)
    )
    if evidence.excerpts and _describe_failure(evidence.excerpts[0]):
        beginning = f"{root_cause}: " if build.reason in _REASONS else ""
        return _guess_from_log(build, evidence.excerpts[0], classification, beginning, fix, confidence)
    code = f" (exit code {build.exit_code})" if build.exit_code else ""
    detail = f": {build.detail.rstrip('.')[:MAX_LINE]}" if build.detail else ""
    return ProbableCause(
        f"reason {build.reason}",
        classification,
        root_cause + code + detail,
        fix,
        confidence,
        (ref,),
        "The build has no failed tests and no log that says more.",
        (ref,),
        is_guess=classification is None,
    )


def _guess_from_log(
    build: BuildFacts,
    excerpt: LogExcerpt,
    classification: Classification | None,
    root_cause: str,
    fix: str,
    confidence: float,
) -> ProbableCause:
    """Returns a cause that quotes the lines of an excerpt that describe the failure best. Used if the excerpt matches
    no known kind of failure.
    """
    ref, line = log_ref(build, excerpt), _describe_failure(excerpt)
    leading = excerpt.reasons[0] if excerpt.reasons else ""
    text = "\n".join(drop_commands(excerpt.lines))
    if classification is None and leading in CODE_SIGNALS:
        classification = "product_bug"
        if ERROR_IN_TEST.search(text) and TEST_FILE.search(text):
            classification = "test_bug"
        fix = FIXES[classification]
    return ProbableCause(
        f"log {line}",
        classification,
        f"{root_cause}{line}",
        fix,
        max(confidence, CODE_SIGNALS.get(leading, UNKNOWN_LINES)),
        (ref,),
        f"These lines of the log explain the failure best, but nothing confirms it: {excerpt.first_line} to"
        f" {excerpt.last_line}.",
        (ref,),
        is_guess=True,
    )


def _describe_failure(excerpt: LogExcerpt) -> str:
    """Returns as one text the lines of an excerpt that name the failed test and say what is wrong. Without such lines,
    returns the line with the strongest signal, or else the last line that does not only show progress. Returns an empty
    text if no line is left.
    """
    shown = [line for line in _from_failed_test(excerpt) if line.strip() and not _SAYS_NOTHING.match(line.strip())]
    lines = [(_MARKS.sub("", line.strip()), signal_of(clean(line))) for line in shown]
    heads = [line for line, signal in lines if signal is not None and signal.reason == "test_failure"]
    details = [
        (signal.weight, line) for line, signal in lines if signal is not None and signal.reason in DETAIL_SIGNALS
    ]
    found = [*heads[:1], *([max(details, key=lambda one: one[0])[1]] if details else [])]
    if not found:
        signals = [(signal.weight, line) for line, signal in lines if signal is not None]
        going_on = [line for line, _ in lines if not is_progress(line)]
        found = [max(signals, key=lambda one: one[0])[1]] if signals else going_on[-1:]
    return ": ".join(dict.fromkeys(found))[:MAX_LINE]


def _weigh(evidence: Evidence, judged: Sequence[tuple[FailedTest, ProbableCause]]) -> dict[str, int]:
    """Returns key of a cause -> number of failed results of the build with this cause. Results that were not looked at
    count if they have the signature of a test with the cause.
    """
    sizes = {group.signature: group.results for group in evidence.groups if group.signature}
    weights: dict[str, int] = {}
    counted = set[str]()
    for test, cause in judged:
        first = test.signature not in counted
        counted.add(test.signature)
        alike = sum(other.signature == test.signature for other, _ in judged)
        further = max(0, sizes.get(test.signature, 0) - alike) if first and test.signature else 0
        weights[cause.key] = weights.get(cause.key, 0) + 1 + further
    return weights
