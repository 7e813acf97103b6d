"""What inputs may access: every address, document and raster from outside is checked here.

A catalog is untrusted data: its addresses may point to other files and hosts, and its documents and rasters
may be decompression bombs. What the user types (the source, ``allow=``) is trusted; everything that it refers
to is checked.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from urllib3.util import Retry

from eoaug.errors import ParameterError, SourceError
from eoaug.storage.files import open_plain, path_of
from eoaug.storage.hosts import IPAddress, addresses_of, host_entry, host_port, literal, split_url
from eoaug.storage.http import CheckedSession, Part, kept_session, reason
from eoaug.storage.limits import Limits
from eoaug.storage.names import clean_href
from eoaug.storage.ranges import RangeFile
from eoaug.storage.s3 import is_object, parse, read

__all__ = ["AccessPolicy", "Limits", "check_tree", "folder_of", "within"]


_AGAIN = Retry(total=3, backoff_factor=0.3, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
"""How often a range of a file is asked for again."""
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):")


@dataclass(frozen=True)
class AccessPolicy:
    """Where inputs may lie: folders, hosts and networks, and how large they may be.

    Immutable and picklable: it travels with every work item, so that workers apply the same rules.
    """

    roots: tuple[str, ...] = ()
    """Folders that files may be read from, resolved."""
    hosts: tuple[str, ...] = ()
    """Hosts as ``name``, ``*.name`` or ``name:port``; without a port, only https on its default port."""
    networks: tuple[str, ...] = ()
    """Private IP addresses that may be contacted, as networks."""
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

        Raises
        ------
        ParameterError
            An entry of ``allow`` is neither a folder, a host nor a network.
        """
        access = cls(hosts=tuple(hosts)).extended(allow)
        if not source:
            return access
        if is_object(source):
            return replace(access, roots=(*access.roots, folder_of(source)))
        if "://" not in source or source.lower().startswith("file:"):
            path = Path(unquote(urlsplit(source).path) if "://" in source else source).expanduser().resolve()
            return replace(access, roots=(*access.roots, str(path if path.is_dir() else path.parent)))
        parts = split_url(source)
        name, port = host_port(parts)
        try:
            private = {str(ipaddress.ip_network(a)) for a in addresses_of(name, port) if not a.is_global}
        except OSError:  # a host that does not resolve is refused when it is read
            private = set()
        return replace(
            access,
            hosts=(*access.hosts, host_entry(parts.scheme, name, port)),
            networks=(*access.networks, *sorted(private)),
        )

    def extended(self, entries: Sequence[str]) -> AccessPolicy:
        """Return a policy that also allows these entries; see ``allow`` of `for_source`."""
        access = self
        for entry in [entries] if isinstance(entries, str) else entries:
            roots, hosts, networks = _parse_entry(entry)
            access = replace(
                access,
                roots=(*access.roots, *roots),
                hosts=(*access.hosts, *hosts),
                networks=(*access.networks, *networks),
            )
        return access

    # -- addresses ------------------------------------------------------------------------------------

    def resolve(self, href: str, *, what: str) -> str:
        """Return the one form in which an address may be opened: an absolute path, or an https or s3 URL.

        Parameters
        ----------
        href
            Absolute; relative ones have been joined with the location of their document.
        what
            Where the address is written, for the message: ``asset 'B04' of item 'x'``.

        Raises
        ------
        SourceError
            The policy does not allow the address.
        """
        if not isinstance(href, str) or not href or len(href) > self.limits.url_chars:
            raise _refused(what, href, "is not an address", "correct the item, or leave it out with ids=")
        match = _SCHEME.match(href)
        scheme = match[1].lower() if match else "file"
        if scheme in ("http", "https"):
            return self._resolve_url(href, what)
        if scheme == "s3":
            return self._resolve_object(href, what)
        if scheme != "file":
            raise _refused(
                what,
                href,
                f"has the scheme {scheme!r}",
                "only files, https and s3 addresses are read; copy it",
            )
        return self._resolve_path(href, what)

    def _resolve_path(self, href: str, what: str) -> str:
        text = href
        if href.lower().startswith("file:"):
            parts = urlsplit(href)
            if parts.netloc not in ("", "localhost"):
                raise _refused(what, href, "is a file of another machine", "copy it to this one")
            text = unquote(parts.path)
        if "\x00" in text or text.lower().lstrip("/").startswith("vsi") or text.lstrip().startswith("<"):
            raise _refused(
                what, href, "is not the path of a file", "correct the item, or leave it out with ids="
            )
        try:
            path = os.path.realpath(text)
        except (OSError, ValueError) as error:
            raise _refused(what, href, f"cannot be resolved ({error})", "correct the item") from error
        if not any(within(path, root) for root in self.roots):
            folder = f"[{str(Path(path).parent)!r}]" if _SCHEME.match(href) is None else "['/its/folder']"
            raise _outside(self.roots, what, href, folder)
        return path

    def _resolve_object(self, href: str, what: str) -> str:
        try:
            bucket, key = parse(href)
        except ParameterError as error:
            raise _refused(what, href, "is malformed", error.remedy) from error
        address = f"s3://{bucket}/{key}"
        if not any(f"{address}/".startswith(f"{root}/") for root in self.roots if is_object(root)):
            raise _outside(self.roots, what, href, f"[{address.rpartition('/')[0]!r}]")
        return address

    def _resolve_url(self, href: str, what: str) -> str:
        try:
            parts = split_url(href)
            name, port = host_port(parts)
        except ParameterError as error:
            raise _refused(what, href, "is malformed", error.remedy) from error
        if "@" in parts.netloc:
            raise _refused(what, href, "contains a user name", "use patch_url= to sign addresses")
        if not _allows_host(self.hosts, name, port, parts.scheme):
            entry = host_entry(parts.scheme, name, port)
            raise _refused(
                what, href, f"is on host {entry!r}, which is not allowed",
                f"if you trust it, allow it: allow=[{entry!r}]",
            )  # fmt: skip
        _check_addresses(self._accepts, name, port, href, what)
        checked: str = urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path, parts.query, ""))
        return checked

    def _accepts(self, address: IPAddress) -> bool:
        """Return whether an IP address may be contacted: it is public, or the user has allowed it."""
        return address.is_global or any(address in ipaddress.ip_network(known) for known in self.networks)

    # -- files ----------------------------------------------------------------------------------------

    def open(self, address: str, *, what: str) -> IO[bytes] | RangeFile:
        """Open a file for reading: the one that was judged, whatever becomes of its name in between.

        Parameters
        ----------
        address
            Of a file or of a document behind a URL, as `resolve` returns it.
        what
            Which file, for messages.

        Returns
        -------
        io.RawIOBase
            A plain file, or a `RangeFile` of what a server sends.

        Raises
        ------
        SourceError
            The policy does not allow the address, or where it leads, or the file cannot be read.
        """
        address = self.resolve(address, what=what)
        try:
            if "://" not in address:
                return self._open_file(address, what)
            return RangeFile(partial(self._range, address, what), address)
        except OSError as error:
            raise SourceError(
                f"{what} cannot be read from {clean_href(address)!r}: {reason(error)}",
                "check that the link is still valid, or leave the item out with ids=",
            ) from error

    def _open_file(self, path: str, what: str) -> IO[bytes]:
        file = open_plain(path)
        opened = path_of(file)
        if not any(within(opened, root) for root in self.roots):  # a link took its place after the check
            file.close()
            raise _outside(self.roots, what, opened, "['/its/folder']")
        return file

    def _range(self, address: str, what: str, start: int, stop: int) -> Part:
        limits = self.limits
        session = kept_session(self, lambda: self.session(what, retries=_AGAIN))
        session.check = partial(self.resolve, what=what)
        return session.read_range(address, start, stop, most=limits.json_bytes, timeout_s=limits.timeout_s)

    # -- documents ------------------------------------------------------------------------------------

    def session(self, what: str, *, retries: Any = 0) -> CheckedSession:
        """Return an HTTP session whose requests and redirects go only to addresses that the policy allows."""
        check = partial(self.resolve, what=what)
        return CheckedSession(check, self._accepts, redirects=self.limits.redirects, retries=retries)

    def read_json(self, href: str, *, what: str) -> dict[str, Any]:
        """Read a JSON document, following redirects only to allowed addresses.

        Raises
        ------
        SourceError
            It may not be read, cannot be read, exceeds a limit or is not a JSON object.
        """
        address = self.resolve(href, what=what)
        try:
            data = self._read(address, what)
        except OSError as error:
            raise SourceError(
                f"{what} cannot be read from {clean_href(address)!r}: {reason(error)}",
                "check the path or URL; if it is right, the server may be unreachable",
            ) from error
        return self.limits.parse_json(data, what=f"{what} at {clean_href(address)!r}")

    def _read(self, address: str, what: str) -> bytes:
        most = self.limits.json_bytes + 1
        if is_object(address):
            return read(address, most)[0]
        if "://" in address:
            with self.session(what) as session:
                return session.read(address, most=most, timeout_s=self.limits.timeout_s)
        with self._open_file(address, what) as file:
            return file.read(most)

    def send(
        self, method: str, address: str, body: bytes | None, headers: Mapping[str, str], *, what: str
    ) -> tuple[int, bytes]:
        """Send a request, follow no redirect, and return status and body.

        Raises
        ------
        SourceError
            The address may not be contacted, or does not answer.
        """
        limits = self.limits
        try:
            with self.session(what) as session:
                return session.exchange(
                    method, address, body, dict(headers), most=limits.json_bytes, timeout_s=limits.timeout_s
                )
        except OSError as error:
            raise SourceError(
                f"{what} does not answer at {clean_href(address)!r}: {reason(error)}", "check that it runs"
            ) from error


