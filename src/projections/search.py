"""Read model for full-text search. Queries are in `search_queries`.

There is a document for each project, job, node, test case and build, and one for each test case that has failed, with
the message of its newest failure. So results that pass cost nothing, and a failure costs the same however often the
test has run. Names of test cases are not stored again: queries read them from `results_cases`.

PostgreSQL finds documents by an index on their words (`domain.search`), which are computed here, so that they do not
depend on settings of the database.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from domain import nodes
from domain.builds import (
    BuildDeleted,
    BuildEvent,
    BuildFinished,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    ReportRecorded,
)
from domain.core.events import Recorded
from domain.jobs import JobCreated, JobDeleted, JobUpdated
from domain.projects import ProjectCreated, ProjectDeleted, ProjectUpdated
from domain.results import FAILED, CasesSeen, ResultsRecorded, ResultText
from domain.search import find_words
from projections.engine.model import (
    Change,
    Delete,
    DeleteRange,
    DeleteWhere,
    Int,
    Key,
    Projection,
    Row,
    Rows,
    Table,
    TsVector,
    changed_columns,
)

VERSION = 3

MAX_MESSAGE = 1_000
"""Number of characters of a failure's message whose words a search finds."""
MAX_BUILD_MESSAGES = 5
"""Largest number of different failure messages whose words find a build."""
MAX_BUILD_MESSAGE = 200
"""Number of characters of each failure message in the text of a build's document, from which snippets are made."""
MAX_TEXT = 4_000
"""Number of characters of a project's description, or of the details of a build's end, whose words a search finds."""

# Every search reads the whole pending list of the GIN index, so the list is kept short (512 kB).
_INDEX = "USING gin (words) WITH (gin_pending_list_limit = 512)"


class NamedDocument(Row, frozen=True):
    """Base of the documents that have a name. `words` are the result of `_find_vector`."""

    id: int
    name: str
    text: str
    words: TsVector


class ProjectDocument(NamedDocument, frozen=True):
    table = Table("search_projects", VERSION, indexes=(_INDEX,))


class JobDocument(NamedDocument, frozen=True):
    table = Table("search_jobs", VERSION, indexes=(_INDEX,))
    project_id: int


class NodeDocument(NamedDocument, frozen=True):
    table = Table("search_nodes", VERSION, indexes=(_INDEX,))
    pool_id: int | None
    hostname: str = ""
    platform: str = ""
    tags: list[str] = []


class TestDocument(Row, frozen=True):
    """A test case. Its name is its node id, and its text is its suite."""

    __test__ = False  # tells pytest that this is not a test class

    table = Table("search_tests", VERSION, indexes=(_INDEX, "(project_id)"))
    id: int
    words: TsVector
    project_id: int
    failure: int = 0
    """Id of the newest result of the test that failed, also if its build is deleted; 0 if there is none."""


class FailureDocument(Row, frozen=True):
    """The newest failure of a test case. `id` is the id of the result, `text` the message. The document is deleted with
    the build of the failure; the document of the test case stays.
    """

    table = Table("search_failures", VERSION, indexes=(_INDEX, "(job_id)"))
    id: int
    text: str
    words: TsVector
    """Words of the test case's node id and of the message."""
    case_id: int
    project_id: int
    job_id: Int


class BuildDocument(NamedDocument, frozen=True):
    table = Table("search_builds", VERSION, indexes=(_INDEX, "(job_id)"))
    project_id: int
    job_id: Int
    branch: str
    commit_sha: str
    detail: str = ""
    """Reason for the build's end, and its details."""
    failed: Int = 0
    messages: list[str] = []


