"""The reactions: work outside the log that an event causes.

A reaction runs at least once for each event of its type, so running it twice must do no harm. A new reaction begins at
the end of the log: it does not run for earlier events.
"""

import contextlib
from collections.abc import Sequence
from datetime import timedelta

import structlog

from domain.artifacts import ArtifactDeleted, build_blobs, job_blobs
from domain.builds import BuildApproved, BuildDeleted, BuildEvent, BuildFinished, BuildQueued, BuildStarted
from domain.changes import EVALUATION, ChangeReceived
from domain.core.errors import Unavailable
from domain.core.events import Damaged, Event, Recorded
from domain.evals import EvalRequested
from domain.jobs import JobDeleted
from domain.users import USER, PasswordLinkIssued, UserPasswordSet
from integrations.ports import Mail, Mailer, MailRefused
from integrations.source_ports import SourceUnavailable
from store.clock import utcnow
from store.tables.reactions import RetryPolicy
from store.tables.shared_caches import prefix_of_job
from workers.explanations import select_failed
from workers.reactions.inquiries import INQUIRY_REACTIONS
from workers.reactions.machines import MACHINE_REACTIONS
from workers.reactions.mails import link_mail, password_notice
from workers.reactions.reaction import Reaction, RetryLater, Tools
from workers.reactions.statuses import select_of_repositories, set_build_status
from workers.tickets import TicketsDelayed

log = structlog.get_logger()

BEHIND_PAUSE_S = 5.0
"""Seconds until a reaction is tried again because the read models are behind the log, or because another sync ran at
the same time.
"""
SYNC_PAUSE_S = 60.0
"""Seconds until a pipelines file is read again if its host does not answer and does not say how long to wait."""
TICKET_PAUSE_S = 600.0
"""Seconds until a worker tries again to write tickets, if the tracker does not say how long to wait."""
TICKET_MAX_AGE = timedelta(days=1)
"""Age of a finished build at which writing its tickets is given up. The field `last_error` of the integration then says
why.
"""
NOTICE_MAX_AGE = timedelta(days=1)
"""Age of a `UserPasswordSet` event from which no notice is mailed any more. The last try of a mail is earlier, after 14
hours.
"""


async def when_job_deleted_delete_its_logs_artifacts_and_caches(event: Event, tools: Tools) -> None:
    assert isinstance(event, JobDeleted)
    await tools.build_logs.delete_job(event.job_id)
    await tools.blobs.delete_prefix(job_blobs(event.job_id), tools.count_deleted)
    # The rows go first: a cache that is being stored has its row before its blob, and is not kept without it.
    await tools.caches.delete_job(event.job_id)
    await tools.blobs.delete_prefix(prefix_of_job(event.job_id))


async def when_build_deleted_delete_its_log_and_artifacts(event: Event, tools: Tools) -> None:
    assert isinstance(event, BuildDeleted)
    await tools.build_logs.delete_build(event.build_id)
    await tools.blobs.delete_prefix(build_blobs(event.job_id, event.build_id), tools.count_deleted)


async def when_artifact_deleted_delete_its_content(event: Event, tools: Tools) -> None:
    assert isinstance(event, ArtifactDeleted)
    await tools.blobs.delete(event.blob)


async def when_change_received_start_builds(event: Event, tools: Tools) -> None:
    assert isinstance(event, ChangeReceived)
    assert tools.changes is not None
    try:
        if tools.pipelines is not None:
            with contextlib.suppress(SourceUnavailable):  # `sync_jobs_with_their_file` tries again
                await tools.pipelines.sync(event)
        await tools.changes.evaluate(event)
    except Unavailable as error:  # the read models are behind, or another sync came in between
        raise RetryLater(BEHIND_PAUSE_S, error.detail) from None


async def select_builds_of_changes(events: Sequence[Recorded], tools: Tools) -> Sequence[Recorded]:
    return [] if tools.changes is None else await tools.changes.select(events)


async def when_build_finished_start_jobs_that_need_it(event: Event, tools: Tools) -> None:
    assert isinstance(event, BuildFinished)
    assert tools.changes is not None
    try:
        await tools.changes.continue_after(event)
    except Unavailable as error:  # the read models are behind
        raise RetryLater(BEHIND_PAUSE_S, error.detail) from None


