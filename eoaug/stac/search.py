"""Items of a source: static catalogs, STAC APIs and lists of items, filtered.

Documents are read one at a time under the access policy, so memory does not grow with the catalog.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pystac

from eoaug.errors import EoaugError, ParameterError, SourceError, did_you_mean, first_line, foreign
from eoaug.stac.filters import Search, item_times
from eoaug.stac.local_files import Files, files_at
from eoaug.stac.raster_files import UNDATED, items_of_files
from eoaug.storage.access import AccessPolicy
from eoaug.storage.names import clean_href
from eoaug.storage.s3 import entries, is_object, parse

__all__ = ["BrokenLinkError", "SourceItem", "as_item", "find", "known_sources", "show", "signer_of", "stream"]


_TRIES = 6
"""Attempts at one request of a search."""


def known_sources() -> dict[str, dict[str, Any]]:
    """Return the public STAC APIs that `open_cube` knows by name, with ``url``, ``title`` and ``hosts``."""
    text = resources.files(__package__).joinpath("sources.json").read_text(encoding="utf-8")
    sources: dict[str, dict[str, Any]] = json.loads(text)
    return sources


@dataclass(frozen=True)
class SourceItem:
    """The document of an item, its address, and the access policy of its source."""

    document: Mapping[str, Any]
    href: str
    """Absolute address of the document; empty for an item without one."""
    access: AccessPolicy
    """Which addresses the document may point to."""
    item: pystac.Item | None = None
    """The item, if the user passed one; ``document`` is empty then."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the document and its address."""
        document = self.document if self.item is None else self.item.to_dict(transform_hrefs=False)
        return hashlib.sha256(
            json.dumps([document, self.href], sort_keys=True, default=str).encode()
        ).hexdigest()


def find(
    source: Any, search: Search, *, text: str | None, allow: Sequence[str] = ()
) -> list[tuple[pystac.Item, AccessPolicy]]:
    """Return the items that pass the filters, in order of time, each with its access policy."""
    kept, examined = [], 0
    for entry in stream(source, search, text=text, allow=allow):
        examined += 1
        item = as_item(entry)
        if search.keeps(item):
            kept.append((item, entry.access))
    if not kept:
        names = ", ".join(known_sources())
        raise SourceError(
            f"no item found in {show(source)} with {search}; {examined} items were examined",
            f"widen the search; named sources are: {names}"
            if not examined
            else "widen the search, or check bbox (west, south, east, north in degrees) and datetime",
        )
    origins = sorted({item.collection_id or "" for item, _ in kept})
    if len(origins) > 1 and not search.collections:
        raise ParameterError(
            f"{show(source)} holds items of several collections: {origins}",
            f"choose one or several, e.g. collections={origins[:1]!r}",
        )
    kept.sort(key=lambda entry: (item_times(entry[0])[0], entry[0].id))
    return kept[: search.limit]


class BrokenLinkError(SourceError):
    """A link whose address cannot be read as one: it names no item."""


Lost = Callable[[str, EoaugError], None]
"""Called with the address of a document that cannot be read, and the error. Without it, the error is raised."""


def stream(
    source: Any, search: Search, *, text: str | None, allow: Sequence[str] = (), lost: Lost | None = None
) -> Iterator[SourceItem]:
    """Yield the items of a source, one document in memory at a time.

    Parameters
    ----------
    source
        As for `eoaug.open_cube`.
    search
        Collections and CQL2 are applied here, an API applies all; the caller applies the rest: `Search.keeps`.
    text
        The interval as the user wrote it, for an API.
    allow
        What addresses may point to besides the source's own folder or host; see `AccessPolicy.for_source`.
    lost
        Called for every document that cannot be read; the others follow.
    """
    if isinstance(source, pystac.Item):
        yield from _matching([_item_in_memory(source, allow)], search)
    elif isinstance(source, pystac.Catalog):
        access = AccessPolicy.for_source(source.get_self_href() or "", allow)
        yield from _matching(_catalog_items(source, search, access), search)
    elif isinstance(source, str | Path):
        known = known_sources().get(str(source))
        href = known["url"] if known else str(source)
        yield from _from_href(
            href, search, text, AccessPolicy.for_source(href, allow, known["hosts"] if known else ()), lost
        )
    elif isinstance(source, Iterable):
        for index, item in enumerate(source):
            if not isinstance(item, pystac.Item):
                raise SourceError(
                    f"entry {index} of the list is a {type(item).__name__}, not a pystac.Item",
                    "give items, e.g. list(pystac_client.Client.open(url).search(...).items())",
                )
            yield from _matching([_item_in_memory(item, allow)], search)
    else:
        raise SourceError(
            f"cannot open a {type(source).__name__} as a cube",
            "give a path or URL of a catalog, a list of items, or an xarray object",
        )


