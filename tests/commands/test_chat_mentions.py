"""Chat replies to messages that name tests and builds: they are about these, or say that they are not."""

import re
from typing import Any

import msgspec
import pytest

from commands.evaluation.cases import read_runs
from domain.assistant.answers import Answer, BuildChoice, Question
from domain.assistant.builtin_answers import answer, answer_without_project
from domain.assistant.chat_mentions import (
    MAX_NAMES,
    find_asked_message,
    find_build_numbers,
    find_names_of_tests,
    names_test,
)
from domain.assistant.evidence import (
    BuildFacts,
    BuildSummary,
    Evidence,
    FailedTest,
    FailureGroup,
    FailurePatternFacts,
    FailureStart,
    PastFailure,
    ProjectFacts,
    TestRecord,
    with_sources,
)
from domain.assistant.job_states import JobState
from domain.assistant.named_tests import NamedTest, make_named_test
from domain.run_histories import NotableRun, RunHistory

PRICE, RACE, REFUSED = "0123456789abcde1", "0123456789abcde2", "0123456789abcde3"
BUILD = BuildFacts(8, 3, "Unit tests", "failed", "tests_failed", commit_sha="cccc", passed=6, failed=4, quarantined=1)
FAILURES = (
    FailedTest(
        73,
        3,
        "tests/test_cart.py::test_discount",
        "assert 178 == 180",
        signature=PRICE,
        first_bad=FailureStart(4, "bbbb", 3, "aaaa", 5, "commit"),
        record=TestRecord(8, 5, 0.1, 0.02, 0.9),
    ),
    FailedTest(
        79,
        9,
        "tests/test_misc.py::test_race",
        "AssertionError: worker 2 finished first",
        signature=RACE,
        first_bad=FailureStart(8, "cccc", 7, "cccc", 1, "same_commit"),
        record=TestRecord(8, 3, 0.9999, 0.07, 0.01),
    ),
    FailedTest(
        80,
        10,
        "tests/test_misc.py::test_gateway[card]",
        "ConnectionRefusedError: [Errno 111] Connection refused by the server at the other end of the line" + " x" * 99,
        signature=REFUSED,
        first_bad=FailureStart(5, "bbbb", 4, "bbbb", 4, "same_commit"),
        record=TestRecord(8, 4, 0.5, 0.09, 0.2),
    ),
)
PAST = (
    PastFailure(70, 7, FAILURES[2].name, "refused", True, REFUSED, "infra", "rule"),
    PastFailure(63, 7, FAILURES[0].name, "assert 178 == 180", True, PRICE),
    PastFailure(53, 6, FAILURES[0].name, "assert 178 == 180", True, PRICE),
    PastFailure(19, 2, FAILURES[1].name, "worker 2", True, RACE),
)
GROUPS = (FailureGroup(PRICE, 2, ""), FailureGroup(RACE, 1, ""), FailureGroup(REFUSED, 1, ""))


def ask(message: str, kind: Any = "chat", result_id: int | None = None, **fields: Any) -> Answer:
    question = Question(kind, 12, build_id=8, result_id=result_id, message=message)
    evidence = Evidence(question, build=BUILD, failures=FAILURES, groups=GROUPS, past=PAST)
    return answer(with_sources(msgspec.structs.replace(evidence, **fields)))


def test_earlier_builds_are_those_of_the_cause() -> None:
    found = ask("", "diagnosis")
    assert found.root_cause == "assert 178 == 180"
    assert "The same failure was in 2 earlier builds, at last in 7." in found.text
    assert not {"test:70", "test:19"} & set(found.sources)
    history = ask("How often did test_race fail before?").text
    assert "The same failure was in 1 earlier build, at last in 2." in history


def test_many_earlier_builds_are_not_all_of_them() -> None:
    past = tuple(PastFailure(100 + n, n, FAILURES[0].name, "", True, PRICE) for n in range(10))
    assert "in at least 10 earlier builds" in ask("", "diagnosis", past=past).text


@pytest.mark.parametrize("more", [{"message": "Why did test_race fail?"}, {"message": "Why?", "result_id": 79}])
def test_a_question_about_a_test_is_answered_about_it_alone(more: dict[str, Any]) -> None:
    reply = ask(**more)
    assert (reply.classification, reply.affected_tests) == ("flaky", 1)
    assert "178" not in reply.text
    assert "3 other failures of the build are left out of this answer." in reply.text
    assert reply.next_step is not None
    assert reply.next_step.body["node_ids"] == ["tests/test_misc.py::test_race"]


def test_the_next_step_is_of_the_test_that_is_flaky() -> None:
    reply = ask("Is test_race flaky?")
    assert reply.next_step is not None
    assert reply.next_step.action == "quarantine"
    assert "flaky with a probability of more than 99%" in reply.text


