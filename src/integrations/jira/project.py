"""A Jira project in which tickets are created."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import msgspec

from integrations.jira.markup import to_document, to_wiki
from integrations.jira.rest import JiraApi, NotThere
from integrations.ticket_ports import NewTicket, Ticket, TicketRejected, TicketsUnavailable, TicketText

TIME_LIMIT_S = 10.0
"""Longest time in seconds that a call takes, however many requests it makes."""
FILLED_IN = frozenset({"summary", "description", "labels", "project", "issuetype", "reporter"})
"""Fields of a new issue that this server or Jira fills in. Tickets can only be created if Jira requires no other
fields.
"""


class _Named(msgspec.Struct):
    id: str = ""
    name: str = ""


class _Project(msgspec.Struct):
    issue_types: list[_Named] = msgspec.field(name="issueTypes", default_factory=list)


class _Field(msgspec.Struct):
    name: str = ""
    field_id: str = msgspec.field(name="fieldId", default="")
    required: bool = False
    has_default: bool = msgspec.field(name="hasDefaultValue", default=False)


class _CreateFields(msgspec.Struct):
    fields: list[_Field] = []
    """The fields in an answer of Jira Cloud."""
    values: list[_Field] = []
    """The fields in an answer of Jira Data Center."""


class _Permission(msgspec.Struct):
    has: bool = msgspec.field(name="havePermission", default=False)


class _Permissions(msgspec.Struct):
    permissions: dict[str, _Permission] = {}


class _Key(msgspec.Struct):
    key: str


class _FoundIssues(msgspec.Struct):
    issues: list[_Key] = []


class _Category(msgspec.Struct):
    key: str = ""


class _Status(msgspec.Struct):
    category: _Category = msgspec.field(name="statusCategory", default_factory=_Category)


class _StatusField(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


class _Issue(msgspec.Struct):
    fields: _StatusField = msgspec.field(default_factory=_StatusField)


class _Transition(msgspec.Struct):
    id: str
    to: _Status = msgspec.field(default_factory=_Status)


class _Transitions(msgspec.Struct):
    transitions: list[_Transition] = []


class JiraProject:
    """Implements `TicketHost`."""

    def __init__(self, api: JiraApi, project_key: str, issue_type: str) -> None:
        self._api, self._project, self._issue_type = api, project_key, issue_type

    async def check(self) -> None:
        async with self._time_limit():
            await self._api.call("GET", "/myself")
            try:
                project = await self._api.get(f"/project/{self._project}", _Project)
            except NotThere:
                raise TicketRejected(
                    f"{self._api.name} has no project {self._project}, or hides it from this token."
                ) from None
            types = {one.name: one.id for one in project.issue_types}
            if types and self._issue_type not in types:
                raise TicketRejected(
                    f"The project {self._project} has no issue type {self._issue_type}: there are {', '.join(types)}."
                )
            await self._check_permission()
            if types:
                await self._check_fields(types[self._issue_type])

    async def _check_permission(self) -> None:
        query = {"projectKey": self._project, "permissions": "CREATE_ISSUES"}
        try:
            found = await self._api.get("/mypermissions", _Permissions, **query)
        except NotThere:
            return
        if not found.permissions.get("CREATE_ISSUES", _Permission(has=True)).has:
            raise TicketRejected(f"{self._api.name} does not let this token create issues in {self._project}.")

    async def _check_fields(self, type_id: str) -> None:
        """Raises TicketRejected if issues of the type need a field that tickets do not have."""
        try:
            found = await self._api.get(
                f"/issue/createmeta/{self._project}/issuetypes/{quote(type_id, safe='')}", _CreateFields
            )
        except NotThere:  # releases before 8.4
            return
        missing = [
            one.name
            for one in (*found.fields, *found.values)
            if one.required and not one.has_default and one.field_id not in FILLED_IN
        ]
        if missing:
            raise TicketRejected(
                f"Issues of the type {self._issue_type} in {self._project} need {', '.join(missing)}: choose another"
                " issue_type, or make the field optional or give it a default in Jira."
            )

    async def find(self, label: str) -> Ticket | None:
        query = {
            "jql": f'project = "{self._project}" AND labels = "{label}" ORDER BY key ASC',
            "fields": "status",
            "maxResults": 1,
        }
        path = "/search/jql" if self._api.deployment == "cloud" else "/search"
        found = await self._api.get(path, _FoundIssues, **query)
        return self._ticket(found.issues[0].key) if found.issues else None

    async def create(self, ticket: NewTicket) -> Ticket:
        fields = {
            "project": {"key": self._project},
            "issuetype": {"name": self._issue_type},
            "summary": ticket.summary,
            "description": self._text(ticket.text),
            "labels": list(ticket.labels),
        }
        answer = await self._api.call("POST", "/issue", {"fields": fields})
        return self._ticket(self._api.read(answer, _Key).key)

    async def comment(self, key: str, text: TicketText) -> None:
        await self._api.call("POST", f"/issue/{quote(key, safe='')}/comment", {"body": self._text(text)})

    async def reopen(self, key: str) -> bool:
        async with self._time_limit():
            path = f"/issue/{quote(key, safe='')}"
            issue = await self._api.get(path, _Issue, fields="status")
            if issue.fields.status.category.key != "done":
                return True
            offered = await self._api.get(f"{path}/transitions", _Transitions)
            for wanted in ("new", "indeterminate"):
                for transition in offered.transitions:
                    if transition.to.category.key == wanted:
                        await self._api.call("POST", f"{path}/transitions", {"transition": {"id": transition.id}})
                        return True
            return False

    def _text(self, text: TicketText) -> Any:
        return to_document(text) if self._api.deployment == "cloud" else to_wiki(text)

    def _ticket(self, key: str) -> Ticket:
        return Ticket(key, f"{self._api.host}/browse/{quote(key, safe='')}")

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                yield
        except TimeoutError:
            raise TicketsUnavailable(f"{self._api.name} gives no answer within {TIME_LIMIT_S:g} s.") from None
