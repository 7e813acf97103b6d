"""Shards of chips: many small cubes of one form in one Zarr group, stacked along ``sample``.

A file per chip would cost more than its pixels. What differs between chips (id, label, grid, record) is a line each of
``samples.jsonl`` next to the arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.errors import EoaugError, GridError, SourceError
from eoaug.formats.judged_zarr import arrays_in, judged_store
from eoaug.formats.packing import store_form
from eoaug.storage.access import AccessPolicy
from eoaug.storage.crs_text import judged_crs

__all__ = ["GROUP", "SAMPLES", "Chip", "read_chip", "read_samples", "write_chips"]

GROUP, SAMPLES = "chips.zarr", "samples.jsonl"
"""Names of the group and of the table of a shard."""

_READ_BYTES = 1 << 16
"""About as much of an array is read to read one chip."""
_OWN = ("_FillValue", "dtype", "grid_mapping", "coordinates")


@dataclass(frozen=True)
class Chip:
    """One chip and its line of the table."""

    ds: xr.Dataset
    """In memory; its date, if it has one, is a coordinate or a dimension ``time``."""
    fields: Mapping[str, Any]
    """JSON values."""


def write_chips(chips: Sequence[Chip], folder: Path) -> list[dict[str, Any]]:
    """Write a shard into a folder; return its table.

    Parameters
    ----------
    chips
        Of one size, with the same variables in the same types.
    folder
        Gets the group and the table.

    Raises
    ------
    GridError
        Chips of different form.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    first = chips[0].ds
    group = zarr.open_group(folder / GROUP, mode="w", zarr_format=3)
    for name in map(str, first.data_vars):
        stack = np.stack([_stored(chip, name, first) for chip in chips])
        attrs = {**first[name].attrs, "dims": [str(dim) for dim in first[name].dims]}
        form = store_form(first[name])
        attrs |= {"scale_factor": form.scale, "add_offset": form.offset} if form.has_scale else {}
        if form.nodata is not None and np.isfinite(form.nodata):
            attrs["nodata"] = form.nodata
        inner = max(1, min(len(stack), _READ_BYTES // max(stack[0].nbytes, 1)))
        whole = -(-len(stack) // inner) * inner
        array = group.create_array(
            name,
            shape=stack.shape,
            dtype=stack.dtype,
            chunks=(inner, *stack.shape[1:]),
            shards=(whole, *stack.shape[1:]),
            compressors=ZstdCodec(level=3),
            attributes={key: _plain(value) for key, value in attrs.items() if key not in _OWN},
            dimension_names=("sample", *map(str, first[name].dims)),
        )
        array[...] = stack
    names = [str(name) for name in first.data_vars]
    group.attrs["eoaug"] = {"samples": len(chips), "table": SAMPLES, "variables": names}
    rows = [{**chip.fields, **_grid(chip.ds), **_dates(chip.ds)} for chip in chips]
    lines = [json.dumps(row, sort_keys=True) for row in rows]
    (folder / SAMPLES).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows


def _stored(chip: Chip, name: str, first: xr.Dataset) -> Any:
    """Return the numbers of a variable as they are stored."""
    own = chip.ds.data_vars.get(name)
    expected = first[name]
    if own is None or own.shape != expected.shape or own.dtype != expected.dtype or own.dims != expected.dims:
        got = "missing" if own is None else f"{own.dtype} {dict(own.sizes)}"
        raise GridError(
            f"chip {chip.fields.get('id')!r}: variable {name!r} is {got}, and {expected.dtype} {dict(expected.sizes)} "
            "in the other chips of its shard",
            "augment images of one size and with the same bands, or use format: cog",
        )
    form, other = store_form(own), store_form(expected)
    if (form.dtype, form.scale, form.offset) != (other.dtype, other.scale, other.offset):
        raise GridError(
            f"chip {chip.fields.get('id')!r}: variable {name!r} has scale {form.scale:g} and offset {form.offset:g}, the "
            f"other chips of its shard {other.scale:g} and {other.offset:g}",
            "augment images of one calibration, or use format: cog",
        )
    return form.pack(own.values)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _grid(ds: xr.Dataset) -> dict[str, Any]:
    """Return transform and reference system; nothing of a grid in pixels."""
    if "spatial_ref" not in ds.coords:
        return {}
    geobox = ds.odc.geobox
    if geobox is None or geobox.crs is None:
        return {}
    crs = f"EPSG:{geobox.crs.epsg}" if geobox.crs.epsg else geobox.crs.to_wkt()
    return {"transform": list(geobox.affine)[:6], "crs": crs, "shape": list(geobox.shape)}


def _dates(ds: xr.Dataset) -> dict[str, Any]:
    if "time" not in ds.coords:
        return {}
    dates = np.atleast_1d(ds.time.values).astype("datetime64[s]")
    return {"dates": [f"{date}Z" for date in dates]}


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the table of a shard.

    Raises
    ------
    SourceError
        It is missing or damaged.
    """
    try:
        lines = (folder / SAMPLES).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        if not all(isinstance(row, dict) and "id" in row for row in rows):
            raise ValueError("a line is no sample")
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(
            f"the table of chips {str(folder / SAMPLES)!r} cannot be read: {error}",
            "run `eoaug validate` on its catalog, and augment again",
        ) from error
    return rows


def read_chip(folder: Path, index: int, fields: Mapping[str, Any]) -> xr.Dataset:
    """Return a chip of a shard as a cube.

    Parameters
    ----------
    folder
        Of the shard.
    index
        Number of the chip.
    fields
        Its line of the table.
    """
    variables: dict[str, Any] = {}
    for name, array in _arrays(str(folder)).items():
        attrs = dict(array.attrs)
        dims = tuple(attrs.pop("dims"))
        attrs |= {"grid_mapping": "spatial_ref"} if "crs" in fields else {}
        if "flag_values" in attrs:
            attrs["flag_values"] = np.asarray(attrs["flag_values"])
        variables[name] = (dims, np.asarray(array[index]), attrs)
    dims, some = next((d, values) for d, values, _ in variables.values())
    coords: dict[Any, Any]
    if "crs" in fields:
        from odc.geo.xr import xr_coords

        geobox = GeoBox(
            some.shape[-2:],
            Affine(*fields["transform"]),
            judged_crs(str(fields["crs"]), what=f"chip {fields.get('id')!r}"),
        )
        coords = dict(xr_coords(geobox))
    else:
        sizes = zip(dims[-2:], some.shape[-2:], strict=True)
        coords = {name: ((name,), np.arange(size) + 0.5, {"units": "pixel"}) for name, size in sizes}
    if dates := fields.get("dates"):
        times = np.array([date.removesuffix("Z") for date in dates], "datetime64[ns]")
        coords["time"] = ("time", times) if "time" in dims else times[0]
    return xr.Dataset(variables, coords)


@lru_cache(maxsize=64)
def _arrays(folder: str) -> dict[str, Any]:
    """Return the arrays of a shard, opened once per process."""
    import zarr

    group = str((Path(folder) / GROUP).resolve())
    try:
        access = AccessPolicy.for_source(group)
        store = judged_store(group, "zarr", access, arrays_in(group), what=f"the chips {folder!r}")
        opened = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
        # Zarr lists arrays in any order.
        form: Any = opened.attrs["eoaug"]
        return {name: opened[name] for name in form["variables"]}
    except EoaugError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"the chips {folder!r} cannot be opened: {error}", "run `eoaug validate` on their catalog"
        ) from error