def _matching(
    entries: Iterable[SourceItem], search: Search, lost: Lost | None = None
) -> Iterator[SourceItem]:
    """Yield what passes the CQL2 filter, for sources that do not evaluate it themselves."""
    search.check_cql2()
    for entry in entries:
        try:
            with foreign(f"the filter of item {clean_href(entry.href)!r}", "correct the item", SourceError):
                kept = search.cql2 is None or search.matches_cql2(
                    entry.document if entry.item is None else entry.item.to_dict(transform_hrefs=False)
                )
        except EoaugError as error:
            if lost is None:
                raise
            lost(clean_href(entry.href), error)
            continue
        if kept:
            yield entry


def as_item(entry: SourceItem) -> pystac.Item:
    """Return the item of a document.

    Raises
    ------
    SourceError
        The document is not an item.
    """
    if entry.item is not None:
        return entry.item
    href = entry.href or None
    read, own = pystac.Item.from_dict, partial(json.dumps, entry.document)  # a copy, faster than pystac's
    item: pystac.Item = _stac(lambda: read(json.loads(own()), href, preserve_dict=False), href or "an item")
    if not isinstance(item.id, str) or not item.id:
        raise SourceError(f"an item at {clean_href(entry.href)!r} has the id {item.id!r}", "give it a name")
    try:
        item.id.encode()
    except UnicodeEncodeError as error:
        raise SourceError(
            f"an item at {clean_href(entry.href)!r} has the id {item.id!r}, which is not valid Unicode",
            "give it a name",
        ) from error
    if not isinstance(item.properties, dict) or not all(isinstance(key, str) for key in item.properties):
        raise SourceError(f"item {item.id!r} has no properties", "correct the document")
    return item


def _item_in_memory(item: pystac.Item, allow: Sequence[str]) -> SourceItem:
    """Wrap an item that the user passed; its relative hrefs start from its self link."""
    href = item.get_self_href() or ""
    return SourceItem({}, href, AccessPolicy.for_source(href, allow), item)


def signer_of(source: Any) -> Callable[[str], str] | None:
    """Return the function that signs addresses of a named source; None if it needs no signatures."""
    known = known_sources().get(str(source)) if isinstance(source, str) else None
    return _signer(known.get("sign")) if known else None


def _from_href(
    href: str, search: Search, text: str | None, access: AccessPolicy, lost: Lost | None
) -> Iterator[SourceItem]:
    files = files_at(href)
    if files is not None:
        yield from _from_files(href, files, search, access)
        return
    if is_object(href):
        href = _object_file(href)
    elif "://" not in href:
        href = str(_local_file(Path(href).expanduser()))
    try:
        document = access.read_json(href, what="the source")
    except SourceError as error:
        hint = did_you_mean(href, known_sources())
        raise SourceError(error.problem, hint or error.remedy or "give a catalog") from error
    links = document.get("links")
    links = links if isinstance(links, list) else []
    if document.get("conformsTo") or any(isinstance(k, dict) and k.get("rel") == "search" for k in links):
        yield from _from_api(href, search, text, access)
    else:
        yield from _matching(_static_items(document, href, search.collections, access, lost), search, lost)


def _from_files(href: str, files: Files, search: Search, access: AccessPolicy) -> Iterator[SourceItem]:
    """Yield the items that raster files make."""
    if files.kind == "array":
        raise SourceError(
            f"{clean_href(href)!r} is netCDF or Zarr, which is one cube and has no items",
            "open it with eoaug.open_cube, or give it to a verb as SOURCE without --each",
        )
    if search.collections:
        raise ParameterError(
            f"collections={list(search.collections)} were given, but {clean_href(href)!r} is no catalog",
            "omit collections",
        )
    items = items_of_files(files.addresses, access)
    for item in items:
        if search.interval is not None and item.properties.get(UNDATED):
            raise ParameterError(
                f"datetime was given, but no date is known of {item.id!r}",
                "omit datetime, or put the date into the file's name, like scene_20240601.tif",
            )
    yield from _matching([SourceItem({}, "", access, item) for item in items], search)


