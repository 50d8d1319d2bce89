"""Calls of Jira, and what its refusals mean. The requests to Jira Cloud follow its documentation; no Cloud has
confirmed them.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest

from domain.jira import Deployment, JiraIntegration
from integrations.addresses import parse_networks
from integrations.jira.hosts import JiraHosts
from integrations.outgoing import HttpOutgoing
from integrations.ticket_ports import NewTicket, Paragraph, Ticket, TicketHost, TicketRejected, TicketsUnavailable
from tests.integrations.receiving import Receiver, receiving

TICKET = NewTicket("boom", [Paragraph("1 test failed")], ["testhide-abc"])


@dataclass
class Site:
    receiver: Receiver
    outgoing: HttpOutgoing

    @property
    def url(self) -> str:
        return self.receiver.url.removesuffix("/hook")

    def open(self, deployment: Deployment = "cloud") -> TicketHost:
        texts = ("ACME", self.url, "u@acme.com", b"s3cret", "BACK", "Bug")
        return JiraHosts(self.outgoing, bytes.decode).open(JiraIntegration(1, 3, deployment, True, *texts))

    def answers(self, body: object, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.receiver.answers.append((status, named, msgspec.json.encode(body)))


@pytest.fixture(name="site")
async def _site() -> AsyncIterator[Site]:
    async with receiving() as receiver, HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing:
        yield Site(receiver, outgoing)


async def test_cloud_gets_documents(site: Site) -> None:
    site.answers({"issues": []})
    site.answers({"id": "1", "key": "BACK-7"}, 201)
    assert await site.open().find("testhide-abc") is None
    assert await site.open().create(TICKET) == Ticket("BACK-7", f"{site.url}/browse/BACK-7")
    search, create = site.receiver.requests
    assert search.path.startswith("/rest/api/3/search/jql?jql=")
    assert create.path == "/rest/api/3/issue"
    assert create.headers["Authorization"] == "Basic dUBhY21lLmNvbTpzM2NyZXQ="
    fields = create.json["fields"]
    assert (fields["project"], fields["issuetype"]) == ({"key": "BACK"}, {"name": "Bug"})
    assert fields["description"]["type"] == "doc"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, {}, "refuses the API token"),
        (400, {"errors": {"customfield_1": "Team is required. s3cret"}}, "customfield_1: Team is required. \\*\\*\\*"),
        (404, {"errorMessages": ["No project"]}, "No project"),
        (302, {}, "redirect"),
        (200, [], "not Jira's API"),
    ],
)
async def test_a_refusal_says_what_to_change(site: Site, status: int, body: object, message: str) -> None:
    site.answers(body, status)
    with pytest.raises(TicketRejected, match=message):
        await site.open("data_center").create(TICKET)
    assert site.receiver.requests[0].headers["Authorization"] == "Bearer s3cret"


async def test_too_many_requests_and_outages_are_for_later(site: Site) -> None:
    site.answers({}, 429, Retry_After="30")
    with pytest.raises(TicketsUnavailable, match="no more requests") as refused:
        await site.open().create(TICKET)
    assert refused.value.retry_after_s == 30
    site.answers({}, 503)
    with pytest.raises(TicketsUnavailable, match="status 503"):
        await site.open().create(TICKET)


async def test_required_fields_and_missing_rights_are_named_beforehand(site: Site) -> None:
    project = {"issueTypes": [{"id": "10001", "name": "Bug"}]}
    may = {"permissions": {"CREATE_ISSUES": {"havePermission": True}}}
    team = {"fieldId": "customfield_1", "name": "Team", "required": True, "hasDefaultValue": False}
    for body in ({}, project, may, {"fields": [team, team | {"name": "Sprint", "hasDefaultValue": True}]}):
        site.answers(body)
    with pytest.raises(TicketRejected, match="need Team: choose another"):
        await site.open().check()
    for body in ({}, project, {"permissions": {"CREATE_ISSUES": {"havePermission": False}}}):
        site.answers(body)
    with pytest.raises(TicketRejected, match="does not let this token create issues in BACK"):
        await site.open().check()


async def test_a_workflow_without_a_way_back_leaves_a_ticket_done(site: Site) -> None:
    site.answers({"fields": {"status": {"statusCategory": {"key": "done"}}}})
    site.answers({"transitions": [{"id": "5", "to": {"statusCategory": {"key": "done"}}}]})
    assert not await site.open().reopen("BACK-7")
