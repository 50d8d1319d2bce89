"""Network addresses of callers, and the networks whose addresses count as one caller."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from litestar.connection import ASGIConnection

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_address(host: str) -> Address | None:
    """Returns the IP address that `host` contains, or None if it contains a name. Returns an IPv4 address that is
    mapped into IPv6 as IPv4.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def to_network(address: Address) -> Network:
    """Returns the network that counts as one caller. For IPv4 it is the single address, and for IPv6 the /64 network,
    since one customer has all addresses in it.
    """
    return ip_network((address, 32 if isinstance(address, IPv4Address) else 64), strict=False)


def find_network(connection: ASGIConnection[Any, Any, Any, Any]) -> Network | None:
    """Returns the network whose requests are counted together.

    Returns None if the request comes from this machine or its address is not known: behind a proxy that does not
    forward its clients' addresses, all clients would be counted as one.
    """
    address = parse_address(connection.client.host if connection.client is not None else "")
    return None if address is None or address.is_loopback else to_network(address)
