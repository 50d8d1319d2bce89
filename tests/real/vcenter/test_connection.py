"""Signing in to a vCenter: certificates, passwords, addresses, and what is said when it fails."""

from collections.abc import AsyncIterator

import pytest

from domain.vcenter import Vcenter
from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from integrations.vcenter.hosts import VcenterHosts
from integrations.vcenter_ports import VcenterFailure, VcenterMissing, VcenterRejected, VcenterUnavailable
from tests.real.vcenter.simulated import PASSWORD, USER, Simulator
from tests.support.server import free_port

from .conftest import StartSimulator

pytestmark = pytest.mark.real("go", "govmomi")


def new_vcenter(host: str, **more: object) -> Vcenter:
    fields = {"vcenter_id": 1, "title": "Lab", "host": host, "username": USER, "datacenter": "DC0", "cluster": ""}
    return Vcenter(**fields | {"sealed_password": PASSWORD.encode(), "insecure": False} | more)  # type: ignore[arg-type]


@pytest.fixture(name="outgoing")
async def _outgoing() -> AsyncIterator[HttpOutgoing]:
    async with HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing:
        yield outgoing


@pytest.fixture(name="hosts")
def _hosts(outgoing: HttpOutgoing, simulator: Simulator) -> VcenterHosts:
    return VcenterHosts(outgoing, bytes.decode, str(simulator.ca))


async def sign_in(hosts: VcenterHosts, vcenter: Vcenter) -> tuple[str, int]:
    async with hosts.sign_in(vcenter) as session:
        await session.check()
        return session.version, session.latency_ms


async def refusal(hosts: VcenterHosts, vcenter: Vcenter) -> VcenterFailure:
    with pytest.raises(VcenterFailure) as failed:
        await sign_in(hosts, vcenter)
    assert PASSWORD not in str(failed.value)
    return failed.value


async def test_version_and_latency(hosts: VcenterHosts, simulator: Simulator) -> None:
    version, latency_ms = await sign_in(hosts, new_vcenter(simulator.host))
    assert version == "6.5.0"
    assert latency_ms > 0


async def test_a_certificate_is_checked(outgoing: HttpOutgoing, simulator: Simulator) -> None:
    without_ca = VcenterHosts(outgoing, bytes.decode)
    before = simulator.count_calls("Login")
    failure = await refusal(without_ca, new_vcenter(simulator.host))
    assert isinstance(failure, VcenterRejected)
    assert "TESTHIDE_VCENTER_CA" in str(failure)
    assert simulator.count_calls("Login") == before, "the password is not sent before the check"
    assert (await sign_in(without_ca, new_vcenter(simulator.host, insecure=True)))[0] == "6.5.0"


async def test_a_certificate_is_for_one_name(hosts: VcenterHosts, simulator: Simulator) -> None:
    other = simulator.host.replace("127.0.0.1", "localhost")
    failure = await refusal(hosts, new_vcenter(other))
    assert isinstance(failure, VcenterRejected)
    assert "not valid for 'localhost'" in str(failure)


async def test_a_wrong_password(hosts: VcenterHosts, simulator: Simulator) -> None:
    failure = await refusal(hosts, new_vcenter(simulator.host, sealed_password=b"wrong"))
    assert isinstance(failure, VcenterRejected)
    assert "does not accept the user name or the password" in str(failure)


async def test_another_datacenter_or_cluster(hosts: VcenterHosts, simulator: Simulator) -> None:
    failure = await refusal(hosts, new_vcenter(simulator.host, datacenter="DC9"))
    assert isinstance(failure, VcenterMissing)
    assert "no datacenter 'DC9'" in str(failure)
    failure = await refusal(hosts, new_vcenter(simulator.host, cluster="C9"))
    assert isinstance(failure, VcenterMissing)
    assert "no cluster 'C9'" in str(failure)
    assert (await sign_in(hosts, new_vcenter(simulator.host, cluster="DC0_C0")))[0] == "6.5.0"


async def test_nobody_listens(hosts: VcenterHosts) -> None:
    failure = await refusal(hosts, new_vcenter(f"127.0.0.1:{free_port()}"))
    assert isinstance(failure, VcenterUnavailable)
    assert "Connection refused" in str(failure)


async def test_an_address_that_is_not_allowed(simulator: Simulator) -> None:
    async with HttpOutgoing() as outgoing:
        failure = await refusal(VcenterHosts(outgoing, bytes.decode), new_vcenter(simulator.host))
    assert isinstance(failure, VcenterRejected)
    assert "TESTHIDE_OUTGOING_ALLOW" in str(failure)


async def test_a_vcenter_that_vanishes(hosts: VcenterHosts, start: StartSimulator) -> None:
    vanishing = start()
    async with hosts.sign_in(new_vcenter(vanishing.host)) as session:
        vanishing.stop()
        with pytest.raises(VcenterUnavailable, match="gives no answer"):
            await session.check()
