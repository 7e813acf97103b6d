"""Object stores: the one door to S3-like services, for addresses such as ``s3://bucket/key``.

obstore does the talking. Endpoint and credentials come from the environment (``AWS_ENDPOINT_URL``, ``AWS_*``)
of the process that talks: nothing here holds them, so they travel in no task and stand in no message.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

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
    "is_told",
    "open_store",
    "parse",
    "put",
    "read",
]


_PART_BYTES = 16 * 2**20
"""Larger files go up in parts; the object appears when the last part is there."""
_ATTEMPTS = 4
_RETRY_S = 60.0
"""Seconds for which a request is tried again after an error of the network or the service."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_TYPES = {".json": "application/json", ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
          ".html": "text/html; charset=utf-8", ".md": "text/markdown; charset=utf-8"}  # fmt: skip


class StoreError(TargetError, OSError):
    """The service cannot be reached, or refuses; what it said is cut down to what holds no secret."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(
            problem,
            remedy
            or "Check bucket, AWS_ENDPOINT_URL, AWS_REGION and the credentials in the environment, and run it "
            "again; what is published stays.",
        )


class ChangedError(StoreError):
    """A conditional write came too late: another version of the object is there."""


class UnsupportedError(StoreError):
    """The service has no conditional writes."""


@dataclass(frozen=True)
class Entry:
    """An object, without its content."""

    key: str
    size: int
    tag: str
    """Entity tag: changes with the content."""
    changed: datetime


def is_object(address: str) -> bool:
    """Tell whether an address is one of an object store."""
    return address[:5].lower() == "s3://"


def parse(address: str) -> tuple[str, str]:
    """Return bucket and key of ``s3://bucket/key``; the key may be empty.

    Raises
    ------
    ParameterError
        The address has another form, or its key leads upwards.
    """
    bucket, _, key = address[5:].partition("/")
    key = key.rstrip("/")
    odd = not is_object(address) or _BUCKET.fullmatch(bucket) is None or ".." in bucket
    if (
        odd
        or any(part in ("", ".", "..") for part in key.split("/") if key)
        or re.search(r"[\x00-\x1f\x7f\\?#]", key)
    ):
        raise ParameterError(
            f"{address.partition('?')[0][:200]!r} is no address of an object.",
            "Write it like s3://bucket/folder/name.",
        )
    return bucket, key


def read(address: str, most: int = -1) -> tuple[bytes, str]:
    """Return content and tag of an object; at most so many bytes.

    Raises
    ------
    FileNotFoundError
        There is none.
    StoreError
        The service cannot be reached, or refuses.
    """
    bucket, key = parse(address)

    def ask() -> tuple[bytes, str]:
        import obstore

        answer = obstore.get(open_store(bucket), key)
        if 0 <= most < answer.meta["size"]:
            return bytes(obstore.get_range(open_store(bucket), key, start=0, length=most)), ""
        content = bytes(answer.bytes())
        if len(content) != answer.meta["size"]:
            raise StoreError(f"{address!r}: only {len(content)} of {answer.meta['size']} bytes came.")
        return content, str(answer.meta["e_tag"] or "")

    return _asked(ask, address)


def head(address: str) -> Entry:
    """Return what the service tells of an object; raises as `read` does."""
    bucket, key = parse(address)

    def ask() -> Entry:
        import obstore

        return _entry(obstore.head(open_store(bucket), key))

    return _asked(ask, address)


def put(address: str, content: bytes | Path, *, instead_of: str | None = None) -> None:
    """Write an object: it appears complete, or not at all.

    Parameters
    ----------
    address
        Where.
    content
        Bytes, or a file.
    instead_of
        Write only if the object there has this tag; empty: only if there is none. None: whatever is there.

    Raises
    ------
    ChangedError, UnsupportedError
        Of conditional writes.
    StoreError
        The service cannot be reached, or refuses. Whether the object was written is not known then.
    """
    bucket, key = parse(address)
    kind = {"Content-Type": _TYPES.get(os.path.splitext(key)[1], "application/octet-stream")}
    mode: Any = "overwrite" if instead_of is None else {"e_tag": instead_of} if instead_of else "create"

    def ask() -> None:
        import obstore

        large = isinstance(content, Path) and content.stat().st_size > _PART_BYTES
        obstore.put(
            open_store(bucket), key, content, mode=mode, attributes=kind, use_multipart=large, chunk_size=_PART_BYTES
        )  # fmt: skip

    # A conditional write whose answer was lost finds its own object the second time: the caller looks.
    _asked(ask, address, once=instead_of is not None)


def delete(address: str) -> None:
    """Remove an object; none there is as well."""
    bucket, key = parse(address)

    def ask() -> None:
        import obstore

        obstore.delete(open_store(bucket), key)

    try:
        _asked(ask, address)
    except FileNotFoundError:
        return


def entries(address: str, *, deep: bool) -> Iterator[tuple[str, Entry | None]]:
    """Yield the keys below an address, and what is known of each; without ``deep``, folders as (key, None)."""
    bucket, key = parse(address)
    prefix = f"{key}/" if key else None
    if not deep:

        def ask() -> Any:
            import obstore

            return obstore.list_with_delimiter(open_store(bucket), prefix)

        found = _asked(ask, address)
        yield from ((str(folder).rstrip("/"), None) for folder in found["common_prefixes"])
        yield from ((one["path"], _entry(one)) for one in found["objects"])
        return

    def pages() -> Any:
        import obstore

        return iter(obstore.list(open_store(bucket), prefix))

    answers = _asked(pages, address)
    while (page := _asked(lambda: next(answers, None), address)) is not None:
        yield from ((one["path"], _entry(one)) for one in page)


def _entry(meta: Mapping[str, Any]) -> Entry:
    return Entry(str(meta["path"]), int(meta["size"]), str(meta["e_tag"] or ""), meta["last_modified"])


def open_store(bucket: str, prefix: str = "") -> Any:
    """Return obstore's store of a bucket, or of what is below a prefix of it."""
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    return _store(bucket, prefix, os.getpid(), environment)


