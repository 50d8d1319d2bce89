"""The adapter of Jira Data Center against jira820, a fake of Jira 8.20 that others wrote (PyPI)."""

from collections.abc import AsyncIterator

import pytest
import requests

from domain.jira import JiraIntegration
from integrations.addresses import parse_networks
from integrations.jira.hosts import JiraHosts
from integrations.outgoing import HttpOutgoing
from integrations.ticket_ports import Bullets, NewTicket, Paragraph, Preformatted, TicketHost, TicketRejected

pytestmark = pytest.mark.real("jira820")
TICKET = NewTicket(
    "boom: tests/test_cart.py::test_total",
    [
        Paragraph("1 test failed [~admin]", "https://ci.acme.com/7"),
        Bullets(["branch: main"]),
        Preformatted("{noformat}x"),
    ],
    ["testhide-0123456789abcdef", "fail-id-1"],
)


def open_project(outgoing: HttpOutgoing, url: str, issue_type: str = "Bug") -> TicketHost:
    texts = ("ACME", url, "u@acme.com", b"token", "BACK", issue_type)
    return JiraHosts(outgoing, bytes.decode).open(JiraIntegration(1, 3, "data_center", True, *texts))


@pytest.fixture(name="outgoing")
async def _outgoing() -> AsyncIterator[HttpOutgoing]:
    async with HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing:
        yield outgoing


async def test_a_ticket_is_created_found_and_commented(outgoing: HttpOutgoing, url: str) -> None:
    project = open_project(outgoing, url)
    await project.check()
    label = TICKET.labels[0]
    assert await project.find(label) is None
    created = await project.create(TICKET)
    assert created.url == f"{url}/browse/{created.key}"
    assert await project.find(label) == created
    await project.comment(created.key, [Paragraph("again")])
    fields = requests.get(f"{url}/rest/api/2/issue/{created.key}", timeout=5).json()["fields"]
    assert fields["summary"] == TICKET.summary
    assert set(fields["labels"]) == set(TICKET.labels)
    assert r"\[\~admin\]" in fields["description"]
    comments = requests.get(f"{url}/rest/api/2/issue/{created.key}/comment", timeout=5).json()["comments"]
    assert [comment["body"] for comment in comments] == ["again"]


async def test_a_done_ticket_is_reopened(outgoing: HttpOutgoing, url: str) -> None:
    project = open_project(outgoing, url)
    created = await project.create(TICKET)
    assert await project.reopen(created.key)
    path = f"{url}/rest/api/2/issue/{created.key}"
    for _ in range(5):
        status = requests.get(path, timeout=5).json()["fields"]["status"]["statusCategory"]["key"]
        if status == "done":
            break
        offered = requests.get(f"{path}/transitions", timeout=5).json()["transitions"]
        wanted = min(offered, key=lambda one: one["to"]["statusCategory"]["key"] != "done")["id"]
        requests.post(f"{path}/transitions", json={"transition": {"id": wanted}}, timeout=5).raise_for_status()
    assert await project.reopen(created.key)
    assert requests.get(path, timeout=5).json()["fields"]["status"]["statusCategory"]["key"] != "done"


async def test_a_wrong_issue_type_is_named(outgoing: HttpOutgoing, url: str) -> None:
    with pytest.raises(TicketRejected, match=r"has no issue type Incident: there are .*Bug"):
        await open_project(outgoing, url, issue_type="Incident").check()
