"""Calls Jira's REST API, and raises a different error for each reason why a call fails."""

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from domain.jira import Deployment
from integrations.ports import HttpAnswer, Outgoing, Refused, Unanswered
from integrations.ticket_ports import TicketRejected, TicketsUnavailable

T = TypeVar("T")

MAX_ANSWER = 4 * 1024 * 1024
"""Largest number of bytes of an answer: enough for a project with hundreds of versions and components."""
MAX_QUOTE = 300
"""Largest number of characters that are quoted from the messages of a host."""


class _JiraProblem(msgspec.Struct):
    errorMessages: list[Any] = []
    errors: dict[str, Any] = {}


class NotThere(TicketRejected):
    """Jira answers 404: there is no such path or item, or it is hidden from this token."""


@dataclass(frozen=True)
class JiraApi:
    """The API of one host. `name` is the host's name in error messages."""

    outgoing: Outgoing
    deployment: Deployment
    host: str
    name: str
    email: str
    token: str = field(repr=False)

    async def get(self, path: str, into: type[T], **query: object) -> T:
        return self.read(await self.call("GET", f"{path}?{urlencode(query)}" if query else path), into)

    async def call(self, method: str, path: str, body: object = None) -> HttpAnswer:
        """Sends a request. Returns the answer if its status is 2xx, else raises TicketFailure."""
        version = 3 if self.deployment == "cloud" else 2
        headers = {"Accept": "application/json", "Authorization": self._authorization()}
        content = b"" if body is None else msgspec.json.encode(body)
        if content:
            headers["Content-Type"] = "application/json"
        try:
            answer = await self.outgoing.request(
                method, f"{self.host}/rest/api/{version}{path}", headers=headers, body=content, max_bytes=MAX_ANSWER
            )
        except Refused as error:
            raise TicketRejected(f"{self.name} is not called: it {error}.") from None
        except Unanswered as error:
            raise TicketsUnavailable(f"{self.name} gives no answer: {error}.") from None
        match answer.status:
            case status if 200 <= status < 300:
                return answer
            case 401:
                raise TicketRejected(f"{self.name} refuses the API token: it is wrong, expired or revoked.")
            case 429:
                wait_s = answer.retry_after_s
                until = f" for {wait_s} s" if wait_s else ""
                raise TicketsUnavailable(f"{self.name} takes no more requests with this token{until}.", wait_s)
            case 404:
                raise NotThere(f"{self.name} does not have this, or hides it from this token{self._quote(answer)}.")
            case status if 300 <= status < 400:
                raise TicketRejected(f"{self.name} answers with a redirect, which is not followed.")
            case status if status >= 500:
                raise TicketsUnavailable(
                    f"{self.name} fails with status {status}{self._quote(answer)}.", answer.retry_after_s
                )
            case status:
                raise TicketRejected(f"{self.name} refuses the request with status {status}{self._quote(answer)}.")

    def read(self, answer: HttpAnswer, into: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=into)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise TicketRejected(f"{self.name} answers what is not Jira's API: {error}.") from None

    def _authorization(self) -> str:
        if self.deployment == "data_center":
            return f"Bearer {self.token}"
        return "Basic " + b64encode(f"{self.email}:{self.token}".encode()).decode()

    def _quote(self, answer: HttpAnswer) -> str:
        """Returns the messages of an answer in quotes, without the token; an empty text if there are none."""
        try:
            problem = msgspec.json.decode(answer.body, type=_JiraProblem)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return ""
        messages = [*map(str, problem.errorMessages), *(f"{name}: {text}" for name, text in problem.errors.items())]
        text = " ".join("".join(filter(str.isprintable, "; ".join(messages))).split()).replace(self.token, "***")
        return f" (“{text[:MAX_QUOTE].rstrip('.')}”)" if text else ""
