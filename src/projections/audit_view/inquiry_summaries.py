"""Summaries of events about inquiries. `summaries.py` says what a summary is."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import inquiries
from domain.core.events import Event
from domain.phrases import count
from projections.audit_view.phrases import quoted, spaced


def _asked(event: inquiries.InquiryAsked) -> str:
    about = [f"build {event.build_id}"] if event.build_id is not None else []
    about += [f"project {event.project_id}"] if event.project_id is not None and not about else []
    subject = f" about {about[0]}" if about else ""
    if event.kind == "chat":
        return f"asked the assistant{subject}{quoted(': ', event.message)}"
    return f"asked the assistant for a {spaced(event.kind)}{subject}"


def _answered(event: inquiries.InquiryAnswered) -> str:
    by = f" with model {event.model}, {count(event.tokens, 'token')}" if event.model else ""
    return f"answered inquiry {event.inquiry_id}{by}"


INQUIRY_SUMMARIES: Mapping[type[Event], str | Callable[[Any], str]] = {
    inquiries.InquiryAsked: _asked,
    inquiries.InquiryStepTaken: "looked something up for inquiry {inquiry_id}{text:: “}",
    inquiries.InquiryAnswered: _answered,
    inquiries.InquiryFailed: "could not answer inquiry {inquiry_id}{error:: “}",
    inquiries.InquiryCancelled: "cancelled inquiry {inquiry_id}",
}
