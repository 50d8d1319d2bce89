"""Reactions that answer inquiries: questions in one queue, and AI jobs in another, so that no question waits for an AI
job.
"""

from collections.abc import Sequence
from functools import partial

from domain.core.errors import Unavailable
from domain.core.events import Event, Recorded
from domain.inquiries import ANALYZING, ANSWERING, InquiryAsked
from store.tables.reactions import RetryPolicy
from workers.inquiries import select_inquiries
from workers.reactions.reaction import Reaction, RetryLater, Tools

BEHIND_PAUSE_S = 1.0
"""Seconds until an inquiry is tried again because the read models are behind the log. People wait for the answer."""
TIME_LIMIT_S = 300
"""Time limit of one try to answer an inquiry, in seconds. A model may take a minute, and an audit reads a hundred
builds.
"""
INQUIRY_RETRIES = RetryPolicy(tries=20, first_pause_s=2, max_pause_s=60)
"""Retries of an inquiry, over some 15 minutes. The pauses are short, since people wait for the answer."""


async def when_inquiry_asked_answer_it(event: Event, tools: Tools) -> None:
    assert isinstance(event, InquiryAsked)
    if tools.inquiries is None:
        return
    try:
        await tools.inquiries.answer(event)
    except Unavailable as error:  # the read models are behind
        raise RetryLater(BEHIND_PAUSE_S, error.detail) from None


async def _select(events: Sequence[Recorded], tools: Tools, *, are_jobs: bool) -> Sequence[Recorded]:
    return [] if tools.inquiries is None else select_inquiries(events, are_jobs=are_jobs)


INQUIRY_REACTIONS = (
    Reaction(
        ANSWERING,
        InquiryAsked,
        when_inquiry_asked_answer_it,
        "inquiries",
        TIME_LIMIT_S,
        INQUIRY_RETRIES,
        repeats_old=False,
        select=partial(_select, are_jobs=False),
    ),
    Reaction(
        ANALYZING,
        InquiryAsked,
        when_inquiry_asked_answer_it,
        "analyses",
        TIME_LIMIT_S,
        INQUIRY_RETRIES,
        repeats_old=False,
        select=partial(_select, are_jobs=True),
    ),
)
