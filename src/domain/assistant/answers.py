"""Questions to the assistant, and its answers. Every claim of an answer cites the sources that support it.

A source is one thing that the assistant has looked up, with a reference by which clients find it:

    build:9812            a build
    test:47821            a result of a test in a build
    test_case:52004       a test of a project across builds
    log:9812:120-134      lines of a build's log; the first line has the number 1
    known_issue:7         a known issue
    commit:3f2a9c...      a commit
    project:12            what is counted over all builds and tests of a project
"""

from typing import Any, Literal, get_args

import msgspec

from domain.triage import Classification

Kind = Literal["chat", "diagnosis", "summary", "project_audit", "failure_cluster", "regression_scan"]
NextAction = Literal["quarantine", "known_issue", "rerun", "ticket"]

BuildChoice = Literal[
    "", "newest", "most_failures", "newest_failure", "newest_of_branch", "red_job", "green_jobs", "offered"
]
"""How the assistant chose the build that a question is about: the newest one that ended; of a matrix that did not pass,
the build with the most failed tests; the newest one in which a test failed that the message names; the newest one of
the branch that it names; of a project, that of the job that failed last, or the newest one if no job is red. `offered`
if what the message names does not exist: the question is not about the build, but the answer says that there is one.
Empty if it did not choose: somebody named the build, or there is none.
"""

KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_SOURCE_TEXT = 4_000
"""Largest number of characters of a source's text."""


class Source(msgspec.Struct, frozen=True):
    ref: str
    text: str
    """What the source says, MAX_SOURCE_TEXT characters at most."""


class AnswerClaim(msgspec.Struct, frozen=True):
    """One or more sentences of an answer that the same sources support."""

    text: str
    sources: tuple[str, ...] = ()
    """References of the sources. Empty if the claim says that something is not known."""
    is_guess: bool = False
    """Whether no source says so: the assistant only supposes it."""


class NextStep(msgspec.Struct, frozen=True):
    """One request to the API, as what to do next."""

    action: NextAction
    text: str
    method: str
    path: str
    """Path below /api/v3, such as `/builds/9812/restart`."""
    body: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    claims: tuple[AnswerClaim, ...] = ()
    classification: Classification | None = None
    """Why the build or test failed; None if the evidence does not say, or if the question is not about a failure."""
    root_cause: str = ""
    confidence: float = 0.0
    """From 0 to 1: how likely `root_cause` and `classification` are right."""
    suggested_fix: str = ""
    affected_tests: int = 0
    next_step: NextStep | None = None

    @property
    def text(self) -> str:
        """The claims as one text."""
        return " ".join(claim.text for claim in self.claims)

    @property
    def sources(self) -> list[str]:
        """The references that the claims cite, in their order, each once."""
        return list(dict.fromkeys(ref for claim in self.claims for ref in claim.sources))


class Question(msgspec.Struct, frozen=True):
    kind: Kind
    project_id: int
    build_id: int | None = None
    result_id: int | None = None
    message: str = ""
    earlier: tuple[tuple[str, str], ...] = ()
    """Earlier messages of the conversation, the oldest first, each with its reply."""
    include_logs: bool = True
    max_tests: int = 20
    """Largest number of failed tests that are looked at."""
    days: int = 7
    """Look-back window of questions about a project."""
    build_choice: BuildChoice = ""
