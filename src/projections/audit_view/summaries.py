"""Event summaries: what an event did, as a sentence without its subject, for readers of the audit trail.

`entries` puts the actor before it. Texts that have been erased are left out, since their fields are empty then.
"""

from collections.abc import Sequence

from domain.artifacts import ArtifactDeleted, ArtifactStored
from domain.audit import AuditRead
from domain.auth import ApiTokenCreated, ApiTokenRevoked, SessionOpened, SessionRevoked
from domain.builds import (
    BuildAssigned,
    BuildCommented,
    BuildDeleted,
    BuildFinished,
    BuildMovedToTop,
    BuildPinned,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    BuildUnpinned,
    ReportRecorded,
)
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.events import Event
from domain.dispatch import LeadershipTaken
from domain.flakiness import TestTurnedFlaky
from domain.jobs import JobConfigured, JobCreated, JobDeleted, JobUpdated
from domain.known_issues import (
    KnownIssueCreated,
    KnownIssueDeleted,
    KnownIssueSearched,
    KnownIssueTaught,
    KnownIssueUpdated,
)
from domain.node_commands import NodeCommandCompleted, NodeCommandRequested
from domain.nodes import (
    NodeConnected,
    NodeDeleted,
    NodeQuarantined,
    NodeRegistered,
    NodeReleased,
    NodeUpdated,
    NodeWentOffline,
)
from domain.pools import PoolCreated, PoolDeleted, PoolUpdated
from domain.projects import (
    MemberAdmitted,
    ProjectClosed,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    WebhookSecretRotated,
)
from domain.quarantine import (
    QuarantineBecameHealthy,
    QuarantinedTestsRan,
    QuarantineExpired,
    QuarantineLifted,
    TestsQuarantined,
)
from domain.results import CasesSeen, ResultsRecorded
from domain.sealing import SigningKeyChanged
from domain.templates import TemplateCreated, TemplateDeleted, TemplateUpdated
from domain.triage import (
    DefectLinked,
    KnownIssueLinked,
    ResolutionSet,
    ResultClassified,
    ResultsClassifiedByRules,
)
from domain.users import UserDeleted, UserRegistered
from projections.audit_view.delivery_summaries import teams, webhooks
from projections.audit_view.formatting import count, listed, name_of_stream, quoted, spaced


def summarize(event: Event) -> str:
    """The summary of an event: `queued build 7 of job 3 on “main”`. Raises LookupError for an event without one."""
    for area in AREAS:
        if (summary := area(event)) is not None:
            return summary
    raise LookupError(f"{event.name} has no summary in projections.audit_view.summaries")


def _builds(event: Event) -> str | None:
    match event:
        case BuildQueued():
            parts = [f"queued build {event.build_id} of job {event.job_id}", quoted(" on ", event.branch)]
            if event.restarted_from is not None:
                parts.append(f", as build {event.restarted_from} again")
            if event.test_ids is not None:
                parts.append(f", {count(len(event.test_ids), 'test')} only")
            return "".join(parts)
        case BuildAssigned():
            return f"gave build {event.build_id} to node {event.node_id}, attempt {event.attempt}"
        case BuildRequeued():
            why = "did not take it up" if event.reason == "not_acknowledged" else "was lost"
            return f"put build {event.build_id} back into the queue: node {event.node_id} {why}"
        case BuildStarted(node_id=None):
            return f"started build {event.build_id}, which runs elsewhere"
        case BuildStarted():
            commit = f" at commit {event.commit_sha[:12]}" if event.commit_sha else ""
            return f"started build {event.build_id} on node {event.node_id}{commit}"
        case ReportRecorded():
            counts = f"{event.passed:,} passed, {event.failed:,} failed, {event.skipped:,} skipped"
            return f"recorded the report{quoted(' ', event.path)} of build {event.build_id}: {counts}"
        case BuildFinished(reason="stopped_by_user"):
            return f"stopped build {event.build_id}{quoted(': ', event.detail)}"
        case BuildFinished():
            why = f" ({spaced(event.reason)})" if event.reason else ""
            return f"ended build {event.build_id} as {event.status}{why}{quoted(': ', event.detail)}"
        case BuildMovedToTop():
            return f"moved build {event.build_id} to the top of the queue"
        case BuildPinned():
            return f"chose to keep build {event.build_id} for ever"
        case BuildUnpinned():
            return f"chose to keep build {event.build_id} no longer for ever"
        case BuildCommented():
            return f"commented on build {event.build_id}{quoted(': ', event.text)}"
        case BuildDeleted():
            why = ", which its project no longer keeps" if event.reason == "retention" else ""
            return f"deleted build {event.build_id}{why}; its texts were erased"
        case _:
            return None


