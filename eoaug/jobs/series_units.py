"""Which units of work a job over series has: the dates of each place, and those that a date is made from.

The documents of all items are read before the first unit is known, and are kept compressed until their place is
reached, so that ten thousand items need tens of megabytes. No file is opened whose item says on which grid it lies.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pystac
from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.engine.values import NEIGHBOUR_DATES
from eoaug.errors import EoaugError, ParameterError, SourceError
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.config import Job, days_of
from eoaug.jobs.content_key import Shapes, read_bands, shapes_of
from eoaug.jobs.sources import allowed, items_of
from eoaug.jobs.work_items import WorkItem, WorkResult
from eoaug.stac.composite import periods_of
from eoaug.stac.filters import changed_at, instant_of
from eoaug.stac.item_document import collection_of
from eoaug.stac.search import SourceItem
from eoaug.storage.access import AccessPolicy
from eoaug.storage.names import safe_id
from eoaug.verbs.arguments import dates_of

__all__ = ["SeriesItem", "of_date", "series_items_of"]


_DAY_S = 86_400
_EVERY = re.compile(r"every\s+(.+)")


@dataclass(frozen=True)
class SeriesItem(WorkItem):
    """A date of a place, and the dates that it is filled from; or the dates of a period."""

    own: tuple[SourceItem, ...] = ()
    """Items of the date, or of the period; none for a new date."""
    others: tuple[SourceItem, ...] = ()
    """Items of the dates next to it, in order of time."""
    new_date: str = ""
    """The date to make; empty to fill a date that there is."""
    shapes: tuple[tuple[tuple[Shapes, tuple[float, float]], ...], ...] = ()
    """Of the date and of those next to it, what decides the cost: the bands of each item, and its corner in pixels from
    the first one's."""


@dataclass(frozen=True)
class _Member:
    """An item of the source, with its time."""

    id: str
    collection: str
    """Of the results."""
    label: str
    source_collection: str
    packed: SourceItem | tuple[bytes, str, AccessPolicy]
    """The item, or its document, address and access policy."""
    day: int
    """Solar days since 1970."""
    second: float
    """Seconds since 1970."""
    changed: bool
    """Whether it is newer than what is left out."""
    shapes: Shapes
    corner: tuple[float, float]
    """Of its grid, in pixels."""

    @cached_property
    def entry(self) -> SourceItem:
        """The item, with its document."""
        if isinstance(self.packed, SourceItem):
            return self.packed
        document, href, access = self.packed
        return SourceItem(json.loads(zlib.decompress(document)), href, access)


def series_items_of(job: Job, bookkeeper: Bookkeeper) -> Iterator[SeriesItem]:
    """Yield the units of work of a job over series, place by place and in order of time.

    The documents of all items are read first; items that have no place or date are recorded as failures.
    """
    places: dict[str, list[_Member]] = {}
    allow, first = allowed(job), job.source.first_change()
    for work_item, item in items_of(job, bookkeeper):
        try:
            place, member = _member(work_item, item, job, allow, first)
        except EoaugError as error:
            bookkeeper.add(WorkResult(work_item, "failed", error=error))
            continue
        places.setdefault(place, []).append(member)
    for place in sorted(places):
        members = places.pop(place)
        _refuse_sensors(place, members)
        dates = _dates(members)
        yield from _UNITS[job.verb](job, place, dates)


