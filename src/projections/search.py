"""Read model for full-text search. Queries are in `search_queries`.

There is a document for each project, job, node, test case and build, and one for each test case that has failed, with
the message of its newest failure. So results that pass cost nothing, and a failure costs the same however often the
test has run.

PostgreSQL finds documents by an index on their words (`domain.search`), which are computed here, so that they do not
depend on settings of the database.
"""

from collections.abc import Iterable, Iterator
from typing import Any

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
    changed_columns,
)

VERSION = 2

MAX_MESSAGE = 1_000
"""Number of characters of a failure's message that can be found."""
MAX_BUILD_MESSAGES = 5
"""Number of different failure messages that a build can be found by."""
MAX_BUILD_MESSAGE = 200
"""Number of characters of each of these messages that snippets show."""
MAX_TEXT = 4_000
"""Number of characters of any other text that can be found."""

_WORDS = "string_to_array(btrim(name_words || ' ' || text_words), ' ')"


def _words(project_column: str | None) -> str:
    """Returns the definition of the column `words`, with the words of a document and its project. With the project
    among the words, the index finds the documents of one project without those of others.

    The column is stored. Otherwise each document that a search does not find by the index takes 10 µs, of which the
    planner knows nothing, so it prefers to read all documents.
    """
    words = _WORDS if project_column is None else f"array_append({_WORDS}, 'project:' || {project_column}::text)"
    return f"words tsvector GENERATED ALWAYS AS (array_to_tsvector({words})) STORED"


# Every search reads the whole pending list of the GIN index, so the list is kept short (512 kB).
_INDEX = "USING gin (words) WITH (gin_pending_list_limit = 512)"


class SearchDocument(Row, frozen=True):
    """Base of the documents."""

    id: int
    name: str
    text: str
    name_words: str
    """Words of the name, separated by spaces. A query that matches these gives a higher score."""
    text_words: str


class ProjectDocument(SearchDocument, frozen=True):
    table = Table("search_projects", VERSION, computed=(_words("id"),), indexes=(_INDEX,))


class JobDocument(SearchDocument, frozen=True):
    table = Table("search_jobs", VERSION, computed=(_words("project_id"),), indexes=(_INDEX,))
    project_id: int


class NodeDocument(SearchDocument, frozen=True):
    table = Table("search_nodes", VERSION, computed=(_words(None),), indexes=(_INDEX,))
    pool_id: int | None
    hostname: str = ""
    platform: str = ""
    tags: list[str] = []


class TestDocument(SearchDocument, frozen=True):
    """A test case. `id` is the id of the case, `name` is its node id, and `text` its suite."""

    __test__ = False  # tells pytest that this is not a test class

    table = Table("search_tests", VERSION, computed=(_words("project_id"),), indexes=(_INDEX, "(project_id)"))
    project_id: int
    failure: int = 0
    """Id of the newest result of the test that failed, also if its build is deleted; 0 if there is none."""


class FailureDocument(SearchDocument, frozen=True):
    """The newest failure of a test case. `id` is the id of the result, `text` the message. It goes with its build; the
    document of the test case stays.
    """

    table = Table("search_failures", VERSION, computed=(_words("project_id"),), indexes=(_INDEX, "(job_id)"))
    case_id: int
    project_id: int
    job_id: Int


class BuildDocument(SearchDocument, frozen=True):
    table = Table("search_builds", VERSION, computed=(_words("project_id"),), indexes=(_INDEX, "(job_id)"))
    project_id: int
    job_id: Int
    branch: str
    commit_sha: str
    detail: str = ""
    """Reason and detail of the build's end."""
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
            suites = {suite: _join(suite) for suite in set(event.suites)}
            for number, (node_id, suite) in enumerate(zip(event.node_ids, event.suites, strict=True)):
                words, of_suite = _join(node_id), "" if suite in node_id else suites[suite]
                yield TestDocument(event.first_case_id + number, node_id, suite, words, of_suite, event.project_id)
        case JobCreated():
            text = event.repository or ""
            yield JobDocument(event.job_id, event.title, text, _join(event.title), _join(text), event.project_id)
        case JobUpdated():
            job = rows.get(JobDocument, event.job_id)
            if job is not None:
                changes = changed_columns(job, event)
                if "repository" in event.cleared or event.repository is not None:
                    changes["text"] = event.repository or ""
                if changes:
                    yield _renewed(job, **changes)
        case JobDeleted():
            yield Delete(JobDocument, event.job_id)
            for row in (BuildDocument, FailureDocument):
                yield DeleteWhere(row, "job_id", event.job_id)
        case ProjectCreated():
            text = event.description[:MAX_TEXT]
            yield ProjectDocument(event.project_id, event.title, text, _join(event.title), _join(text))
        case ProjectUpdated():
            project = rows.get(ProjectDocument, event.project_id)
            if project is not None and (event.title is not None or event.description is not None):
                text = project.text if event.description is None else event.description[:MAX_TEXT]
                yield _renewed(project, name=event.title or project.name, text=text)
        case ProjectDeleted():
            yield Delete(ProjectDocument, event.project_id)
            yield DeleteWhere(TestDocument, "project_id", event.project_id)
        case nodes.NodeRegistered():
            node = NodeDocument(event.node_id, event.title, "", "", "", event.pool_id, tags=event.tags)
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