@pytest.mark.parametrize("message", ["Is test_label flaky?", "Why did shop/x.py::test_label fail?", "Fix test_rac"])
def test_nothing_is_said_of_a_test_that_was_not_looked_at(message: str) -> None:
    reply = ask(message)
    assert "is not among the failed tests of build 8 that were looked at" in reply.text
    assert (reply.sources, reply.next_step) == (["build:8"], None)
    assert "Nothing was looked up about" in ask(message, build=BuildFacts(8, 3, "Unit tests", "passed")).text
    project = ProjectFacts(12, 7, 2, 6, patterns=(FailurePatternFacts("Timeout", 4, 9, 8),))
    assert "Nothing was looked up about" in ask(message, build=None, project=project).text


@pytest.mark.parametrize("message", ["Why is it red?", "Since when does it fail?", "Which tests failed?", "What now?"])
@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("newest", "build 8 of job Unit tests, the newest build that has ended"),
        ("most_failures", "build 8 of job Unit"),
    ],
)
def test_a_reply_says_which_build_the_assistant_has_chosen(message: str, choice: BuildChoice, sentence: str) -> None:
    question = Question("chat", 12, build_id=8, message=message, build_choice=choice)
    group = (BuildSummary(9, "failed", failed=2), BuildSummary(10, "aborted", "agent_lost"))
    reply = ask(message, question=question, group=group)
    assert reply.claims[0].text.startswith(f"This is about {sentence}")
    assert reply.claims[0].sources == ("build:8",)
    assert reply.text.count("did not pass: build 9 (2 failed tests), build 10 (aborted).") == 1
    assert not ask(message, group=group).text.startswith("This is about")


def test_a_result_that_did_not_fail_is_not_another() -> None:
    assert "about result 5: it is not among the failed tests" in ask("Why?", result_id=5).text


def test_a_test_that_passed_on_the_commit_is_not_said_to_show_nothing() -> None:
    text = ask("Is test_gateway flaky?").text
    assert "it passed and failed on the same commit." in text
    assert "failed in 4 of its 8 runs." in text
    assert "passed in build 4 and failed in build 5 on the same commit bbbb" in ask("What broke test_gateway?").text


def test_failures_that_do_not_count_are_mentioned() -> None:
    for message in ("Which tests failed?", "Why did it fail?"):
        assert "Of its failures, 1 quarantined did not count." in ask(message).text
    assert "1 failure of the build is not listed here." in ask("Which tests failed?").text


@pytest.mark.parametrize("message", ["Why is it red?", "Which tests failed?", "What next?", "Sum it up: a summary"])
def test_a_reply_about_a_build_of_a_matrix_names_the_others_that_failed(message: str) -> None:
    group = (BuildSummary(6, "failed", failed=2), BuildSummary(7, "aborted"))
    reply = ask(message, group=group)
    assert "did not pass: build 6 (2 failed tests), build 7 (aborted)." in reply.text
    assert {"build:6", "build:7"} <= set(reply.sources)
    assert "matrix" not in ask(message).text


def test_a_reply_says_that_it_is_about_another_build() -> None:
    reply = ask("Why did build 12345 fail?")
    assert reply.text.startswith("This answer is about build 8, not about build 12345.")
    assert reply.next_step is None
    assert ask("Is build 8 red for the reason of build 7?").next_step is not None
    project = ask("Why did build 99 fail?", build=None, project=ProjectFacts(12, 7, 2, 6)).text
    assert project.startswith("No build 99 was found that you can read.")
    assert "not about" not in ask("Why did build 8 fail?").text


@pytest.mark.parametrize(
    "message", ["Why did build 999999 fail?", "Fix job Vualt", "Which tests of Unti tests failed?"]
)
def test_another_build_is_offered_but_not_explained(message: str) -> None:
    question = Question("chat", 12, build_id=8, message=message, build_choice="offered")
    reply = ask(message, question=question)
    first, second = reply.claims
    assert re.match(r"No (build 999999|job Vualt|job Unti tests) was found", first.text)
    assert "build 8 of job Unit tests, which failed" in second.text
    assert (reply.classification, reply.next_step, reply.sources) == (None, None, ["build:8"])


def test_a_reply_names_the_branch_that_was_asked_about() -> None:
    question = Question("chat", 12, build_id=8, message="Why is x red?", build_choice="newest_of_branch")
    reply = ask("", question=question, build=msgspec.structs.replace(BUILD, branch="x"))
    assert reply.text.startswith("This is about build 8 of job Unit tests, the newest of branch x that has ended.")


