"""The items of a job, as they are found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from eoaug.errors import EoaugError, SourceError
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.config import Job
from eoaug.jobs.units import WorkItem, WorkResult, work_item_of
from eoaug.stac.filters import Search, parse_bbox, parse_interval
from eoaug.stac.search import SourceItem, as_item, known_sources, stream
from eoaug.storage.access import AccessPolicy, folder_of
from eoaug.storage.names import clean_href
from eoaug.storage.s3 import is_object

__all__ = ["allowed", "units"]


def allowed(job: Job) -> tuple[str, ...]:
    """What addresses of items may point to: what the user listed, and the place of the source itself."""
    source, known = job.source.catalog, known_sources().get(job.source.catalog)
    if known is not None:
        return (*job.source.allow, str(urlsplit(known["url"]).hostname), *known["hosts"])
    if is_object(source):
        return (*job.source.allow, folder_of(source))
    if "://" in source:
        parts = urlsplit(source)
        secure = parts.scheme.lower() == "https"
        return (*job.source.allow, f"{parts.hostname}:{parts.port or (443 if secure else 80)}")
    path = Path(source).expanduser().resolve()
    return (*job.source.allow, str(path if path.is_dir() else path.parent))


def units(job: Job, books: Bookkeeper | None = None) -> Iterator[WorkItem]:
    """Yield what the source holds for the job, one item in memory at a time.

    With books, what cannot be read is entered there as failed; without, it is an error.
    """
    source, search = job.source, _search(job)
    seen: set[tuple[str, str]] = set()

    def lost(href: str, error: EoaugError) -> None:
        assert books is not None
        unit = WorkItem(SourceItem({}, href, AccessPolicy()), href, "", "")
        books.add(WorkResult(unit, "failed", error=error))

    told = None if books is None else lost
    for found in stream(source.catalog, search, text=source.datetime, allow=source.allow, lost=told):
        try:
            item = as_item(found)
            if not search.keeps(item):
                continue
            unit = work_item_of(found, item, job)
            if (unit.collection, unit.label) in seen:
                raise SourceError(
                    f"item {item.id!r} is in the source twice.", "Give it another id, or choose collections."
                )
        except EoaugError as error:
            if told is None:
                raise
            told(clean_href(found.href), error)
            continue
        seen.add((unit.collection, unit.label))
        yield unit
        if source.limit is not None and len(seen) >= source.limit:
            return


def _search(job: Job) -> Search:
    source = job.source
    return Search(
        collections=source.collections,
        ids=source.ids,
        bbox=None if source.bbox is None else parse_bbox(source.bbox),
        interval=None if source.datetime is None else parse_interval(source.datetime),
        query=source.query,
        limit=source.limit,
        cql2=source.filter,
    )
