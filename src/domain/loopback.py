"""Recognises addresses of this machine itself, at which containers and virtual machines cannot reach a server."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Returns whether a host name or an IP address stands for this machine itself. Does not ask a name server."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
