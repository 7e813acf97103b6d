"""Jobs of composites: an image of each period of a place, every pixel of which is one clear observation.

A unit depends on the items of its period alone, so an item that arrives later changes one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from eoaug.engine.explain import Explanation
from eoaug.errors import SourceError, error_context
from eoaug.jobs.catalog_work import CatalogWork
from eoaug.jobs.content_key import content_key
from eoaug.jobs.series_units import SeriesItem
from eoaug.jobs.work_items import JobContext, TooCloudyError, WorkItem
from eoaug.stac.composite import clear_ground, composite_of

__all__ = ["CompositeWork"]


_LAYER_BYTES = 180
"""What a pixel of a date needs while its best date is chosen, besides its bands: masks, distances around the chunk, sorted
bands, scores; measured with twelve dates of four bands."""


@dataclass(frozen=True)
class CompositeWork(CatalogWork):
    """Composites of the periods of places."""

    def key(self, work_item: WorkItem, context: JobContext) -> str:
        """Return the content key: the hash of the items of the period, and of the request."""
        assert isinstance(work_item, SeriesItem)
        return content_key([self._read(entry).identity for entry in work_item.own], self.job, "composite")

    def source(self, work_item: WorkItem) -> Any:
        """Return the cube of the first date of a period, lazily."""
        assert isinstance(work_item, SeriesItem)
        return self._opened(work_item.own[:1])

    def note(self, share: float) -> str:
        """Return nothing: a composite generates no pixel."""
        return ""

    def signature(self, work_item: WorkItem) -> Any:
        """Return what units of equal cost share: bands and grids of the items of the period."""
        assert isinstance(work_item, SeriesItem)
        return work_item.shapes

    def cost(self, work_item: WorkItem, context: JobContext) -> Explanation:
        """Return what the image of a period costs, without computing a pixel."""
        cube = self._period(work_item)
        result = composite_of(cube, self._times)
        chunks = result["source_date"].chunks
        pixels = int(np.prod([max(sizes) for sizes in chunks]))
        stored = sum(var.dtype.itemsize for var in cube.data_vars.values() if "time" in var.dims)
        return Explanation(
            title="composite",
            chunks=int(np.prod([len(sizes) for sizes in chunks])),
            tiles=0,
            model_calls=0,
            overlap_factor=1.0,
            output_bytes=int(result.nbytes),
            peak_bytes=pixels * cube.sizes["time"] * (_LAYER_BYTES + stored),
        )

    @property
    def _times(self) -> str:
        return str(self.job.parameters.get("times", "monthly"))

    def _period(self, work_item: WorkItem, **how: Any) -> xr.Dataset:
        """Return the cube of the dates of a period, lazily."""
        assert isinstance(work_item, SeriesItem)
        cube = self._opened(work_item.own, chunks=self._chunks, **how)
        if not isinstance(cube, xr.Dataset):
            raise SourceError(
                f"the dates of {work_item.id!r} lie on several grids",
                "name properties in source.group that tell their grids apart, or give source.crs and resolution",
            )
        return cube

    def _result(self, work_item: WorkItem, context: JobContext) -> xr.Dataset:
        cube = self._period(work_item, labels=self.job.labels or None)
        with error_context(f"item {work_item.id!r}"):
            result: xr.Dataset = composite_of(cube, self._times)
            enough = self.job.source.min_clear
            share = _clear_share(cube, enough, self.job.run.chunks)
            if share < enough:
                dates = cube.sizes["time"]
                raise TooCloudyError(
                    f"{share:.0%} of the ground is clear on "
                    f"{'its only date' if dates == 1 else f'any of its {dates} dates'}, "
                    f"and source.min_clear is {enough:g}"
                )
        return result


def _clear_share(cube: xr.Dataset, enough: float, edge: int) -> float:
    """Return the share of the ground that is clear on a date, 0 to 1, a lower bound from the share that is enough.

    Blocks are read one by one, the dates in the middle first, and no further than needed.
    """
    layers = xr.Dataset(dict(zip(("measured", "clear"), clear_ground(cube), strict=True)))
    y, x = cube.odc.spatial_dims
    rows, cols, dates = (layers.sizes[name] for name in (y, x, "time"))
    order = sorted(range(dates), key=lambda date: abs(date - (dates - 1) / 2))
    ground = clear = 0
    for top, left in product(range(0, rows, edge), range(0, cols, edge)):
        part = layers.isel({y: slice(top, top + edge), x: slice(left, left + edge)})
        measured = np.zeros([part.sizes[y], part.sizes[x]], bool)
        seen = measured.copy()
        for date in order:
            one = part.isel(time=date).compute()
            measured |= one["measured"].values
            seen |= one["clear"].values
            if seen.all() or clear + seen.sum() >= enough * rows * cols:
                break
        ground, clear = ground + int(measured.sum()), clear + int(seen.sum())
        if clear >= enough * rows * cols:
            return clear / (rows * cols)
    return clear / ground if ground else 0.0