def _outside(roots: Sequence[str], what: str, href: str, folder: str) -> SourceError:
    allowed = ", ".join(map(repr, roots)) or "every allowed folder"
    return _refused(
        what, href, f"lies outside of {allowed}", f"if you trust it, allow its folder: allow={folder}"
    )


def _allows_host(hosts: Sequence[str], name: str, port: int, scheme: str) -> bool:
    for entry in hosts:
        known, _, wanted = entry.rpartition(":") if re.search(r":\d+$", entry) else (entry, "", "")
        same = name.endswith(known[1:]) if known.startswith("*.") else name == known
        if same and (int(wanted) == port if wanted else (scheme.lower(), port) == ("https", 443)):
            return True
    return False


def _check_addresses(
    accepts: Callable[[IPAddress], bool], name: str, port: int, href: str, what: str
) -> None:
    """Refuse host names that resolve to this machine or its local network."""
    try:
        addresses = addresses_of(name, port)
    except OSError as error:
        raise _refused(
            what, href, f"does not resolve ({error})", "check the host name and the network"
        ) from error
    for address in addresses:
        if not accepts(address):
            raise _refused(
                what, href, f"resolves to the private address {address}",
                f"if you trust it, allow the address: allow=['{address}']",
            )  # fmt: skip


def _parse_entry(entry: str) -> tuple[list[str], list[str], list[str]]:
    """Return the roots, hosts and networks that one entry of ``allow`` adds."""
    if is_object(entry):
        return [folder_of(entry)], [], []
    if entry.startswith(("/", ".", "~")):
        return [str(Path(entry).expanduser().resolve())], [], []
    try:
        network = str(ipaddress.ip_network(entry, strict=False))
    except ValueError:
        pass
    else:
        return [], [] if "/" in entry else [entry], [network]
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:\d+)?", entry):
        raise ParameterError(
            f"allow: {entry!r} is neither a folder, a host nor a network",
            "write e.g. './data', 'data.example.org', '*.example.org', 'localhost:9000' or '10.0.0.0/8'",
        )
    name = entry.partition(":")[0]
    if name.lower() == "localhost":
        return [], [entry.lower()], ["127.0.0.0/8", "::1/128"]
    private = [f"{name}/32"] if ":" in entry and literal(name) is not None else []
    return [], [entry.lower()], private


def folder_of(source: str) -> str:
    """Return the folder of an address of an object store: its prefix, or that of its JSON document."""
    bucket, key = parse(source)
    folder = key.rpartition("/")[0] if key.endswith(".json") else key
    return f"s3://{bucket}/{folder}".rstrip("/")


def check_tree(folder: str, *, what: str) -> None:
    """Refuse a local folder that contains links: a chunk that is a link can be any file of the machine."""
    for base, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(base, name)
            if os.path.islink(path):
                raise _refused(what, path, "is a link", "copy the group with its content")


def within(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> bool:
    """Return whether a path lies in a folder, both resolved."""
    # As Path.is_relative_to, in a tenth of its time: a job asks of every asset.
    inner, outer = (os.path.normcase(os.fspath(one)) for one in (path, root))
    return inner == outer or inner.startswith(os.path.join(outer, ""))


def _refused(what: str, href: Any, why: str, remedy: str) -> SourceError:
    shown = clean_href(href)[:200] if isinstance(href, str) else repr(href)[:80]
    return SourceError(f"{what}: {shown!r} {why}", remedy)
