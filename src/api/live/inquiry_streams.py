"""Sends inquiries as server-sent events: the answer to a question in small pieces, or the steps of an AI job. Each
stream ends with `[DONE]`.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from api.http.services import Services
from api.live.build_feed import encode_message
from api.live.stream_clients import StreamClient
from domain.core.errors import StreamDamaged
from domain.inquiries import (
    INQUIRY,
    Inquiry,
    InquiryAnswered,
    InquiryCancelled,
    InquiryEnd,
    InquiryFailed,
    inquiry_notification,
)
from projections import inquiries
from store.postgres.cancellation import wait_for
from store.postgres.notifications import AGENT_NOTIFICATIONS

SUBJECT_DELETED = "What the question was about has been deleted."
DONE = b"data: [DONE]\n\n"
POLL_INTERVAL_S = 1.0
"""Longest time in seconds between two reads of the inquiry, in case a notification was lost."""
_TOKEN = re.compile(r"\s*\S+|\s+")


def split_tokens(text: str) -> list[str]:
    """Returns the words of a text, each with the space before it. Joined, these words are the text."""
    return _TOKEN.findall(text)


def say_why(end: InquiryEnd | None) -> str:
    """Returns a sentence that says why an inquiry has no answer."""
    match end:
        case InquiryFailed(error=error):
            return error or "The assistant could not answer."
        case InquiryCancelled():
            return "The question was cancelled."
        case _:
            return SUBJECT_DELETED


async def follow(
    services: Services, inquiry_id: str, on_change: Callable[[Inquiry], Awaitable[None]], timeout_s: float
) -> InquiryEnd | None:
    """Calls `on_change` with the state of the inquiry, now and after each of its events. Returns the event that ended
    the inquiry. Returns None if the inquiry has not ended after `timeout_s`, or if its stream cannot be read.

    If the subject of the inquiry was deleted, nobody can record such an event. The function then returns an
    InquiryFailed that says so.
    """
    changed = asyncio.Event()
    notification = inquiry_notification(inquiry_id)

    def on_wake(payload: str | None) -> None:
        if payload in (None, notification):
            changed.set()

    with services.listener.subscribed(AGENT_NOTIFICATIONS, on_wake):
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            changed.clear()
            try:
                inquiry = await services.log.load_state(INQUIRY.at(inquiry_id))
            except StreamDamaged:
                return None
            assert inquiry is not None, "the request has asked it"
            await on_change(inquiry)
            left = deadline - asyncio.get_running_loop().time()
            if inquiry.end is not None or left <= 0:
                return inquiry.end
            if not await inquiries.has_subject(services.pool, inquiry.project_id, inquiry.build_id):
                return InquiryFailed(inquiry_id=inquiry_id, user_id=inquiry.user_id, error=SUBJECT_DELETED)
            await wait_for(changed, min(POLL_INTERVAL_S, left))


class ChatTokens(msgspec.Struct, frozen=True):
    """Source of the messages for one client: sends the words of the answer to a question, once the whole answer has
    been checked.
    """

    services: Services
    inquiry_id: str
    session_id: str
    timeout_s: float

    async def __call__(self, client: StreamClient) -> None:
        async def on_change(inquiry: Inquiry) -> None:
            pass

        end = await follow(self.services, self.inquiry_id, on_change, self.timeout_s)
        if isinstance(end, InquiryAnswered):
            messages = [encode_message({"token": token}) for token in split_tokens(end.answer.text)]
            last = {"token": "", "session_id": self.session_id, "sources": end.answer.sources}
            await client.send(b"".join(messages) + encode_message(last))
        else:
            slow = f"There is no answer yet; ask for /api/v3/ai/chat/{self.inquiry_id} later."
            await client.send(encode_message({"type": "error", "data": slow if end is None else say_why(end)}))
        await client.send(DONE)


class JobProgress(msgspec.Struct, frozen=True):
    """Source of the messages for one client: sends a message about the queued AI job, then each step when it is taken,
    and at last the result.
    """

    services: Services
    job_id: str
    first: dict[str, Any]
    """First message: the answer that a request without a stream gets."""
    timeout_s: float

    async def __call__(self, client: StreamClient) -> None:
        await client.send(encode_message(self.first))
        sent = 0

        async def on_change(inquiry: Inquiry) -> None:
            nonlocal sent
            for step in inquiry.steps[sent:]:
                data = {"number": step.number, "lookup": step.lookup, "text": step.text}
                await client.send(encode_message({"type": "step", "data": data}))
            sent = max(sent, len(inquiry.steps))

        end = await follow(self.services, self.job_id, on_change, self.timeout_s)
        match end:
            case InquiryAnswered():
                result = {"job_id": self.job_id, "status": "complete", "result": end.result}
                await client.send(encode_message({"type": "result", "data": result}))
            case InquiryCancelled():
                await client.send(encode_message({"type": "status", "data": "cancelled"}))
            case InquiryFailed():
                await client.send(encode_message({"type": "error", "data": say_why(end)}))
            case None:
                slow = f"The job still runs; ask for /api/v3/ai/job/{self.job_id}/result later."
                await client.send(encode_message({"type": "error", "data": slow}))
        await client.send(DONE)
