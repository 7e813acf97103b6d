"""Files: cloud-optimised GeoTIFFs and Zarr groups that are complete or absent.

A COG that was cut off while being written still opens, reads zeros and passes validators. So every
file is made under a temporary name beside its target, flushed to disk, and renamed last. Lazy cubes
are computed once, a bounded group of chunks at a time, all variables and dates of a chunk together.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.cube.progress import watch
from eoaug.cube.repository import committed
from eoaug.errors import EoaugError, GridError, RadiometryError, TargetError
from eoaug.faults import reach
from eoaug.radiometry import cast

__all__ = [
    "CogFile",
    "Stored",
    "alive",
    "blocks",
    "busy",
    "checksum",
    "crs_fields",
    "finished",
    "geobox_of",
    "machine",
    "room_in",
    "settle",
    "store_form",
    "sweep",
    "write_cog",
    "write_zarr",
]

_BLOCK_PX = 1024
"""Edge of the blocks that a cube without chunks is written in."""
_GROUP_BYTES = 256 * 2**20
"""Bytes of pixels that one dask computation may hold; more chunks at once keep the workers busy."""
_COG_TILE_PX = 512
_ZARR_CHUNK_PX = 512

_REPLACED = ".old"
"""Ending of a folder that is about to be replaced, in the scratch folder."""
_BROKEN = ".broken"
"""The same for one that nobody wants back."""

_PROJ_CONVENTION = {
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
    "description": "Coordinate reference system of the array",
}
_SPATIAL_CONVENTION = {
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "description": "Position of the array in that system",
}


@dataclass(frozen=True)
class Stored:
    """How a variable lies in a file: value = stored * scale + offset."""

    dtype: np.dtype[Any]
    """Type in the file."""
    nodata: float | None = None
    """Stored number that means missing; None when no number does."""
    scale: float = 1.0
    """Physical units per stored unit."""
    offset: float = 0.0
    """Physical value of stored 0."""
    packed: bool = False
    """True when the values in memory are stored numbers already."""

    def pack(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return ``values`` as they lie in the file: one rounding, no wrap, NaN as nodata."""
        if self.packed:
            return np.ascontiguousarray(values, dtype=self.dtype)
        if self.scale == 1.0 and self.offset == 0.0 and values.dtype == self.dtype:
            plain = self.nodata is None or math.isnan(self.nodata)
            if plain and self.dtype.kind == "f":
                return np.ascontiguousarray(values)
        numbers = values.astype(np.float64)
        if self.scale != 1.0 or self.offset != 0.0:
            numbers = (numbers - self.offset) / self.scale
        return cast(numbers, self.dtype, self.nodata)


def store_form(variable: xr.DataArray) -> Stored:
    """Tell from a variable's encoding and attributes how it is to lie in a file.

    Floating values with ``dtype``, ``scale_factor``, ``add_offset`` or ``_FillValue`` in their encoding
    are packed like that. Integers stay as they are; ``scale_factor``, ``add_offset``, ``_FillValue``
    and ``nodata`` among their attributes describe them.

    Raises
    ------
    RadiometryError
        When the type cannot be stored, or the scale is 0 or not a number.
    """
    name, dtype = str(variable.name), variable.dtype
    if dtype.kind not in "iufb":
        raise RadiometryError(
            f"variable {name!r} has type {dtype}, which no raster file stores.",
            f"Convert it, e.g. ds[{name!r}].astype('float32'), or drop it.",
        )
    floating = dtype.kind == "f"
    told: Mapping[str, Any] = variable.encoding if floating else {**variable.encoding, **variable.attrs}
    fill = told.get("_FillValue", variable.attrs.get("_FillValue", variable.attrs.get("nodata")))
    scale, offset = float(told.get("scale_factor", 1.0)), float(told.get("add_offset", 0.0))
    if scale == 0 or not math.isfinite(scale) or not math.isfinite(offset):
        raise RadiometryError(
            f"variable {name!r} declares scale_factor={scale} and add_offset={offset}; no way back.",
            f"Correct ds[{name!r}].encoding.",
        )
    nodata = None if fill is None else float(fill)
    if not floating:
        stored = np.dtype("uint8") if dtype.kind == "b" else dtype
        return Stored(stored, nodata, scale, offset, packed=True)
    stored = np.dtype(told.get("dtype", np.float32 if dtype.itemsize < 8 else dtype))
    if stored.kind == "f" and nodata is None:
        nodata = math.nan
    if stored.kind != "f" and nodata is not None and math.isnan(nodata):
        nodata = None
    return Stored(stored, nodata, scale, offset)


