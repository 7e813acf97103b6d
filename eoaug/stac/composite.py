"""Composites without clouds: of the clear observations of a period, one per pixel. Nothing is generated.

Every pixel is a whole observation, all bands of one date: ``source_date`` says of which. Quality classes and marks of
synthetic pixels come from the same date as the bands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.carried import PROPERTIES, as_text, properties_of
from eoaug.cube.model import Cube
from eoaug.cube.read import read_cube
from eoaug.cube.roles import product_of, quality_variable
from eoaug.cube.synthetic import OUTSIDE, SYNTHETIC
from eoaug.errors import ParameterError, TimeError, error_context
from eoaug.raster.grid import edges_m
from eoaug.raster.masks import distance_to
from eoaug.raster.quality import nodata_of, quality_of
from eoaug.raster.variables import plain_name
from eoaug.verbs.masking import mask_by

__all__ = [
    "SOURCE_DATE",
    "Composite",
    "Period",
    "check_composite",
    "clear_ground",
    "composite_of",
    "periods_of",
]

Composite = Literal["monthly", "best"] | str
"""One image per month, one in so many days (``"every 10d"``), or one of all dates (``"best"``)."""

_EVERY = re.compile(r"every\s+([1-9][0-9]{0,4})\s*d")

COMPOSITE_ATTRIBUTE = "eoaug_composite"
"""The attribute of a Dataset that says how it was composed."""
SOURCE_DATE = "source_date"
"""The variable with the date of each pixel, in days since 1970-01-01; `_NO_DATE` without a clear observation."""

_NO_DATE = -1
_CHUNK_PX = 512
"""Longest edge of the chunks of a lazy composite, which hold all dates of a period."""
_FAR_M = 1500.0
"""Distance from cloud beyond which a pixel is as good as any: 50 Landsat pixels."""
_LANDSAT_M = 30.0
_BRIGHT = 2.0
"""An observation so many times as bright in a band as the median of the clear ones is taken for cloud that was missed."""


def composite_of(opened: Any, method: Composite) -> Any:
    """Return the composite of a cube, or of each node of a tree.

    Parameters
    ----------
    opened
        Dataset or DataTree with dates and a quality band.
    method
        ``"monthly"``: an image per month; ``"every 10d"``: one in ten days, counted from 1970-01-01; ``"best"``: one of all
        dates.

    Raises
    ------
    ParameterError
        Another method, no quality band that is understood, or a band that cannot hold missing pixels.
    TimeError
        No dates.

    Notes
    -----
    Each pixel is the best available observation of the period (White et al. 2014,
    doi:10.1080/07038992.2014.945827): the sum of two of their scores is largest, that of nearness to the middle of the
    period (a Gaussian; its standard deviation is a quarter of the period) and that of distance to cloud (their sigmoid, up
    to 1.5 km); of equal ones the earliest. Their score of haze made speckle within fields. Not taken where another is clear: classes that often hold cloud (snow,
    saturated), and observations more than twice as bright in a band as the median of the clear ones. A median of each band
    would be no observation and have no date.
    """
    check_composite(method)
    with error_context(f"composite={method!r}"):
        if isinstance(opened, xr.DataTree):
            nodes = {node.path: node.to_dataset() for node in opened.subtree}
            return xr.DataTree.from_dict(
                {path: _composed(ds, method) if ds.data_vars else ds for path, ds in nodes.items()}
            )
        return _composed(opened, method)


def check_composite(method: Any) -> None:
    """Refuse what is no period of a composite.

    Raises
    ------
    ParameterError
        It is neither ``monthly``, ``best`` nor a number of days.
    """
    if method not in ("monthly", "best") and not (isinstance(method, str) and _EVERY.fullmatch(method)):
        raise ParameterError(
            f"composite={method!r} is unknown", "use 'monthly', 'best', or a number of days as in 'every 10d'"
        )


def _composed(ds: xr.Dataset, method: Composite) -> xr.Dataset:
    if not isinstance(ds, xr.Dataset):
        raise ParameterError(
            f"the source is a {type(ds).__name__}", "give a Dataset: da.to_dataset(dim='band')"
        )
    cube = read_cube(ds)
    name, time = _quality_of(cube), str(cube.name_time)
    assert cube.times is not None
    masking = mask_by(cube, name, None)
    rules = _rules(ds, cube, name)
    clear, certain = ~_array(masking.pixels, cube) & _measured(ds, cube), _certain(cube, name)
    near = _array(_cloud_distance(cube, mask_by(cube, name, 0).pixels), cube)
    images = []
    for period in periods_of(cube.times, method):
        part = ds.isel({time: period.dates})
        bands = [xr.DataArray(part[band.name].variable) for band in cube.bands]
        layers = [one.isel({time: period.dates}) for one in (clear, certain, near)]
        chosen = _chosen(period, [*layers, *bands])
        images.append(_picked(part, chosen, period, rules, time))
    still = [n for n in ds.data_vars if n not in images[0].data_vars and time not in ds[n].dims]
    result = xr.concat(images, time, data_vars="all", coords="minimal", compat="override", join="override")
    about = {"method": method, "dates": len(cube.times), **masking.record}
    return result.assign({n: ds[n] for n in still}).assign_attrs(
        {**ds.attrs, COMPOSITE_ATTRIBUTE: json.dumps(about)}
    )


def _quality_of(cube: Cube) -> str:
    """Return the quality band of a cube with dates."""
    ds = cube.source
    if cube.times is None or cube.name_time is None:
        raise TimeError("the cube has no dimension time with dates to choose from", "open several dates")
    name = quality_variable(ds, cube.names_yx, [band.name for band in cube.bands])
    if name is None:
        shown = list(map(str, ds.data_vars))
        raise ParameterError(
            f"the cube has no quality band that says what is cloud; it has {', '.join(shown)}",
            f"open one with the bands, e.g. bands={[*(band.name for band in cube.bands[:3]), 'scl']}",
        )
    return name


def clear_ground(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return what the dates of a cube measured, and what of it is clear as for a composite, over (time, y, x)."""
    cube = read_cube(ds)
    measured = _measured(ds, cube)
    return measured, ~_array(mask_by(cube, _quality_of(cube), None).pixels, cube) & measured