def test_a_question_about_a_project_names_the_red_jobs() -> None:
    jobs = (
        JobState(3, 8, "failed", failed=4),
        JobState(5, 6, "failed", off_default_branch=True, failed=7, tests=("t::test_a", "t::test_b")),
        JobState(4, 9, "passed"),
    )
    question = Question("chat", 12, build_id=8, message="What should I look at first?", build_choice="red_job")
    reply = ask("", question=question, jobs=jobs, build=msgspec.structs.replace(BUILD, branch="main"))
    assert reply.claims[0].text == (
        "2 of 3 jobs are red by the newest build of each: job 3 (build 8, 4 failed tests),"
        " job 5 (build 6, not on its default branch, 7 failed tests)."
    )
    assert reply.claims[0].sources == ("build:8", "build:6")
    assert (
        reply.claims[1].text == "This is about build 8 of job Unit tests on branch main, the newest one of a red job."
    )
    listed = msgspec.structs.replace(question, message="Which tests fail now?")
    assert "In build 6 of job 5 failed: t::test_a, t::test_b and 5 more." in ask("", question=listed, jobs=jobs).text
    green = msgspec.structs.replace(question, build_choice="green_jobs")
    assert "The newest build of the only job passed." in ask("", question=green, jobs=jobs[2:]).text
    overview = ask("How are the builds?", build=None, project=ProjectFacts(12, 7, 2, 6), jobs=jobs).text
    assert overview.startswith("2 of 3 jobs are red")


def test_a_quarantined_test_that_breaks_is_explained() -> None:
    build = msgspec.structs.replace(BUILD, status="passed", reason=None, failed=0)
    broken = msgspec.structs.replace(FAILURES[0], is_quarantined=True)
    about_the_test = ask("Why did test_discount fail?", build=build, failures=(broken,)).text
    assert "assert 178 == 180" in about_the_test
    first = ask("What should I look at first?", build=build, failures=(broken,)).text
    assert "test_discount failed: assert 178 == 180." in first
    assert "last passed in build 3" in first


def named(runs: str, name: str = "tests/test_cart.py::test_discount") -> NamedTest:
    """Returns the state of a test by its runs, as cases of evaluations write them; the builds have the numbers of the
    runs.
    """
    flags = read_runs(runs)
    notable = [NotableRun(number, number, 0, run) for number, run in enumerate(flags, 1) if run]
    return make_named_test(3, name, RunHistory(notable, len(flags)))


def test_a_test_that_newer_builds_did_not_run_does_not_fail_now() -> None:
    gone = msgspec.structs.replace(named("P*2 F*3"), missed_builds=6)
    text = ask("Does test_discount still fail?", tests=(gone,)).claims[0].text
    assert "failed in its newest run that counts, in build 5: 6 newer builds of the job did not run it" in text
    assert "fails now" not in text


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        ("P*49", "has not failed: all 49 runs passed."),
        ("P*3 R", "has not failed: all 4 runs passed, 1 on a retry."),
        ("P*3 !F P*5", "has not failed: all 8 runs that count passed. 1 other failure does not count."),
        ("P F*3 P*45", "passes now. It failed last in build 4. 45 runs since then passed."),
        ("P F !F P", "passes now. It failed last in build 2. 1 run since then passed. 1 other failure does not count."),
        ("P*2 F*3", "fails now: its newest run that counts, in build 5, failed."),
        (
            "P*2 !F",
            "which does not count: most tests of that build failed. None of its 2 runs that count failed.",
        ),
        (
            "P*2 F !F",
            "fails now: its newest run that counts, in build 3, failed. 1 other failure does not count.",
        ),
    ],
)
def test_a_question_about_a_test_says_first_whether_it_fails_now(runs: str, sentence: str) -> None:
    reply = ask("Does test_discount still fail?", tests=(named(runs),))
    assert sentence in reply.claims[0].text
    assert reply.claims[0].sources[0] == "test_case:3"
    assert "assert 178 == 180" in reply.text
    has_failed = runs.split()[-1] in ("F*3", "!F")
    assert (reply.next_step is not None, "Suggested fix" in reply.text) == (has_failed, has_failed)


def test_only_a_flaky_test_that_passes_now_has_a_next_step() -> None:
    state = named("P*9 F P", "tests/test_misc.py::test_race")
    assert ask("Is test_race flaky?", tests=(state,)).next_step is not None


