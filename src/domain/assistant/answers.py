"""Questions to the assistant, and its answers. Every claim of an answer cites the sources that support it.

A source is one fact that the assistant has looked up, with a reference by which clients find it:

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
"""How the assistant chose the build that a question is about.

Empty: the assistant did not choose, since somebody named the build, or there is none. `newest`: the newest build that
has ended. `most_failures`: of the builds of a matrix that did not all pass, the one with the most failed tests.
`newest_failure`: the newest build in which a test that the message names failed. `newest_of_branch`: the newest build
of the branch that the message names. `red_job`: the newest of the builds because of which jobs of the project are red.
`green_jobs`: the newest build of the project that has ended, since no job of the project is red. `offered`: the message
names a build, job, project or branch that does not exist. So the answer only mentions this build as one that the user
may ask about, and does not explain it.
"""

KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_SOURCE_TEXT = 4_000
"""Largest number of characters of a source's text."""


class Source(msgspec.Struct, frozen=True):
    ref: str
    text: str
    """Text of the source, at most MAX_SOURCE_TEXT characters."""


class AnswerClaim(msgspec.Struct, frozen=True):
    """One or more sentences of an answer that the same sources support."""

    text: str
    sources: tuple[str, ...] = ()
    """References of the sources. Empty if the claim says that something is not known."""
    is_guess: bool = False
    """Whether the assistant only supposes what the claim says, since no source says it."""


class NextStep(msgspec.Struct, frozen=True):
    """Next step that an answer proposes: one request to the API."""

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
    """Number from 0 to 1 that says how likely `root_cause` and `classification` are right."""
    suggested_fix: str = ""
    affected_tests: int = 0
    next_step: NextStep | None = None

    @property
    def text(self) -> str:
        """The claims as one text."""
        return " ".join(claim.text for claim in self.claims)

    @property
    def sources(self) -> list[str]:
        """References that the claims cite, each once, in the order in which the claims cite them."""
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
    """Number of days before the question that a question about a project covers."""
    build_choice: BuildChoice = ""