_DOUBTFUL = re.compile(r"snow|ice|saturated|defective")
"""Classes that are called clear and often hold cloud; they are taken only where nothing else is clear."""


def _certain(cube: Cube, quality: str) -> xr.DataArray:
    """Return the pixels that are of no doubtful class."""
    attrs = cube.source[quality].attrs
    band = quality_of(plain_name(quality, attrs), attrs, product_of(cube.source))
    assert band is not None
    doubtful = [name for name in band.classes if _DOUBTFUL.search(name) and name not in band.cloud]
    pixels = mask_by(cube, doubtful, 0).pixels if doubtful else mask_by(cube, quality, 0).pixels
    return ~_array(pixels, cube)


def _measured(ds: xr.Dataset, cube: Cube) -> Any:
    """Return the pixels that every band measured."""
    out: Any = True
    for band in cube.bands:
        values = xr.DataArray(ds[band.name].variable)
        known = values.notnull()
        out &= known if band.nodata is None or np.isnan(band.nodata) else known & (values != band.nodata)
    return out


@dataclass(frozen=True)
class Period:
    """Dates that make one image."""

    dates: NDArray[np.intp]
    days: NDArray[np.int32]
    """Of its dates, since 1970-01-01."""
    label: np.datetime64
    first: np.datetime64
    last: np.datetime64
    centrality: NDArray[np.float32]
    """Score of each date by its distance to the middle, 0 to 1."""

    @classmethod
    def of(
        cls,
        dates: NDArray[np.intp],
        seconds: NDArray[np.datetime64],
        days: NDArray[np.int32],
        label: np.datetime64,
        span: tuple[np.datetime64, np.datetime64],
    ) -> Period:
        """Return the period of dates that lie between two instants; the times are those of all dates."""
        first, last = (one.astype(np.int64) for one in span)
        spread = max((last - first) / 4, 86_400)
        away = (seconds[dates].astype(np.int64) - (first + last) / 2) / spread
        return cls(dates, days[dates], label, *span, np.exp(-0.5 * away**2).astype(np.float32))