async def when_change_received_sync_jobs_with_their_file(event: Event, tools: Tools) -> None:
    """Syncs the jobs with the pipelines file. Has no effect if the jobs were synced before the builds of the change
    were started.
    """
    assert isinstance(event, ChangeReceived)
    if tools.pipelines is None:
        return
    try:
        await tools.pipelines.sync(event)
    except Unavailable as error:  # the read models are behind, or another sync came in between
        raise RetryLater(BEHIND_PAUSE_S, error.detail) from None
    except SourceUnavailable as error:
        raise RetryLater(error.retry_after_s or SYNC_PAUSE_S, str(error)) from None


async def when_password_link_issued_mail_it(event: Event, tools: Tools) -> None:
    """Mails the link. Mails nothing if the link was used or replaced, or has expired, for example while the mail server
    was down.
    """
    assert isinstance(event, PasswordLinkIssued)
    user = await tools.log.load_state(USER.at(event.user_id))
    if user is None or user.deleted or user.link is None or user.link.link_id != event.link_id:
        return
    if event.expires_at <= utcnow():
        log.warning("a link has expired before it could be sent", user=event.user_id, purpose=event.purpose)
        return
    token = tools.secrets.link_token(event.user_id, event.link_id)
    await _send(link_mail(user.email, event, tools.base_url, token), event.user_id, tools.mailer)


async def when_password_set_mail_a_notice(event: Event, tools: Tools) -> None:
    """Mails the notice. Skips an event that is older than NOTICE_MAX_AGE: after `testhide repair`, the reaction may
    begin again with the first event of the log.
    """
    assert isinstance(event, UserPasswordSet)
    if utcnow() - event.at > NOTICE_MAX_AGE:
        return
    user = await tools.log.load_state(USER.at(event.user_id))
    if user is not None and not user.deleted:
        await _send(password_notice(user.email, event, tools.base_url), event.user_id, tools.mailer)


async def when_build_changed_set_the_status_of_its_commit(event: Event, tools: Tools) -> None:
    assert isinstance(event, BuildEvent)
    if tools.source_hosts is None or tools.build_states is None:
        return
    try:
        await set_build_status(event, tools.build_states, tools.source_hosts, tools.host_calls, tools.base_url)
    except Unavailable as error:  # the read models are behind
        raise RetryLater(BEHIND_PAUSE_S, error.detail) from None
    except SourceUnavailable as error:
        if error.retry_after_s:
            raise RetryLater(error.retry_after_s, str(error)) from None
        raise


async def select_builds_of_repositories(events: Sequence[Recorded], tools: Tools) -> Sequence[Recorded]:
    return [] if tools.source_hosts is None else await select_of_repositories(events, tools.log)


async def select_builds_with_tickets(events: Sequence[Recorded], tools: Tools) -> Sequence[Recorded]:
    if tools.tickets is None:
        return []
    since = utcnow() - TICKET_MAX_AGE
    recent = [one for one in events if isinstance(one.event, Damaged) or one.event.at >= since]
    return await tools.tickets.select(recent) if recent else []


async def when_build_finished_write_its_tickets(event: Event, tools: Tools) -> None:
    assert isinstance(event, BuildFinished)
    if tools.tickets is None or utcnow() - event.at > TICKET_MAX_AGE:
        return
    try:
        await tools.tickets.write(event)
    except Unavailable as error:  # the read models are behind
        raise RetryLater(BEHIND_PAUSE_S, error.detail) from None
    except TicketsDelayed as error:
        raise RetryLater(error.retry_after_s or TICKET_PAUSE_S, str(error)) from None


async def select_failed_builds(events: Sequence[Recorded], tools: Tools) -> Sequence[Recorded]:
    return [] if tools.explainer is None else select_failed(events)


async def when_build_finished_explain_its_failure(event: Event, tools: Tools) -> None:
    assert isinstance(event, BuildFinished)
    if tools.explainer is not None:
        await tools.explainer.explain(event)


async def when_eval_requested_run_it(event: Event, tools: Tools) -> None:
    assert isinstance(event, EvalRequested)
    if tools.evals is not None:
        await tools.evals.run(event.eval_id)


async def _send(mail: Mail, user_id: int, mailer: Mailer | None) -> None:
    """Sends a mail. If the mail server refuses the mail for good, only logs this, since no later try would succeed."""
    if mailer is None:
        log.warning("no mail is sent: TESTHIDE_SMTP_URL is not set", user=user_id, subject=mail.subject)
        return
    try:
        await mailer.send(mail)
    except MailRefused as refused:
        log.error("a mail was refused", user=user_id, subject=mail.subject, answer=str(refused))