@lru_cache(maxsize=64)
def _store(bucket: str, prefix: str, process: int, environment: tuple[tuple[str, str], ...]) -> Any:
    """One per process, since threads of the store do not outlive a fork, and per environment."""
    del process
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ParameterError(
            f"s3://{bucket} needs the package obstore.", "pip install 'eoaug[s3]'"
        ) from error
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
    """Return the endpoint that the environment names, else the empty string."""
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""


def _asked[T](ask: Callable[[], T], address: str, *, once: bool = False) -> T:
    """Call obstore, again where that does no harm, and turn its errors into ours."""
    for attempt in range(_ATTEMPTS):
        try:
            return _translated(ask, address)
        except (ChangedError, UnsupportedError):
            raise
        except StoreError:
            # obstore tries again by itself, but not when an answer breaks off in the middle.
            if once or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.2 * 2**attempt)
    raise AssertionError


def _translated[T](ask: Callable[[], T], address: str) -> T:
    from obstore import exceptions as theirs

    # Without their causes: services repeat key ids and signatures in what they answer.
    try:
        return ask()
    except StoreError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(2, f"no object {address!r}") from None
    except (theirs.AlreadyExistsError, theirs.PreconditionError):
        raise ChangedError(f"{address!r} was changed by another process.") from None
    except (theirs.NotSupportedError, NotImplementedError):
        raise UnsupportedError("the store has no conditional writes.") from None
    except (theirs.BaseError, OSError) as error:
        raise StoreError(f"{address!r}: {_told(error)}.") from None


def _told(error: BaseException) -> str:
    status = re.search(r"status code: (\d{3}(?: [A-Z][A-Za-z]+)*)", str(error))
    code = re.search(r"<Code>(\w{1,60})</Code>", str(error))
    if status is not None:
        return f"the store answers {status[1]}" + (f" ({code[1]})" if code else "")
    return "the store cannot be reached, or breaks off"


def icechunk_options() -> dict[str, Any]:
    """Return Icechunk's settings for the store of the environment; credentials it finds there by itself."""
    endpoint, anonymous = endpoint_of(os.environ), is_told("AWS_SKIP_SIGNATURE")
    return {
        "endpoint_url": endpoint or None,
        "allow_http": endpoint.startswith("http://"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "force_path_style": bool(endpoint) and not is_told("AWS_VIRTUAL_HOSTED_STYLE_REQUEST"),
        **({"anonymous": True} if anonymous else {"from_env": True}),
    }


def is_told(name: str) -> bool:
    """Tell whether a variable of the environment is "true"."""
    return os.environ.get(name, "").lower() == "true"
