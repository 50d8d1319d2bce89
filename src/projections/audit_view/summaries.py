"""Event summaries: sentences without a subject that say what an event did, for readers of the audit trail.

`projections.audit_view.entries` puts the actor in front, as the subject. The fields of erased texts are empty, so
summaries leave these fields out.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from domain import (
    artifacts,
    audit,
    auth,
    builds,
    changes,
    claims,
    classification_rules,
    dispatch,
    gitops,
    identity_providers,
    jira,
    jobs,
    known_issues,
    node_commands,
    nodes,
    pools,
    projections,
    projects,
    quarantine,
    reactions,
    results,
    scm,
    teams,
    templates,
    tickets,
    triage,
    users,
    webhooks,
)
from domain.core.events import Event, changes_of
from domain.phrases import count
from projections.audit_view.eval_summaries import EVAL_SUMMARIES
from projections.audit_view.flakiness_summaries import FLAKINESS_SUMMARIES
from projections.audit_view.group_summaries import GROUP_SUMMARIES
from projections.audit_view.inquiry_summaries import INQUIRY_SUMMARIES
from projections.audit_view.machine_summaries import MACHINE_SUMMARIES
from projections.audit_view.phrases import listed, quoted, spaced
from projections.audit_view.token_summaries import TOKEN_SUMMARIES


def summarize(event: Event) -> str:
    """Returns the summary of an event: `queued build 7 of job 3 on “main”`."""
    summary = SUMMARIES[type(event)]
    return _Fields().vformat(summary, [event], {}) if isinstance(summary, str) else summary(event)


class _Fields(string.Formatter):
    """Formatter that fills the fields of an event into a text.

    `{job_id}` becomes the value of the field. `{title: “}` becomes a space and the value in quotes, or nothing for an
    empty value. `{attempts:attempt}` becomes `1 attempt` or `7 attempts`.
    """

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return getattr(args[0], str(key))

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.endswith("“"):
            return quoted(format_spec[:-1], value)
        return count(value, format_spec) if format_spec else str(value)


def _queued(event: builds.BuildQueued) -> str:
    restart = "" if event.restarted_from is None else f", as build {event.restarted_from} again"
    tests = "" if event.test_ids is None else f", {count(len(event.test_ids), 'test')} only"
    group = "" if event.group_id in (None, event.build_id) else f", in group {event.group_id}"
    fork = f"fork{quoted(' ', event.fork)}"
    untrusted = f" without secrets, since it is of a pull request from the {fork}" if event.untrusted else ""
    needed = [] if event.trigger is None else [f"build {build_id}" for build_id in event.trigger.after]
    after = f", after {listed(needed)} had passed" if needed else ""
    what = f"{quoted(' on ', event.branch)}{restart}{tests}{group}{untrusted}{after}"
    return f"queued build {event.build_id} of job {event.job_id}{what}"


def _approved(event: builds.BuildApproved) -> str:
    commit = f" of commit {event.commit_sha[:12]}" if event.commit_sha else ""
    return f"approved build {event.build_id}{commit}, of a pull request from a fork"


def _requeued(event: builds.BuildRequeued) -> str:
    node = f"node {event.node_id}"
    why = {
        "not_acknowledged": f"{node} did not take it up",
        "agent_lost": f"{node} was lost",
        "other_commit": f"{node} checked out another commit than that of the build's group",
    }[event.reason]
    return f"put build {event.build_id} back into the queue: {event.detail or why}"


def _started(event: builds.BuildStarted) -> str:
    if event.node_id is None:
        return f"started build {event.build_id}, which runs elsewhere"
    commit = f" at commit {event.commit_sha[:12]}" if event.commit_sha else ""
    return f"started build {event.build_id} on node {event.node_id}{commit}"


def _reported(event: builds.ReportRecorded) -> str:
    counts = f"{event.passed:,} passed, {event.failed:,} failed, {event.skipped:,} skipped"
    return f"recorded the report{quoted(' ', event.path)} of build {event.build_id}: {counts}"


def _finished(event: builds.BuildFinished) -> str:
    detail = quoted(": ", event.detail)
    if event.reason == "stopped_by_user":
        return f"stopped build {event.build_id}{detail}"
    why = f" ({spaced(event.reason)})" if event.reason else ""
    return f"ended build {event.build_id} as {event.status}{why}{detail}"


def _build_deleted(event: builds.BuildDeleted) -> str:
    why = ", which its project no longer keeps" if event.reason == "retention" else ""
    return f"deleted build {event.build_id}{why}; its texts were erased"


def _results_recorded(event: results.ResultsRecorded) -> str:
    last = event.first_result_id + len(event.case_ids) - 1
    return f"recorded results {event.first_result_id} to {last} of build {event.build_id}"


def _results_replaced(event: results.ResultsReplaced) -> str:
    return f"replaced {count(len(event.case_ids), 'result')} of build {event.build_id}"


def _classified_by_rules(event: triage.ResultsClassifiedByRules) -> str:
    issues = [str(known_issue_id) for known_issue_id in dict.fromkeys(event.known_issue_ids) if known_issue_id]
    rules = [str(rule) for rule in dict.fromkeys(event.rules) if rule]
    by = [f"by known issue{'' if len(issues) == 1 else 's'} {listed(issues)}"] if issues else []
    if rules:
        of = f"version {event.rules_version} of the classification rules"
        by.append(f"by rule{'' if len(rules) == 1 else 's'} {listed(rules)} of {of}")
    if statistical := sum(row.is_statistical for row in event.rows):
        by.append(f"{statistical} of them by statistics" if by else "by statistics")
    return f"classified {count(len(event.result_ids), 'failure')} of build {event.build_id} {', '.join(by)}".rstrip()


def _rules_set(event: classification_rules.ClassificationRulesSet) -> str:
    rules = count(len(event.rules), "classification rule")
    return f"gave project {event.project_id} {rules}, version {event.version}"


def _classified(event: triage.ResultClassified) -> str:
    before = f", before {spaced(event.replaced)}" if event.replaced else ""
    return f"classified test result {event.result_id} as {spaced(event.classification)}{before}"


def _known_issue_created(event: known_issues.KnownIssueCreated) -> str:
    by = f"{spaced(event.classification)} by {spaced(event.kind)}"
    return f"added known issue {event.known_issue_id}{quoted(' ', event.title)}, {by}"


def _searched(event: known_issues.KnownIssueSearched) -> str:
    found = f"{len(event.result_ids):,} found, {spaced(event.classification)}" if event.result_ids else "none found"
    return f"searched older failures for known issue {event.known_issue_id}: {found}"


def _quarantined(event: quarantine.TestsQuarantined) -> str:
    until = f" until {event.expires_at:%Y-%m-%d %H:%M}" if event.expires_at else ""
    return f"quarantined {_tests(event.node_ids)} of job {event.job_id} as {event.reason}{until}"


def _lifted(event: quarantine.QuarantineLifted) -> str:
    why = ", expired" * (event.why == "expired")
    return f"took {_tests(event.node_ids)} of job {event.job_id} out of quarantine{why}"


def _quarantined_ran(event: quarantine.QuarantinedTestsRan) -> str:
    ran = f"{len(event.passed):,} passed, {len(event.failed):,} failed"
    return f"noted the outcomes of quarantined tests of build {event.build_id}: {ran}"


def _command_requested(event: node_commands.NodeCommandRequested) -> str:
    if event.kind == "restart":
        return f"asked the agent of node {event.node_id} to restart"
    return f"asked node {event.node_id} to execute{quoted(' ', event.command) or ' a command'}"


def _command_completed(event: node_commands.NodeCommandCompleted) -> str:
    how = "was killed for its time" if event.exit_code is None else f"ended with {event.exit_code}"
    return f"said that command {event.command_id} on node {event.node_id} {how}"


def _change_received(event: changes.ChangeReceived) -> str:
    change = event.change
    number = f" {change.pull_request}" if change.pull_request is not None else ""
    what = f"{spaced(change.kind)}{number}{quoted(' of ', change.branch)}" if change.branch else "change"
    fork = f"from the fork{quoted(' ', change.fork_repository)} " if change.fork else ""
    end = "end of the " if change.deleted and change.kind == "pull_request" else ""
    return f"reported the {end}{what} {fork}to project {event.project_id} as change {event.change_id}"


def _job_deferred(event: changes.JobDeferred) -> str:
    needed = listed(f"job {need}" for need in event.needs)
    return f"let the build of job {event.job_id} for change {event.change_id} wait for {needed or 'other jobs'}"


def _webhook_registered(event: webhooks.WebhookRegistered) -> str:
    return f"registered webhook {event.webhook_id} for {listed(map(str, event.events)) or 'nothing'}"


def _channel_registered(event: teams.ChannelRegistered) -> str:
    name = f"{event.channel_id}{quoted(' ', event.title)}"
    return f"registered Teams channel {name} for {listed(event.events) or 'nothing'}"


def _link_issued(event: users.PasswordLinkIssued) -> str:
    what = "an invitation" if event.purpose == "invitation" else "a link to set a new password"
    return f"issued {what} for user {event.user_id}"


def _user_updated(event: users.UserUpdated) -> str:
    role = "" if event.role is None else f"; the role is {event.role} now"
    did = {None: "changed", True: "activated", False: "deactivated"}[event.active]
    return f"{did} user {event.user_id}{role}"


def _provider_updated(event: identity_providers.IdentityProviderUpdated) -> str:
    return f"changed {listed(list(changes_of(event)))} of identity provider {event.provider_id}"


def _audit_read(event: audit.AuditRead) -> str:
    what = {
        "events": "the audit trail",
        "stream": "the story of a stream",
        "export": "an export of the trail",
        "replay": "a replay with what-if rules",
    }
    asked = ", ".join(f"{name} {value}" for name, value in event.filter.items())
    shown = "" if event.shown is None else f", {count(event.shown, 'event')}"
    return f"read {what[event.what]}{f' ({asked})' if asked else ''}{shown}"


def _tests(node_ids: Sequence[str]) -> str:
    named = [text for node_id in node_ids if (text := quoted("", node_id))]
    return listed(named) if named else count(len(node_ids), "test")


def _entries(event: quarantine.QuarantineExpired | quarantine.QuarantineBecameHealthy) -> str:
    return f"quarantine entry {listed(map(str, event.ids))} of job {event.job_id}"


SUMMARIES: Mapping[type[Event], str | Callable[[Any], str]] = {
    builds.BuildQueued: _queued,
    builds.BuildApproved: _approved,
    builds.BuildAssigned: "gave build {build_id} to node {node_id}, attempt {attempt}",
    **GROUP_SUMMARIES,
    builds.BuildRequeued: _requeued,
    builds.BuildStarted: _started,
    builds.ReportRecorded: _reported,
    builds.BuildFinished: _finished,
    builds.BuildExplained: "found what may explain the failure of build {build_id} in its log",
    builds.BuildMovedToTop: "moved build {build_id} to the top of the queue",
    builds.BuildPinned: "chose to keep build {build_id} for ever",
    builds.BuildUnpinned: "chose to keep build {build_id} no longer for ever",
    builds.BuildCommented: "commented on build {build_id}{text:: “}",
    builds.BuildDeleted: _build_deleted,
    results.CasesSeen: lambda event: f"saw {count(len(event.node_ids), 'new test')} in project {event.project_id}",
    results.ResultsRecorded: _results_recorded,
    results.ResultsReplaced: _results_replaced,
    artifacts.ArtifactStored: "stored the artifact{path: “} of build {build_id}",
    artifacts.ArtifactDeleted: "deleted artifact {artifact_id} of build {build_id}",
    triage.ResultsClassifiedByRules: _classified_by_rules,
    classification_rules.ClassificationRulesSet: _rules_set,
    triage.ResultClassified: _classified,
    triage.DefectLinked: "linked test result {result_id} to defect{defect_key: “}",
    triage.ResolutionSet: "resolved test result {result_id}{resolution:: “}",
    triage.KnownIssueLinked: "linked test result {result_id} to known issue {known_issue_id}",
    known_issues.KnownIssueCreated: _known_issue_created,
    known_issues.KnownIssueUpdated: "changed known issue {known_issue_id}",
    known_issues.KnownIssueFailureAdded: "taught known issue {known_issue_id} the failure of test result {result_id}",
    known_issues.KnownIssueSearched: _searched,
    known_issues.KnownIssueDeleted: "deleted known issue {known_issue_id}",
    quarantine.TestsQuarantined: _quarantined,
    quarantine.QuarantineLifted: _lifted,
    quarantine.QuarantineExpired: lambda event: f"noticed that {_entries(event)} expired",
    quarantine.QuarantineBecameHealthy: lambda event: f"noticed that {_entries(event)} became healthy",
    quarantine.QuarantinedTestsRan: _quarantined_ran,
    **EVAL_SUMMARIES,
    **FLAKINESS_SUMMARIES,
    changes.ChangeReceived: _change_received,
    changes.ChangePathsDropped: "left the reported paths of change {change_id} out{why:: “}",
    changes.JobDeferred: _job_deferred,
    changes.JobLeftOut: "did not start job {job_id} for change {change_id}{why:: “}",
    projects.ProjectCreated: "created project {project_id}{title: “}",
    projects.ProjectUpdated: "changed project {project_id}",
    projects.WebhookSecretRotated: "renewed the webhook secret of project {project_id}",
    projects.MemberRemoved: "removed user {user_id} from project {project_id}",
    projects.MemberAdmitted: "gave user {user_id} {access} access to project {project_id}",
    projects.ProjectClosed: "closed project {project_id} in order to delete it",
    projects.ProjectDeleted: "deleted project {project_id} with all that was in it; its texts were erased",
    jobs.JobCreated: "created job {job_id}{title: “} in project {project_id}",
    jobs.JobUpdated: "changed job {job_id}",
    jobs.JobConfigured: "configured job {job_id}",
    jobs.JobTriggersChanged: "changed the triggers of job {job_id}",
    jobs.JobDeleted: "deleted job {job_id} with its builds",
    templates.TemplateCreated: "created pipeline template {template_id}{title: “}",
    templates.TemplateUpdated: "changed pipeline template {template_id}",
    templates.TemplateDeleted: "deleted pipeline template {template_id}",
    nodes.NodeRegistered: "registered node {node_id}{title: “}",
    nodes.NodeTokenRotated: "changed the token of node {node_id}",
    nodes.NodeTokenRetired: "used the new token of node {node_id}, which ended the old one",
    nodes.NodeConnected: "connected node {node_id} from{hostname: “}, agent {version}",
    nodes.NodeWentOffline: "saw node {node_id} go offline{reason:: “}",
    nodes.NodeUpdated: "changed node {node_id}",
    nodes.NodeQuarantined: "put node {node_id} into quarantine",
    nodes.NodeReleased: "released node {node_id} from quarantine",
    nodes.NodeDeleted: "deleted node {node_id}",
    node_commands.NodeCommandRequested: _command_requested,
    node_commands.NodeCommandCompleted: _command_completed,
    pools.PoolCreated: "created node pool {pool_id}{title: “} in project {project_id}",
    pools.PoolUpdated: "changed node pool {pool_id}",
    pools.PoolDeleted: "deleted node pool {pool_id}",
    dispatch.LeadershipTaken: "took over the dispatching as {leader}",
    webhooks.WebhookRegistered: _webhook_registered,
    webhooks.WebhooksListed: lambda event: (
        f"counted the webhooks of project {event.project_id}: {len(event.webhook_ids)}"
    ),
    webhooks.WebhookUpdated: "changed webhook {webhook_id}",
    webhooks.WebhookDeleted: "deleted webhook {webhook_id}",
    webhooks.WebhookFailing: "noticed that webhook {webhook_id} does not answer{error:: “}",
    webhooks.WebhookRecovered: "noticed that webhook {webhook_id} answers again",
    webhooks.ReplayRequested: "asked to tell webhook {webhook_id} once more what came after position {after}",
    webhooks.DeliveryGivenUp: "gave delivery {delivery_id} up after {attempts:attempt}",
    webhooks.RedeliveryRequested: "asked for delivery {delivery_id} once more",
    teams.ChannelRegistered: _channel_registered,
    teams.ChannelsListed: lambda event: (
        f"counted the Teams channels of project {event.project_id}: {len(event.channel_ids)}"
    ),
    teams.ChannelUpdated: "changed Teams channel {channel_id}",
    teams.ChannelDeleted: "deleted Teams channel {channel_id}",
    teams.ChannelFailing: "noticed that Teams channel {channel_id} does not answer{error:: “}",
    teams.ChannelRecovered: "noticed that Teams channel {channel_id} answers again",
    teams.CardGivenUp: "gave a card for Teams channel {channel_id} up after {attempts:attempt}{error:: “}",
    gitops.GitopsSynced: "synced the jobs of project {project_id} with the file in git: {jobs_created} created,"
    " {jobs_updated} updated, {jobs_removed} removed",
    gitops.GitopsSyncFailed: "could not sync the jobs of project {project_id} with the file in git{problem:: “}",
    scm.ScmEndpointCreated: "created SCM endpoint {scm_endpoint_id}{title: “} of project {project_id}",
    scm.ScmEndpointUpdated: "changed SCM endpoint {scm_endpoint_id}",
    scm.ScmEndpointDeleted: "deleted SCM endpoint {scm_endpoint_id}",
    jira.JiraIntegrationCreated: "created Jira integration {jira_id}{title: “}",
    jira.JiraIntegrationUpdated: "changed Jira integration {jira_id}",
    jira.JiraIntegrationFailing: "could not write a ticket of Jira integration {jira_id}{error:: “}",
    jira.JiraIntegrationRecovered: "wrote a ticket of Jira integration {jira_id} again",
    tickets.TicketClaimed: "began a ticket for failures of build {build_id}",
    tickets.TicketCreated: "created ticket{issue_key: “} for failures of build {build_id}",
    tickets.TicketRecurred: "wrote in a ticket that its failure came back in build {build_id}",
    tickets.TicketStopped: "wrote in a ticket that its failure stopped in build {build_id}",
    jira.JiraIntegrationDeleted: "deleted Jira integration {jira_id}",
    identity_providers.IdentityProviderCreated: "created identity provider {provider_id}{title: “}",
    identity_providers.IdentityProviderUpdated: _provider_updated,
    identity_providers.IdentityProviderDeleted: "deleted identity provider {provider_id}",
    users.UserRegistered: "registered user {user_id}{email: “} as {role}",
    users.PasswordLinkIssued: _link_issued,
    users.UserUpdated: _user_updated,
    users.IdentityLinked: "linked user {user_id} to{name_id: “} of identity provider {provider_id}",
    users.IdentityUnlinked: "unlinked user {user_id} from identity provider {provider_id}",
    users.UserSignedOut: "ended all sessions of user {user_id}",
    users.UserPasswordSet: "set a new password for user {user_id}",
    users.UserDeleted: "deleted user {user_id}; what was known of this person was erased",
    auth.SessionOpened: "signed in",
    auth.SessionRevoked: "ended a session of user {user_id}",
    auth.ApiTokenCreated: "made API token {token_id}{label: “} for user {user_id}",
    auth.ApiTokenRevoked: "revoked API token {token_id} of user {user_id}",
    audit.AuditRead: _audit_read,
    audit.LogRestored: "restored the log from a backup that ended at position {position}; later events are lost",
    audit.RowAccepted: "accepted the row at position {position}, which this server did not write so: {reason}",
    audit.RowMacsRequired: "requires a MAC of every later row of the log",
    audit.SecretKeyRotated: lambda event: (
        "rotated the secret key" + ("; all sessions and links ended, since others may have had it" * event.is_leaked)
    ),
    audit.SigningKeyChanged: "gave the audit log a new signing key",
    projections.EventDismissed: "dismissed position {position} of read model {projection} as {operator}{reason:: “}",
    reactions.ReactionCancelled: "cancelled reaction {reaction} to position {position} as {operator}{reason:: “}",
    claims.ClaimTaken: lambda event: f"reserved a name for {event.owner.replace('-', ' ')}",
    **INQUIRY_SUMMARIES,
    **MACHINE_SUMMARIES,
    **TOKEN_SUMMARIES,
    claims.ClaimReleased: lambda event: f"gave a name of {event.owner.replace('-', ' ')} free",
}
