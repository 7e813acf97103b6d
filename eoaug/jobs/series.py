"""Jobs over series: a date of a place is the unit of work, and the dates next to it are what it is filled from.

A unit depends on the items of its own dates alone, so an item that arrives later changes the content keys of its
neighbours in time and of no other unit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from eoaug.engine.coverage import clear_share
from eoaug.engine.dask_graph import computed_by
from eoaug.engine.explain import Explanation
from eoaug.engine.values import NEIGHBOUR_DATES
from eoaug.errors import EoaugError, ParameterError, SourceError, error_context
from eoaug.formats.blocks import blocks
from eoaug.generators.identity import identity_of
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.catalog_work import CatalogWork
from eoaug.jobs.config import Job, days_of
from eoaug.jobs.content_key import ReadItem, content_key
from eoaug.jobs.sources import allowed, work_items_of
from eoaug.jobs.verb_calls import cost_of_item
from eoaug.jobs.work_items import JobContext, TooCloudyError, WorkItem, WorkResult
from eoaug.stac.filters import instant_of
from eoaug.stac.item_document import Claim, collection_of
from eoaug.stac.items import read_item_dates
from eoaug.stac.search import SourceItem, as_item, signer_of
from eoaug.storage.access import AccessPolicy
from eoaug.storage.names import safe_id
from eoaug.verbs.arguments import dates_of
from eoaug.verbs.planning import prepared_verb
from eoaug.verbs.run import finish

__all__ = ["SeriesItem", "SeriesWork", "series_items_of", "work_of"]


_DAY_S = 86_400
_EVERY = re.compile(r"every\s+(.+)")


@dataclass(frozen=True)
class SeriesItem(WorkItem):
    """A date of a place, and the dates that it is filled from."""

    own: tuple[SourceItem, ...] = ()
    """Items of the date; none for a new date."""
    others: tuple[SourceItem, ...] = ()
    """Items of the dates next to it, in order of time."""
    new_date: str = ""
    """The date to make; empty to fill a date that there is."""


# -- which units there are --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """An item of the source, with its place and time."""

    work_item: WorkItem
    place: str
    day: int
    """Solar days since 1970."""
    second: float
    """Seconds since 1970."""


def series_items_of(job: Job, bookkeeper: Bookkeeper) -> Iterator[SeriesItem]:
    """Yield the units of work of a job over series, place by place and in order of time.

    The documents of all items are read first; items that have no place or date are recorded as failures.
    """
    places: dict[str, list[_Member]] = {}
    for work_item in work_items_of(job, bookkeeper):
        try:
            member = _member(work_item, job)
        except EoaugError as error:
            bookkeeper.add(WorkResult(work_item, "failed", error=error))
            continue
        places.setdefault(member.place, []).append(member)
    for place in sorted(places):
        dates = _dates(places.pop(place))
        units_of = _fills if job.verb == "inpaint" else _new_dates
        yield from units_of(job, place, dates)


def _member(work_item: WorkItem, job: Job) -> _Member:
    item = as_item(work_item.entry)
    access = work_item.entry.access.extended(allowed(job))
    bands, signer = job.source.bands, signer_of(job.source.catalog)
    dates = read_item_dates(item, bands, signer, access, labels=job.labels)
    if len(dates) > 1:
        raise SourceError(
            f"item {item.id!r} holds {len(dates)} dates or members, and source.group joins items of one",
            "fill it by a job without group, or with eoaug.open_cube and inpaint",
        )
    grid, second = dates[0].grid, instant_of(item).timestamp()
    # As odc-stac tells days apart: a degree is four minutes.
    day = int((second + _longitude(grid) * 240) // _DAY_S)
    return _Member(work_item, _place(item.properties, grid, job), day, second)


@lru_cache(maxsize=1024)
def _longitude(grid: GeoBox) -> float:
    """Return the longitude of the middle of a grid in degrees."""
    box = grid.geographic_extent.boundingbox
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
    for member in sorted(members, key=lambda m: (m.second, m.work_item.id)):
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
    return tuple(member.work_item.entry for date in dates for member in date)


def _fills(job: Job, place: str, dates: Sequence[_Date]) -> Iterator[SeriesItem]:
    """Yield a unit for every date that there is."""
    for date in dates:
        first = date[0].work_item
        near = _near(dates, date[0].second, job, besides=date)
        yield SeriesItem(
            first.entry, first.id, first.collection, first.label, _entries([date]), _entries(near)
        )


def _new_dates(job: Job, place: str, dates: Sequence[_Date]) -> Iterator[SeriesItem]:
    """Yield a unit for every new date, one by one: a date that is added later changes no other."""
    first = dates[0][0].work_item
    collection = collection_of(job.output.collection, as_item(first.entry).collection_id or "")
    name = safe_id(place)[:80]
    for date in _wanted(job, dates):
        second = date.replace(tzinfo=UTC).timestamp()
        if any(abs(d[0].second - second) < 1 for d in dates):
            continue  # it is there
        text = f"{date:%Y-%m-%dT%H:%M:%S}"
        request = hashlib.sha256(f"{_of_date(job, text).request} {place}".encode()).hexdigest()[:8]
        label = f"{name}-{date:%Y%m%dT%H%M%S}-extend-{request}"
        near = _near(dates, second, job)
        yield SeriesItem(
            SourceItem({}, "", AccessPolicy()),
            f"{place} {text}",
            collection,
            label,
            others=_entries(near),
            new_date=text,
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


def _of_date(job: Job, date: str) -> Job:
    return job.model_copy(update={"parameters": {**job.parameters, "times": [date]}})


# -- what is done with one --------------------------------------------------------------------------


@dataclass(frozen=True)
class SeriesWork(CatalogWork):
    """A verb over the dates of places, each filled from the dates next to it."""

    def key(self, work_item: WorkItem, context: JobContext) -> str:
        """Return the content key: the hash of the items of the date, of those next to it, and of the request."""
        assert isinstance(work_item, SeriesItem)
        own = [self._read(entry).identity for entry in work_item.own]
        others = [read.identity for read in map(self._usable, work_item.others) if read is not None]
        method = identity_of(context.generator)
        return content_key([*own, "others", *others], self._job_of(work_item), method)

    def _usable(self, entry: SourceItem) -> ReadItem | None:
        """Return an item next to a date; None if it cannot be used: its own unit says why."""
        try:
            return self._read(entry)
        except EoaugError:
            return None

    def _job_of(self, work_item: SeriesItem) -> Job:
        return _of_date(self.job, work_item.new_date) if work_item.new_date else self.job

    def source(self, work_item: WorkItem) -> Any:
        """Return the cube of a date, or of the date before a new one, lazily."""
        assert isinstance(work_item, SeriesItem)
        return self._opened((work_item.own or work_item.others)[:1])

    def series(self, work_item: SeriesItem, **how: Any) -> xr.Dataset:
        """Return the cube of a unit, lazily: its date and those next to it."""
        usable = [entry for entry in work_item.others if self._usable(entry) is not None]
        cube = self._opened([*work_item.own, *usable], **how)
        if not isinstance(cube, xr.Dataset):
            raise SourceError(
                f"the dates around {work_item.id!r} lie on several grids",
                "name properties in source.group that tell their grids apart, or give source.crs and resolution",
            )
        return cube

    def publish(
        self, work_item: WorkItem, context: JobContext, key: str, claim: Claim
    ) -> list[dict[str, Any]]:
        """Publish a date; a date next to it whose pixels cannot be read is left out, for its own unit fails."""
        assert isinstance(work_item, SeriesItem)
        try:
            return super().publish(work_item, context, key, claim)
        except SourceError:
            with computed_by(context.scheduler):
                sound = tuple(filter(self._is_readable, work_item.others))
            if len(sound) == len(work_item.others):
                raise
        return super().publish(replace(work_item, others=sound), context, key, claim)

    def _is_readable(self, entry: SourceItem) -> bool:
        """Return whether every pixel of an item can be read."""
        try:
            cube = self._opened([entry], chunks=self._chunks)
            for _ in blocks(cube, cube["time"].dims + cube.odc.spatial_dims):
                pass
        except EoaugError:
            return False
        return True

    def note(self, share: float) -> str:
        """Return what is unusual about the share of a date that is not measured; empty for nothing."""
        if self.job.verb == "inpaint" and share == 1:
            return "made from the dates next to it alone: not one of its pixels is clear"
        return "" if self.job.verb == "extend" else super().note(share)

    def signature(self, work_item: WorkItem) -> Any:
        """Return what units of equal cost share: the grids of the date and of the dates next to it."""
        assert isinstance(work_item, SeriesItem)
        read = [*map(self._read, work_item.own), *filter(None, map(self._usable, work_item.others))]
        return tuple(one.grids for one in read)

    def cost(self, work_item: WorkItem, context: JobContext) -> Explanation:
        """Return what one date costs, as the mean over the dates that its cube would have filled."""
        assert isinstance(work_item, SeriesItem)
        job = self._job_of(work_item)
        cube = self.series(work_item, chunks=self._chunks)
        whole = cost_of_item(cube, job, context.generator)
        dates = 1 if work_item.new_date else cube.sizes["time"]
        return replace(
            whole,
            model_calls=-(-whole.model_calls // dates),
            tiles=-(-whole.tiles // dates),
            output_bytes=whole.output_bytes // (cube.sizes["time"] + bool(work_item.new_date)),
        )

    def _result(self, work_item: WorkItem, context: JobContext) -> xr.Dataset:
        assert isinstance(work_item, SeriesItem)
        cube = self.series(work_item, chunks=self._chunks, labels=self.job.labels or None)
        job = self._job_of(work_item)
        assert job.verb == "inpaint" or job.verb == "extend"
        arguments = {**job.parameters, "generator": context.generator}
        if job.run.batch_tiles is not None:
            arguments["batch_tiles"] = job.run.batch_tiles
        if job.run.memory is not None:
            arguments["memory"] = job.run.memory
        with error_context(f"item {work_item.id!r}"):
            prepared = prepared_verb(job.verb, cube, arguments)
            at = _index(cube, work_item)
            share = clear_share(prepared.plan, prepared.inputs, at, job.source.min_clear)
            if share < job.source.min_clear:
                raise TooCloudyError(
                    f"{share:.0%} of the ground is clear on this date or on one next to it, "
                    f"and source.min_clear is {job.source.min_clear:g}"
                )
            result: xr.Dataset = finish(prepared).isel(time=[at])
        if not work_item.own:
            return result
        # The cube covers all items; a date is published on its own grid.
        return _cut(result, self._opened(work_item.own).odc.geobox)


def _cut(ds: xr.Dataset, grid: GeoBox) -> xr.Dataset:
    """Return the part of a cube on a grid with the same pixels."""
    whole = ds.odc.geobox
    if whole.shape == grid.shape:
        return ds
    left, top = (round(v) for v in ~whole.affine * (grid.affine.c, grid.affine.f))
    y, x = ds.odc.spatial_dims
    return ds.isel({y: slice(top, top + grid.shape.y), x: slice(left, left + grid.shape.x)})


def _index(cube: xr.Dataset, work_item: SeriesItem) -> int:
    """Return the index of the date of a unit in its result."""
    times = cube.indexes["time"]
    if work_item.new_date:
        return int(times.searchsorted(np.datetime64(work_item.new_date, "ns")))
    name = as_item(work_item.own[0]).id
    (at,) = (k for k, names in enumerate(cube["item_id"].values) if name in str(names).split(";"))
    return int(at)


def work_of(job: Job) -> tuple[CatalogWork, Callable[[Bookkeeper], Iterator[WorkItem]]]:
    """Return what a job does, and what returns its work items: item by item, or by place and date."""
    if job.source.group:
        return SeriesWork(job, allowed(job)), partial(series_items_of, job)
    return CatalogWork(job, allowed(job)), partial(work_items_of, job)
