"""Object stores: the single entry point to S3-like services, for addresses such as ``s3://bucket/key``.

Requests are made by obstore. Endpoint and credentials come from the environment (``AWS_ENDPOINT_URL``,
``AWS_*``) of the process that makes a request. Nothing here stores them, so no work item and no message
contains them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from eoaug.errors import ParameterError, TargetError

__all__ = [
    "ChangedError",
    "Entry",
    "StoreError",
    "UnsupportedError",
    "delete",
    "endpoint_of",
    "entries",
    "head",
    "icechunk_options",
    "is_object",
    "is_true",
    "may_pass",
    "open_store",
    "parse",
    "put",
    "read",
]


_PART_BYTES = 16 * 2**20
"""Larger files are uploaded in parts; the object appears when the last part is complete."""
_ATTEMPTS = 4
_RETRY_S = 60.0
"""Seconds for which obstore repeats a request after an error of the network or the service."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_TYPES = {".json": "application/json", ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
          ".html": "text/html; charset=utf-8", ".md": "text/markdown; charset=utf-8"}  # fmt: skip


class StoreError(TargetError, OSError):
    """The service cannot be reached, or refuses; the message contains only what is not secret."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(
            problem,
            remedy
            or "check bucket, AWS_ENDPOINT_URL, AWS_REGION and the credentials in the environment, and run it "
            "again; published items are kept",
        )


class ChangedError(StoreError):
    """A conditional write failed: the object has been changed since it was read."""


class UnsupportedError(StoreError):
    """The service has no conditional writes."""


@dataclass(frozen=True)
class Entry:
    """An object, without its content."""

    key: str
    size: int
    tag: str
    """Entity tag, which changes with the content."""
    changed: datetime


def is_object(address: str) -> bool:
    """Return whether an address is one of an object store."""
    return address[:5].lower() == "s3://"


def parse(address: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://bucket/key``; the key may be empty.

    Raises
    ------
    ParameterError
        The address has another form, or its key contains ``..``.
    """
    bucket, _, key = address[5:].partition("/")
    key = key.rstrip("/")
    malformed = not is_object(address) or _BUCKET.fullmatch(bucket) is None or ".." in bucket
    if (
        malformed
        or any(part in ("", ".", "..") for part in key.split("/") if key)
        or re.search(r"[\x00-\x1f\x7f\\?#]", key)
    ):
        raise ParameterError(
            f"{address.partition('?')[0][:200]!r} is not an address of an object",
            "write it like s3://bucket/folder/name",
        )
    return bucket, key


def read(address: str, most: int = -1) -> tuple[bytes, str]:
    """Return content and tag of an object.

    Parameters
    ----------
    address
        ``s3://bucket/key``.
    most
        Bytes to read at most; negative: all of them.

    Raises
    ------
    FileNotFoundError
        There is no such object.
    StoreError
        The service cannot be reached, or refuses.
    """
    bucket, key = parse(address)

    def request() -> tuple[bytes, str]:
        import obstore

        response = obstore.get(open_store(bucket), key)
        if 0 <= most < response.meta["size"]:
            return bytes(obstore.get_range(open_store(bucket), key, start=0, length=most)), ""
        content = bytes(response.bytes())
        if len(content) != response.meta["size"]:
            raise StoreError(f"{address!r}: only {len(content)} of {response.meta['size']} bytes arrived")
        return content, str(response.meta["e_tag"] or "")

    return _attempt(request, address)


def head(address: str) -> Entry:
    """Return the metadata of an object; raises as `read` does."""
    bucket, key = parse(address)

    def request() -> Entry:
        import obstore

        return _entry(obstore.head(open_store(bucket), key))

    return _attempt(request, address)


def put(address: str, content: bytes | Path, *, instead_of: str | None = None) -> None:
    """Write an object, which appears complete or not at all.

    Parameters
    ----------
    address
        ``s3://bucket/key``.
    content
        Bytes, or a file.
    instead_of
        Write only if the existing object has this tag; empty: only if there is none; None: in any case.

    Raises
    ------
    ChangedError, UnsupportedError
        A conditional write was refused, or is not supported.
    StoreError
        The service cannot be reached, or refuses; the object may have been written all the same.
    """
    bucket, key = parse(address)
    attributes = {"Content-Type": _TYPES.get(os.path.splitext(key)[1], "application/octet-stream")}
    mode: Any = "overwrite" if instead_of is None else {"e_tag": instead_of} if instead_of else "create"

    def request() -> None:
        import obstore

        large = isinstance(content, Path) and content.stat().st_size > _PART_BYTES
        obstore.put(
            open_store(bucket), key, content, mode=mode, attributes=attributes, use_multipart=large, chunk_size=_PART_BYTES
        )  # fmt: skip

    # Not repeated here: if its answer was lost, a second conditional write would fail on its own object.
    _attempt(request, address, once=instead_of is not None)


