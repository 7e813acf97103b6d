"""Zarr groups that `write` made: which dates they hold, and their pixels by window."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from odc.geo.roi import roi_is_empty, roi_shape
from odc.geo.warp import rio_reproject

__all__ = ["ArrayReader", "Dates", "read_dates"]

_KERNEL_PX = 4
"""Pixels around a window that resampling looks at, in pixels of the coarser grid: Lanczos needs 3."""


@dataclass(frozen=True)
class Dates:
    """What a group holds along time, and its members."""

    times: tuple[datetime, ...]
    members: tuple[int, ...] | None
    """Numbers of the ensemble members; None without a ``member`` dimension."""
    facts: tuple[Mapping[str, Any], ...]
    """Item properties of each date: ``platform`` and ``eo:cloud_cover``, where known."""


def read_dates(href: str, grids: Mapping[str, GeoBox]) -> Dates:
    """Read what a group says of its dates; pixels are not touched.

    Parameters
    ----------
    href
        The group.
    grids
        Its arrays that are wanted, and the grids that the item declares for them.

    Raises
    ------
    ValueError
        The group is not laid out as `write` does it.
    Exception
        Whatever a store that is damaged or out of reach makes Zarr raise.
    """
    with xr.open_zarr(href, chunks=None, mask_and_scale=False) as group:
        lead: set[tuple[str, ...]] = set()
        for name, grid in grids.items():
            if name not in group.data_vars:
                raise ValueError(f"it holds no array {name!r}, only {sorted(map(str, group.data_vars))}")
            dims, shape = tuple(map(str, group[name].dims)), group[name].shape
            if dims[:-2] not in (("time",), ("member", "time")) or shape[-2:] != tuple(grid.shape):
                raise ValueError(f"array {name!r} is {dict(group[name].sizes)}, its item says {grid.shape}")
            lead.add(dims[:-2])
        if "time" not in group.coords or group["time"].dtype.kind != "M":
            raise ValueError("it has no dates along time")
        micros = group["time"].values.astype("datetime64[us]").tolist()
        members = None
        if ("member", "time") in lead:
            numbers = group.coords["member"].values if "member" in group.coords else ()
            members = tuple(map(int, numbers)) if len(numbers) else tuple(range(group.sizes["member"]))
        facts: list[dict[str, Any]] = [{} for _ in micros]
        for key, name in (("platform", "platform"), ("eo:cloud_cover", "cloud_cover")):
            if name in group.variables and group[name].dims == ("time",):
                for told, value in zip(facts, group[name].values.tolist(), strict=True):
                    if value != "" and not (isinstance(value, float) and math.isnan(value)):
                        told[key] = value
        return Dates(tuple(time.replace(tzinfo=UTC) for time in micros), members, tuple(facts))


@dataclass(frozen=True)
class ArrayReader:
    """One date of one array; reads as odc's reader of raster files does."""

    href: str
    array: str
    place: tuple[int, ...]
    """Index along the dimensions before y and x."""
    grid: GeoBox

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: NDArray[Any] | None = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """Return where in ``dst_geobox`` the array has pixels, and these pixels."""
        import zarr

        assert selection is None
        nearest = cfg.resampling == "nearest"
        fit = compute_reproject_roi(self.grid, dst_geobox, ttol=0.9 if nearest else 0.05)
        if not fit.paste_ok or fit.read_shrink != 1:
            reach = math.ceil(_KERNEL_PX * max(1.0, *fit.scale2.xy)) if fit.scale else 1
            fit = compute_reproject_roi(self.grid, dst_geobox, padding=reach)
        rows, cols = fit.roi_dst
        out: NDArray[Any] = np.empty(roi_shape(fit.roi_dst), cfg.dtype) if dst is None else dst[rows, cols]
        if roi_is_empty(fit.roi_dst):
            return (rows, cols), out
        if roi_is_empty(fit.roi_src):
            out[...] = 0 if cfg.fill_value is None else cfg.fill_value
            return (rows, cols), out
        array = zarr.open_array(self.href, path=self.array, mode="r")
        window = np.asarray(array[(*self.place, *fit.roi_src)])
        if fit.paste_ok and fit.read_shrink == 1:
            out[...] = window
        else:
            source, target = self.grid[fit.roi_src], dst_geobox[fit.roi_dst]
            nodata = {"src_nodata": cfg.fill_value, "dst_nodata": cfg.fill_value}
            rio_reproject(window, out, source, target, cfg.resampling, **nodata)
        return (rows, cols), out
