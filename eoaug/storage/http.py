"""HTTP requests of which every hop, redirects included, is first checked by the access policy.

So is every connection: a name is resolved where it is connected to, and only addresses that the policy accepts are.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from eoaug.storage.hosts import IPAddress, unpacked

__all__ = ["CheckedSession", "Part", "StatusError", "kept_session", "reason"]


_LEAST_BYTES_PER_S = 1024
"""A server that sends less is not waited for."""
_PIECE = 2**16


class StatusError(OSError):
    """The server answered with an HTTP status that is not a success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


@dataclass(frozen=True)
class Part:
    """A range of bytes of a file."""

    data: bytes
    size: int
    """Of the whole file."""
    version: str
    """Changes with the file."""


class CheckedSession(requests.Session):
    """A session that opens http and https addresses only, each after a check.

    Parameters
    ----------
    check
        Called with the URL of each request and each redirect, before a connection is made. Returns the URL to
        open, or raises.
    accepts
        Called with each IP address that the name of a host resolves to; only accepted ones are connected to.
    redirects
        Redirects followed for one request.
    retries
        Number of attempts, or a urllib3 ``Retry``.
    """

    def __init__(
        self,
        check: Callable[[str], str],
        accepts: Callable[[IPAddress], bool],
        *,
        redirects: int,
        retries: Any = 0,
    ) -> None:
        super().__init__()
        self.check = check
        self.max_redirects = redirects
        # A request without credentials of its own gets none: the default reads ~/.netrc.
        self.auth = _no_credentials
        self.adapters.clear()
        for scheme in ("https://", "http://"):
            self.mount(scheme, _CheckedAdapter(lambda url: self.check(url), accepts, retries))

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        """Remove the credentials of a request that is redirected to another host; the default reads ~/.netrc."""
        if self.should_strip_auth(response.request.url, prepared_request.url):
            prepared_request.headers.pop("Authorization", None)

    def read(self, url: str, *, most: int, timeout_s: float) -> bytes:
        """Return the body of a document, at most so many bytes.

        Raises
        ------
        OSError
            The server does not answer, or not with success.
        """
        # Not compressed: the limit is on the bytes that arrive.
        headers = {"Accept": "application/json, */*", "Accept-Encoding": "identity"}
        with self.get(url, headers=headers, timeout=timeout_s, stream=True) as response:
            _check_status(response)
            return _body(response, most, timeout_s)

    def read_range(self, url: str, start: int, stop: int, *, most: int, timeout_s: float) -> Part:
        """Return the bytes from ``start`` to ``stop`` of a file, fewer at its end.

        A server without ranges sends the whole file, of at most ``most`` bytes. Raises as `read` does.
        """
        try:
            return self._read_range(url, start, stop, most, timeout_s)
        except requests.RequestException as error:  # whose message repeats the URL with its signature
            raise OSError(reason(error)) from None

    def _read_range(self, url: str, start: int, stop: int, most: int, timeout_s: float) -> Part:
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with self.get(url, headers=headers, timeout=timeout_s, stream=True) as response:
            if response.status_code == 416:
                return Part(b"", start, "")
            _check_status(response)
            fields = response.headers
            version = f"{fields.get('ETag', '')} {fields.get('Last-Modified', '')}"
            if response.status_code != 206:
                data = _body(response, most + 1, timeout_s)
                if len(data) > most:
                    raise OSError("the server does not serve ranges of files")
                return Part(data[start:stop], len(data), f"{version} {len(data)}")
            place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", fields.get("Content-Range", ""))
            if place is None or int(place[1]) != start:
                raise OSError(f"the server sent another range than {start} to {stop - 1}")
            data = _body(response, stop - start, timeout_s)
            size = int(place[3])
            if len(data) != min(stop, size) - start:
                raise OSError("the connection broke off")
            return Part(data, size, f"{version} {size}")

    def exchange(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: dict[str, str],
        *,
        most: int,
        timeout_s: float,
    ) -> tuple[int, bytes]:
        """Send a request, follow no redirect, and return status and body; raises as `read` does."""
        headers = {"Accept-Encoding": "identity", **headers}
        with self.request(
            method, url, data=body, headers=headers, timeout=timeout_s, stream=True, allow_redirects=False
        ) as response:
            return int(response.status_code), _body(response, most, timeout_s)