def _results(event: Event) -> str | None:
    match event:
        case CasesSeen():
            return f"saw {count(len(event.node_ids), 'new test')} in project {event.project_id}"
        case ResultsRecorded():
            last = event.first_result_id + len(event.case_ids) - 1
            return f"recorded results {event.first_result_id} to {last} of build {event.build_id}"
        case ResultsClassifiedByRules():
            results, issues = len(event.result_ids), len(set(event.known_issue_ids))
            by = count(issues, "known issue")
            return f"classified {count(results, 'failure')} of build {event.build_id} by {by}"
        case ArtifactStored():
            return f"stored the artifact{quoted(' ', event.path)} of build {event.build_id}"
        case ArtifactDeleted():
            return f"deleted artifact {event.artifact_id} of build {event.build_id}"
        case _:
            return None


def _triage(event: Event) -> str | None:
    match event:
        case ResultClassified():
            before = f", before {spaced(event.replaced)}" if event.replaced else ""
            return f"classified test result {event.result_id} as {spaced(event.classification)}{before}"
        case DefectLinked():
            return f"linked test result {event.result_id} to defect{quoted(' ', event.defect_key)}"
        case ResolutionSet():
            return f"resolved test result {event.result_id}{quoted(': ', event.resolution)}"
        case KnownIssueLinked():
            return f"linked test result {event.result_id} to known issue {event.known_issue_id}"
        case KnownIssueCreated():
            kind, classification = spaced(event.kind), spaced(event.classification)
            title = quoted(" ", event.title)
            return f"added known issue {event.known_issue_id}{title}, {classification} by {kind}"
        case KnownIssueUpdated():
            return f"changed known issue {event.known_issue_id}"
        case KnownIssueTaught():
            return f"taught known issue {event.known_issue_id} the failure of test result {event.result_id}"
        case KnownIssueSearched():
            found = f"{len(event.result_ids):,} found"
            return f"searched older failures for known issue {event.known_issue_id}: {found}"
        case KnownIssueDeleted():
            return f"deleted known issue {event.known_issue_id}"
        case _:
            return None


def _quarantine(event: Event) -> str | None:
    match event:
        case TestsQuarantined():
            until = f" until {event.expires_at:%Y-%m-%d %H:%M}" if event.expires_at else ""
            tests = _tests(event.node_ids)
            return f"quarantined {tests} of job {event.job_id} as {event.reason}{until}"
        case QuarantineLifted():
            why = ", expired" if event.why == "expired" else ""
            return f"took {_tests(event.node_ids)} of job {event.job_id} out of quarantine{why}"
        case QuarantineExpired():
            return f"noticed that {_entries(event.ids)} of job {event.job_id} expired"
        case QuarantineBecameHealthy():
            return f"noticed that {_entries(event.ids)} of job {event.job_id} became healthy"
        case TestTurnedFlaky():
            named = quoted(" ", event.node_id)
            return f"noticed that test {event.test_case_id}{named} turned flaky in build {event.build_id}"
        case QuarantinedTestsRan():
            ran = f"{len(event.passed):,} passed, {len(event.failed):,} failed"
            return f"noted how the quarantined tests of build {event.build_id} fared: {ran}"
        case _:
            return None


def _projects(event: Event) -> str | None:
    match event:
        case ProjectCreated():
            return f"created project {event.project_id}{quoted(' ', event.title)}"
        case ProjectUpdated():
            return f"changed project {event.project_id}"
        case WebhookSecretRotated():
            return f"renewed the webhook secret of project {event.project_id}"
        case MemberAdmitted():
            return f"gave user {event.user_id} {event.access} access to project {event.project_id}"
        case ProjectClosed():
            return f"closed project {event.project_id} in order to delete it"
        case ProjectDeleted():
            return f"deleted project {event.project_id} with all that was in it; its texts were erased"
        case _:
            return None


