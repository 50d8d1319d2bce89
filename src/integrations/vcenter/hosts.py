"""Signs in to the vCenters of integrations, and checks the host of an integration that a user enters.

Loads pyVmomi with the first sign-in: it takes 26 MB, and most processes never call a vCenter.
"""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from domain.core.errors import Invalid
from domain.vcenter import Vcenter
from integrations.ports import Outgoing, Refused, Unanswered
from integrations.vcenter_ports import VcenterRejected, VcenterSession, VcenterUnavailable

if TYPE_CHECKING:
    from integrations.vcenter.connection import CheckedHost

HTTPS_PORT = 443
NO_HOST = "must be a name or an address, with :PORT behind it if the port is not 443"


class VcenterHosts:
    """Implements `Vcenters`. `unseal` decrypts sealed passwords. `ca_file` is a file with CA certificates that are
    trusted in addition to those of the operating system; empty for none.
    """

    def __init__(self, outgoing: Outgoing, unseal: Callable[[bytes], str], ca_file: str = "") -> None:
        self._outgoing, self._unseal, self._ca_file = outgoing, unseal, ca_file

    async def check_host(self, host: str, *, is_admin: bool) -> None:
        url = f"https://{host}"
        try:
            parts = urlsplit(url)
            is_host = parts.netloc == host and "@" not in host and parts.hostname is not None
        except ValueError:
            is_host = False
        if not is_host:
            raise Invalid.field("host", NO_HOST)
        try:
            await self._outgoing.check(url, is_admin=is_admin)
        except Refused as error:
            raise Invalid.field("host", str(error)) from None

    @asynccontextmanager
    async def sign_in(self, vcenter: Vcenter) -> AsyncIterator[VcenterSession]:
        try:
            from integrations.vcenter.session import open_session
        except ModuleNotFoundError as error:
            if error.name not in ("pyVmomi", "pyVim"):
                raise
            raise VcenterRejected("This server cannot call vCenters: install testhide-server[vcenter].") from None
        checked = await self._check_addresses(vcenter)
        async with open_session(
            checked, vcenter.username, self._unseal(vcenter.sealed_password), vcenter.datacenter, vcenter.cluster
        ) as session:
            yield session

    async def _check_addresses(self, vcenter: Vcenter) -> "CheckedHost":
        from integrations.vcenter.connection import CheckedHost

        url = f"https://{vcenter.host}"
        try:
            addresses = await self._outgoing.find_addresses(url)
        except Refused as error:
            raise VcenterRejected(f"{vcenter.host} {error}.") from None
        except Unanswered as error:
            raise VcenterUnavailable(f"{vcenter.host} gives no answer: {error}.") from None
        parts = urlsplit(url)
        assert parts.hostname is not None
        tls = self._make_tls(insecure=vcenter.insecure)
        return CheckedHost(parts.hostname, parts.port or HTTPS_PORT, tuple(addresses), tls, vcenter.host)

    def _make_tls(self, *, insecure: bool) -> ssl.SSLContext:
        tls = ssl.create_default_context()
        if insecure:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        elif self._ca_file:
            try:
                tls.load_verify_locations(self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise VcenterRejected(f"TESTHIDE_VCENTER_CA cannot be read: {error}.") from None
        return tls