def _join(text: str) -> str:
    return " ".join(find_words(text))


def _message(text: ResultText) -> str:
    """Returns the message that a failure can be found by: the reported message, or the last line of the trace."""
    return (text.message or text.trace.rstrip().rpartition("\n")[2])[:MAX_MESSAGE]


def _renewed(document: Any, **changes: Any) -> Any:
    """Returns the document with changes, and with the words of its new name and text."""
    document = msgspec.structs.replace(document, **changes)
    return msgspec.structs.replace(document, name_words=_join(document.name), text_words=_join(document.text))


def _renewed_node(node: NodeDocument, **changes: Any) -> Any:
    node = msgspec.structs.replace(node, **changes)
    return _renewed(node, text=" ".join(filter(None, (*node.tags, node.platform, node.hostname))))


def _failed_rows(event: ResultsRecorded) -> Iterator[int]:
    return (row for row, status in enumerate(event.statuses) if status == FAILED)


def _failed(event: ResultsRecorded, rows: Rows) -> Iterator[Change]:
    texts = {text.row: text for text in event.texts}
    messages: dict[str, str] = {}  # message -> its words
    failed: dict[int, TestDocument] = {}
    for row in _failed_rows(event):
        case_id, result_id = event.case_ids[row], event.first_result_id + row
        test = failed.get(case_id) or rows.get(TestDocument, case_id)
        if test is None:
            continue
        if test.failure:
            yield Delete(FailureDocument, test.failure)
        # Also without a message: a rebuild after the deletion of this build must give the same rows, and the message
        # is erased then.
        failed[case_id] = msgspec.structs.replace(test, failure=result_id)
        if row in texts and (message := _message(texts[row])):
            words = _join(message)
            yield FailureDocument(
                result_id, test.name, message, test.name_words, words, case_id, event.project_id, event.job_id
            )
            messages.setdefault(message[:MAX_BUILD_MESSAGE], words)
    yield from failed.values()
    build = rows.get(BuildDocument, event.build_id) if messages else None
    if build is not None and (room := MAX_BUILD_MESSAGES - len(build.messages)) > 0:
        new = [message for message in messages if message not in build.messages][:room]
        words = " ".join(dict.fromkeys(" ".join([build.text_words, *map(messages.__getitem__, new)]).split()))
        if new:
            yield _with_text(build, messages=[*build.messages, *new], text_words=words)


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


def _of_build(event: BuildEvent, rows: Rows) -> Iterator[Change]:
    match event:
        case BuildQueued():
            name, commit = f"{event.job_title} #{event.build_id}".strip(), event.commit_sha or ""
            words = _join(f"{name} {event.branch} {commit}")
            of = event.project_id, event.job_id, event.branch, commit
            yield _with_text(BuildDocument(event.build_id, name, "", words, "", *of))
        case BuildDeleted():
            yield Delete(BuildDocument, event.build_id)
            for first, cases in event.results:
                yield DeleteRange(FailureDocument, "id", first, first + cases - 1)
        case BuildStarted() | BuildRequeued() | ReportRecorded() | BuildFinished() if _changes_build(event):
            build = rows.get(BuildDocument, event.build_id)
            if build is not None:
                after = msgspec.structs.replace(build, **_build_changes(event, build))
                if after != build:
                    yield _with_text(after)


def _build_changes(
    event: BuildStarted | BuildRequeued | ReportRecorded | BuildFinished, build: BuildDocument
) -> dict[str, Any]:
    match event:
        case BuildStarted(commit_sha=commit) if commit is not None and commit != build.commit_sha:
            return {"commit_sha": commit, "name_words": _join(f"{build.name} {build.branch} {commit}")}
        case BuildRequeued():
            # The failures of the lost attempt do not count.
            return {"failed": 0, "messages": [], "text_words": ""}
        case ReportRecorded():
            # A detail comes with a report only after the end of the build.
            detail = {} if event.detail is None else _detail(build, event.detail)
            return {"failed": build.failed + event.failed} | detail
        case BuildFinished():
            reason = (event.reason or "").replace("_", " ")
            return _detail(build, ": ".join(filter(None, (reason, event.detail or ""))))
        case _:
            return {}


def _detail(build: BuildDocument, detail: str) -> dict[str, Any]:
    detail = detail[:MAX_TEXT]
    return {"detail": detail, "text_words": _join("\n".join((detail, *build.messages)))}


def _with_text(build: BuildDocument, **changes: Any) -> BuildDocument:
    """Returns the document with changes, and with the text that follows from them."""
    build = msgspec.structs.replace(build, **changes)
    failures = f"{build.failed} tests failed: " if build.failed > 1 else "a test failed: " if build.failed else ""
    failures += "; ".join(build.messages)
    text = "\n".join(filter(None, (f"{build.branch} {build.commit_sha}".strip(), build.detail, failures)))
    return msgspec.structs.replace(build, text=text)