def _from_api(href: str, search: Search, text: str | None, access: AccessPolicy) -> Iterator[SourceItem]:
    from pystac_client import Client
    from pystac_client.stac_api_io import StacApiIO
    from urllib3.util import Retry

    if not (search.collections or search.ids):
        raise ParameterError(
            f"a search of {clean_href(href)!r} needs collections or ids",
            "give collections=[...], e.g. ['sentinel-2-l2a'], or ids=[...]",
        )

    def ask() -> Iterator[dict[str, Any]]:
        # A search changes nothing, so it may be sent again, POST too, also after "too many requests".
        again = Retry(
            total=_TRIES, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), allowed_methods=None
        )
        stac_io = StacApiIO(timeout=access.limits.timeout_s)
        stac_io.session = access.session("the API", retries=again)
        client = Client.open(href, stac_io=stac_io)
        _refuse_unsupported(client, search, href)
        results = client.search(
            collections=list(search.collections) or None,
            ids=list(search.ids) or None,
            bbox=search.bbox,
            datetime=text,
            query={k: v if isinstance(v, Mapping) else {"eq": v} for k, v in search.query.items()} or None,
            filter=search.cql2,
            **_language(search.cql2),
            max_items=search.limit,
        )
        return results.items_as_dicts()

    answers = iter(_stac(ask, href))
    while (document := _stac(lambda: next(answers, None), href)) is not None:
        links = document.get("links")
        own = [
            k.get("href")
            for k in (links if isinstance(links, list) else ())
            if isinstance(k, dict) and k.get("rel") == "self"
        ]
        yield SourceItem(document, str(own[0]) if own and own[0] else href, access)


def _language(cql2: str | dict[str, Any] | None) -> dict[str, Any]:
    """Return the options of a search that belong to the filter: APIs take CQL2 text in GET requests only."""
    if cql2 is None:
        return {}
    return (
        {"filter_lang": "cql2-text", "method": "GET"}
        if isinstance(cql2, str)
        else {"filter_lang": "cql2-json"}
    )


def _refuse_unsupported(client: Any, search: Search, href: str) -> None:
    """Refuse a filter that the API does not support: it would ignore it and return every item."""
    filters = {
        "item search": ("ITEM_SEARCH", True),
        "query": ("QUERY", search.query),
        "filter": ("FILTER", search.cql2),
    }
    for name, (conformance_class, used) in filters.items():
        if used and not client.conforms_to(conformance_class):
            raise ParameterError(
                f"the API {clean_href(href)!r} does not support {name}: its conformsTo has no such class",
                {
                    "query": "use source.filter with CQL2 if it supports that, or leave query out",
                    "filter": "use query, or leave filter out",
                }.get(name, "give a static catalog, or another API"),
            )


def _object_file(href: str) -> str:
    """Return the address of the catalog or collection under a prefix of an object store."""
    if href.endswith(".json"):
        return href
    names = [f"{href.rstrip('/')}/{name}" for name in ("catalog.json", "collection.json")]
    try:
        bucket = parse(href)[0]
        objects = {f"s3://{bucket}/{key}" for key, entry in entries(href, deep=False) if entry is not None}
    except OSError as error:
        raise SourceError(f"{href!r} cannot be listed: {first_line(error)}", "check the address") from error
    present = [name for name in names if name in objects]
    if not present:
        problem = f"{href!r} holds neither catalog.json nor collection.json"
        raise SourceError(problem, "give the address of the catalog's JSON file")
    return present[0]


def _local_file(path: Path) -> Path:
    for file in (path / "catalog.json", path / "collection.json"):
        if file.is_file():
            return file.resolve()
    if not path.is_file():
        raise SourceError(
            f"{str(path)!r} is neither a file nor the name of a source",
            did_you_mean(path, known_sources()) or f"named sources are: {', '.join(known_sources())}",
        )
    return path.resolve()