def test_a_test_that_never_failed_is_known() -> None:
    state = (named("P*49", "t::test_oldname"),)
    question = Question("chat", 12, build_id=8, message="Is test_oldname flaky?", build_choice="red_job")
    assert ask("", question=question, tests=state).text == "t::test_oldname has not failed: all 49 runs passed."
    of_build = ask("Is test_oldname flaky?", tests=state).text
    assert of_build.startswith("t::test_oldname has not failed: all 49 runs passed. Nothing is known here")
    of_project = ask("Is test_oldname flaky?", tests=state, build=None, project=ProjectFacts(12, 7, 2, 6)).text
    assert of_project == "t::test_oldname has not failed: all 49 runs passed."


def test_a_conversation_about_a_test_goes_on() -> None:
    before = (("Why did build 8 fail?", "..."), ("And is test_race flaky?", "..."))
    question = Question("chat", 12, build_id=8, message="Since when?", earlier=before)
    assert find_asked_message(question) == "Since when? (test_race)"
    assert "test_discount" not in ask("", question=question).text
    for message, earlier in (
        ("Which tests failed?", before),
        ("Since when?", before[:1]),
        ("Why is test_x red?", before),
    ):
        asked = msgspec.structs.replace(question, message=message, earlier=earlier)
        assert find_asked_message(asked) == message


def test_counts_are_those_of_the_health() -> None:
    record = TestRecord(95, 1, 0.9, 0.01, 0.01, retried_runs=7, left_out=5)
    failure = msgspec.structs.replace(FAILURES[0], record=record)
    text = ask("Has test_discount failed before?", failures=(failure,)).text
    assert "failed in 1 of its 95 runs, and passed in 7 on a retry only (5 failures left out, as in its" in text


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Which test fails most?", "/test-cases?project_id=12&sort=failures"),
        ("Which tests are quarantined?", "/quarantine?job_id=3"),
        ("Which tests should I quarantine?", "/test-cases?project_id=12&only=flaky"),
        ("Which combination does test_discount fail in?", "does not know"),
    ],
)
def test_what_is_not_looked_up_is_not_answered_by_a_diagnosis(message: str, words: str) -> None:
    reply = ask(message)
    assert words in reply.text
    assert "assert 178" not in reply.text
    assert reply.next_step is None


def test_the_slowest_test_is_not_one_that_failed() -> None:
    reply = ask("What is the slowest test?")
    assert "/test-cases?project_id=12&sort=slowest" in reply.text
    assert "test_discount" not in reply.text


def test_a_question_about_no_project_says_what_was_not_found() -> None:
    assert answer_without_project("Why did build 99 fail?").text.startswith("No build 99 was found that you can read.")
    assert answer_without_project("Why?").text.startswith("It is not clear which project")


def test_a_question_about_a_build_is_not_answered_about_a_project_silently() -> None:
    project = ProjectFacts(12, 7, 2, 6, patterns=(FailurePatternFacts("Timeout", 4, 9, 8),))
    assert "It is not known which build is meant" in ask("Why is the build red?", build=None, project=project).text
    overview = ask("How are the builds?", build=None, project=project).text
    assert "which build" not in overview
    assert "4 failures like this: Timeout." in overview


@pytest.mark.parametrize(
    ("message", "test", "named"),
    [
        ("is test_total flaky?", "tests/test_cart.py::test_total[a-1]", True),
        ("is test_total_of_all flaky?", "tests/test_cart.py::test_total", False),
        ("is test_total flaky?", "tests/test_cart.py::test_total_of_all", False),
        ("what about tests/test_cart.py::test_total?", "tests/test_cart.py::test_total", True),
        ("what is wrong with test_cart", "tests/test_cart.py::test_total", True),
        ("why does adds up fail?", "cart.test.js > cart > adds up", True),
        ("why is the build red?", "cart.test.js > cart > build", False),
    ],
)
def test_names_of_tests(message: str, test: str, named: bool) -> None:
    assert names_test(message, test) is named


def test_numbers_of_builds() -> None:
    assert find_build_numbers("compare Build 4, build #7 and build no. 4 with #9") == [4, 7]


def test_the_first_names_of_a_message_count() -> None:
    names = [f"test_{number}" for number in range(MAX_NAMES + 1)]
    assert find_names_of_tests(" ".join(names)) == names[:-1]
    builds = ask(" ".join(f"Why did build {number} fail?" for number in range(100, 300))).claims[0].text
    assert (builds.count(","), builds.endswith(f" and {100 + MAX_NAMES - 1}.")) == (MAX_NAMES - 1, True)


@pytest.mark.parametrize("part", ["a", "::", "a.", ":", " ", "/"])
def test_a_hostile_message_has_no_names(part: str) -> None:
    """Each test of a build is compared with the message, so a search must not take time by the square of its length."""
    message = (part * 4_000)[:4_000]
    assert not any(names_test(message, f"tests/test_a.py::test_{number}") for number in range(100))
    assert find_build_numbers(f"build{message}") == []
