"""netCDF files and Zarr groups without items: opened with xarray, in the form that `open_cube` gives to items."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube.synthetic import SYNTHETIC
from eoaug.errors import (
    BandError,
    EoaugError,
    ParameterError,
    SourceError,
    TimeError,
    did_you_mean,
    first_line,
)
from eoaug.formats.georeference import geobox_of
from eoaug.formats.judged_zarr import arrays_in, judged_store
from eoaug.stac.file_dates import date_in_name
from eoaug.stac.filters import Bbox
from eoaug.storage.access import AccessPolicy, check_tree
from eoaug.storage.files import open_plain

__all__ = ["is_array_file", "open_array_files"]


_HDF5, _CLASSIC = b"\x89HDF", b"CDF"
_ZARR_DOCUMENTS = (".zmetadata", ".zarray", ".zgroup", "zarr.json")
_DEPTH = 4
"""Levels of groups whose documents are checked."""


def is_array_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is that of a netCDF file or a Zarr group."""
    path = Path(path)
    if path.is_dir():
        return any((path / name).is_file() for name in _ZARR_DOCUMENTS)
    return path.suffix.lower() in (".nc", ".nc4", ".cdf", ".netcdf")


def open_array_files(
    paths: Sequence[Path],
    access: AccessPolicy,
    *,
    bands: Sequence[str] = (),
    bbox: Bbox | None = None,
    interval: tuple[datetime | None, datetime | None] | None = None,
    chunks: Mapping[str, int] | None = None,
) -> xr.Dataset:
    """Open netCDF files or Zarr groups as one cube; several are joined along time.

    Parameters
    ----------
    paths
        Files, or folders of Zarr groups.
    access
        What may be read.
    bands
        Variables, by name or ``long_name``; empty: all.
    bbox
        West, south, east, north in degrees.
    interval
        First and last instant.
    chunks
        Dask chunk edges by dimension; None reads at once.

    Returns
    -------
    xarray.Dataset
        As `eoaug.open_cube` returns it: measurements with a declared scale are float32 in physical units, NaN where
        missing; integers without one stay integers, with ``nodata`` in the attributes.

    Raises
    ------
    SourceError, BandError, TimeError, GridError
        A file cannot be read, or the files do not make one cube; a band is missing; no date in the interval; no
        georeference.
    """
    cubes = [_opened(path, access, chunks) for path in paths]
    ds = cubes[0] if len(cubes) == 1 else _joined(cubes, paths)
    if bands:
        ds = _chosen(ds, bands, paths[0])
    geobox, y, x = geobox_of(ds, attempt=f"opening {str(paths[0])!r}")
    if interval is not None:
        ds = _between(ds, interval, paths[0])
    if bbox is not None:
        ds = _inside(ds, geobox, (y, x), bbox, paths[0])
    return ds if chunks is not None else ds.load()


def _opened(path: Path, access: AccessPolicy, chunks: Mapping[str, int] | None) -> xr.Dataset:
    what = f"{'Zarr group' if path.is_dir() else 'file'} {str(path)!r}"
    address = access.resolve(str(path), what=what)
    asked = {} if chunks is None else dict(chunks)
    options: dict[str, Any] = {"mask_and_scale": False, "decode_coords": "all", "chunks": asked}
    try:
        if os.path.isdir(address):
            check_tree(address, what=what)
            store = judged_store(address, "zarr", access, arrays_in(address), what=what, old=True)
            ds = xr.open_zarr(store, consolidated=False, **options)
        else:
            ds = xr.open_dataset(address, engine=_engine(address, what), **options)
        sizes = {name: size for name, size in asked.items() if name in ds.dims}
        ds = ds.chunk(sizes) if sizes else ds
        _check_sizes(ds, access, what)
        return _dated(_physical(_bands_apart(ds)), path)
    except EoaugError:
        raise
    except Exception as error:  # xarray, zarr, h5py, scipy and the file system each raise their own
        raise SourceError(
            f"{what} cannot be read: {type(error).__name__}: {first_line(error)}",
            f"open it with xarray and hand over the Dataset: open_cube(xr.open_dataset({str(path)!r}))",
        ) from error