def geobox_of(ds: xr.Dataset | xr.DataArray, *, attempt: str) -> tuple[GeoBox, str, str]:
    """Return a cube's grid and the names of its y and x dimensions.

    The affine comes from the grid mapping where there is one, so rotated grids keep theirs.

    Raises
    ------
    GridError
        When dimensions, coordinate reference system or affine cannot be found.
    """
    import odc.geo.xr  # registers .odc

    first = next(iter(ds.data_vars.values())) if isinstance(ds, xr.Dataset) and ds.data_vars else ds
    dims = odc.geo.xr.spatial_dims(first, relaxed=True)
    if dims is None:
        raise GridError(
            f"{attempt}: no spatial dimensions among {tuple(map(str, first.dims))}.",
            "Name them y and x (or latitude and longitude).",
        )
    y, x = (str(dim) for dim in dims)
    geobox = ds.odc.geobox
    if geobox is None or geobox.crs is None:
        raise GridError(
            f"{attempt}: the cube has no coordinate reference system.",
            "Assign the one it was made in, e.g. ds.odc.assign_crs('EPSG:32633').",
        )
    if not isinstance(geobox, GeoBox):
        raise GridError(
            f"{attempt}: the cube's grid is no affine one ({type(geobox).__name__}).",
            "Reproject it to a regular grid first, e.g. with ds.odc.reproject(geobox).",
        )
    return geobox, y, x