def periods_of(times: NDArray[np.datetime64], method: Composite) -> Iterator[Period]:
    """Yield the periods of a composite in which there are dates; the times are in order."""
    check_composite(method)
    days, seconds = times.astype("datetime64[D]").astype(np.int32), times.astype("datetime64[s]")
    if method == "best":
        middle = seconds[0] + (seconds[-1] - seconds[0]) // 2
        yield Period.of(np.arange(len(times)), seconds, days, middle, (seconds[0], seconds[-1]))
        return
    every = _EVERY.fullmatch(method)
    unit, step = ("M", 1) if every is None else ("D", int(every[1]))
    numbers = times.astype(f"datetime64[{unit}]").astype(np.int64) // step
    for number in np.unique(numbers):
        bounds = np.array([number, number + 1]) * step
        start, end = bounds.astype(f"datetime64[{unit}]").astype("datetime64[s]")
        span = (start, end - np.timedelta64(1, "s"))
        yield Period.of(np.flatnonzero(numbers == number), seconds, days, start, span)


def _array(data: Any, cube: Cube) -> xr.DataArray:
    return xr.DataArray(data, dims=(cube.name_time, *cube.names_yx))


def _cloud_distance(cube: Cube, mask: Any) -> Any:
    """Return metres to the nearest masked pixel of each date, at most `_FAR_M`; pixels of 30 m without a reference system."""
    pixel = edges_m(cube.geobox) if cube.geobox.crs is not None else (_LANDSAT_M, _LANDSAT_M)
    measure = partial(distance_to, most=_FAR_M, pixel=pixel)
    if not hasattr(mask, "dask"):
        return measure(np.asarray(mask))
    depth = {
        axis: min(int(_FAR_M / edge) + 1, size)
        for axis, edge, size in zip((1, 2), pixel, mask.shape[1:], strict=True)
    }
    empty = np.empty((0, 0, 0), np.float32)
    return mask.map_overlap(measure, depth={0: 0, **depth}, boundary="none", dtype=np.float32, meta=empty)


def _chosen(period: Period, layers: list[xr.DataArray]) -> xr.DataArray:
    """Return the index of the chosen date within a period by pixel; -1 without a clear one."""
    time = str(layers[0].dims[0])
    arrays = [_whole(layer, time) for layer in layers]
    chosen: xr.DataArray = xr.apply_ufunc(
        partial(_best, day=period.centrality),
        *arrays,
        input_core_dims=[[time]] * len(arrays),
        dask="parallelized",
        output_dtypes=[np.int16],
    )
    return chosen


def _whole(array: Any, time: str) -> Any:
    """Return a lazy array with all dates in a chunk, and chunks of bounded edges."""
    if not hasattr(array.data, "dask"):
        return array
    edges = {dim: min(_CHUNK_PX, max(array.chunksizes[dim])) for dim in array.dims if dim != time}
    return array.chunk({time: -1, **edges})


def _best(
    clear: NDArray[np.bool_],
    certain: NDArray[np.bool_],
    near: NDArray[np.float32],
    *bands: NDArray[Any],
    day: NDArray[np.float32],
) -> NDArray[np.int16]:
    """Return the observation with the highest score, of those that are of a certain class and not bright.

    Arrays have the dates last.
    """
    clear = _some(clear & certain, clear)
    # Of two middle values the lower: what a mask misses is mostly brighter than the ground.
    middle = np.maximum(clear.sum(-1, keepdims=True) - 1, 0) // 2
    bright = np.zeros(clear.shape, bool)
    for band in bands:
        values = np.where(clear, band, np.nan).astype(np.float64)
        bright |= values > _BRIGHT * np.take_along_axis(
            np.sort(values, axis=-1), middle, -1
        )  # NaN comes last
    clear = _some(clear & ~bright, clear)
    reach = _FAR_M / _LANDSAT_M
    apart = 1 / (1 + np.exp(-0.2 * (np.minimum(near, _FAR_M).astype(np.float64) / _LANDSAT_M - reach / 2)))
    # Rounded: equal scores must be equal in every chunk.
    score = np.where(clear, np.round(day + apart, 6), -np.inf)
    return np.where(clear.any(-1), score.argmax(-1), -1).astype(np.int16)