def _engine(address: str, what: str) -> str:
    """Return the engine of a netCDF file, by its first bytes; refuses links to other files."""
    with open_plain(address) as file:
        head = file.read(4)
    if head.startswith(_CLASSIC):
        return "scipy"
    if not head.startswith(_HDF5):
        raise SourceError(f"{what} is not netCDF: it begins with {head!r}", "check that the file is complete")
    if find_spec("h5netcdf") is None:
        raise SourceError(
            f"{what} cannot be read: h5netcdf is not installed", "run: pip install h5netcdf h5py"
        )
    import h5py

    with h5py.File(address, "r") as file:
        for name in _links(file, _DEPTH):
            raise SourceError(f"{what} refers to another file at {name!r}", "copy the data into one file")
    return "h5netcdf"


def _links(group: Any, depth: int) -> Iterator[str]:
    """Yield the names of what an HDF5 file keeps in other files."""
    import h5py

    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            yield f"{group.name}/{name}"
            continue
        member = group[name]
        if isinstance(member, h5py.Dataset):
            if member.external or member.is_virtual:
                yield str(member.name)
        elif depth:
            yield from _links(member, depth - 1)


def _check_sizes(ds: xr.Dataset, access: AccessPolicy, what: str) -> None:
    if len(ds.data_vars) > access.limits.bands:
        raise SourceError(
            f"{what} has {len(ds.data_vars)} variables; the most is {access.limits.bands}",
            "open it with xarray and hand over the bands",
        )
    for name, variable in ds.data_vars.items():
        if variable.ndim >= 2:
            access.limits.check_raster(
                f"{name!r} of {what}",
                shape_yx=(variable.shape[-2], variable.shape[-1]),
                itemsize=variable.dtype.itemsize,
            )


def _bands_apart(ds: xr.Dataset) -> xr.Dataset:
    """Return a variable per band where one variable holds all of them along ``band``, as rioxarray writes them."""
    stacked = [name for name, variable in ds.data_vars.items() if "band" in variable.dims]
    if len(stacked) != 1 or not set(ds.data_vars) <= {stacked[0]}:
        return ds
    whole = ds[stacked[0]]
    count = whole.sizes["band"]
    names = whole.attrs.get("long_name")
    if isinstance(names, str) or names is None or len(names) != count:
        labels = ds["band"].values if "band" in ds.coords else np.arange(1, count + 1)
        single = isinstance(names, str) and count == 1
        names = (
            [names]
            if single
            else [str(v) if np.dtype(labels.dtype).kind in "UOS" else f"band_{v}" for v in labels]
        )
    if len(set(map(str, names))) < count:
        names = [f"{name}_{number}" for number, name in enumerate(names, 1)]
    attrs = {key: value for key, value in whole.attrs.items() if key != "long_name"}
    layers = {str(name): whole.isel(band=k, drop=True).assign_attrs() for k, name in enumerate(names)}
    for layer in layers.values():
        layer.attrs = dict(attrs)
        layer.encoding = dict(whole.encoding)
    return xr.Dataset(layers, attrs=ds.attrs)


def _physical(ds: xr.Dataset) -> xr.Dataset:
    """Return measurements in physical units, and other integers as they are."""
    layers: dict[Any, Any] = {}
    for name, variable in ds.data_vars.items():
        declared = {"scale_factor", "add_offset"} & set(variable.attrs)
        if variable.dtype.kind == "f" or declared or "_Unsigned" in variable.attrs:
            decoded = xr.conventions.decode_cf_variable(str(name), variable.variable, decode_times=False)
            encoding = {**variable.encoding, **decoded.encoding}
            layers[name] = decoded.astype(np.float32, keep_attrs=True)
            layers[name].encoding = encoding
        elif variable.dtype.kind in "iu":
            attrs = dict(variable.attrs)
            fills = [attrs.pop(key) for key in ("_FillValue", "missing_value") if key in attrs]
            if fills:
                attrs["nodata"] = variable.dtype.type(np.ravel(fills[0])[0])
            layers[name] = variable.variable.copy(deep=False)
            layers[name].attrs = attrs
    return ds.assign(layers)


