"""From the pixels of a result to an object of the user's form: names, dimension order, attributes, encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.grid_attributes import STALE_COORDINATES, pixel_ratio, renewed
from eoaug.cube.indexes import indexed_transform, with_indexes
from eoaug.cube.labels import refined
from eoaug.cube.model import Cube
from eoaug.cube.roles import label_variables
from eoaug.cube.stacks import PER_BAND
from eoaug.cube.synthetic import ATTRIBUTES, GENERATED, MEASURED, OUTSIDE, SYNTHETIC, TRANSFERRED
from eoaug.cube.windowed import WindowedVariable, picked
from eoaug.raster.radiometry import NODATA_KEYS, SCALE_ATTRS

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["ResultForm", "rebuild", "with_earlier_mask"]

_TYPE_ATTRS = {*NODATA_KEYS, *SCALE_ATTRS, "valid_min", "valid_max"}
"""Attributes that belong to the stored type."""
_LAYOUT_ENCODING = {
    "chunks",
    "preferred_chunks",
    "chunksizes",
    "original_shape",
    "source",
    "shards",
    "rasterio_dtype",
}
"""Encoding that belongs to the stored shape."""


def with_earlier_mask(cube: Cube, mask: Any, dates: NDArray[np.intp]) -> Any:
    """Return a result's synthetic mask in which pixels that an earlier verb generated keep their code.

    Parameters
    ----------
    cube
        The input, whose grid the result shares.
    mask
        Shape ([member,] T, Y, X), uint8, of the result.
    dates
        Shape (Tin,), index of each of the cube's dates among those of the result.
    """
    if cube.marks is None:
        return mask
    dims = (cube.name_time,) if cube.name_time in cube.marks.dims else ()
    earlier = cube.marks.transpose(*dims, *cube.names_yx).data
    earlier = earlier if dims else earlier[None]
    if earlier.dtype != np.uint8:  # booleans, or codes next to NaN: nobody knows what NaN was
        is_code = earlier == np.nan_to_num(earlier).astype(np.uint8)
        earlier = np.where(is_code, earlier, GENERATED).astype(np.uint8)
    blank = np.full((1, *earlier.shape[1:]), MEASURED)
    order = np.full(mask.shape[-3], len(earlier))
    order[dates] = np.arange(len(dates)) if dims else 0
    before = np.concatenate([earlier, blank])[order]
    # A pixel with one generated band stays generated, whatever is derived from it.
    kept = ((mask == MEASURED) & (before != OUTSIDE)) | ((mask == TRANSFERRED) & (before == GENERATED))
    return np.where(kept, before, mask)


@dataclass(frozen=True, kw_only=True)
class ResultForm:
    """In what a result differs from the cube that it was made from."""

    times: NDArray[np.datetime64] | None
    """Dates of the result, or None for a cube without a date."""
    geobox: GeoBox
    members: int | None = None
    """Length of the ``member`` dimension, or None without it."""
    keep_type: bool = True
    """False for statistics: attributes and encoding that belong to the stored type are dropped."""


def rebuild(
    cube: Cube,
    arrays: Mapping[str, Any],
    mask: Any,
    errors: Mapping[str, tuple[Any, dict[str, Any]]],
    form: ResultForm,
) -> xr.Dataset | xr.DataArray:
    """Return a result in the form of the user's object.

    Parameters
    ----------
    cube
        The cube that the result was made from.
    arrays
        By band name, shape ([member,] T, Y, X).
    mask
        Shape ([member,] T, Y, X), the synthetic mask.
    errors
        By band name, the expected error of the same shape and its attributes; only for Datasets.
    form
        Dates, grid and members of the result.
    """
    frame = _Frame.of(cube, form)
    variables = {band.name: frame.band(band.name, arrays[band.name]) for band in cube.bands}
    grid_mapping = _grid_mapping(cube)
    synthetic = frame.variable(mask, frame.dims, dict(ATTRIBUTES), {})
    synthetic.encoding.update({"grid_mapping": grid_mapping} if grid_mapping else {})
    coords = frame.coordinates()
    if cube.form == "dataset":
        deviations = {f"{name}_std": frame.error(name, *error) for name, error in errors.items()}
        return _dataset(frame, variables, deviations, synthetic, coords)
    coords[SYNTHETIC] = synthetic
    if cube.form == "single":
        return _array(variables[cube.bands[0].name], frame.indexed(coords), cube.array_name)
    return _stack(frame, variables, coords)


def _dataset(
    frame: _Frame,
    variables: Mapping[str, xr.Variable],
    errors: Mapping[str, xr.Variable],
    synthetic: xr.Variable,
    coords: dict[Any, Any],
) -> xr.Dataset:
    source = frame.cube.source
    out = {}
    for name in source.data_vars:
        if name in variables:
            out[name] = variables[str(name)]
        elif name in coords:  # a grid mapping that xarray did not decode
            out[name] = coords.pop(name)
        elif frame.keeps(source[name]):
            out[name] = source[name].variable
        elif name in frame.finer_labels:
            out[name] = frame.label(str(name), synthetic)
    for name, error in errors.items():
        # What an earlier verb filled counts as given now, and keeps its error.
        out[name] = error if name not in out else error.where(error != 0, out[name].fillna(0))
        out[name].attrs = dict(error.attrs)
    out[SYNTHETIC] = synthetic
    attrs = source.attrs if frame.same_grid else renewed(source.attrs, frame.cube.geobox, frame.form.geobox)
    return xr.Dataset(out, frame.indexed(coords), dict(attrs))


def _stack(frame: _Frame, variables: Mapping[str, xr.Variable], coords: dict[Any, Any]) -> xr.DataArray:
    """Return bands and other layers along the band dimension, in the user's order.

    Layers that are no bands (classes, angles) stay where grid and dates do, and are left out elsewhere.
    """
    cube = frame.cube
    layers, places = [], []
    for place, name in enumerate(map(str, cube.source.data_vars)):
        if name in variables:
            layer = variables[name]
        elif name != SYNTHETIC and frame.keeps(cube.source[name]):
            layer = cube.source[name].variable
        elif name in frame.finer_labels:
            layer = frame.label(name, variables[cube.bands[0].name])
        else:
            continue
        sizes = variables[cube.bands[0].name].sizes
        layers.append(xr.DataArray(layer.set_dims(dict(sizes)).transpose(*sizes)))
        places.append(place)
    whole = len(places) == len(cube.source.data_vars)
    stack = xr.concat(layers, dim=cube.name_band).variable
    dims = (*frame.lead, *(d for d in cube.array_dims if d in (*frame.dims, cube.name_band)))
    stack = stack.transpose(*dims, *(d for d in frame.dims if d not in dims))
    stack.attrs = frame.attrs(cube.array_attrs)
    for attribute in PER_BAND:
        value = stack.attrs.get(attribute)
        if not whole and isinstance(value, Sequence) and len(value) == len(cube.source.data_vars):
            stack.attrs[attribute] = tuple(value[place] for place in places)
    stack.encoding = dict(variables[cube.bands[0].name].encoding)
    for key, coord in cube.source.coords.items():
        if cube.name_band in coord.dims and key not in coords:
            kept = coord.variable if whole else coord.variable.isel({cube.name_band: places})
            coords[key] = frame.scaled_gsd(str(key), kept)
    if cube.band_labels is not None:
        coords[cube.name_band] = cube.band_labels[places]
    return _array(stack, frame.indexed(coords), cube.array_name)


@dataclass(frozen=True)
class _Frame:
    """Dimensions and coordinates of a result."""

    cube: Cube
    form: ResultForm
    same_grid: bool
    new_dates: bool
    finer_labels: frozenset[str]
    """Labels of the input that the result has on its finer grid."""
    lead: tuple[str, ...]
    """("member",) or ()."""
    time: str | None
    """Name of the time dimension, or None without it."""

    @classmethod
    def of(cls, cube: Cube, form: ResultForm) -> _Frame:
        times = form.times
        new_dates = times is not None and (
            cube.times is None or len(times) != len(cube.times) or bool((times != cube.times).any())
        )
        same_grid = form.geobox == cube.geobox
        return cls(
            cube,
            form,
            same_grid=same_grid,
            new_dates=new_dates,
            finer_labels=frozenset() if same_grid else frozenset(label_variables(cube.source)),
            lead=("member",) if form.members is not None else (),
            time=cube.name_time or ("time" if times is not None and len(times) > 1 else None),
        )

    @property
    def dims(self) -> tuple[str, ...]:
        """All dimensions, in the order of the pixels."""
        return (*self.lead, *((self.time,) if self.time else ()), *self.cube.names_yx)

    def attrs(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes of the input without those that are wrong for the result."""
        kept = {k: v for k, v in attrs.items() if self.form.keep_type or k not in _TYPE_ATTRS}
        return kept if self.same_grid else renewed(kept, self.cube.geobox, self.form.geobox)

    def scaled_gsd(self, name: str, coord: Any) -> Any:
        """Return a coordinate; the ground sampling distance for the pixels of the result."""
        if name != "gsd" or self.same_grid or coord.dtype.kind not in "iuf":
            return coord
        return coord * pixel_ratio(self.cube.geobox, self.form.geobox)

    def band(self, name: str, data: Any) -> xr.Variable:
        band = next(band for band in self.cube.bands if band.name == name)
        encoding = dict(band.encoding) if self.form.keep_type else {}
        if not self.same_grid or self.new_dates or self.lead:
            encoding = {k: v for k, v in encoding.items() if k not in _LAYOUT_ENCODING}
        return self.variable(data, band.dims, self.attrs(band.attrs), encoding)

    def label(self, name: str, like: xr.Variable) -> xr.Variable:
        """Return a label of the input on the finer grid: each pixel repeated, in chunks that fit those of ``like``."""
        given = self.cube.source[name].variable
        factor = self.form.geobox.shape.y // self.cube.geobox.shape.y
        attrs = renewed(given.attrs, self.cube.geobox, self.form.geobox)
        encoding = {k: v for k, v in given.encoding.items() if k not in _LAYOUT_ENCODING}
        return refined(given, self.cube.names_yx, factor, like)._replace(attrs=attrs, encoding=encoding)

    def error(self, name: str, data: Any, attrs: dict[str, Any]) -> xr.Variable:
        """Return the expected error of a band, in the band's units and order of dimensions."""
        band = next(band for band in self.cube.bands if band.name == name)
        units = {"units": band.attrs["units"]} if "units" in band.attrs else {}
        return self.variable(data, band.dims, {**attrs, **units}, {})

    def variable(self, data: Any, dims: tuple[str, ...], attrs: Any, encoding: Any) -> xr.Variable:
        """Return pixels of shape ([member,] T, Y, X) with the user's order of dimensions."""
        if self.time is None:
            data = picked(data, slice(None), 0) if self.lead else picked(data, 0)
        full = self.dims
        own = tuple(d for d in dims if d in full and d not in self.lead)
        order = (*self.lead, *own, *(d for d in full if d not in own and d not in self.lead))
        variable: xr.Variable = WindowedVariable(full, data, attrs, encoding).transpose(*order)
        return variable

    def keeps(self, array: xr.DataArray) -> bool:
        """Tell whether a variable of the input is valid on the result's grid and dates."""
        on_grid = any(d in array.dims for d in self.cube.names_yx)
        return (self.same_grid or not on_grid) and not (self.new_dates and self.cube.name_time in array.dims)

    def indexed(self, coords: Mapping[Any, Any]) -> Any:
        """Return coordinates with the indexes of other libraries that the input has."""
        return with_indexes(coords, self.cube, self.form.geobox)

    def coordinates(self) -> dict[Any, Any]:
        cube, form = self.cube, self.form
        coords: dict[Any, Any] = {
            name: coord.variable
            for name, coord in cube.source.coords.items()
            if self.keeps(coord) and cube.name_band not in coord.dims
        }
        if not self.same_grid:
            coords = {name: coord for name, coord in coords.items() if name not in STALE_COORDINATES}
            coords |= _spatial_coordinates(cube, form.geobox)
            coords = {name: self.scaled_gsd(str(name), coord) for name, coord in coords.items()}
        if self.new_dates and self.time is not None and form.times is not None:
            coords |= _dates(cube, self.time, form.times)
        if form.members is not None:
            coords["member"] = xr.Variable(
                ("member",), np.arange(form.members), {"long_name": "ensemble member"}
            )
        return coords