def delete(address: str) -> None:
    """Remove an object; no error if it does not exist."""
    bucket, key = parse(address)

    def request() -> None:
        import obstore

        obstore.delete(open_store(bucket), key)

    try:
        _attempt(request, address)
    except FileNotFoundError:
        return


def entries(address: str, *, deep: bool) -> Iterator[tuple[str, Entry | None]]:
    """Yield the keys below an address with their metadata; without ``deep``, folders as (key, None)."""
    bucket, key = parse(address)
    prefix = f"{key}/" if key else None
    if not deep:

        def request() -> Any:
            import obstore

            return obstore.list_with_delimiter(open_store(bucket), prefix)

        listing = _attempt(request, address)
        yield from ((str(folder).rstrip("/"), None) for folder in listing["common_prefixes"])
        yield from ((meta["path"], _entry(meta)) for meta in listing["objects"])
        return

    def pages() -> Any:
        import obstore

        return iter(obstore.list(open_store(bucket), prefix))

    iterator = _attempt(pages, address)
    while (page := _attempt(lambda: next(iterator, None), address)) is not None:
        yield from ((meta["path"], _entry(meta)) for meta in page)


def _entry(meta: Mapping[str, Any]) -> Entry:
    return Entry(str(meta["path"]), int(meta["size"]), str(meta["e_tag"] or ""), meta["last_modified"])


def open_store(bucket: str, prefix: str = "") -> Any:
    """Return obstore's store for a bucket, or for a prefix in it."""
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    return _store(bucket, prefix, os.getpid(), environment)


@lru_cache(maxsize=64)
def _store(bucket: str, prefix: str, process: int, environment: tuple[tuple[str, str], ...]) -> Any:
    """Cached per environment, and per process, since threads of a store do not survive a fork."""
    del process
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ParameterError(f"s3://{bucket} needs the package obstore", "pip install 'eoaug[s3]'") from error
    plain = endpoint_of(dict(environment)).startswith("http://")
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options={"allow_http": plain, "connect_timeout": "10s", "read_timeout": "60s", "timeout": "600s"},
        retry_config={
            "max_retries": 8,
            "retry_timeout": timedelta(seconds=_RETRY_S),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 2},
        },
    )  # fmt: skip


def endpoint_of(environment: Mapping[str, str]) -> str:
    """Return the endpoint URL in the environment, or an empty string."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""


def _attempt[T](request: Callable[[], T], address: str, *, once: bool = False) -> T:
    """Call obstore, repeatedly where that is safe, and turn its errors into ours.

    obstore repeats requests itself, but not when a response breaks off in the middle.
    """
    attempts = Retrying(
        stop=stop_after_attempt(1 if once else _ATTEMPTS),
        wait=wait_exponential(multiplier=0.2),
        retry=retry_if_exception(may_pass),
        reraise=True,
    )
    result: T = attempts(_translate, request, address)
    return result


def may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed if it is repeated."""
    return isinstance(error, StoreError) and not isinstance(error, ChangedError | UnsupportedError)


def _translate[T](request: Callable[[], T], address: str) -> T:
    from obstore import exceptions

    # Without their causes: services repeat key ids and signatures in their messages.
    try:
        return request()
    except StoreError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(2, f"no object {address!r}") from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise ChangedError(f"{address!r} was changed by another process") from None
    except (exceptions.NotSupportedError, NotImplementedError):
        raise UnsupportedError("the store has no conditional writes") from None
    except (exceptions.BaseError, OSError) as error:
        raise StoreError(f"{address!r}: {_status_of(error)}") from None


def _status_of(error: BaseException) -> str:
    """Return the HTTP status and error code of an error, and nothing else of its message."""
    status = re.search(r"status code: (\d{3}(?: [A-Z][A-Za-z]+)*)", str(error))
    code = re.search(r"<Code>(\w{1,60})</Code>", str(error))
    if status is not None:
        return f"the store answers {status[1]}" + (f" ({code[1]})" if code else "")
    return "the store cannot be reached, or the connection broke off"


def icechunk_options() -> dict[str, Any]:
    """Return Icechunk's settings for the object store of the environment; Icechunk reads the credentials itself."""
    endpoint, anonymous = endpoint_of(os.environ), is_true("AWS_SKIP_SIGNATURE")
    return {
        "endpoint_url": endpoint or None,
        "allow_http": endpoint.startswith("http://"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "force_path_style": bool(endpoint) and not is_true("AWS_VIRTUAL_HOSTED_STYLE_REQUEST"),
        **({"anonymous": True} if anonymous else {"from_env": True}),
    }


def is_true(name: str) -> bool:
    """Return whether a variable of the environment is "true"."""
    return os.environ.get(name, "").lower() == "true"