def _dated(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """Give a cube without dates the one that its attributes or its name tell."""
    if "time" in ds.dims:
        return ds
    if "time" in ds.coords and ds["time"].dtype.kind == "M":
        return ds.expand_dims("time")
    first, last = (ds.attrs.get(f"time_coverage_{edge}") for edge in ("start", "end"))
    time = date_in_name(path.stem)
    if first is not None and first == last:
        try:
            stated = datetime.fromisoformat(str(first))
        except ValueError:
            stated = None
        if stated is not None:
            time = stated.replace(tzinfo=UTC) if stated.tzinfo is None else stated.astimezone(UTC)
    if time is None:
        return ds
    instant = np.datetime64(time.replace(tzinfo=None), "ns")
    dated = [name for name, variable in ds.data_vars.items() if variable.ndim >= 2]
    return ds.assign({name: ds[name].expand_dims(time=[instant]) for name in dated})


def _joined(cubes: Sequence[xr.Dataset], paths: Sequence[Path]) -> xr.Dataset:
    """Join cubes of the same bands and grid along time."""
    first = cubes[0]
    grid = geobox_of(first, attempt=f"opening {str(paths[0])!r}")[0]
    for cube, path in zip(cubes, paths, strict=True):
        remedy = "open the files one by one"
        if "time" not in cube.dims:
            raise TimeError(f"no date is known of {str(path)!r}, one of {len(paths)} files", remedy)
        if set(cube.data_vars) != set(first.data_vars):
            raise SourceError(
                f"{str(paths[0])!r} holds {sorted(map(str, first.data_vars))}, but {str(path)!r} "
                f"{sorted(map(str, cube.data_vars))}",
                remedy,
            )
        if geobox_of(cube, attempt=f"opening {str(path)!r}")[0] != grid:
            raise SourceError(f"{str(path)!r} has another grid than {str(paths[0])!r}", remedy)
    ds = xr.concat(
        list(cubes), dim="time", data_vars="minimal", coords="minimal", compat="override", join="override",
        combine_attrs="drop_conflicts",
    )  # fmt: skip
    times = ds.indexes["time"]
    if times.has_duplicates:
        raise TimeError(
            f"{len(paths)} files hold the date {times[times.duplicated()][0]} twice",
            "open the files one by one",
        )
    return ds.sortby("time")


def _chosen(ds: xr.Dataset, bands: Sequence[str], path: Path) -> xr.Dataset:
    """Return the requested bands, by variable or long_name; the mask of generated pixels is kept."""
    chosen: dict[str, Any] = {}
    for wanted in bands:
        hits: list[Any] = [name for name in ds.data_vars if name == wanted] or [
            name
            for name, variable in ds.data_vars.items()
            if wanted in (variable.attrs.get("long_name"), variable.attrs.get("common_name"))
        ]
        if len(hits) != 1:
            known = sorted(map(str, ds.data_vars))
            raise BandError(
                f"{str(path)!r} has {'several bands' if hits else 'no band'} {wanted!r}; it has {known}",
                did_you_mean(wanted, known, cutoff=0.5) or "name one of these",
            )
        chosen[str(hits[0])] = wanted
    kept = [*chosen, *({SYNTHETIC} & set(map(str, ds.data_vars)))]
    return ds[list(dict.fromkeys(kept))].rename({name: new for name, new in chosen.items() if name != new})


def _between(ds: xr.Dataset, interval: tuple[datetime | None, datetime | None], path: Path) -> xr.Dataset:
    if "time" not in ds.dims or ds["time"].dtype.kind != "M":
        raise TimeError(
            f"datetime= was given, but no date is known of {str(path)!r}",
            "omit datetime=, or put the date into the name, like cube_20240601.nc",
        )
    start, end = (
        None if t is None else np.datetime64(t.astimezone(UTC).replace(tzinfo=None)) for t in interval
    )
    times = ds["time"].values
    inside = np.ones(times.shape, bool)
    if start is not None:
        inside &= times >= start
    if end is not None:
        inside &= times <= end
    if not inside.any():
        raise SourceError(
            f"none of the {len(times)} dates of {str(path)!r} lies in the interval", "widen datetime="
        )
    return ds.isel(time=np.flatnonzero(inside))


def _inside(ds: xr.Dataset, geobox: Any, dims_yx: tuple[str, str], bbox: Bbox, path: Path) -> xr.Dataset:
    from odc.geo import geom

    west, south, east, north = bbox
    if west > east:
        raise ParameterError(
            f"bbox={bbox} crosses the antimeridian, which files are not cut along",
            "open the file without bbox=",
        )
    box = geom.box(west, south, east, north, "EPSG:4326").to_crs(geobox.crs, 0.01)
    rows, cols = geobox.overlap_roi(geobox.enclosing(box))
    y, x = dims_yx
    if rows.stop <= rows.start or cols.stop <= cols.start:
        raise SourceError(
            f"{str(path)!r} has no pixel inside bbox={bbox}",
            "check the order of bbox: west, south, east, north in degrees",
        )
    return ds.isel({y: rows, x: cols})
