"""`Scenes`: the items of a STAC catalog as a torchgeo dataset with one row per date and ensemble member."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import shapely
import torch
import xarray as xr
from affine import Affine
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from torchgeo.datasets import GeoDataset

from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.read import read_cube
from eoaug.cube.roles import label_variables
from eoaug.errors import GridError, ParameterError, SourceError, did_you_mean
from eoaug.stac.filters import Search
from eoaug.stac.open import open_cube
from eoaug.stac.sample import named_source
from eoaug.stac.search import SourceItem, as_item, show, stream
from eoaug.torch.samples import Sample, SampleForm

__all__ = ["Scenes"]

_SECOND = pd.Timedelta(seconds=1) - pd.Timedelta(microseconds=1)
_CHUNKS = {"y": 512, "x": 512}
_WAYS = ("one", "all")


@dataclass(frozen=True)
class _SceneRow:
    entry: SourceItem
    date: int
    """Position along the dimension time."""
    member: int | None
    """Position along the dimension member."""


class Scenes(GeoDataset):
    """The items of a catalog for torchgeo's samplers; scale and offset are applied, once.

    Parameters
    ----------
    source
        A STAC catalog, as for `eoaug.open_cube`; for instance what `augment` or a verb has written.
    bands
        Names of the bands in the order of the channels. Default: all measurements of the first item.
    label
        Name of a band with classes; the samples get it as ``mask``. Default: the one that is declared to be a label, if any.
    crs, res
        Reference system, and pixel size in its units. Default: those of the first item. Items on another grid are resampled
        to the nearest pixel, others keep their pixels.
    rows
        ``"one"``: a sample shows one date and member, (C, H, W), of which a hash of the query decides where several
        intersect. ``"all"``: all of them, (N, C, H, W), in the order of `index`.
    missing
        Value of pixels that were not measured, or lie outside of the item.
    transforms
        Called with every sample.
    **choice
        ``collections``, ``ids``, ``query`` and ``allow``, as for `eoaug.open_cube`.

    Notes
    -----
    `index` is a GeoDataFrame with a row per date and ensemble member, and with the columns ``item`` (its id), ``member`` (NaN
    outside of ensembles) and ``geometry``; nothing is merged. A sample has ``image`` (float32, in physical units),
    ``synthetic``, ``mask`` where there is a label, and ``bounds`` and ``transform`` as torchgeo defines them.
    """

    def __init__(
        self,
        source: Any,
        *,
        bands: Sequence[str] | None = None,
        label: str | None = None,
        crs: Any = None,
        res: float | None = None,
        rows: str = "one",
        missing: float = 0.0,
        transforms: Callable[[Sample], Sample] | None = None,
        **choice: Any,
    ) -> None:
        if rows not in _WAYS:
            raise ParameterError(f"rows={rows!r} is unknown", "use 'one' or 'all'")
        self.rows = rows
        self.transforms = transforms
        self._how: Mapping[str, Any] = {
            "bands": list(bands) if bands else None,
            "labels": [label] if label else None,
            "allow": tuple(choice.get("allow") or ()),
            "chunks": _CHUNKS,
        }
        self._cubes: dict[Any, xr.Dataset] = {}
        where = named_source(source) if isinstance(source, str) else source
        unknown = choice.keys() - {"collections", "ids", "query", "allow"}
        if unknown:
            raise ParameterError(
                f"{min(unknown)!r} is no argument of Scenes",
                did_you_mean(min(unknown), ("collections", "ids", "query", "allow", "bands", "label"))
                or "choose items with collections=, ids= or query=",
            )
        allow = tuple(choice.get("allow") or ())
        search = Search(
            collections=tuple(choice.get("collections") or ()),
            ids=tuple(choice.get("ids") or ()),
            query=dict(choice.get("query") or {}),
        )
        entries = [e for e in stream(where, search, text=None, allow=allow) if search.keeps(as_item(e))]
        if not entries:
            raise SourceError(f"no item found in {show(where)} with {search}", "check collections=")
        first = open_cube(as_item(entries[0]), **self._how, crs=crs, resolution=res)
        self.form = _form(_one_grid(first, as_item(entries[0]).id), bands, missing)
        grid = _grid_of(first)
        self._res = (abs(grid.affine.a), abs(grid.affine.e))
        self._rows: list[_SceneRow] = []
        self.index = geopandas.GeoDataFrame(
            {"item": [], "member": []}, index=_intervals([]), geometry=[], crs=_crs_of(grid).to_wkt()
        )
        self.index = self._indexed(entries)

    def _indexed(self, entries: Sequence[SourceItem]) -> geopandas.GeoDataFrame:
        """Return a row per date and member of every item."""
        items, numbers, boxes, starts = [], [], [], []
        for entry in entries:
            ds = self._opened(entry)
            grid = _grid_of(ds)
            members = range(ds.sizes["member"]) if "member" in ds.dims else [None]
            for date, start in enumerate(np.atleast_1d(ds["time"].values)):
                for member in members:
                    self._rows.append(_SceneRow(entry, date, member))
                    items.append(as_item(entry).id)
                    numbers.append(np.nan if member is None else int(ds["member"].values[member]))
                    boxes.append(shapely.box(*grid.boundingbox))
                    starts.append(pd.Timestamp(start))
        return geopandas.GeoDataFrame(
            {"item": items, "member": numbers, "row": range(len(items))},
            index=_intervals(starts),
            geometry=boxes,
            crs=self.index.crs,
        )

    def _opened(self, entry: SourceItem) -> xr.Dataset:
        """Return an item as a lazy cube, on the grid of the dataset where its own is another one."""
        key = (as_item(entry).id, str(self.crs), self.res)
        if key not in self._cubes:
            item = as_item(entry)
            ds = _one_grid(open_cube(item, **self._how), item.id)
            own = _grid_of(ds)
            res = (abs(own.affine.a), abs(own.affine.e))
            if _crs_of(own).proj != self.crs or not np.allclose(res, self.res, rtol=1e-9):
                ds = _one_grid(
                    open_cube(item, **self._how, crs=self.crs.to_wkt(), resolution=self.res[0]), item.id
                )
            self._cubes[key] = ds
        return self._cubes[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cubes": {}}

    def __getitem__(self, index: Any) -> Sample:
        x, y, t = self._disambiguate_slice(index)
        self._check_step(x.step, y.step)
        inside = self.index.iloc[self.index.index.overlaps(pd.Interval(t.start, t.stop, closed="both"))]
        inside = inside.iloc[:: t.step].cx[x.start : x.stop, y.start : y.stop]
        if inside.empty:
            raise IndexError(f"no scene at {index} in the bounds {self.bounds}")
        numbers = [int(number) for number in inside["row"]]
        if self.rows == "one":
            text = "|".join(f"{value}" for part in (x, y, t) for value in (part.start, part.stop))
            digest = hashlib.sha256(text.encode()).digest()
            numbers = [numbers[int.from_bytes(digest[:8], "big") % len(numbers)]]
        parts = [self._read(self._rows[number], x, y) for number in numbers]
        sample = parts[0] if self.rows == "one" else _stacked(parts)
        sample["bounds"] = self._slice_to_tensor(index)
        sample["transform"] = torch.tensor(Affine(x.step, 0, x.start, 0, -y.step, y.stop))
        return sample if self.transforms is None else self.transforms(sample)

    def _check_step(self, *steps: float) -> None:
        if not np.allclose(steps, self.res, rtol=1e-6):
            raise GridError(
                f"the query asks for pixels of {steps}, the dataset has {self.res}", "give res= to Scenes"
            )

    def _read(self, row: _SceneRow, x: slice, y: slice) -> Sample:
        ds = self._opened(row.entry)
        left, top = ~_grid_of(ds).affine * (x.start, y.stop)
        width, height = (round((part.stop - part.start) / part.step) for part in (x, y))
        names = spatial_dims(ds)
        starts = dict(zip(names, (round(top), round(left)), strict=True))
        sizes = dict(zip(names, (height, width), strict=True))
        window = {
            name: slice(max(starts[name], 0), min(starts[name] + sizes[name], ds.sizes[name]))
            for name in names
        }
        if any(part.stop <= part.start for part in window.values()):  # touched at the edge
            window = {name: slice(0, 1) for name in names}
            starts = {name: ds.sizes[name] for name in names}
        place = {"time": [row.date]} | ({} if row.member is None else {"member": row.member})
        # In this thread: those of dask do not survive the fork of a worker.
        cut = ds.isel(place).isel(window).load(scheduler="synchronous")
        sample = self.form.sample(read_cube(cut, self._how["labels"]), None)
        return {
            name: _placed(
                layer, [window[n].start - starts[n] for n in names], (height, width), self._fill(name)
            )
            for name, layer in sample.items()
        }

    def _fill(self, name: str) -> float:
        return self.form.missing if name == "image" else 255


def _intervals(starts: Sequence[pd.Timestamp]) -> pd.IntervalIndex:
    pairs = [(start, start + _SECOND) for start in starts]
    empty = pd.IntervalIndex.from_arrays(pd.DatetimeIndex([]), pd.DatetimeIndex([]), closed="both")
    index = pd.IntervalIndex.from_tuples(pairs, closed="both") if pairs else empty
    return index.rename("datetime")


def _one_grid(cube: Any, name: str) -> xr.Dataset:
    if not isinstance(cube, xr.Dataset):
        raise GridError(f"item {name!r} has bands on several grids", "choose bands of one grid with bands=")
    return cube


def _grid_of(ds: xr.Dataset) -> GeoBox:
    """Return the grid of a cube, rows from north to south."""
    grid, georeferenced = geobox_from_coords(ds, *spatial_dims(ds))
    if not georeferenced or grid.crs is None or grid.affine.b or grid.affine.d or grid.affine.e > 0:
        raise GridError(
            f"the grid {tuple(grid.affine)[:6]} is not along the axes of a reference system",
            "give crs= and res= to Scenes",
        )
    return grid


def _crs_of(grid: GeoBox) -> CRS:
    assert grid.crs is not None  # `_grid_of` refuses others
    return grid.crs


def _form(ds: xr.Dataset, bands: Sequence[str] | None, missing: float) -> SampleForm:
    first = {dim: 0 for dim in ("member",) if dim in ds.dims}
    names = tuple(bands or ()) or tuple(band.name for band in read_cube(ds.isel(first)).bands)
    labels = label_variables(ds)
    return SampleForm(names, labels[0] if labels else "", float(missing))


def _placed(layer: torch.Tensor, at: Sequence[int], shape: tuple[int, int], fill: float) -> torch.Tensor:
    """Return a layer in a window that may reach beyond it."""
    if tuple(layer.shape[-2:]) == shape:
        return layer
    out = torch.full((*layer.shape[:-2], *shape), fill, dtype=layer.dtype)
    rows, cols = (slice(a, a + size) for a, size in zip(at, layer.shape[-2:], strict=True))
    inner = out[..., rows, cols]
    inner.copy_(layer[..., : inner.shape[-2], : inner.shape[-1]])
    return out


def _stacked(parts: Sequence[Sample]) -> Sample:
    return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