def blocks(
    ds: xr.Dataset, dims: Sequence[str], *, scheduler: str | None = None
) -> Iterator[tuple[dict[str, slice], dict[str, NDArray[Any]]]]:
    """Walk a cube block by block, computing every chunk of it once.

    Parameters
    ----------
    ds
        Variables over the same ``dims``, lazy or not.
    dims
        Dimensions that blocks divide; others stay whole, so that one computation serves all of them.
    scheduler
        dask's, by name; None: the one in force.

    Yields
    ------
    tuple of dict
        Slice by dimension, and values by variable.
    """
    lazy = any(var.chunks is not None for var in ds.data_vars.values())
    chunks: Mapping[Any, tuple[int, ...]] = ds.unify_chunks().chunks if lazy else {}
    edges = []
    for dim in dims:
        size = ds.sizes[dim]
        default = 1 if dim == dims[0] and len(dims) == 3 else _BLOCK_PX
        steps = chunks.get(dim) or [min(default, size - at) for at in range(0, size, default)]
        ends = np.cumsum(steps)
        edges.append([slice(int(end - step), int(end)) for step, end in zip(steps, ends, strict=True)])
    regions = [dict(zip(dims, places, strict=True)) for places in product(*edges)]
    largest = max(1, sum(v.dtype.itemsize for v in ds.data_vars.values())) * max(
        math.prod(part.stop - part.start for part in region.values()) for region in regions
    )
    at_once = max(1, min(32, _GROUP_BYTES // largest)) if lazy else 1
    names = [str(name) for name in ds.data_vars]
    with watch(len(regions), what="writing", unit="block") as seen:
        for start in range(0, len(regions), at_once):
            group = regions[start : start + at_once]
            parts = [[ds[name].isel(region).data for name in names] for region in group]
            if lazy:
                import dask.base

                (parts,) = dask.base.compute(parts, scheduler=scheduler)
            for region, values in zip(group, parts, strict=True):
                yield region, dict(zip(names, (np.asarray(v) for v in values), strict=True))
                seen.tiles(1)


@contextmanager
def room_in(folder: Path) -> Iterator[Path]:
    """Give a scratch folder inside ``folder``, on its file system; it is removed in the end.

    Raises
    ------
    TargetError
        When the place cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f"{_rooms()}{os.getpid()}-", dir=folder))
    except OSError as error:
        raise TargetError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}.",
            "Choose a folder that you may write.",
        ) from error
    try:
        yield room
    except EoaugError:
        raise
    except OSError as error:
        raise TargetError(
            f"writing to {str(folder)!r} failed: {error.strerror or error}.",
            "Check the free space and the permissions of the folder; nothing was left there.",
        ) from error
    finally:
        _discard(room)


def settle(scratch: Path, target: Path, *, point: str = "data") -> None:
    """Give a complete file or folder its name: flushed to disk first, so that the name means complete.

    A file replaces what is there in one step. A folder that is there is moved away first, into the scratch
    folder; if that lies beside the target, it comes back when this process dies in between.
    """
    reach(f"{point} written")
    _flush(scratch)
    reach(f"{point} flushed")
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        _flush_folder(target.parent.parent)
    if target.is_dir():
        beside = target.parent == scratch.parent.parent
        target.rename(scratch.parent / (target.name + (_REPLACED if beside else _BROKEN)))
    scratch.replace(target)
    reach(f"{point} renamed")
    _flush_folder(target.parent)


@contextmanager
def finished(target: Path, *, overwrite: bool, point: str = "data") -> Iterator[Path]:
    """Give a scratch path beside ``target``; rename it to ``target`` when the block ends without error.

    Works for a file and for a folder. After an exception nothing is left behind.

    Raises
    ------
    TargetError
        When the place cannot be written, or something is there and ``overwrite`` is False.
    """
    if target.exists() and not overwrite:
        raise TargetError(f"{str(target)!r} exists already.", "Pass overwrite=True, or choose another name.")
    with room_in(target.parent) as room:
        scratch = room / target.name
        yield scratch
        settle(scratch, target, point=point)


def machine() -> str:
    """Return what tells this machine, or container, from others: process ids mean something only there."""
    return _rooms().removeprefix(".eoaug-").rstrip("-")


@cache
def _rooms() -> str:
    """How the names of this machine's scratch folders begin; the id of the process follows.

    A process id means something on one machine and in one container only, so both are in the name.
    """
    place = platform.node()
    with suppress(OSError):
        place += os.readlink("/proc/self/ns/pid")
    return f".eoaug-{hashlib.sha256(place.encode()).hexdigest()[:8]}-"


def sweep(folder: Path) -> int:
    """Clear away what killed writes have left in a folder; return the number of what went.

    Only scratch folders go, whose process was on this machine and is dead. What it was about to replace is
    put back.
    """
    gone = 0
    for room in folder.glob(f"{_rooms()}*"):
        process = room.name.removeprefix(_rooms()).partition("-")[0]
        if not process.isdigit() or alive(int(process)) or room.is_symlink() or not room.is_dir():
            continue
        _discard(room)
        gone += 1
    return gone


def busy(folder: Path) -> bool:
    """Tell whether a living process, or one of another machine, has a scratch folder here."""
    return any(
        not room.name.startswith(_rooms()) or alive(int(room.name.removeprefix(_rooms()).partition("-")[0]))
        for room in folder.glob(".eoaug-*-*-*")
    )


def _discard(room: Path) -> None:
    """Remove a scratch folder; what was to be replaced goes back to its place if nothing took it."""
    for old in room.glob(f"*{_REPLACED}"):
        target = room.parent / old.name.removesuffix(_REPLACED)
        with suppress(OSError):  # another process may do the same
            if not target.exists():
                old.rename(target)
    shutil.rmtree(room, ignore_errors=True)


def alive(process: int) -> bool:
    """Tell whether a process of this machine lives."""
    if sys.platform == "win32":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


class CogFile:
    """A COG under construction: blocks go into a tiled scratch file, `close` makes the COG.

    GDAL's COG driver cannot be written by window; the scratch file keeps memory at one block.
    """

    def __init__(self, scratch: Path, geobox: GeoBox, stored: Stored, *, name: str) -> None:
        self._scratch, self._stored, self._name = scratch, stored, name
        profile: dict[str, Any] = {
            "driver": "GTiff",
            "height": geobox.shape.y,
            "width": geobox.shape.x,
            "count": 1,
            "dtype": stored.dtype.name,
            "crs": _rasterio_crs(geobox),
            "transform": geobox.affine,
            "nodata": stored.nodata,
            "BIGTIFF": "IF_SAFER",
            "SPARSE_OK": "YES",
        }
        if min(geobox.shape) >= _COG_TILE_PX:
            profile |= {"tiled": True, "blockxsize": _COG_TILE_PX, "blockysize": _COG_TILE_PX}
        with _raster_errors(name), _rasterio().open(scratch, "w", **profile) as file:
            file.set_band_description(1, name)
            file.scales, file.offsets = (stored.scale,), (stored.offset,)

    def put(self, rows: slice, cols: slice, values: NDArray[Any]) -> None:
        """Write stored numbers of a window; the file is closed in between, so thousands can be open."""
        from rasterio.windows import Window

        window = Window.from_slices(rows, cols)
        with _raster_errors(self._name), _rasterio().open(self._scratch, "r+") as file:
            file.write(np.ascontiguousarray(values), 1, window=window)

    def close(self, target: Path, *, tags: Mapping[str, str], categorical: bool = False) -> None:
        """Make the COG at ``target`` (a scratch name still) and drop the scratch file."""
        from rasterio.shutil import copy

        predictor = "FLOATING_POINT" if self._stored.dtype.kind == "f" else "STANDARD"
        with _raster_errors(self._name):
            with _rasterio().open(self._scratch, "r+") as file:
                file.update_tags(**tags)
            copy(
                str(self._scratch),
                str(target),
                driver="COG",
                COMPRESS="DEFLATE",
                PREDICTOR=predictor,
                BLOCKSIZE=_COG_TILE_PX,
                OVERVIEW_RESAMPLING="NEAREST" if categorical else "AVERAGE",
                BIGTIFF="IF_SAFER",
            )
        self._scratch.unlink()


def write_cog(
    path: str | os.PathLike[str],
    values: NDArray[Any],
    geobox: GeoBox,
    *,
    stored: Stored,
    name: str = "",
    tags: Mapping[str, str] | None = None,
    categorical: bool = False,
    overwrite: bool = False,
) -> None:
    """Write one band as a COG, completely or not at all.

    Parameters
    ----------
    path
        Target file.
    values
        Shape (H, W), in physical units, or in stored numbers when ``stored.packed``.
    geobox
        Grid of ``values``.
    stored
        Type, nodata, scale and offset of the file.
    name
        Band description.
    tags
        Dataset-level GDAL tags.
    categorical
        True for classes and masks: overviews by nearest neighbour instead of averages.
    overwrite
        Replace an existing file.

    Raises
    ------
    TargetError
        When the file exists or cannot be written.
    """
    target = Path(path)
    if values.shape != tuple(geobox.shape):
        raise GridError(
            f"writing {target.name!r}: values have shape {values.shape}, the grid {tuple(geobox.shape)}.",
            "Give the geobox of these values.",
        )
    with finished(target, overwrite=overwrite) as scratch:
        file = CogFile(scratch.with_suffix(".scratch.tif"), geobox, stored, name=name or target.stem)
        file.put(slice(0, values.shape[0]), slice(0, values.shape[1]), stored.pack(values))
        file.close(scratch, tags=tags or {}, categorical=categorical)


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
    and the ``proj:`` and ``spatial:`` conventions on the group and on every array, since today's
    readers differ in which of them they know and where they look.

    Parameters
    ----------
    ds
        Variables over (time, y, x) or (member, time, y, x) with a grid; packed as `store_form` tells.
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
        dask's, by name; None: the one in force.

    Raises
    ------
    GridError, RadiometryError, TargetError
        When the grid, a type or the target cannot be used.
    """
    import zarr
    import zarr.errors

    geobox, y, x = geobox_of(ds, attempt="writing Zarr")
    forms = {str(name): store_form(var) for name, var in ds.data_vars.items()}
    dims = [dim for dim in ("time", y, x) if dim in ds.dims]
    store: Any = nullcontext if form == "zarr" else committed
    with finished(Path(path), overwrite=overwrite) as scratch, store(scratch) as room:
        template, encoding = _template(ds, forms, geobox, (y, x), ds.attrs if attrs is None else attrs)
        template.to_zarr(room, mode="w-", compute=False, zarr_format=3, encoding=encoding, consolidated=False)
        group = zarr.open_group(room, mode="r+")
        for region, values in blocks(ds, dims, scheduler=scheduler):
            for name, part in values.items():
                order = [region.get(str(dim), slice(None)) for dim in ds[name].dims]
                array = group[name]
                assert isinstance(array, zarr.Array)
                array[tuple(order)] = forms[name].pack(part)
            if on_block is not None:
                on_block(region, values)
        if form == "zarr":  # a repository keeps its metadata together as it is
            with warnings.catch_warnings():
                # Zarr v3's specification has no consolidated metadata yet; readers without it ignore ours.
                warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
                zarr.consolidate_metadata(scratch)


def _template(
    ds: xr.Dataset,
    forms: Mapping[str, Stored],
    geobox: GeoBox,
    yx: tuple[str, str],
    attrs: Mapping[str, Any],
) -> tuple[xr.Dataset, dict[str, dict[str, Any]]]:
    """The group without pixels: stored types, georeferencing attributes and chunk shapes."""
    import dask.array as da

    marks = _convention_attrs(geobox, yx)
    kept = {
        name: coord.drop_encoding()
        for name, coord in ds.coords.items()
        if name != "spatial_ref" and not (name in ds.coords and coord.dtype == object and coord.ndim == 0)
    }
    template = xr.Dataset(coords=kept, attrs={**attrs, **marks})
    for axis, dim in zip(("Y", "X"), yx, strict=True):
        # A rotated grid has pixel indices as coordinates: then only the affine tells where a pixel is.
        if dim in template.coords and geobox.axis_aligned:
            geographic = geobox.crs is not None and geobox.crs.geographic
            names = {"Y": "latitude", "X": "longitude"} if geographic else {}
            standard = names.get(axis, f"projection_{axis.lower()}_coordinate")
            template[dim].attrs.update(axis=axis, standard_name=standard)
    template.coords["spatial_ref"] = xr.DataArray(np.int32(0), attrs=_grid_mapping(geobox))
    encoding: dict[str, dict[str, Any]] = {}
    for name, var in ds.data_vars.items():
        form = forms[str(name)]
        chunks = tuple(_zarr_chunk(var, str(dim), yx) for dim in var.dims)
        told = {k: v for k, v in var.attrs.items() if k not in ("_FillValue", "nodata", "grid_mapping")}
        if form.scale != 1.0 or form.offset != 0.0:
            told |= {"scale_factor": form.scale, "add_offset": form.offset}
        empty = da.zeros(var.shape, dtype=form.dtype, chunks=chunks)
        template[str(name)] = (var.dims, empty, {**told, **marks, "grid_mapping": "spatial_ref"})
        encoding[str(name)] = {"chunks": chunks}
        if form.nodata is not None:
            encoding[str(name)]["_FillValue"] = form.dtype.type(form.nodata)
    return template, encoding


def _zarr_chunk(var: xr.DataArray, dim: str, yx: tuple[str, str]) -> int:
    return min(_ZARR_CHUNK_PX, var.sizes[dim]) if dim in yx else 1


def _grid_mapping(geobox: GeoBox) -> dict[str, Any]:
    """CF attributes of the grid mapping variable; the GeoTransform is GDAL's, also for rotated grids."""
    crs = _pyproj_crs(geobox)
    affine = geobox.affine
    transform = " ".join(repr(float(v)) for v in affine.to_gdal())
    return {**crs.to_cf(), "crs_wkt": crs.to_wkt(), "spatial_ref": crs.to_wkt(), "GeoTransform": transform}


def _convention_attrs(geobox: GeoBox, yx: tuple[str, str]) -> dict[str, Any]:
    crs = _pyproj_crs(geobox)
    box = geobox.extent.boundingbox
    attrs: dict[str, Any] = {
        "zarr_conventions": [_PROJ_CONVENTION, _SPATIAL_CONVENTION],
        "proj:wkt2": crs.to_wkt("WKT2_2019"),
        "spatial:dimensions": list(yx),
        "spatial:transform": [float(v) for v in tuple(geobox.affine)[:6]],
        "spatial:shape": [int(n) for n in geobox.shape],
        "spatial:bbox": [float(v) for v in (box.left, box.bottom, box.right, box.top)],
        "spatial:registration": "pixel",
    }
    return attrs | crs_fields(geobox)


def crs_fields(geobox: GeoBox) -> dict[str, Any]:
    """Return ``proj:code``, or ``proj:projjson`` for a reference system that no authority knows."""
    crs = _pyproj_crs(geobox)
    authority = crs.to_authority()
    if authority is not None:
        return {"proj:code": ":".join(authority)}
    return {"proj:projjson": json.loads(crs.to_json())}


class _Readable(Protocol):
    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


def checksum(path: _Readable) -> str:
    """Return the sha256 multihash of a file in hex, as ``file:checksum`` wants it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return "1220" + digest.hexdigest()


def _pyproj_crs(geobox: GeoBox) -> Any:
    assert geobox.crs is not None
    return geobox.crs.proj


def _rasterio_crs(geobox: GeoBox) -> Any:
    from rasterio.crs import CRS

    crs = _pyproj_crs(geobox)
    epsg = crs.to_epsg()
    return CRS.from_epsg(epsg) if epsg else CRS.from_wkt(crs.to_wkt())


def _rasterio() -> Any:
    import rasterio

    return rasterio


@contextmanager
def _raster_errors(name: str) -> Iterator[None]:
    from rasterio.errors import RasterioError

    try:
        yield
    except EoaugError:
        raise
    except (RasterioError, OSError) as error:
        raise TargetError(
            f"writing band {name!r} failed: {error}.",
            "Check the free space and the permissions of the target; nothing was left under its name.",
        ) from error


def _flush(path: Path) -> None:
    """Push a file, or all files of a folder, to disk, so that the rename never outruns the content."""
    if path.is_dir():
        for part in sorted(path.rglob("*")):
            _flush_file(part) if part.is_file() else _flush_folder(part)
        _flush_folder(path)
    else:
        _flush_file(path)


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    # Some network file systems refuse to flush a folder; the rename itself is still atomic there.
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
