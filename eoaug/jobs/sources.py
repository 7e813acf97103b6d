"""The work items of a job, from its source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pystac

from eoaug.errors import EoaugError, SourceError, foreign
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.config import Job
from eoaug.jobs.work_items import WorkItem, WorkResult, work_item_of
from eoaug.stac.filters import Search, changed_at, parse_bbox, parse_interval
from eoaug.stac.search import BrokenLinkError, SourceItem, as_item, known_sources, stream
from eoaug.storage.access import AccessPolicy, folder_of
from eoaug.storage.names import clean_href
from eoaug.storage.s3 import is_object

__all__ = ["allowed", "items_of", "no_item", "work_items_of"]


def allowed(job: Job) -> tuple[str, ...]:
    """Return what addresses in items may point to: what the user listed, and the location of the source."""
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


def work_items_of(job: Job, bookkeeper: Bookkeeper | None = None) -> Iterator[WorkItem]:
    """Yield the work items of a job, one at a time; see `items_of`."""
    for work_item, _ in items_of(job, bookkeeper):
        yield work_item


def items_of(job: Job, bookkeeper: Bookkeeper | None = None) -> Iterator[tuple[WorkItem, pystac.Item]]:
    """Yield the work items of a job, one at a time, and what each is made of.

    Documents that cannot be read are recorded as failures by the bookkeeper; without one, they raise.

    Raises
    ------
    SourceError
        The source cannot be read.
    """
    source, search, request = job.source, _search(job), job.request
    # The dates of a place are needed also where only one of them has changed.
    first = None if source.group else source.first_change()
    seen: set[tuple[str, str]] = set()

    def record_failure(href: str, error: EoaugError) -> None:
        assert bookkeeper is not None
        if isinstance(error, BrokenLinkError):
            bookkeeper.note(href, error.problem)
            return
        work_item = WorkItem(SourceItem({}, href, AccessPolicy()), href, "", "")
        bookkeeper.add(WorkResult(work_item, "failed", error=error))

    on_failure = None if bookkeeper is None else record_failure
    for entry in stream(source.catalog, search, text=source.datetime, allow=source.allow, lost=on_failure):
        try:
            with foreign(f"item at {clean_href(entry.href)!r}", "correct the item", SourceError):
                item = as_item(entry)
                if not search.keeps(item) or (first is not None and changed_at(item) < first):
                    continue
                work_item = work_item_of(entry, item, job, request)
            # On some file systems upper and lower case are one.
            place = work_item.collection.casefold(), work_item.label.casefold()
            if place in seen:
                raise SourceError(
                    f"item {item.id!r} is in the source twice, or differs from another one only in case",
                    "give it another id, or choose collections",
                )
        except EoaugError as error:
            if on_failure is None:
                raise
            on_failure(clean_href(entry.href), error)
            continue
        seen.add(place)
        yield work_item, item
        if source.limit is not None and len(seen) >= source.limit:
            return


def no_item(job: Job) -> SourceError:
    """Return the error of a job without items."""
    return SourceError(
        f"no item of {clean_href(job.source.catalog)!r} passes the filters of the job",
        "widen source.bbox, datetime, collections, ids or query",
    )


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
