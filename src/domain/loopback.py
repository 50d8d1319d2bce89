"""Recognises addresses of this machine itself, at which containers and virtual machines cannot reach a server."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Returns whether a name or an address is one of this machine itself, without asking a name server."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