def _some(wanted: NDArray[np.bool_], otherwise: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the wanted observations of each pixel; where there is none, the others."""
    return np.where(wanted.any(-1, keepdims=True), wanted, otherwise)


def _rules(ds: xr.Dataset, cube: Cube, quality: str) -> dict[str, Any]:
    """Return the number that says missing of every variable that is composed.

    Raises
    ------
    ParameterError
        A band of integers without one. Other such layers are left out.
    """
    bands = {band.name: band for band in cube.bands}
    classes = quality_of(plain_name(quality, ds[quality].attrs), ds[quality].attrs, product_of(ds))
    rules: dict[str, Any] = {}
    for name, variable in ((str(n), v) for n, v in ds.data_vars.items()):
        if not {str(cube.name_time), *cube.names_yx} <= set(map(str, variable.dims)):
            continue
        missing = bands[name].nodata if name in bands else nodata_of(variable.attrs)
        if name == SYNTHETIC:
            missing = int(OUTSIDE)
        elif variable.dtype.kind == "f":
            missing = np.nan
        elif missing is None and name == quality and classes is not None and classes.unmeasured:
            missing = classes.classes[classes.unmeasured[0]].bits
        if missing is None and name in bands:
            raise ParameterError(
                f"band {name!r} is {variable.dtype} without a nodata value, so pixels without a clear date cannot be "
                "missing in it",
                f"declare a number that is no value, ds[{name!r}].attrs['nodata'] = 0, or leave the band out",
            )
        if missing is not None:
            rules[name] = missing
    return rules


def _picked(
    part: xr.Dataset, chosen: xr.DataArray, period: Period, rules: dict[str, Any], time: str
) -> xr.Dataset:
    """Return one image: every variable of a period at the chosen dates, and the dates themselves."""
    out: dict[str, xr.DataArray] = {}
    for name, missing in rules.items():
        variable = part[name]
        values = xr.apply_ufunc(
            partial(_take, missing=missing),
            _whole(xr.DataArray(variable.variable), time),
            chosen,
            input_core_dims=[[time], []],
            dask="parallelized",
            output_dtypes=[variable.dtype],
        )
        out[name] = values.expand_dims({time: 1}).transpose(*variable.dims)
        out[name].attrs, out[name].encoding = dict(variable.attrs), _without_chunks(variable.encoding)
    days = xr.apply_ufunc(
        partial(_day, days=period.days), chosen, dask="parallelized", output_dtypes=[np.int32]
    )
    about = {"long_name": "date of the observation", "units": "days since 1970-01-01", "nodata": _NO_DATE}
    first = next(iter(rules))
    out[SOURCE_DATE] = days.expand_dims({time: 1}).transpose(*part[first].dims).assign_attrs(about)
    coords = {n: c for n, c in part.coords.items() if time not in c.dims}
    return xr.Dataset(out, coords).assign_coords(_along_time(part, period, time))


def _take(values: NDArray[Any], chosen: NDArray[np.int16], *, missing: Any) -> NDArray[Any]:
    found = np.take_along_axis(values, np.maximum(chosen, 0)[..., None].astype(np.intp), -1)[..., 0]
    return np.where(chosen < 0, np.asarray(missing).astype(values.dtype), found)


def _day(chosen: NDArray[np.int16], *, days: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.where(chosen < 0, np.int32(_NO_DATE), days[np.maximum(chosen, 0)])


def _without_chunks(encoding: Any) -> dict[str, Any]:
    shape = ("chunks", "preferred_chunks", "chunksizes", "original_shape", "source", "shards")
    return {key: value for key, value in encoding.items() if key not in shape}


def _along_time(part: xr.Dataset, period: Period, time: str) -> dict[str, Any]:
    """Return the coordinates of an image along time: its items joined, and the range of its dates."""
    out: dict[str, Any] = {time: (time, [period.label.astype("datetime64[ns]")], dict(part[time].attrs))}
    for name in ("item_id", "item_href", "platform"):
        if name in part.coords and part[name].dims == (time,):
            texts = [one for value in part[name].values for one in str(value).split(";") if one]
            out[name] = (time, [";".join(dict.fromkeys(texts))])
    if PROPERTIES in part.coords:
        out[PROPERTIES] = (time, [as_text(properties_of(part))])
    if "gsd" in part.coords and part["gsd"].dims == (time,):
        out["gsd"] = (time, part["gsd"].values[:1], dict(part["gsd"].attrs))
    if period.first < period.last:
        for name, instant in (("start_datetime", period.first), ("end_datetime", period.last)):
            out[name] = (time, [f"{instant.astype('datetime64[s]')}Z"])
    return out
