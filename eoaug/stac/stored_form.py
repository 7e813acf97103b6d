"""Stored numbers of bands: their common form over all items, and the way to physical units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.errors import BandError, RadiometryError
from eoaug.raster.quality import known_quality
from eoaug.stac.band_sources import BandSource, ItemDate
from eoaug.stac.cube_grid import on

__all__ = ["StoredForm", "common_form", "refuse_unmarked_gaps", "to_physical"]


@dataclass(frozen=True)
class StoredForm:
    """Type, nodata and attributes of a variable, the same in all its items."""

    dtype: str
    nodata: float | None
    mask: bool
    attrs: Mapping[str, Any]


def common_form(name: str, dates: Sequence[ItemDate]) -> StoredForm:
    """Return the stored form of a variable; refuses items that differ in it."""
    sources = [date.sources[name] for date in dates if name in date.sources]
    first = sources[0]
    for other in sources[1:]:
        same = (first.nodata == other.nodata) or (_is_nan(first.nodata) and _is_nan(other.nodata))
        if first.dtype != other.dtype or not same or (first.scale is None) != (other.scale is None):
            raise RadiometryError(
                f"band {name!r} is {first.dtype} with nodata {first.nodata} and scale {first.scale} in item "
                f"{first.item!r}, but {other.dtype}, {other.nodata} and {other.scale} in item {other.item!r}",
                "open them one by one with ids= or collections=",
            )
    _refuse_other_classes(name, sources)
    return StoredForm(first.dtype, first.nodata, first.mask, first.attrs)


def _refuse_other_classes(name: str, sources: Sequence[BandSource]) -> None:
    """Refuse items whose classes of a variable differ: it has one list for all dates."""
    first = sources[0]
    for other in sources[1:]:
        one, two = _classes(first.attrs), _classes(other.attrs)
        if one == two or (not (one and two) and known_quality(name) is not None):
            continue
        differing = sorted(one.items() ^ two.items())[:3]
        shown = ", ".join(f"{value} {meaning!r}" for (value, _), meaning in differing)
        raise BandError(
            f"the classes of {name!r} differ between item {first.item!r} ({len(one)} classes) and item "
            f"{other.item!r} ({len(two)} classes): {shown}",
            "open them one by one with ids= or collections=, and give their classes the same numbers before you join them",
        )


def _classes(attrs: Mapping[str, Any]) -> dict[tuple[int, int], str]:
    """Return the meanings of a variable's flags by value and mask; empty without flags."""
    values = np.ravel(attrs.get("flag_values", ())).tolist()
    masks = np.ravel(attrs.get("flag_masks", np.full(len(values), -1))).tolist()
    return dict(
        zip(zip(values, masks, strict=True), str(attrs.get("flag_meanings", "")).split(), strict=True)
    )


def refuse_unmarked_gaps(
    name: str, form: StoredForm, groups: Sequence[Sequence[ItemDate]], grid: GeoBox
) -> None:
    """Refuse integers without a nodata value on a grid that the items do not fill: nothing marks the gaps."""
    if form.nodata is not None or form.mask or np.dtype(form.dtype).kind == "f":
        return
    from shapely.ops import unary_union

    for group in groups:
        covered = [on(date.sources[name].geobox, grid).geom for date in group if name in date.sources]
        gap = grid.extent.geom.difference(unary_union(covered)).area / grid.extent.geom.area
        if gap * math.prod(grid.shape) > 0.5:
            raise RadiometryError(
                f"band {name!r} of item {group[0].item.id!r} declares no nodata value, and {100 * gap:.1f} % of "
                "the cube lies outside of it",
                "declare nodata in the item's asset, or choose bbox= inside the item",
            )


def to_physical(
    var: xr.DataArray, name: str, form: StoredForm, groups: Sequence[Sequence[ItemDate]]
) -> xr.DataArray:
    """Return a variable in physical units, with the stored form as its encoding."""
    scalings = [_scaling(name, group) for group in groups]
    declared = [scaling for scaling in scalings if scaling is not None]
    encoding: dict[Any, Any] = {key: value for key, value in var.encoding.items() if key == "grid_mapping"}
    stored = np.dtype(form.dtype)
    attrs = dict(form.attrs)
    if form.mask or (not declared and stored.kind != "f"):
        if form.nodata is not None:
            attrs["nodata"] = stored.type(form.nodata)
        if not form.mask:
            attrs.pop("units", None)
        out = var.copy()
    else:
        scale, offset = np.asarray([scaling or (1.0, 0.0) for scaling in scalings], dtype=np.float64).T
        nodata = None if form.nodata is None or math.isnan(form.nodata) else form.nodata
        out = xr.apply_ufunc(
            _scaled,
            var,
            xr.DataArray(scale, dims="time"),
            xr.DataArray(offset, dims="time"),
            kwargs={"nodata": nodata},
            dask="parallelized",
            output_dtypes=[np.float32],
        )
        encoding["dtype"] = form.dtype
        if declared:
            # One packing for all dates: with the lowest offset it holds the values of each.
            encoding |= {"scale_factor": float(scale.min()), "add_offset": float(offset.min())}
        if form.nodata is not None:
            encoding["_FillValue"] = stored.type(form.nodata)
    out.attrs = attrs
    out.encoding = encoding
    return out


def _scaled(
    stored: NDArray[Any], scale: NDArray[np.float64], offset: NDArray[np.float64], *, nodata: float | None
) -> NDArray[np.float32]:
    physical = (stored * scale + offset).astype(np.float32)
    if nodata is not None:
        physical[stored == nodata] = np.nan
    return physical


def _scaling(name: str, group: Sequence[ItemDate]) -> tuple[float, float] | None:
    """Scale and offset of one date; None when its items declare none."""
    items = {}
    for date in group:
        source = date.sources.get(name)
        if source is not None and source.scale is not None:
            items[(source.scale, source.offset)] = source.item
    if len(items) > 1:
        raise RadiometryError(
            f"band {name!r} has different scale and offset in items of one date: "
            + ", ".join(f"{item!r} {scaling}" for scaling, item in items.items()),
            "keep them apart with groupby='id'",
        )
    return next(iter(items), None)


def _is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)