class _CheckedAdapter(HTTPAdapter):
    """Sends a request only to the URL that the check returns for it, over connections to accepted addresses.

    A proxy is what the user's environment names: it is connected to as it is, and resolves the names itself.
    """

    def __init__(
        self, check: Callable[[str], str], accepts: Callable[[IPAddress], bool], retries: Any
    ) -> None:
        self._check, self._accepts = check, accepts
        super().__init__(max_retries=retries)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make connections that resolve the name of their host once, and check its addresses."""
        super().init_poolmanager(*args, **kwargs)
        accepts = self._accepts

        class PlainConnection(_Judged, HTTPConnection):
            judge = staticmethod(accepts)

        class SecureConnection(_Judged, HTTPSConnection):
            judge = staticmethod(accepts)

        pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": PlainConnection}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": SecureConnection}),
        }
        self.poolmanager.pool_classes_by_scheme = pools

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.url = self._check(request.url)
        return super().send(request, *args, **kwargs)


class _Judged:
    """A connection to an accepted address: the name is resolved here, and nowhere after the check."""

    judge: Callable[[IPAddress], bool]

    def _new_conn(self) -> socket.socket:
        connection: Any = self
        name = connection._dns_host
        failure: Exception = OSError(f"the host {name} has no address that may be contacted")
        for entry in socket.getaddrinfo(name, connection.port, type=socket.SOCK_STREAM):
            text = str(entry[4][0])
            if not self.judge(unpacked(ipaddress.ip_address(text.partition("%")[0]))):
                continue
            connection._dns_host = text
            try:
                return super()._new_conn()  # type: ignore[misc,no-any-return]
            except (HTTPError, OSError) as error:  # another address may answer
                failure = error
            finally:
                connection._dns_host = name
        raise failure


_own = threading.local()
_MOST_SESSIONS = 8


def kept_session(key: Hashable, make: Callable[[], CheckedSession]) -> CheckedSession:
    """Return the session of a key, made once per thread: its connections stay open between ranges of files."""
    sessions: dict[Any, CheckedSession] = _own.__dict__.setdefault("sessions", {})
    key = key, os.getpid()  # a forked process must not use the connections of its parent
    if key not in sessions:
        if len(sessions) >= _MOST_SESSIONS:
            sessions.clear()
        sessions[key] = make()
    return sessions[key]


def _no_credentials(request: Any) -> Any:
    return request


def _check_status(response: Any) -> None:
    if not 200 <= response.status_code < 300:
        raise StatusError(response.status_code)


def _body(response: Any, most: int, timeout_s: float) -> bytes:
    """Return at most so many bytes of a body; a server that sends them one by one is not waited for."""
    pieces: list[bytes] = []
    got, begun = 0, time.monotonic()
    try:
        while got < most and (piece := response.raw.read1(min(most - got, _PIECE), decode_content=False)):
            pieces.append(piece)
            got += len(piece)
            if time.monotonic() - begun > timeout_s + got / _LEAST_BYTES_PER_S:
                raise requests.Timeout
    except requests.Timeout:
        raise
    except Exception as error:  # urllib3 has errors of its own for connections that break off
        raise OSError(f"the connection broke off ({type(error).__name__})") from error
    return b"".join(pieces)


def reason(error: BaseException) -> str:
    """Return why a request failed; without the message of requests, which repeats URLs with their signatures."""
    if isinstance(error, requests.TooManyRedirects):
        return "too many redirects"
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "it redirects to an address that is not http or https"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.RequestException):
        return f"the connection failed ({_cause(error)})"
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def _cause(error: BaseException) -> str:
    """Return the innermost cause that the operating system named, else the type of the error."""
    inner: Any = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return str(inner.strerror)
        inner = inner.__cause__ or inner.__context__
    return type(error).__name__


class _WithoutQuery(logging.Filter):
    """Removes the query strings of URLs that other libraries log, since they may contain signatures."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        clean = re.sub(r"(?<=[^\s'\"<>])\?[^\s'\"<>]*=[^\s'\"<>]*", "", text)
        if clean != text:
            record.msg, record.args = clean, ()
        return True


for _name in ("_base", "_env", "_err", "_io", "_warp", "env"):
    logging.getLogger(f"rasterio.{_name}").addFilter(_WithoutQuery())
logging.getLogger("urllib3.connectionpool").addFilter(_WithoutQuery())
