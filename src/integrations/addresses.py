"""Decides which URLs may be called: https URLs that lead to public addresses and that all parsers understand in the
same way.

Refuses a URL that two parsers could understand differently, instead of repairing it. Addresses in networks that the
operator has allowed may be called over http, too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from yarl import URL

from integrations.ports import Refused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL = 2_000
NO_URL = "is no URL: write https://NAME/PATH"
PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Networks that are not called: their addresses lead to this machine, its network or its neighbours, or nowhere.
_RANGES = (
    ("0.0.0.0/8", "means this machine"),
    ("10.0.0.0/8", "is private"),
    ("100.64.0.0/10", "is shared with a carrier's network"),
    ("127.0.0.0/8", "is this machine"),
    ("168.63.129.16/32", "is a cloud's metadata service"),
    ("169.254.0.0/16", "is link-local, where clouds keep their metadata"),
    ("172.16.0.0/12", "is private"),
    ("192.0.0.0/24", "is reserved for protocols"),
    ("192.0.2.0/24", "is for documentation"),
    ("192.88.99.0/24", "is a 6to4 relay"),
    ("192.168.0.0/16", "is private"),
    ("198.18.0.0/15", "is for measurements"),
    ("198.51.100.0/24", "is for documentation"),
    ("203.0.113.0/24", "is for documentation"),
    ("224.0.0.0/4", "is multicast"),
    ("240.0.0.0/4", "is reserved"),
    ("::/128", "means this machine"),
    ("::1/128", "is this machine"),
    ("::ffff:0:0/96", "is an IPv4 address in disguise"),
    ("::ffff:0:0:0/96", "is an IPv4 address in disguise"),
    ("::/96", "is an IPv4 address in disguise"),
    ("64:ff9b::/96", "is an IPv4 address behind NAT64"),
    ("64:ff9b:1::/48", "is an IPv4 address behind NAT64"),
    ("2001::/32", "is a Teredo tunnel"),
    ("2001::/23", "is reserved for protocols"),
    ("2001:db8::/32", "is for documentation"),
    ("3fff::/20", "is for documentation"),
    ("2002::/16", "is a 6to4 tunnel"),
    ("fc00::/7", "is private"),
    ("fe80::/10", "is link-local"),
    ("fec0::/10", "is private"),
    ("ff00::/8", "is multicast"),
)
REFUSED = tuple((ip_network(network), why) for network, why in _RANGES)
ISATAP = 0x5EFE
"""The 32 bits before the IPv4 address at the end of an ISATAP address. The universal/local bit is masked out."""
GLOBAL_UNICAST = IPv6Network("2000::/3")


@dataclass(frozen=True)
class CallableUrl:
    url: URL
    host: str
    address: Address | None
    """The host as an IP address; None if the host is a name."""

    @property
    def is_https(self) -> bool:
        return self.url.scheme == "https"


def parse_networks(text: str) -> tuple[Network, ...]:
    """Returns the networks of a text like `10.1.0.0/16, 127.0.0.0/8`. Raises ValueError, which names the first invalid
    item.
    """
    return tuple(ip_network(item.strip()) for item in text.split(",") if item.strip())


@lru_cache(maxsize=1_000)
def parse_url(text: str) -> CallableUrl:
    """Returns the parts of an http(s) URL. Raises Refused for any other text."""
    if len(text) > MAX_URL:
        raise Refused(f"is longer than {MAX_URL} characters")
    if not text.isascii():
        raise Refused("has characters that are not ASCII: write the name in its xn-- form and the path with %")
    if any(character <= " " or character in "\\\x7f" for character in text):
        raise Refused("has a space, a control character or a backslash")
    try:
        parts, url = urlsplit(text), URL(text)
        port = parts.port
        host = (parts.hostname or "").lower()
        same = _host_of(host) == _host_of(url.raw_host or "") and url.port == (port or PORTS.get(parts.scheme))
    except ValueError:
        raise Refused(NO_URL) from None
    if parts.scheme not in PORTS:
        raise Refused("must begin with https://")
    if not host:
        raise Refused("names no host: write https://NAME/PATH")
    if "@" in parts.netloc:
        raise Refused("holds credentials: leave out what stands before the @")
    if "%" in parts.netloc:
        raise Refused("has a % in its host: write the plain name, without a zone")
    if port == 0 or not same:
        raise Refused(NO_URL)
    return CallableUrl(url, host, _literal(host, is_bracketed="[" in parts.netloc))


def is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _host_of(text: str) -> str:
    """Returns a host in its canonical spelling: a name in lower case, or the shortest form of an IPv6 address."""
    try:
        return str(ip_address(text))
    except ValueError:
        return text.lower()


def _literal(host: str, *, is_bracketed: bool) -> Address | None:
    if is_bracketed:
        try:
            return IPv6Address(host)
        except ValueError:
            raise Refused(NO_URL) from None
    if host.endswith("."):
        raise Refused("has a host that ends in a dot: leave it out")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # 2130706433, 0x7f.1, 0177.0.0.1: C libraries read them as IPv4 addresses.
        try:
            return IPv4Address(host)
        except ValueError:
            raise Refused("has a host of numbers that is no IPv4 address: write four decimal numbers") from None
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise Refused("has a host that is no name")
    return None


def must_be_callable(addresses: Sequence[str], allowed: Sequence[Network], *, is_https: bool) -> None:
    """Raises Refused if one of a host's `addresses` may not be called. Addresses in the networks `allowed` may always
    be called. All other addresses must be public, and the URL must be https.
    """
    for text in addresses:
        try:
            address = ip_address(text)
        except ValueError:
            raise Refused(f"leads to {text}, which is no address") from None
        if any(address in network for network in allowed):
            continue
        if not is_https:
            raise Refused("must begin with https://")
        if (why := _why_not(address)) is not None:
            raise Refused(f"leads to {text}, which {why}; the operator can open it by TESTHIDE_OUTGOING_ALLOW")


def _why_not(address: Address) -> str | None:
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "is link-local"
    if isinstance(address, IPv6Address) and int(address) >> 32 & 0xFDFFFFFF == ISATAP:
        return "is an ISATAP tunnel"
    for network, why in REFUSED:
        if address in network:
            return why
    is_public = address in GLOBAL_UNICAST if isinstance(address, IPv6Address) else True
    return None if is_public and address.is_global else "is not public"
