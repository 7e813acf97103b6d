"""Jobs over series: a date of a place is the unit of work, and the dates next to it are what it is filled from.

A unit depends on the items of its own dates alone, so an item that arrives later changes the content keys of its
neighbours in time and of no other unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from eoaug.engine.coverage import clear_share
from eoaug.engine.dask_graph import computed_by
from eoaug.engine.explain import Explanation
from eoaug.errors import EoaugError, SourceError, error_context
from eoaug.formats.blocks import blocks
from eoaug.generators.identity import identity_of
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.catalog_work import CatalogWork
from eoaug.jobs.composites import CompositeWork
from eoaug.jobs.config import Job
from eoaug.jobs.content_key import ReadItem, content_key
from eoaug.jobs.series_units import SeriesItem, of_date, series_items_of
from eoaug.jobs.sources import allowed, work_items_of
from eoaug.jobs.verb_calls import cost_of_item
from eoaug.jobs.work_items import JobContext, TooCloudyError, WorkItem
from eoaug.stac.item_document import Claim
from eoaug.stac.search import SourceItem, as_item
from eoaug.verbs.planning import prepared_verb
from eoaug.verbs.run import finish

__all__ = ["SeriesWork", "work_of"]


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
        return of_date(self.job, work_item.new_date) if work_item.new_date else self.job

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
        """Return what units of equal cost share: bands and grids of the date and of the dates next to it."""
        assert isinstance(work_item, SeriesItem)
        return work_item.shapes, bool(work_item.new_date)

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
    """Return what a job does, and what returns its work items: item by item, or by place and date or period."""
    if job.source.group:
        work = CompositeWork if job.verb == "composite" else SeriesWork
        return work(job, allowed(job)), partial(series_items_of, job)
    return CatalogWork(job, allowed(job)), partial(work_items_of, job)
