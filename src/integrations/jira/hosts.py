"""Opens the Jira project of an integration, and checks the fields of an integration that a user enters."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from domain.core.errors import FieldError, Invalid, collect_errors
from domain.jira import JiraIntegration
from integrations.jira.project import JiraProject
from integrations.jira.rest import JiraApi
from integrations.ports import Outgoing, Refused
from integrations.ticket_ports import NewIntegration, TicketHost

_PROJECT_KEY = re.compile(r"[A-Z][A-Z0-9_]{1,99}")
_TOKEN = re.compile(r"[\x21-\x7e]+")


class JiraHosts:
    """Implements `TicketHosts`. `unseal` decrypts sealed tokens."""

    def __init__(self, outgoing: Outgoing, unseal: Callable[[bytes], str]) -> None:
        self._outgoing, self._unseal = outgoing, unseal

    async def check(self, integration: NewIntegration, *, is_admin: bool) -> None:
        errors: list[FieldError] = []
        if integration.token and not _TOKEN.fullmatch(integration.token):
            errors.append(FieldError("api_token", "has a space, a line break or a character that is not ASCII"))
        if integration.project_key and not _PROJECT_KEY.fullmatch(integration.project_key):
            wrong = "must be the key of a Jira project, such as BACK: capitals and digits"
            errors.append(FieldError("project_key", wrong))
        if integration.host:
            with collect_errors(errors):
                await self._check_host(integration.host, is_admin=is_admin)
        if errors:
            raise Invalid.fields(errors)

    async def _check_host(self, host: str, *, is_admin: bool) -> None:
        try:
            await self._outgoing.check(host, is_admin=is_admin)
        except Refused as error:
            raise Invalid.field("host", str(error)) from None
        if urlsplit(host).query or urlsplit(host).fragment:
            raise Invalid.field("host", "has a ? or a #: leave out what begins with it")

    def open(self, integration: JiraIntegration) -> TicketHost:
        host, token = integration.host, self._unseal(integration.sealed_token)
        api = JiraApi(self._outgoing, integration.deployment, host, urlsplit(host).netloc, integration.email, token)
        return JiraProject(api, integration.project_key, integration.issue_type)