def _dates(cube: Cube, time: str, times: NDArray[np.datetime64]) -> dict[Any, xr.Variable]:
    """Return the coordinates along time of given and new dates."""
    assert cube.times is not None
    given = cube.source.coords.get(time)
    attrs = dict(given.attrs) if given is not None else {}
    encoding = dict(given.encoding) if given is not None else {}
    own = times if given is None or given.dtype.kind == "M" else _like(given.values, times)
    out: dict[Any, xr.Variable] = {time: xr.Variable((time,), own, attrs, encoding)}
    where = np.searchsorted(times, cube.times)
    for name, coord in cube.source.coords.items():
        if coord.dims == (time,) and name != time:
            out[name] = _on_more_dates(coord, where, len(times))
    return out


def _like(given: NDArray[Any], times: NDArray[np.datetime64]) -> NDArray[Any]:
    """Return dates as those of a cube, which are of cftime."""
    fields = ("year", "month", "day", "hour", "minute", "second", "microsecond")
    dates = times.astype("datetime64[us]").tolist()
    return np.array(
        [given.flat[0].replace(**{f: getattr(date, f) for f in fields}) for date in dates], dtype=object
    )


def _on_more_dates(coord: xr.DataArray, where: NDArray[np.intp], count: int) -> xr.Variable:
    """Put a coordinate along time onto more dates; on the new ones it is missing."""
    values = coord.values
    empty: Any = "" if values.dtype.kind in "UO" else np.nan
    if values.dtype.kind in "US":
        values = values.astype(object)
    elif values.dtype.kind in "Mm":
        empty = np.array("NaT", dtype=values.dtype)
    elif values.dtype.kind != "O":
        values = values.astype(np.float64)
    out = np.full(count, empty, dtype=values.dtype)
    out[where] = values
    if out.dtype == object and all(isinstance(v, str) for v in out):
        out = out.astype(str)
    return xr.Variable(coord.dims, out, dict(coord.attrs))


