"""What inputs may touch: the one door for every address, document, raster and name from outside.

Standard library and PyYAML only, and obstore for object stores. A catalog is data that somebody else wrote: its addresses may point at
other files and hosts, its documents and rasters may be bombs. What the user types (the source, ``allow=``)
is trusted; everything found behind it is checked here.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import json
import logging
import math
import os
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from eoaug.errors import ParameterError, SourceError
from eoaug.storage.names import clean_href
from eoaug.storage.s3 import is_object, parse, read

__all__ = ["AccessPolicy", "Limits", "folder_of", "within"]


@dataclass(frozen=True)
class Limits:
    """How large an input may be; whatever is larger is refused before it is read."""

    json_bytes: int = 128 * 2**20
    """Size of one JSON document."""
    json_depth: int = 64
    """Objects and lists inside each other."""
    links: int = 200_000
    """Links of one document."""
    assets: int = 5_000
    """Assets of one item."""
    documents: int = 5_000_000
    """Documents read from one source."""
    pixels: int = 2**34
    """Pixels of one band, a square of 131,072."""
    bands: int = 1_024
    """Bands of one file, and of one item."""
    block_bytes: int = 2**29
    """Bytes of one block after decoding: what a reader must hold to see a single pixel."""
    small_bytes: int = 2**30
    """Bytes of a decoded raster up to which no ratio is asked for."""
    ratio: int = 1_000
    """Decoded over stored bytes of larger rasters; deflate cannot do better than 1,032 : 1."""
    url_chars: int = 8_192
    """Length of an address."""
    redirects: int = 5
    """Redirects followed for one address."""
    timeout_s: float = 30.0
    """Silence of a host."""


_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\<>\"`{}|^]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class AccessPolicy:
    """Where inputs may lie: folders, hosts and addresses, and how large they may be.

    Immutable and picklable: it travels with every task, so that workers apply the same rules.
    """

    roots: tuple[str, ...] = ()
    """Folders that files may be read from, resolved."""
    hosts: tuple[str, ...] = ()
    """Hosts as ``name``, ``*.name`` or ``name:port``; without a port, only https on its own port."""
    networks: tuple[str, ...] = ()
    """Private addresses that may be contacted, as networks."""
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def for_source(cls, source: str, allow: Sequence[str] = (), hosts: Sequence[str] = ()) -> AccessPolicy:
        """Return the access policy of a source that the user named.

        Parameters
        ----------
        source
            A path, whose folder is allowed, or a URL, whose host is; empty for neither.
        allow
            What else may be read: folders (beginning with ``/``, ``./``, ``~`` or ``s3://``), hosts, networks.
        hosts
            Hosts that are known to hold the data of the source.
        """
        access = cls(hosts=tuple(hosts)).extended(allow)
        if not source:
            return access
        if is_object(source):
            return replace(access, roots=(*access.roots, folder_of(source)))
        if "://" not in source or source.lower().startswith("file:"):
            path = Path(unquote(urlsplit(source).path) if "://" in source else source).expanduser().resolve()
            return replace(access, roots=(*access.roots, str(path if path.is_dir() else path.parent)))
        parts = _split_url(source)
        name, port = _host_port(parts)
        try:
            private = {str(ipaddress.ip_network(a)) for a in _addresses(name, port) if not a.is_global}
        except OSError:  # without an address it will be refused when it is read
            private = set()
        entry = name if (parts.scheme, port) == ("https", 443) else f"{name}:{port}"
        return replace(access, hosts=(*access.hosts, entry), networks=(*access.networks, *sorted(private)))

    def extended(self, entries: Sequence[str]) -> AccessPolicy:
        """Return a policy that also allows these; see `for_source`."""
        roots, hosts, networks = list(self.roots), list(self.hosts), list(self.networks)
        for entry in [entries] if isinstance(entries, str) else entries:
            if is_object(entry):
                roots.append(folder_of(entry))
                continue
            if entry.startswith(("/", ".", "~")):
                roots.append(str(Path(entry).expanduser().resolve()))
                continue
            try:
                networks.append(str(ipaddress.ip_network(entry, strict=False)))
                if "/" not in entry:
                    hosts.append(entry)
                continue
            except ValueError:
                pass
            if not re.fullmatch(r"(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:\d+)?", entry):
                raise ParameterError(
                    f"allow: {entry!r} is no folder, host or network.",
                    "Write e.g. './data', 'data.example.org', '*.example.org', 'localhost:9000' or '10.0.0.0/8'.",
                )
            hosts.append(entry.lower())
            if entry.partition(":")[0].lower() == "localhost":
                networks += ["127.0.0.0/8", "::1/128"]
            elif ":" in entry and _literal(entry.partition(":")[0]) is not None:
                networks.append(entry.partition(":")[0] + "/32")
        return AccessPolicy(tuple(roots), tuple(hosts), tuple(networks), self.limits)

    # -- addresses ------------------------------------------------------------------------------------

    def resolve(self, href: str, *, what: str) -> str:
        """Return the one form in which an address may be opened: an absolute path or an https URL.

        Parameters
        ----------
        href
            Absolute; relative ones have been joined with the place of their document.
        what
            Who says so, for the message: ``asset 'B04' of item 'x'``.

        Raises
        ------
        SourceError
            It points where it must not.
        """
        if not isinstance(href, str) or not href or len(href) > self.limits.url_chars:
            raise _refused(what, href, "is no address", "Correct the item, or leave it out with ids=.")
        scheme = _SCHEME.match(href)
        kind = scheme[1].lower() if scheme else "file"
        if kind in ("http", "https"):
            return self._url(href, what)
        if kind == "s3":
            return self._object(href, what)
        if kind != "file":
            raise _refused(
                what,
                href,
                f"has the scheme {kind!r}",
                "Only files, https and s3 addresses are read; copy it.",
            )
        return self._path(href, what)

    def _path(self, href: str, what: str) -> str:
        text = href
        if href.lower().startswith("file:"):
            parts = urlsplit(href)
            if parts.netloc not in ("", "localhost"):
                raise _refused(what, href, "is a file of another machine", "Copy it to this one.")
            text = unquote(parts.path)
        if "\x00" in text or text.lower().lstrip("/").startswith("vsi") or text.lstrip().startswith("<"):
            raise _refused(what, href, "is no path of a file", "Correct the item, or leave it out with ids=.")
        try:
            found = os.path.realpath(text)
        except (OSError, ValueError) as error:
            raise _refused(what, href, f"cannot be resolved ({error})", "Correct the item.") from error
        if not any(within(found, root) for root in self.roots):
            told = f"[{str(Path(found).parent)!r}]" if scheme_free(href) else "['/its/folder']"
            raise _refused(
                what, href, f"lies outside of {', '.join(map(repr, self.roots)) or 'every allowed folder'}",
                f"If you trust it, allow its folder: allow={told}.",
            )  # fmt: skip
        return found

    def _object(self, href: str, what: str) -> str:
        try:
            bucket, key = parse(href)
        except ParameterError as error:
            raise _refused(what, href, "is malformed", error.remedy) from error
        found = f"s3://{bucket}/{key}"
        if not any(f"{found}/".startswith(f"{root}/") for root in self.roots if is_object(root)):
            raise _refused(
                what, href, f"lies outside of {', '.join(map(repr, self.roots)) or 'every allowed folder'}",
                f"If you trust it, allow its folder: allow=[{found.rpartition('/')[0]!r}].",
            )  # fmt: skip
        return found

    def _url(self, href: str, what: str) -> str:
        try:
            parts = _split_url(href)
            name, port = _host_port(parts)
        except ParameterError as error:
            raise _refused(what, href, "is malformed", error.remedy) from error
        if "@" in parts.netloc:
            raise _refused(what, href, "carries a user name", "Use patch_url= to sign addresses.")
        if not self._knows(name, port, parts.scheme):
            entry = name if (parts.scheme, port) == ("https", 443) else f"{name}:{port}"
            raise _refused(
                what, href, f"is on host {entry!r}, which is not allowed",
                f"If you trust it, allow it: allow=[{entry!r}].",
            )  # fmt: skip
        self._check_addresses(name, port, href, what)
        checked: str = urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path, parts.query, ""))
        return checked

    def _knows(self, name: str, port: int, scheme: str) -> bool:
        for entry in self.hosts:
            known, _, wanted = entry.rpartition(":") if re.search(r":\d+$", entry) else (entry, "", "")
            same = name.endswith(known[1:]) if known.startswith("*.") else name == known
            if same and (int(wanted) == port if wanted else (scheme.lower(), port) == ("https", 443)):
                return True
        return False

    def _check_addresses(self, name: str, port: int, href: str, what: str) -> None:
        """Refuse names that lead to addresses of this machine or its neighbours."""
        allowed = [ipaddress.ip_network(network) for network in self.networks]
        try:
            found = _addresses(name, port)
        except OSError as error:
            raise _refused(
                what, href, f"has no address ({error})", "Check the name and the network."
            ) from error
        for one in found:
            if not one.is_global and not any(one in network for network in allowed):
                raise _refused(
                    what, href, f"leads to the private address {one}",
                    f"If you trust it, allow the address: allow=['{one}'].",
                )  # fmt: skip

    # -- documents ------------------------------------------------------------------------------------

    def read_json(self, href: str, *, what: str) -> dict[str, Any]:
        """Read a JSON document, following redirects only to where addresses may point.

        Raises
        ------
        SourceError
            It may not be read, cannot be read, is too large, too deep or no object.
        """
        address = self.resolve(href, what=what)
        limit = self.limits.json_bytes
        try:
            with self._open(address, what) as file:
                data = file.read(limit + 1)
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(
                f"{what} cannot be read from {clean_href(address)!r}: {_reason(error)}.",
                "Check the path or URL; if it is right, the place may be out of reach.",
            ) from error
        return self.parse_json(data, what=f"{what} at {clean_href(address)!r}")

    def parse_json(self, data: bytes, *, what: str) -> dict[str, Any]:
        """Return the object that bytes spell, within the limits."""
        limits = self.limits
        remedy = "Correct the document; until then open other items by their own files, or run a job: it skips this one."
        if len(data) > limits.json_bytes:
            raise SourceError(f"{what} is larger than {limits.json_bytes} bytes.", remedy)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{what} is no JSON: {_reason(error)}.", remedy) from error
        if not isinstance(document, dict):
            raise SourceError(f"{what} is a {type(document).__name__}, not a STAC object.", remedy)
        for name, most in (("links", limits.links), ("assets", limits.assets)):
            count = len(document[name]) if isinstance(document.get(name), list | dict) else 0
            if count > most:
                raise SourceError(f"{what} has {count} {name}; the most is {most}.", remedy)
        if data.count(b"{") + data.count(b"[") > limits.json_depth and _depth(document) > limits.json_depth:
            raise SourceError(f"{what} nests more than {limits.json_depth} objects.", remedy)
        return document

    def _open(self, address: str, what: str) -> Any:
        if is_object(address):
            return io.BytesIO(read(address, self.limits.json_bytes + 1)[0])
        if "://" not in address:
            if not os.path.isfile(address):  # a pipe or a device would wait for ever
                raise FileNotFoundError(2, "no such file")
            return open(address, "rb")
        request = urllib.request.Request(address, headers={"Accept": "application/json, */*"})
        return _opener(self, what).open(request, timeout=self.limits.timeout_s)

    def send(
        self, method: str, address: str, body: bytes | None, headers: Mapping[str, str], *, what: str
    ) -> tuple[int, bytes]:
        """Send a request, follow no redirect, and return status and answer.

        Raises
        ------
        SourceError
            The address may not be contacted, or does not answer.
        """
        checked = self.resolve(address, what=what)
        request = urllib.request.Request(checked, data=body, headers=dict(headers), method=method)
        try:
            with _plain_opener().open(request, timeout=self.limits.timeout_s) as answer:
                return int(answer.status), answer.read(self.limits.json_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(
                f"{what} does not answer at {clean_href(checked)!r}: {_reason(error)}.", "Check that it runs."
            ) from error

    def follow_redirects(self, address: str, *, what: str) -> str:
        """Return where an address leads after redirects, each of them checked; files lead to themselves.

        GDAL follows redirects without asking, so it is only given addresses that have none left.
        """
        if "://" not in address or is_object(address):
            return address
        request = urllib.request.Request(address, headers={"Range": "bytes=0-0"})
        try:
            with _opener(self, what).open(request, timeout=self.limits.timeout_s) as answer:
                return str(answer.geturl())
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(
                f"{what} cannot be read from {clean_href(address)!r}: {_reason(error)}.",
                "Check that the link is still valid, or leave the item out with ids=.",
            ) from error

    # -- rasters --------------------------------------------------------------------------------------

    def check_raster(
        self,
        what: str,
        *,
        shape_yx: tuple[int, int],
        bands: int = 1,
        itemsize: int = 1,
        block_yx: tuple[int, int] = (1, 1),
        stored_bytes: int | None = None,
    ) -> None:
        """Refuse a raster that is too large to be true.

        Parameters
        ----------
        what
            Which one, for the message.
        shape_yx, bands, itemsize
            Rows and columns, number of bands, bytes of a pixel.
        block_yx
            Rows and columns that are decoded together.
        stored_bytes
            Size of the file, where known.
        """
        limits = self.limits
        plain = math.prod(shape_yx) * bands * itemsize
        block = math.prod(block_yx) * bands * itemsize
        remedy = "Leave the item out with ids=; if the file is sound, rewrite it as a tiled COG."
        if min(shape_yx) < 1 or bands < 1:
            raise SourceError(f"{what} has {bands} bands of {shape_yx[0]} x {shape_yx[1]} pixels.", remedy)
        if math.prod(shape_yx) > limits.pixels or bands > limits.bands:
            raise SourceError(
                f"{what} has {bands} bands of {shape_yx[0]} x {shape_yx[1]} pixels; the most are "
                f"{limits.bands} bands of {limits.pixels} pixels.", remedy,
            )  # fmt: skip
        if block > limits.block_bytes:
            raise SourceError(
                f"{what} has blocks of {block} bytes; the most is {limits.block_bytes}.", remedy
            )
        if stored_bytes is not None and plain > limits.small_bytes and plain > limits.ratio * stored_bytes:
            raise SourceError(
                f"{what} holds {plain} bytes of pixels in {stored_bytes} bytes of file, more than "
                f"{limits.ratio} : 1.", remedy,
            )  # fmt: skip

    def check_tree(self, folder: str, *, what: str) -> None:
        """Refuse a local folder with links in it: a chunk that is a link is any file of the machine."""
        for base, folders, files in os.walk(folder):
            for name in (*folders, *files):
                if os.path.islink(os.path.join(base, name)):
                    raise _refused(
                        what, os.path.join(base, name), "is a link", "Copy the group with its content."
                    )


class _Unsigned(logging.Filter):
    """Takes the queries out of addresses that other libraries log: signatures stand there."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = re.sub(r"(?<=[^\s'\"<>])\?[^\s'\"<>]*=[^\s'\"<>]*", "", text)
        if clean != text:
            record.msg, record.args = clean, ()
        return True


for _name in ("_base", "_env", "_err", "_io", "_warp", "env"):
    logging.getLogger(f"rasterio.{_name}").addFilter(_Unsigned())
logging.getLogger("urllib3.connectionpool").addFilter(_Unsigned())


def folder_of(source: str) -> str:
    """Return the folder of an address of an object store: its prefix, or that of its JSON document."""
    bucket, key = parse(source)
    folder = key.rpartition("/")[0] if key.endswith(".json") else key
    return f"s3://{bucket}/{folder}".rstrip("/")


def scheme_free(href: str) -> bool:
    """Tell whether an address is a plain path."""
    return _SCHEME.match(href) is None


def within(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> bool:
    """Tell whether a path lies in a folder, both resolved."""
    return Path(path).is_relative_to(root)


# -- hosts ----------------------------------------------------------------------------------------------

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _split_url(url: str) -> Any:
    """Split an address that every parser splits alike; any other is refused."""
    remedy = "Write it like https://host/path."
    if _FORBIDDEN.search(url) or url.count("@") > 1:
        raise ParameterError(f"{clean_href(url)!r} holds a character that addresses have not.", remedy)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ParameterError(f"{clean_href(url)!r} is no URL: {error}.", remedy) from error
    if not parts.hostname or not parts.netloc.isascii() or "%" in parts.netloc or not url.isascii():
        raise ParameterError(f"{clean_href(url)!r} has no plain host.", remedy)
    return parts


def _host_port(parts: Any) -> tuple[str, int]:
    name = str(parts.hostname).lower().rstrip(".")
    return name, int(parts.port or (443 if parts.scheme.lower() == "https" else 80))


def _literal(name: str) -> _Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _addresses(name: str, port: int) -> list[_Address]:
    """Return what a name leads to, IPv4 addresses taken out of their IPv6 wrappings."""
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    return [_unwrapped(ipaddress.ip_address(text.partition("%")[0])) for text in sorted(found)]


def _unwrapped(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def _plain_opener() -> urllib.request.OpenerDirector:
    """An opener for which every answer is an answer: none is followed, none is an error."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
    ):
        director.add_handler(handler)
    return director


def _opener(access: AccessPolicy, what: str) -> urllib.request.OpenerDirector:
    class Checked(urllib.request.HTTPRedirectHandler):
        max_redirections = access.limits.redirects

        def redirect_request(
            self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
        ) -> urllib.request.Request | None:
            target = access.resolve(urljoin(req.full_url, newurl), what=what)
            if "://" not in target:
                raise _refused(what, newurl, "is a file behind a redirect", "Leave the item out with ids=.")
            return super().redirect_request(req, fp, code, msg, headers, target)

    # No handlers for file:, ftp: and data:, which the default opener has.
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        Checked(),
        urllib.request.HTTPErrorProcessor(),
    ):
        director.add_handler(handler)
    return director


def _refused(what: str, href: Any, why: str, remedy: str) -> SourceError:
    shown = clean_href(href)[:200] if isinstance(href, str) else repr(href)[:80]
    return SourceError(f"{what}: {shown!r} {why}.", remedy)


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".") or type(error).__name__


def _depth(document: Any) -> int:
    deepest, waiting = 0, [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        deepest = max(deepest, depth)
        waiting += [(inner, depth + 1) for inner in _inner(value)]
    return deepest


def _inner(value: Any) -> Iterator[Any]:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (one for one in inside if isinstance(one, dict | list))