DELETION_LIMIT_S = 3_600
"""Time limit of a reaction that deletes logs, artifacts or caches, in seconds. A job may have millions of artifacts."""
MAIL_LIMIT_S = 120
"""Time limit for sending a mail, in seconds. It is longer than a mail server takes to answer all commands of SMTP."""
MAIL_RETRIES = RetryPolicy(tries=175, max_pause_s=300)
"""Retries of a mail, over some 14 hours. People wait for a mail, so it is sent soon after the mail server is back."""
STATUS_LIMIT_S = 120
"""Time limit for setting a commit status, in seconds. A host has 10 s to answer, and a build may change a few times
meanwhile.
"""
TICKETS_LIMIT_S = 900
"""Time limit for writing the tickets of a build, in seconds. There may be some 20 tickets for each of a few
integrations, with a few calls of 10 s each.
"""
EXPLANATION_LIMIT_S = 1_200
"""Time limit of explaining a build, in seconds. Its log, and that of the last passed build, may have 1 GiB each."""
EVAL_LIMIT_S = 7_200
"""Time limit of an evaluation, in seconds. A slow language model may take half a minute for each of some 200 cases."""
CHANGE_LIMIT_S = 600
"""Time limit for evaluating a change of a repository, in seconds. A change may start builds of a thousand jobs."""
SYNC_LIMIT_S = 120
"""Time limit for syncing jobs with a pipelines file, in seconds. A host has 10 s to answer, and a file may have 200
jobs.
"""
CHANGE_RETRIES = RetryPolicy(tries=300, max_pause_s=60)
"""Retries of a change, over some 5 hours. The pauses are short, since people wait for the builds of a change."""

REACTIONS = (
    Reaction(
        "delete_a_jobs_logs_and_artifacts",
        JobDeleted,
        when_job_deleted_delete_its_logs_artifacts_and_caches,
        "deletions",
        DELETION_LIMIT_S,
    ),
    Reaction(
        "delete_a_builds_log_and_artifacts",
        BuildDeleted,
        when_build_deleted_delete_its_log_and_artifacts,
        "deletions",
        DELETION_LIMIT_S,
    ),
    Reaction(
        "delete_an_artifacts_content",
        ArtifactDeleted,
        when_artifact_deleted_delete_its_content,
        "deletions",
        DELETION_LIMIT_S,
    ),
    Reaction(
        "mail_a_password_link",
        PasswordLinkIssued,
        when_password_link_issued_mail_it,
        "mails",
        MAIL_LIMIT_S,
        MAIL_RETRIES,
    ),
    Reaction(
        "mail_a_password_notice", UserPasswordSet, when_password_set_mail_a_notice, "mails", MAIL_LIMIT_S, MAIL_RETRIES
    ),
    *(
        Reaction(
            name,
            event,
            when_build_changed_set_the_status_of_its_commit,
            "statuses",
            STATUS_LIMIT_S,
            repeats_old=False,
            select=select_builds_of_repositories,
        )
        for name, event in (
            ("set_status_of_a_queued_build", BuildQueued),
            ("set_status_of_an_approved_build", BuildApproved),
            ("set_status_of_a_started_build", BuildStarted),
            ("set_status_of_a_finished_build", BuildFinished),
        )
    ),
    Reaction(
        EVALUATION,
        ChangeReceived,
        when_change_received_start_builds,
        "changes",
        CHANGE_LIMIT_S,
        CHANGE_RETRIES,
        repeats_old=False,
    ),
    Reaction(
        "start_builds_after_a_finished_build",
        BuildFinished,
        when_build_finished_start_jobs_that_need_it,
        "changes",
        CHANGE_LIMIT_S,
        CHANGE_RETRIES,
        repeats_old=False,
        select=select_builds_of_changes,
    ),
    Reaction(
        "write_tickets_of_a_finished_build",
        BuildFinished,
        when_build_finished_write_its_tickets,
        "tickets",
        TICKETS_LIMIT_S,
        repeats_old=False,
        select=select_builds_with_tickets,
    ),
    Reaction(
        "explain_a_failed_build",
        BuildFinished,
        when_build_finished_explain_its_failure,
        "explanations",
        EXPLANATION_LIMIT_S,
        repeats_old=False,
        select=select_failed_builds,
    ),
    Reaction("run_an_evaluation", EvalRequested, when_eval_requested_run_it, "evals", EVAL_LIMIT_S, repeats_old=False),
    *INQUIRY_REACTIONS,
    Reaction(
        "sync_jobs_with_their_file",
        ChangeReceived,
        when_change_received_sync_jobs_with_their_file,
        "gitops",
        SYNC_LIMIT_S,
        repeats_old=False,
    ),
    *MACHINE_REACTIONS,
)