def _member(
    work_item: WorkItem, item: pystac.Item, job: Job, allow: Sequence[str], first: datetime | None
) -> tuple[str, _Member]:
    """Return the place of an item, and what is kept of it."""
    entry = work_item.entry
    dates = read_bands(item, entry.access, job, allow, grids_only=True)
    if len(dates) > 1:
        raise SourceError(
            f"item {item.id!r} holds {len(dates)} dates or members, and source.group joins items of one",
            "process it by a job without group, or with eoaug.open_cube",
        )
    grid, second = dates[0].grid, instant_of(item).timestamp()
    kept: SourceItem | tuple[bytes, str, AccessPolicy] = entry
    if entry.item is None:
        kept = zlib.compress(json.dumps(entry.document).encode(), 1), entry.href, entry.access
    a = grid.affine
    member = _Member(
        id=work_item.id,
        collection=work_item.collection,
        label=work_item.label,
        source_collection=item.collection_id or "",
        packed=kept,
        # As odc-stac tells days apart: a degree is four minutes.
        day=int((second + _longitude(grid) * 240) // _DAY_S),
        second=second,
        changed=first is None or changed_at(item) >= first,
        shapes=_one(shapes_of(dates)),
        corner=(a.c / abs(a.a or 1), a.f / abs(a.e or 1)),
    )
    return _place(item.properties, grid, job), member


def _refuse_sensors(place: str, members: Sequence[_Member]) -> None:
    """Refuse a place whose collections have no band in common: their dates say nothing of each other."""
    bands: dict[str, set[str]] = {}
    for member in members:
        bands.setdefault(member.source_collection, set()).update(shape[0] for shape in member.shapes)
    first, *others = bands
    for other in others:
        if not bands[first] & bands[other]:
            raise ParameterError(
                f"place {place!r} joins {first!r} ({', '.join(sorted(bands[first]))}) and {other!r} "
                f"({', '.join(sorted(bands[other]))}), which have no band in common",
                "choose one with source.collections; radar with optical bands is used by eoaug.translate, "
                "on a cube that has each radar image on the nearest optical date",
            )


@lru_cache(maxsize=1024)
def _one(shapes: Shapes) -> Shapes:
    """Return the first of equal values: most items have the same bands."""
    return shapes


def _longitude(grid: GeoBox) -> float:
    """Return the longitude of the middle of a grid in degrees."""
    return _longitude_at(str(grid.crs), tuple(grid.shape), tuple(grid.affine)[:6])


@lru_cache(maxsize=1024)
def _longitude_at(crs: str, shape: tuple[int, int], affine: tuple[float, ...]) -> float:
    # A grid itself is no quick key: its hash spells the reference system out.
    box = GeoBox(shape, Affine(*affine), crs).geographic_extent.boundingbox
    return float(box.left + box.right) / 2


def _place(properties: Mapping[str, Any], grid: GeoBox, job: Job) -> str:
    """Return the name of the place of an item: of its grid, or the values of the properties that were named."""
    if job.source.group == ("place",):
        a = grid.affine
        crs = f"epsg{grid.crs.epsg}" if grid.crs is not None and grid.crs.epsg else str(grid.crs)
        shape = (
            f"{a.a:.9g}" if (a.b, a.d, a.e) == (0, 0, -a.a) else f"{a.a:.9g} {a.b:.9g} {a.d:.9g} {a.e:.9g}"
        )
        return f"{crs} {shape} {a.c:.9g} {a.f:.9g}"
    missing = [name for name in job.source.group if name not in properties]
    if missing:
        known = ", ".join(sorted(map(str, properties))[:12])
        raise SourceError(
            f"the item has no property {missing[0]!r}, which source.group names; it has {known}",
            "name properties that all items have, or group: place",
        )
    return " ".join(str(properties[name]) for name in job.source.group)


_Date = list[_Member]
"""The items of one solar day, the earliest first."""


def _dates(members: Sequence[_Member]) -> list[_Date]:
    """Return the items of a place by solar day, in order of time."""
    days: dict[int, _Date] = {}
    for member in sorted(members, key=lambda m: (m.second, m.id)):
        days.setdefault(member.day, []).append(member)
    return list(days.values())


def _near(dates: Sequence[_Date], second: float, job: Job, *, besides: _Date | None = None) -> list[_Date]:
    """Return the dates next to an instant that a result is made from, in order of time."""
    longest = np.inf if job.source.window is None else days_of(job.source.window, "source.window") * _DAY_S
    within = [d for d in dates if d is not besides and abs(d[0].second - second) <= longest]
    before = [d for d in within if d[0].second < second]
    after = [d for d in within if d[0].second >= second]
    return [*before[-NEIGHBOUR_DATES:], *after[:NEIGHBOUR_DATES]]


def _entries(dates: Sequence[_Date]) -> tuple[SourceItem, ...]:
    return tuple(member.entry for date in dates for member in date)


def _shapes(dates: Sequence[_Date]) -> tuple[tuple[tuple[Shapes, tuple[float, float]], ...], ...]:
    """Return what decides the cost of a unit; equal for places that differ in their position only."""
    x, y = dates[0][0].corner if dates else (0.0, 0.0)
    return tuple(
        tuple((m.shapes, (round(m.corner[0] - x, 3), round(m.corner[1] - y, 3))) for m in date)
        for date in dates
    )


def _is_due(dates: Sequence[_Date]) -> bool:
    """Return whether one of the items that a result is made from has changed."""
    return any(member.changed for date in dates for member in date)


def _fills(job: Job, place: str, dates: Sequence[_Date]) -> Iterator[SeriesItem]:
    """Yield a unit for every date that there is."""
    for date in dates:
        first = date[0]
        near = _near(dates, date[0].second, job, besides=date)
        if not _is_due([date, *near]):
            continue
        yield SeriesItem(
            first.entry,
            first.id,
            first.collection,
            first.label,
            _entries([date]),
            _entries(near),
            shapes=_shapes([date, *near]),
        )


def _new_dates(job: Job, place: str, dates: Sequence[_Date]) -> Iterator[SeriesItem]:
    """Yield a unit for every new date, one by one: a date that is added later changes no other."""
    collection = collection_of(job.output.collection, dates[0][0].source_collection)
    name = safe_id(place)[:80]
    for date in _wanted(job, dates):
        second = date.replace(tzinfo=UTC).timestamp()
        if any(abs(d[0].second - second) < 1 for d in dates):
            continue  # it is there
        near = _near(dates, second, job)
        if not _is_due(near):
            continue
        text = f"{date:%Y-%m-%dT%H:%M:%S}"
        request = hashlib.sha256(f"{of_date(job, text).request} {place}".encode()).hexdigest()[:8]
        label = f"{name}-{date:%Y%m%dT%H%M%S}-extend-{request}"
        yield SeriesItem(
            SourceItem({}, "", AccessPolicy()),
            f"{place} {text}",
            collection,
            label,
            others=_entries(near),
            new_date=text,
            shapes=_shapes(near),
        )


def _wanted(job: Job, dates: Sequence[_Date]) -> list[datetime]:
    """Return the dates that ``times`` asks for: those listed, or one in so many days between first and last date."""
    times = job.parameters.get("times")
    every = _EVERY.fullmatch(times.strip()) if isinstance(times, str) else None
    if every is None:
        if times is None:
            raise ParameterError(
                "extend needs parameters.times", "list dates, or write e.g. times: every 10d"
            )
        return [datetime.fromisoformat(str(t)) for t in dates_of(times).astype("datetime64[s]")]
    step = days_of(every[1], "parameters.times: every")
    # Counted from 1970, so that all places have the same dates and later items move none.
    first, last = (int(date[0].second // _DAY_S) for date in (dates[0], dates[-1]))
    days = range(-(-first // step) * step, last + 1, step)
    return [datetime(1970, 1, 1) + timedelta(days=day) for day in days]


def of_date(job: Job, date: str) -> Job:
    """Return the request for one new date."""
    return job.model_copy(update={"parameters": {**job.parameters, "times": [date]}})


def _composites(job: Job, place: str, dates: Sequence[_Date]) -> Iterator[SeriesItem]:
    """Yield a unit for every period with a date."""
    first = dates[0][0]
    collection = collection_of(job.output.collection, first.source_collection)
    request = hashlib.sha256(f"{job.request} {place}".encode()).hexdigest()[:8]
    times = np.array([int(date[0].second * 1e9) for date in dates], "datetime64[ns]")
    for period in periods_of(times, str(job.parameters.get("times", "monthly"))):
        within = [dates[at] for at in period.dates]
        if not _is_due(within):
            continue
        # The middle of all dates moves with every date that arrives, and is no part of a name.
        name = (
            "all dates"
            if job.parameters.get("times") == "best"
            else str(period.label.astype("datetime64[D]"))
        )
        yield SeriesItem(
            within[0][0].entry,
            f"{place} {name}",
            collection,
            f"{safe_id(place)[:80]}-{safe_id(name)}-composite-{request}",
            _entries(within),
            shapes=_shapes(within),
        )


_UNITS = {"inpaint": _fills, "extend": _new_dates, "composite": _composites}
