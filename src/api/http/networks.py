"""Network addresses of callers. All addresses of an IPv6 /64 network count as one caller."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from litestar.connection import ASGIConnection

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def parse_address(host: str) -> Address | None:
    """Returns the IP address in `host`, or None if `host` is a name. Converts an IPv4 address that is mapped into IPv6
    (`::ffff:192.0.2.1`) to IPv4.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def to_network(address: Address) -> Network:
    """Returns the network that counts as one caller. For IPv4, it is the single address. For IPv6, it is the /64
    network of the address, since all addresses of such a network usually belong to one customer.
    """
    return ip_network((address, 32 if isinstance(address, IPv4Address) else 64), strict=False)


def find_network(connection: ASGIConnection[Any, Any, Any, Any]) -> Network | None:
    """Returns the network of the caller. All requests from one network are counted together.

    Returns None if the request comes from this machine, or from no known address. A proxy on this machine may hide the
    addresses of its clients, which would otherwise all count as one caller.
    """
    address = parse_address(connection.client.host if connection.client is not None else "")
    return None if address is None or address.is_loopback else to_network(address)