def _static_items(
    document: Mapping[str, Any],
    href: str,
    collections: Sequence[str],
    access: AccessPolicy,
    lost: Lost | None,
) -> Iterator[SourceItem]:
    """Yield every item of a static catalog once, also if its links are circular."""
    visited: set[str] = {href}
    pending = [(document, href)]
    while pending:
        current, base = pending.pop()
        if current.get("type") == "Feature":
            yield SourceItem(current, base, access)
            continue
        if current.get("type") == "FeatureCollection" and isinstance(current.get("features"), list):
            yield from (
                SourceItem(item, base, access) for item in current["features"] if isinstance(item, dict)
            )
            continue
        links = current.get("links")
        if current.get("type") not in ("Catalog", "Collection", None) or not isinstance(links, list):
            error = SourceError(
                f"{clean_href(base)!r} is not a STAC object: its type is {current.get('type')!r}",
                "give a catalog, collection, item or STAC API",
            )
            if lost is None or base == href:
                raise error
            lost(clean_href(base), error)
            continue
        # Child links of a collection that was not requested are followed: it may hold others.
        skip = (
            current.get("type") == "Collection" and bool(collections) and current.get("id") not in collections
        )
        for link in links:
            rel = link.get("rel") if isinstance(link, dict) else None
            if rel not in ("item", "child") or (rel == "item" and skip):
                continue
            what = f"link {rel!r} of {str(current.get('id'))[:80]!r}"
            target = str(link.get("href"))
            try:
                target = _absolute(link.get("href"), base)
                target, linked = _linked(target, visited, access, what)
            except EoaugError as error:
                if lost is None:
                    raise
                lost(clean_href(target), error)
                continue
            if linked is None:
                continue
            if len(visited) > access.limits.documents:
                raise SourceError(
                    f"{clean_href(href)!r} leads to more than {access.limits.documents} documents",
                    "open one of its collections",
                )
            if linked.get("type") == "Feature":
                yield SourceItem(linked, target, access)
            else:
                pending.append((linked, target))


def _linked(
    target: str, visited: set[str], access: AccessPolicy, what: str
) -> tuple[str, dict[str, Any] | None]:
    """Return address and document of a link; None for a document that was visited."""
    with foreign(what, "correct the link", SourceError):
        target = access.resolve(target, what=what)
        if target in visited:
            return target, None
        document = access.read_json(target, what=what)
        visited.add(target)
        return target, document


def _absolute(href: Any, base: str) -> str:
    """Join a link with the address of its document, as pystac does; `AccessPolicy.resolve` checks the result."""
    if not isinstance(href, str):
        return ""
    try:
        absolute: str = pystac.utils.make_absolute_href(href, base, start_is_dir=False)
        urlsplit(absolute)
    except ValueError as error:
        raise BrokenLinkError(
            f"link {href[:200]!r} of {clean_href(base)!r} is no address: {first_line(error)}",
            "correct the link",
        ) from error
    return absolute


def _catalog_items(catalog: pystac.Catalog, search: Search, access: AccessPolicy) -> Iterator[SourceItem]:
    """Yield the items of a catalog in memory; unresolved links are read like any other document."""
    visited: set[int] = set()
    pending: list[pystac.Catalog] = [catalog]
    while pending:
        current = pending.pop()
        skip = (
            isinstance(current, pystac.Collection)
            and bool(search.collections)
            and current.id not in search.collections
        )
        for link in current.get_links():
            if link.rel not in ("item", "child") or (link.rel == "item" and skip):
                continue
            if not link.is_resolved():
                target = access.resolve(
                    link.get_absolute_href() or "", what=f"link {link.rel!r} of {current.id!r}"
                )
                linked = access.read_json(target, what=f"link {link.rel!r} of {current.id!r}")
                yield from _static_items(linked, target, search.collections, access, None)
            elif isinstance(link.target, pystac.Item):
                yield SourceItem({}, link.target.get_self_href() or "", access, link.target)
            elif isinstance(link.target, pystac.Catalog) and id(link.target) not in visited:
                visited.add(id(link.target))
                pending.append(link.target)


def _stac(read: Callable[[], Any], href: str) -> Any:
    """Call a STAC library, and turn whatever it raises for a malformed document into a SourceError."""
    try:
        return read()
    except EoaugError:
        raise
    except Exception as error:
        if isinstance(error.__context__, EoaugError):  # pystac_client wraps what the session raises
            raise error.__context__ from None
        raise SourceError(
            f"cannot read {clean_href(href)!r} as STAC: {type(error).__name__}: {first_line(error)}",
            "correct the document, open other items by their own files, or run a job, which skips this one",
        ) from error


def _signer(module: str | None) -> Callable[[str], str] | None:
    if module is None:
        return None
    try:
        sign: Callable[[str], str] = import_module(module).sign
    except ImportError as error:
        raise SourceError(
            f"this source's assets need signed links, and package {module!r} is not installed",
            f"pip install {module.replace('_', '-')}, or give patch_url=",
        ) from error
    return sign


def show(source: Any) -> str:
    """Return the name of a source for a message."""
    if isinstance(source, str | Path):
        return repr(clean_href(str(source)))
    if isinstance(source, pystac.Catalog | pystac.Item):
        return repr(source.id)
    return "the given items"