def keys(recorded: Recorded) -> Iterable[tuple[type[Row], Key]]:
    match recorded.event:
        case ProjectUpdated(project_id=project_id):
            yield ProjectDocument, (project_id,)
        case JobUpdated(job_id=job_id):
            yield JobDocument, (job_id,)
        case nodes.NodeConnected() | nodes.NodeUpdated():
            yield NodeDocument, (recorded.event.node_id,)
        case ResultsRecorded() as event if FAILED in event.statuses:
            yield from ((TestDocument, (event.case_ids[row],)) for row in _failed_rows(event))
            yield BuildDocument, (event.build_id,)
        case BuildStarted() | BuildRequeued() | ReportRecorded() | BuildFinished() as event if _changes_build(event):
            yield BuildDocument, (event.build_id,)


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case ResultsRecorded():
            if FAILED in event.statuses:
                yield from _failed(event, rows)
        case BuildQueued() | BuildStarted() | BuildRequeued() | ReportRecorded() | BuildFinished() | BuildDeleted():
            yield from _of_build(event, rows)
        case CasesSeen():
            for number, words in enumerate(_find_vectors(event)):
                yield TestDocument(event.first_case_id + number, words, event.project_id)
        case JobCreated():
            text = event.repository or ""
            words = _find_vector(event.title, text, event.project_id)
            yield JobDocument(event.job_id, event.title, text, words, event.project_id)
        case JobUpdated():
            job = rows.get(JobDocument, event.job_id)
            if job is not None:
                changes = changed_columns(job, event)
                if "repository" in event.cleared or event.repository is not None:
                    changes["text"] = event.repository or ""
                if changes:
                    yield _renewed(job, job.project_id, **changes)
        case JobDeleted():
            yield Delete(JobDocument, event.job_id)
            for row in (BuildDocument, FailureDocument):
                yield DeleteWhere(row, "job_id", event.job_id)
        case ProjectCreated():
            text = event.description[:MAX_TEXT]
            yield ProjectDocument(
                event.project_id, event.title, text, _find_vector(event.title, text, event.project_id)
            )
        case ProjectUpdated():
            project = rows.get(ProjectDocument, event.project_id)
            if project is not None and (event.title is not None or event.description is not None):
                text = project.text if event.description is None else event.description[:MAX_TEXT]
                yield _renewed(project, project.id, name=event.title or project.name, text=text)
        case ProjectDeleted():
            yield Delete(ProjectDocument, event.project_id)
            yield DeleteWhere(TestDocument, "project_id", event.project_id)
        case nodes.NodeRegistered():
            node = NodeDocument(event.node_id, event.title, "", "", event.pool_id, tags=event.tags)
            yield _renewed_node(node)
        case nodes.NodeConnected():
            node_row = rows.get(NodeDocument, event.node_id)
            if node_row is not None and (event.hostname, event.platform) != (node_row.hostname, node_row.platform):
                yield _renewed_node(node_row, hostname=event.hostname, platform=event.platform)
        case nodes.NodeUpdated():
            node_row = rows.get(NodeDocument, event.node_id)
            if node_row is not None and (changes := changed_columns(node_row, event)):
                yield _renewed_node(node_row, **changes)
        case nodes.NodeDeleted():
            yield Delete(NodeDocument, event.node_id)
        case _:
            return


PROJECTION = Projection(
    "search",
    VERSION,
    (ProjectDocument, JobDocument, NodeDocument, TestDocument, FailureDocument, BuildDocument),
    keys,
    apply,
    handles=(
        *(ProjectCreated, ProjectUpdated, ProjectDeleted, JobCreated, JobUpdated, JobDeleted),
        *(nodes.NodeRegistered, nodes.NodeConnected, nodes.NodeUpdated, nodes.NodeDeleted),
        *(BuildQueued, BuildStarted, BuildRequeued, ReportRecorded, BuildFinished, BuildDeleted),
        *(CasesSeen, ResultsRecorded),
    ),
)


def scope_word(project_id: int) -> str:
    """Returns the word that all documents of a project have, in the syntax of `tsvector` and `tsquery`. No text
    contains this word. With it, the index finds only documents of one project.
    """
    return f"':{project_id}'"


def _weigh(text: str, weight: Literal["A", ""]) -> str:
    """Returns the words of a text in the syntax of `tsvector`. Words of a name get the weight A; words of other texts
    get none. A word has only letters and digits, so nothing in it must be escaped.
    """
    # Each word gets the position 1: without a position, a query for any weight would find it.
    words = find_words(text) if text else []
    return f"{f':1{weight} '.join(words)}:1{weight}" if words else ""


def _find_vector(name: str, text: str, project_id: int | None) -> str:
    """Returns the words of a document. If a word occurs twice, PostgreSQL keeps its higher weight."""
    scope = "" if project_id is None else scope_word(project_id)
    return " ".join(filter(None, (_weigh(name, "A"), _weigh(text, ""), scope)))


def _find_vectors(event: CasesSeen) -> Iterator[str]:
    """Yields the words of the document of each test case of an event. Node ids of one file or class begin alike, so the
    words of each common beginning are computed once.
    """
    shared: dict[tuple[str, str], str] = {}
    for node_id, suite in zip(event.node_ids, event.suites, strict=True):
        beginning, _, test = node_id.rpartition("::")
        words = shared.get((beginning, suite))
        if words is None:
            words = shared[beginning, suite] = _find_vector(beginning, suite, event.project_id)
        yield f"{words} {_weigh(test, 'A')}"


def _message(text: ResultText) -> str:
    """Returns the message that a failure can be found by: the reported message, or the last line of the trace."""
    return (text.message or text.trace.rstrip().rpartition("\n")[2])[:MAX_MESSAGE]


def _renewed(document: Any, project_id: int | None, **changes: Any) -> Any:
    """Returns a document after some changes, with the words of its new name and text."""
    document = msgspec.structs.replace(document, **changes)
    return msgspec.structs.replace(document, words=_find_vector(document.name, document.text, project_id))


def _renewed_node(node: NodeDocument, **changes: Any) -> Any:
    node = msgspec.structs.replace(node, **changes)
    return _renewed(node, None, text=" ".join(filter(None, (*node.tags, node.platform, node.hostname))))


