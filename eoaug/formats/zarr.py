"""Zarr v3 groups with GeoZarr and CF georeferencing, that are complete or absent.

A group is written under a temporary name next to its target, flushed to disk, and renamed last. Lazy cubes are
computed once, a bounded group of chunks at a time, all variables of a chunk together.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.errors import TargetError
from eoaug.formats.blocks import blocks
from eoaug.formats.georeference import convention_attrs, geobox_of, grid_mapping
from eoaug.formats.icechunk import committed
from eoaug.formats.packing import Stored, store_form
from eoaug.raster.radiometry import NODATA_KEYS, SCALE_ATTRS
from eoaug.storage.atomic import atomic_write

__all__ = ["write_zarr"]


_ZARR_CHUNK_PX = 512


def write_zarr(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    form: Literal["zarr", "icechunk"] = "zarr",
    attrs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_block: Callable[[Mapping[str, slice], Mapping[str, NDArray[Any]]], None] | None = None,
    scheduler: str | None = None,
) -> None:
    """Write a cube as one Zarr v3 group, completely or not at all.

    The group has CF georeferencing (``spatial_ref`` with WKT and GeoTransform, named by every variable)
    and the ``proj:`` and ``spatial:`` conventions on the group and on every array, since
    readers differ in which of them they support, and where.

    Parameters
    ----------
    ds
        Variables over (time, y, x) or (member, time, y, x) with a grid; packed as `store_form` returns.
    path
        Target folder.
    form
        ``icechunk``: the group is the one commit of an Icechunk repository.
    attrs
        Attributes of the group; default: those of ``ds``.
    overwrite
        Replace an existing group.
    on_block
        Called with region and values of every block as it is written.
    scheduler
        Name of dask's scheduler; None: the active one.

    Raises
    ------
    GridError, RadiometryError, TargetError
        The grid, a type or the target cannot be used.
    """
    import zarr
    import zarr.errors

    geobox, y, x = geobox_of(ds, attempt="writing Zarr")
    forms = {str(name): store_form(var) for name, var in ds.data_vars.items()}
    dims = [dim for dim in ("time", y, x) if dim in ds.dims]
    store: Any = nullcontext if form == "zarr" else committed
    with atomic_write(Path(path), overwrite=overwrite) as scratch, store(scratch) as opened:
        template, encoding = _template(ds, forms, geobox, (y, x), ds.attrs if attrs is None else attrs)
        template.to_zarr(
            opened, mode="w-", compute=False, zarr_format=3, encoding=encoding, consolidated=False
        )
        group = zarr.open_group(opened, mode="r+")
        for region, values in blocks(ds, dims, scheduler=scheduler):
            for name, block in values.items():
                order = [region.get(str(dim), slice(None)) for dim in ds[name].dims]
                array = group[name]
                assert isinstance(array, zarr.Array)
                array[tuple(order)] = forms[name].pack(block)
            if on_block is not None:
                on_block(region, values)
        if form == "zarr":  # a repository keeps its metadata together anyway
            with warnings.catch_warnings():
                # The specification of Zarr v3 has no consolidated metadata yet; readers that do not support it ignore it.
                warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
                zarr.consolidate_metadata(scratch)


def _template(
    ds: xr.Dataset,
    forms: Mapping[str, Stored],
    geobox: GeoBox,
    yx: tuple[str, str],
    attrs: Mapping[str, Any],
) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """Return the group without pixels (types, georeferencing, attributes), and the encoding of its arrays."""
    import dask.array as da

    conventions = convention_attrs(geobox, yx)
    kept = {
        name: coord.drop_encoding()
        for name, coord in ds.coords.items()
        if name != "spatial_ref" and not (name in ds.coords and coord.dtype == object and coord.ndim == 0)
    }
    template = xr.Dataset(coords=kept, attrs={**_storable(attrs, "the cube", "ds"), **conventions})
    for axis, dim in zip(("Y", "X"), yx, strict=True):
        # The coordinates of a rotated grid are pixel indices: only the affine transform locates its pixels.
        if dim in template.coords and geobox.axis_aligned:
            geographic = geobox.crs is not None and geobox.crs.geographic
            names = {"Y": "latitude", "X": "longitude"} if geographic else {}
            standard = names.get(axis, f"projection_{axis.lower()}_coordinate")
            template[dim].attrs.update(axis=axis, standard_name=standard)
    template.coords["spatial_ref"] = xr.DataArray(np.int32(0), attrs=grid_mapping(geobox))
    encoding: dict[str, dict[str, Any]] = {}
    for name, var in ds.data_vars.items():
        form = forms[str(name)]
        chunks = tuple(_zarr_chunk(var, str(dim), yx) for dim in var.dims)
        # Scale and nodata are stated once, in CF's attributes: readers apply these and would leave another form to be
        # applied again.
        left_out = {*NODATA_KEYS, *SCALE_ATTRS, "grid_mapping"}
        given = {k: v for k, v in var.attrs.items() if k not in left_out}
        own = _storable(given, str(name), f"ds[{str(name)!r}]")
        if form.has_scale:
            own |= {"scale_factor": form.scale, "add_offset": form.offset}
        empty = da.zeros(var.shape, dtype=form.dtype, chunks=chunks)
        template[str(name)] = (var.dims, empty, {**own, **conventions, "grid_mapping": "spatial_ref"})
        encoding[str(name)] = {"chunks": chunks}
        if form.nodata is not None:
            encoding[str(name)]["_FillValue"] = form.dtype.type(form.nodata)
        elif form.dtype.kind in "iu":
            # Every array has a fill value, 0 by default, which GDAL takes for nodata: the measured pixels of a mask.
            encoding[str(name)]["fill_value"] = form.dtype.type(np.iinfo(form.dtype).max)
    return template, encoding


def _storable(attrs: Mapping[Any, Any], of: str, spelled: str) -> dict[Any, Any]:
    """Return attributes as Zarr stores them, in JSON."""
    out = {key: list(value) if isinstance(value, range) else value for key, value in attrs.items()}
    for key, value in out.items():
        try:
            json.dumps(value, default=lambda part: part.tolist())
        except (AttributeError, TypeError, ValueError) as error:
            raise TargetError(
                f"attribute {key!r} of {of} is {value!r}, of type {type(value).__name__}, which a Zarr group cannot hold",
                f"make it text, a number or a list of these, or delete it: del {spelled}.attrs[{key!r}]",
            ) from error
    return out


def _zarr_chunk(var: xr.DataArray, dim: str, yx: tuple[str, str]) -> int:
    return min(_ZARR_CHUNK_PX, var.sizes[dim]) if dim in yx else 1