def _jobs(event: Event) -> str | None:
    match event:
        case JobCreated():
            return f"created job {event.job_id}{quoted(' ', event.title)} in project {event.project_id}"
        case JobUpdated():
            return f"changed job {event.job_id}"
        case JobConfigured():
            return f"configured job {event.job_id}"
        case JobDeleted():
            return f"deleted job {event.job_id} with its builds"
        case TemplateCreated():
            return f"created pipeline template {event.template_id}{quoted(' ', event.title)}"
        case TemplateUpdated():
            return f"changed pipeline template {event.template_id}"
        case TemplateDeleted():
            return f"deleted pipeline template {event.template_id}"
        case _:
            return None


def _nodes(event: Event) -> str | None:
    match event:
        case NodeRegistered():
            return f"registered node {event.node_id}{quoted(' ', event.title)}"
        case NodeConnected():
            return f"connected node {event.node_id} from{quoted(' ', event.hostname)}, agent {event.version}"
        case NodeWentOffline():
            return f"saw node {event.node_id} go offline{quoted(': ', event.reason)}"
        case NodeUpdated():
            return f"changed node {event.node_id}"
        case NodeQuarantined():
            return f"put node {event.node_id} into quarantine"
        case NodeReleased():
            return f"released node {event.node_id} from quarantine"
        case NodeDeleted():
            return f"deleted node {event.node_id}"
        case NodeCommandRequested(kind="restart"):
            return f"asked the agent of node {event.node_id} to restart"
        case NodeCommandRequested():
            return f"asked node {event.node_id} to execute{quoted(' ', event.command) or ' a command'}"
        case NodeCommandCompleted():
            how = "was killed for its time" if event.exit_code is None else f"ended with {event.exit_code}"
            return f"said that command {event.command_id} on node {event.node_id} {how}"
        case _:
            return None


def _pools(event: Event) -> str | None:
    match event:
        case PoolCreated():
            return f"created node pool {event.pool_id}{quoted(' ', event.title)} in project {event.project_id}"
        case PoolUpdated():
            return f"changed node pool {event.pool_id}"
        case PoolDeleted():
            return f"deleted node pool {event.pool_id}"
        case LeadershipTaken():
            return f"took over the dispatching as {event.leader}"
        case _:
            return None


def _people(event: Event) -> str | None:
    match event:
        case UserRegistered():
            return f"registered user {event.user_id}{quoted(' ', event.email)} as {event.role}"
        case UserDeleted():
            return f"deleted user {event.user_id}; what was known of this person was erased"
        case SessionOpened():
            return "signed in"
        case SessionRevoked():
            return f"ended a session of user {event.user_id}"
        case ApiTokenCreated():
            return f"made API token {event.token_id}{quoted(' ', event.label)} for user {event.user_id}"
        case ApiTokenRevoked():
            return f"revoked API token {event.token_id} of user {event.user_id}"
        case _:
            return None


def _records(event: Event) -> str | None:
    match event:
        case AuditRead():
            what = {"events": "the audit trail", "stream": "the story of a stream", "export": "an export of the trail"}
            asked = ", ".join(f"{name} {value}" for name, value in event.filter.items())
            shown = "" if event.shown is None else f", {count(event.shown, 'event')}"
            return f"read {what[event.what]}{f' ({asked})' if asked else ''}{shown}"
        case SigningKeyChanged():
            return "gave the audit log a new signing key"
        case ClaimTaken():
            return f"reserved a name for {name_of_stream(event.owner)}"
        case ClaimReleased():
            return f"gave a name of {name_of_stream(event.owner)} free"
        case _:
            return None


def _tests(node_ids: Sequence[str]) -> str:
    named = [text for node_id in node_ids if (text := quoted("", node_id))]
    return listed(named) if named else count(len(node_ids), "test")


def _entries(ids: Sequence[int]) -> str:
    return f"quarantine entry {listed(map(str, ids))}"


AREAS = (_builds, _results, _triage, _quarantine, _projects, _jobs, _nodes, _pools, webhooks, teams, _people, _records)