def _grid_mapping(cube: Cube) -> str | None:
    for name, variable in cube.source.variables.items():
        if "crs_wkt" in variable.attrs or "spatial_ref" in variable.attrs:
            return str(name)
    return None


def _spatial_coordinates(cube: Cube, geobox: GeoBox) -> dict[str, xr.Variable]:
    """Return the coordinates of a new grid: pixel centres and the CF grid mapping, under the user's names."""
    y, x = cube.names_yx
    rows, cols = geobox.shape.yx
    affine = geobox.affine
    out: dict[str, xr.Variable] = {}
    rotated = affine.b != 0 or affine.d != 0
    for name, count, axis in ((y, rows, "y"), (x, cols, "x")):
        if name not in cube.source.coords:
            continue
        old = cube.source.coords[name]
        centres = np.arange(count) + 0.5
        if not rotated and cube.georeferenced:
            centres = affine.f + affine.e * centres if axis == "y" else affine.c + affine.a * centres
        attrs = dict(old.attrs)
        if "resolution" in attrs:
            attrs["resolution"] = affine.e if axis == "y" else affine.a
        out[name] = xr.Variable((name,), centres, attrs, dict(old.encoding))
    mapping = _grid_mapping(cube)
    if mapping is not None:
        old = cube.source[mapping]
        attrs = dict(old.attrs)
        if "GeoTransform" in attrs or indexed_transform(cube.source) is None:
            attrs["GeoTransform"] = " ".join(repr(v) for v in affine.to_gdal())
        out[mapping] = xr.Variable((), old.values, attrs, dict(old.encoding))
    return out


def _array(variable: xr.Variable, coords: Mapping[Any, Any], name: Any) -> xr.DataArray:
    # The constructor drops the encoding of a variable.
    array = xr.DataArray(variable, coords, name=name)
    array.encoding = dict(variable.encoding)
    return array
