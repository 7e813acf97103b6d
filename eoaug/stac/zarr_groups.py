"""Dates, members and headers of the Zarr groups that `write` made, without reading a pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.cube.carried import PROPERTIES
from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.formats.judged_zarr import judged_store
from eoaug.stac.headers import Header
from eoaug.storage.access import AccessPolicy

__all__ = ["Dates", "read_dates"]


_ALONG_TIME = {"platform": "platform", "eo:cloud_cover": "cloud_cover", PROPERTIES: PROPERTIES}
"""By property of an item, the array that has it for each date."""


@dataclass(frozen=True)
class Dates:
    """The dates and ensemble members of a group."""

    times: tuple[datetime, ...]
    members: tuple[int, ...] | None
    """Numbers of the ensemble members; None without a ``member`` dimension."""
    properties: tuple[Mapping[str, Any], ...]
    """STAC properties of each date, where known: ``platform``, ``eo:cloud_cover``, and those that it inherited."""
    headers: Mapping[str, Header]
    """What the group says of each requested array, to compare with the item."""


def read_dates(
    href: str, grids: Mapping[str, GeoBox], access: AccessPolicy, *, form: str, what: str
) -> Dates:
    """Read the dates and members of a group.

    Parameters
    ----------
    href
        The group.
    grids
        Grids that the item declares, by name of the requested array.
    access
        What may be read.
    form
        ``zarr`` or ``icechunk``.
    what
        Which group, for messages.

    Raises
    ------
    ValueError
        The group does not have the layout of `write`.
    Exception
        Whatever Zarr raises for a damaged or unreachable store.
    """
    store = judged_store(href, form, access, [*grids, *_ALONG_TIME.values()], what=what)
    with xr.open_zarr(store, chunks=None, mask_and_scale=False, consolidated=False, zarr_format=3) as group:
        lead: set[tuple[str, ...]] = set()
        for name, grid in grids.items():
            if name not in group.data_vars:
                raise ValueError(f"it holds no array {name!r}, only {sorted(map(str, group.data_vars))}")
            dims, shape = tuple(map(str, group[name].dims)), group[name].shape
            if dims[:-2] not in (("time",), ("member", "time")) or shape[-2:] != tuple(grid.shape):
                raise ValueError(
                    f"array {name!r} has the dimensions {dict(group[name].sizes)}; its item says time and "
                    f"{grid.shape.y} x {grid.shape.x} pixels"
                )
            lead.add(dims[:-2])
        if "time" not in group.coords or group["time"].dtype.kind != "M":
            raise ValueError("it has no dates along time")
        micros = group["time"].values.astype("datetime64[us]").tolist()
        members = None
        if ("member", "time") in lead:
            numbers = group.coords["member"].values if "member" in group.coords else ()
            members = tuple(map(int, numbers)) if len(numbers) else tuple(range(group.sizes["member"]))
        properties: list[dict[str, Any]] = [{} for _ in micros]
        for key, name in _ALONG_TIME.items():
            if name in group.variables and group[name].dims == ("time",):
                for fields, value in zip(properties, group[name].values.tolist(), strict=True):
                    if value != "" and not (isinstance(value, float) and math.isnan(value)):
                        fields[key] = value
        headers = {name: _header(group, name, grid) for name, grid in grids.items()}
        return Dates(tuple(time.replace(tzinfo=UTC) for time in micros), members, tuple(properties), headers)


def _header(group: xr.Dataset, name: str, declared: GeoBox) -> Header:
    """Return what a group says of one of its arrays; ``declared`` is the grid where the group has none."""
    array = group[name]
    geobox, georeferenced = geobox_from_coords(group, *spatial_dims(array))
    nodata = array.attrs.get("_FillValue")
    return Header(
        shape=(int(geobox.shape.y), int(geobox.shape.x)),
        transform=geobox.affine if georeferenced else Affine.identity(),
        crs="" if geobox.crs is None else geobox.crs.to_wkt(),
        dtypes=(array.dtype.name,),
        nodata=(None if nodata is None else float(nodata),),
        scales=(float(array.attrs.get("scale_factor", 1.0)),),
        offsets=(float(array.attrs.get("add_offset", 0.0)),),
        names=("",),
        numbers=(1,),
        palette=(False,),
        geobox=declared if geobox.crs is None else geobox,
    )
