"""HTTP requests of which every hop, redirects included, is first checked by the access policy."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import requests
from requests.adapters import HTTPAdapter

__all__ = ["CheckedSession", "StatusError", "reason"]


class StatusError(OSError):
    """The server answered with an HTTP status that is not a success."""


class CheckedSession(requests.Session):
    """A session that opens http and https addresses only, each after a check.

    Parameters
    ----------
    check
        Called with the URL of each request and each redirect, before a connection is made. Returns the URL to
        open, or raises.
    redirects
        Redirects followed for one request.
    retries
        Number of attempts, or a urllib3 ``Retry``.
    """

    def __init__(self, check: Callable[[str], str], *, redirects: int, retries: Any = 0) -> None:
        super().__init__()
        self.max_redirects = redirects
        # A request without credentials of its own gets none: the default reads ~/.netrc.
        self.auth = _no_credentials
        self.adapters.clear()
        for scheme in ("https://", "http://"):
            self.mount(scheme, _CheckedAdapter(check, retries))

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
            return _body(response, most)

    def final_url(self, url: str, *, timeout_s: float) -> str:
        """Return where a URL leads after redirects; raises as `read` does."""
        headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
        with self.get(url, headers=headers, timeout=timeout_s, stream=True) as response:
            _check_status(response)
            return str(response.url) if response.history else url

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
            return int(response.status_code), _body(response, most)


class _CheckedAdapter(HTTPAdapter):
    """Sends a request only to the URL that the check returns for it."""

    def __init__(self, check: Callable[[str], str], retries: Any) -> None:
        super().__init__(max_retries=retries)
        self._check = check

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        request.url = self._check(request.url)
        return super().send(request, *args, **kwargs)


def _no_credentials(request: Any) -> Any:
    return request


def _check_status(response: Any) -> None:
    if not 200 <= response.status_code < 300:
        raise StatusError(f"HTTP status {response.status_code}")


def _body(response: Any, most: int) -> bytes:
    try:
        return bytes(response.raw.read(most, decode_content=False))
    except Exception as error:  # urllib3 has errors of its own for connections that break off
        raise OSError(f"the connection broke off ({type(error).__name__})") from error


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
