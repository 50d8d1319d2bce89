"""Facts of a case of an evaluation. `make_evidence` makes evidence about a build from these facts.

The log and the report of a case are read like those of real builds, so that an evaluation also tests how well the
server explains logs and reads reports. All other facts are copied from the case into the evidence.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from commands.reports.parser import Case as ReportedCase
from commands.reports.parser import parse_report
from domain.assistant.answers import Question
from domain.assistant.evidence import (
    MAX_MESSAGE,
    MAX_TRACE,
    BuildFacts,
    BuildSummary,
    Evidence,
    FailedTest,
    FailureGroup,
    FailureStart,
    IssueFacts,
    PastFailure,
    ProjectFacts,
    TestRecord,
    cut,
    excerpt_log,
    with_sources,
)
from domain.assistant.job_states import JobState
from domain.assistant.named_tests import NamedTest
from domain.triage import Classification
from domain.triage import Source as ClassifiedBy

PROJECT_ID, JOB_ID, BUILD_ID = 1, 1, 100
FIRST_RESULT_ID = 1001
"""Id of the first failed result of the report. The next failed results have the next ids."""
FIRST_CASE_ID = 501
"""Id of the test case of the first failed result. The test cases of the next failed results have the next ids."""


class TestFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts about a failed test beyond those in its result. The fields mean the same as those of
    `domain.assistant.evidence.FailedTest`.
    """

    __test__ = False

    is_flaky: bool = False
    is_quarantined: bool = False
    classification: Classification | None = None
    classified_by: ClassifiedBy | None = None
    known_issue_id: int | None = None
    first_bad: FailureStart | None = None
    record: TestRecord | None = None


class CaseFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    build: BuildFacts | None = BuildFacts(
        BUILD_ID, JOB_ID, "Tests", "failed", "tests_failed", branch="main", exit_code=1, duration_s=60
    )
    """The build; None for a question about the project. The numbers of its tests come from the report."""
    log: Sequence[str] = ()
    """Lines of the build's log."""
    report: Sequence[str] = ()
    """Lines of a test report in any format that the server reads."""
    tests: Mapping[str, TestFacts] = {}
    """End of the name of a failed test -> facts about this test."""
    issues: tuple[IssueFacts, ...] = ()
    past: tuple[PastFailure, ...] = ()
    earlier_builds: tuple[BuildSummary, ...] = ()
    same_commit: tuple[BuildSummary, ...] = ()
    project: ProjectFacts | None = None
    jobs: tuple[JobState, ...] = ()
    named_tests: tuple[NamedTest, ...] = ()
    """Tests that the chat message names, with counts of their runs."""


def make_evidence(question: Question, facts: CaseFacts) -> Evidence:
    """Returns the evidence that the server would find if the facts were those of one of its builds."""
    reported = [item for item in parse_report(["\n".join(facts.report).encode()]) if isinstance(item, ReportedCase)]
    failed = [case for case in reported if case.status == "failed" and not case.known_issue]
    build = facts.build
    if build is not None and reported:
        counts = Counter(case.status for case in reported)
        build = msgspec.structs.replace(build, passed=counts["passed"], failed=len(failed), skipped=counts["skipped"])
    sizes = Counter(case.signature for case in failed)
    messages = {case.signature: case.message for case in reversed(failed)}
    tests = [_to_test(number, case, facts.tests) for number, case in enumerate(failed)]
    return with_sources(
        Evidence(
            question=question,
            build=build,
            failures=tuple(_first_of_each_signature(tests)[: question.max_tests]),
            groups=tuple(FailureGroup(key, number, messages[key][:MAX_MESSAGE]) for key, number in sizes.most_common()),
            excerpts=excerpt_log(list(facts.log)) if facts.log and question.include_logs else (),
            issues=facts.issues,
            past=tuple(_with_signature(past, failed) for past in facts.past),
            earlier=facts.earlier_builds,
            same_commit=facts.same_commit,
            project=facts.project,
            jobs=facts.jobs,
            tests=facts.named_tests,
        )
    )


def _to_test(number: int, case: ReportedCase, more: Mapping[str, TestFacts]) -> FailedTest:
    test = FailedTest(
        FIRST_RESULT_ID + number,
        FIRST_CASE_ID + number,
        case.node_id,
        case.message[:MAX_MESSAGE],
        cut(case.trace, MAX_TRACE),
        case.signature,
        case.suite,
    )
    known = next((facts for name, facts in more.items() if case.node_id.endswith(name)), None)
    return test if known is None else msgspec.structs.replace(test, **msgspec.structs.asdict(known))


def _with_signature(past: PastFailure, failed: Sequence[ReportedCase]) -> PastFailure:
    """Returns the earlier failure `past`. If the case says that `past` equals a failure of the build (`is_equal`) but
    gives no signature, `past` gets the signature of the test in `failed` with the same name. So cases need not name
    signatures.
    """
    if past.signature or not past.is_equal:
        return past
    signature = next(case.signature for case in failed if case.node_id == past.name)
    return msgspec.structs.replace(past, signature=signature)


def _first_of_each_signature(tests: Sequence[FailedTest]) -> list[FailedTest]:
    """Returns the tests in another order: first one test of each signature, then the second of each, and so on."""
    counts: Counter[str] = Counter()
    ranked = []
    for test in tests:
        ranked.append((counts[test.signature], test.result_id, test))
        counts[test.signature] += 1
    return [test for _, _, test in sorted(ranked, key=lambda item: item[:2])]