def _failed_rows(event: ResultsRecorded) -> Iterator[int]:
    row = event.statuses.find(FAILED)
    while row >= 0:
        yield row
        row = event.statuses.find(FAILED, row + 1)


def _failed(event: ResultsRecorded, rows: Rows) -> Iterator[Change]:
    texts = {text.row: text for text in event.texts}
    known: dict[str, str] = {}  # message -> its words
    messages: dict[str, str] = {}  # beginning of a message -> the words of the message
    failed: dict[int, TestDocument] = {}
    for row in _failed_rows(event):
        case_id, result_id = event.case_ids[row], event.first_result_id + row
        test = failed.get(case_id) or rows.get(TestDocument, case_id)
        if test is None:
            continue
        if test.failure:
            yield Delete(FailureDocument, test.failure)
        # Also for a failure without a message: deleting the build erases the message, and a rebuild after that must
        # give the same rows.
        failed[case_id] = msgspec.structs.replace(test, failure=result_id)
        if row in texts and (message := _message(texts[row])):
            words = known.get(message)
            if words is None:
                words = known[message] = _weigh(message, "")
            of = case_id, event.project_id, event.job_id
            yield FailureDocument(result_id, message, f"{test.words} {words}", *of)
            messages.setdefault(message[:MAX_BUILD_MESSAGE], words)
    yield from failed.values()
    build = rows.get(BuildDocument, event.build_id) if messages else None
    if build is not None and (room := MAX_BUILD_MESSAGES - len(build.messages)) > 0:
        new = [message for message in messages if message not in build.messages][:room]
        if new:
            words = " ".join([build.words, *map(messages.__getitem__, new)])
            yield _with_text(build, messages=[*build.messages, *new], words=words)


def _changes_build(event: BuildStarted | BuildRequeued | ReportRecorded | BuildFinished) -> bool:
    """Returns whether an event may change the document of its build. Most events of builds do not."""
    match event:
        case BuildStarted():
            return event.commit_sha is not None
        case BuildRequeued():
            return True
        case ReportRecorded():
            return event.failed != 0 or event.detail is not None
        case BuildFinished():
            return bool(event.detail) or event.reason not in (None, "tests_failed")


def _of_build(event: BuildEvent, rows: Rows) -> Iterable[Change]:
    match event:
        case BuildQueued():
            name, commit = f"{event.job_title} #{event.build_id}".strip(), event.commit_sha or ""
            of = event.project_id, event.job_id, event.branch, commit
            return (_with_text(_with_words(BuildDocument(event.build_id, name, "", "", *of))),)
        case BuildDeleted():
            ranges = (DeleteRange(FailureDocument, "id", first, first + cases - 1) for first, cases in event.results)
            return (Delete(BuildDocument, event.build_id), *ranges)
        case BuildStarted() | BuildRequeued() | ReportRecorded() | BuildFinished() if _changes_build(event):
            build = rows.get(BuildDocument, event.build_id)
            if build is not None and (after := _changed(event, build)) != build:
                return (_with_text(after),)
    return ()


def _changed(
    event: BuildStarted | BuildRequeued | ReportRecorded | BuildFinished, build: BuildDocument
) -> BuildDocument:
    match event:
        case BuildStarted(commit_sha=commit) if commit is not None and commit != build.commit_sha:
            return _with_words(build, commit_sha=commit)
        case BuildRequeued():
            # The failures of the lost attempt do not count.
            return _with_words(build, failed=0, messages=[])
        case ReportRecorded():
            # A detail comes with a report only after the end of the build.
            build = msgspec.structs.replace(build, failed=build.failed + event.failed)
            return build if event.detail is None else _with_words(build, detail=event.detail[:MAX_TEXT])
        case BuildFinished():
            reason = (event.reason or "").replace("_", " ")
            detail = ": ".join(filter(None, (reason, event.detail or "")))
            return _with_words(build, detail=detail[:MAX_TEXT])
        case _:
            return build


def _with_words(build: BuildDocument, **changes: Any) -> BuildDocument:
    """Returns the document of a build after some changes, with its words computed anew."""
    build = msgspec.structs.replace(build, **changes)
    name = f"{build.name} {build.branch} {build.commit_sha}"
    words = _find_vector(name, "\n".join((build.detail, *build.messages)), build.project_id)
    return msgspec.structs.replace(build, words=words)


def _with_text(build: BuildDocument, **changes: Any) -> BuildDocument:
    """Returns the document of a build after some changes, with its text computed anew."""
    build = msgspec.structs.replace(build, **changes)
    failures = f"{build.failed} tests failed: " if build.failed > 1 else "a test failed: " if build.failed else ""
    failures += "; ".join(build.messages)
    text = "\n".join(filter(None, (f"{build.branch} {build.commit_sha}".strip(), build.detail, failures)))
    return msgspec.structs.replace(build, text=text)
