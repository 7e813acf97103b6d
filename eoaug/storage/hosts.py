"""URLs that every parser splits alike, and the IP addresses that their hosts resolve to."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Any
from urllib.parse import urlsplit

from eoaug.errors import ParameterError
from eoaug.storage.names import clean_href

__all__ = ["IPAddress", "addresses_of", "host_entry", "host_port", "literal", "split_url", "unpacked"]


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\<>\"`{}|^]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def split_url(url: str) -> Any:
    """Split a URL; raise ParameterError for one that parsers could split differently."""
    remedy = "write it like https://host/path"
    if _FORBIDDEN.search(url) or url.count("@") > 1:
        raise ParameterError(f"{clean_href(url)!r} contains a character that is not allowed in a URL", remedy)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ParameterError(f"{clean_href(url)!r} is not a URL: {error}", remedy) from error
    if not parts.hostname or not parts.netloc.isascii() or "%" in parts.netloc or not url.isascii():
        raise ParameterError(f"{clean_href(url)!r} has no plain host name", remedy)
    return parts


def host_port(parts: Any) -> tuple[str, int]:
    """Return the host in lower case and the port, by default that of the scheme."""
    name = str(parts.hostname).lower().rstrip(".")
    return name, int(parts.port or (443 if parts.scheme.lower() == "https" else 80))


def host_entry(scheme: str, name: str, port: int) -> str:
    """Return a host as the entries of an access policy spell it."""
    return name if (scheme.lower(), port) == ("https", 443) else f"{name}:{port}"


def literal(name: str) -> IPAddress | None:
    """Return the IP address that a text spells, or None for a host name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def addresses_of(name: str, port: int) -> list[IPAddress]:
    """Return the IP addresses of a host; IPv4 addresses embedded in IPv6 ones are unpacked.

    Raises
    ------
    OSError
        The name does not resolve.
    """
    texts = {str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    return [unpacked(ipaddress.ip_address(text.partition("%")[0])) for text in sorted(texts)]


def unpacked(address: IPAddress) -> IPAddress:
    """Return the IPv4 address that an IPv6 address embeds, else the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address
