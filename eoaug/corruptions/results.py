"""From a corruption's work to an object of the user's form."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.corruptions.image_work import CLOUD_MASK, OPACITY, ImageWork
from eoaug.corruptions.moved_work import MovedLayer, MovedWork, moved_grid
from eoaug.corruptions.request import CorruptionRequest
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.model import Cube, CubeBand
from eoaug.cube.rebuild import ResultForm, rebuild, with_earlier_mask
from eoaug.cube.synthetic import GENERATED, SYNTHETIC
from eoaug.engine.values import Chunking
from eoaug.errors import EoaugWarning, GridError
from eoaug.raster.grid import same_grid
from eoaug.raster.radiometry import Scaling, declared_nodata
from eoaug.raster.tiles import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from eoaug.engine.dask_graph import ChunkWork

__all__ = ["moved_cube", "same_grid_cube", "with_cloud_layers"]

_PACKAGE = str(Path(__file__).parent.parent)
_EXTRAS: dict[str, dict[str, Any]] = {
    CLOUD_MASK: {
        "long_name": "clouds that were added",
        "flag_values": np.array([0, 1, 2], np.uint8),
        "flag_meanings": "clear cloud cloud_shadow",
    },
    OPACITY: {"long_name": "share of the light of the ground that added clouds hide", "units": "1"},
}


def computed(work: ChunkWork, arrays: Sequence[Any], *, lazy: bool) -> dict[str, Any]:
    """Return the arrays of a result, chunk after chunk in this process, or lazy."""
    if lazy:
        from eoaug.engine.dask_graph import build_windows

        return dict(build_windows(work, arrays))
    out = {name: np.empty(tuple(map(sum, work.lengths)), dtype) for name, dtype in work.dtypes.items()}
    edges = [np.cumsum([0, *sizes]) for sizes in work.lengths]
    for index in np.ndindex(*map(len, work.lengths)):
        dates, window = work.needs(index)
        rows, cols = slice(window.top, window.bottom), slice(window.left, window.right)
        cut = [np.asarray(array[dates.start : dates.stop, rows, cols]) for array in arrays]
        place = tuple(slice(int(e[i]), int(e[i + 1])) for e, i in zip(edges, index, strict=True))
        for name, values in work.run(index, cut).items():
            out[name][place] = values
    return out


def same_grid_cube(cube: Cube, work: ImageWork, *, lazy: bool, pair: bool) -> Any:
    """Return the result of a corruption that keeps the grid, without its record."""
    arrays = computed(work, [band.data for band in cube.bands], lazy=lazy)
    mask = with_earlier_mask(cube, arrays[SYNTHETIC], np.arange(len(work.request.times)))
    result = rebuild(cube, arrays, mask, {}, ResultForm(times=cube.times, geobox=cube.geobox))
    for name, attrs in _EXTRAS.items():
        if name in arrays:
            result = _with_layer(result, name, arrays[name], attrs)
    if pair:
        for band in cube.bands:
            clear = cube.source[band.name].variable.copy(deep=False)
            dropped = ("common_name", "eo:common_name", "bands")
            clear.attrs = {key: value for key, value in clear.attrs.items() if key not in dropped}
            result = result.assign({f"{band.name}_clear": clear})
    return result


def with_cloud_layers(ds: xr.Dataset) -> xr.Dataset:
    """Return a corrupted image with the layers of added clouds: empty ones where no cloud was added."""
    marks = ds[SYNTHETIC]
    for name, attrs in _EXTRAS.items():
        if name not in ds:
            dtype = np.float32 if name == OPACITY else np.uint8
            ds = _with_layer(ds, name, np.zeros(marks.shape, dtype), attrs)
    return ds


def _with_layer(result: Any, name: str, data: Any, attrs: dict[str, Any]) -> Any:
    """Return a result with a layer of the shape of its marks; those of an earlier corruption stay."""
    marks = result[SYNTHETIC]
    layer = xr.Variable(marks.dims, data if data.ndim == marks.ndim else data[0], dict(attrs))
    if name in (result.variables if isinstance(result, xr.Dataset) else result.coords):
        before, now = result[name].variable.transpose(*layer.dims).data, layer.data
        if name == OPACITY:
            both = (1 - (1 - before) * (1 - now)).astype(np.float32)
        else:
            shadow = np.where((before == 2) | (now == 2), 2, 0)
            both = np.where((before == 1) | (now == 1), 1, shadow).astype(np.uint8)
        layer = xr.Variable(marks.dims, both, dict(attrs))
    return (
        result.assign({name: layer})
        if isinstance(result, xr.Dataset)
        else result.assign_coords({name: layer})
    )


# -- kinds that move pixels ---------------------------------------------------------------------------------


def moved_cube(cube: Cube, request: CorruptionRequest, chunking: Chunking, token: str, *, lazy: bool) -> Any:
    """Return the result of a corruption that moves pixels, without its record: bands, labels and all other layers."""
    geobox, to_source = moved_grid(request)
    others = _other_layers(cube)
    layers = [MovedLayer(band.name, "cubic", band.dtype, band=band) for band in request.bands]
    arrays = [band.data for band in cube.bands]
    for other in others:
        if cube.name_time is None or cube.name_time in other.dims:
            layers.append(MovedLayer(other.name, "nearest", str(other.dtype), _ignored(other)))
            arrays.append(other.data)
    if cube.marks is not None:
        layers.append(MovedLayer("_generated", "any", "bool"))
        arrays.append(_generated(cube, arrays[0].shape))
    extent = Window(0, 0, *request.extent.shape)
    work = MovedWork(tuple(layers), to_source, extent, chunking, token, f"corrupt-{request.kind}")
    out = computed(work, arrays, lazy=lazy)
    dated = {layer.name for layer in layers}
    whole = replace(cube, bands=(*cube.bands, *(o for o in others if o.name in dated)))
    result = rebuild(whole, out, out[SYNTHETIC], {}, ResultForm(times=cube.times, geobox=geobox))
    undated = [other for other in others if other.name not in dated]
    if undated:
        once = replace(chunking, lengths=((1,), *chunking.lengths[1:]))
        flat = tuple(MovedLayer(o.name, "nearest", str(o.dtype), _ignored(o)) for o in undated)
        moved = computed(replace(work, layers=flat, chunking=once), [o.data for o in undated], lazy=lazy)
        y, x = cube.names_yx
        for other in undated:
            order = [dim for dim in other.dims if dim in (y, x)]
            layer = xr.Variable((y, x), moved[other.name][0], other.attrs, other.encoding).transpose(*order)
            result = result.assign({other.name: layer})
    return _with_grid(cube, result, geobox)


def _other_layers(cube: Cube) -> list[CubeBand]:
    """Return the layers that are no bands (labels, masks, angles ...), with a stored number for what lies beyond the cube."""
    names, (y, x) = {band.name for band in cube.bands}, cube.names_yx
    out = []
    for name, var in cube.source.data_vars.items():
        if name in names or name == SYNTHETIC or not {y, x} <= set(var.dims):
            continue
        time = [d for d in (cube.name_time,) if d in var.dims]
        if len(var.dims) != 2 + len(time):
            warnings.warn(
                f"corrupt: {name!r} has dimensions that cannot be moved, {var.dims}, and is left out",
                EoaugWarning,
                skip_file_prefixes=(_PACKAGE,),
            )
            continue
        data = var.variable.transpose(*time, y, x).data
        attrs, nodata = (
            dict(var.attrs),
            declared_nodata(var.attrs, var.dtype, name=str(name), encoding=var.encoding),
        )
        if nodata is None and var.dtype.kind in "iu":
            nodata = _free_number(var.dtype, attrs)
            attrs["nodata"] = np.asarray(nodata, var.dtype)[()]
        out.append(
            CubeBand(
                name=str(name),
                common_name=None,
                data=data if time else data[None],
                dims=tuple(map(str, var.dims)),
                scaling=Scaling(),
                nodata=nodata,
                attrs=attrs,
                encoding={k: v for k, v in var.encoding.items() if k not in ("chunksizes", "original_shape")},
            )
        )
    return out


def _free_number(dtype: np.dtype[Any], attrs: dict[str, Any]) -> int:
    """Return a number that no class has: 255, as segmentation libraries ignore it, or the end of the type."""
    info = np.iinfo(dtype)
    classes = {int(v) for v in np.ravel(attrs.get("flag_values", ())) if np.isfinite(v)}
    candidates = (255, info.min, info.max, *range(info.max, info.min, -1))
    return next(int(n) for n in candidates if info.min <= n <= info.max and n not in classes)


def _ignored(layer: CubeBand) -> Any:
    if layer.nodata is not None:
        return layer.nodata
    return np.nan if layer.dtype.kind == "f" else False


def _generated(cube: Cube, shape: tuple[int, ...]) -> Any:
    """Return where an earlier verb generated pixels, shape (T, Y, X)."""
    assert cube.marks is not None
    dims = (cube.name_time,) if cube.name_time in cube.marks.dims else ()
    marks = cube.marks.transpose(*dims, *cube.names_yx).data
    generated: NDArray[np.bool_] = (marks == GENERATED) if marks.dtype.kind != "b" else marks
    generated = generated if dims else generated[None]
    return generated if generated.shape == shape else np.broadcast_to(generated, shape)


def _with_grid(cube: Cube, result: Any, geobox: GeoBox) -> Any:
    """Return a result whose coordinates or grid mapping hold the new grid."""
    y, x = cube.names_yx
    rotated = geobox.affine.b != 0 or geobox.affine.d != 0
    if rotated and cube.georeferenced:
        for name in (y, x):
            if name in result.coords:
                # The coordinates count pixels now.
                kept = {k: v for k, v in result[name].attrs.items() if k in ("axis",)}
                result = result.assign_coords({name: result[name].variable.copy(deep=False)})
                result[name].attrs = {**kept, "long_name": f"pixel centre along {name}", "units": "pixel"}
        if geobox.crs is not None and not _declares(result, y, x, geobox):
            from eoaug.formats.georeference import grid_mapping  # late: it imports odc.geo

            mapping = xr.Variable((), np.int32(0), grid_mapping(geobox))
            result = result.assign_coords(spatial_ref=mapping)
    if cube.georeferenced and not _declares(result, y, x, geobox):
        raise GridError(
            "the cube declares its grid in a form that cannot hold a moved one",
            "write it in a grid mapping first: ds.odc.assign_crs(ds.odc.geobox.crs)",
        )
    return result


def _declares(result: Any, y: str, x: str, geobox: GeoBox) -> bool:
    """Tell whether a result declares a grid."""
    declared, _ = geobox_from_coords(result, y, x)
    return same_grid(declared, geobox, tolerance_px=1e-3)
