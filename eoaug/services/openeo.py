"""openEO: the text of a user-defined function that runs a verb, and what it does with a window of a cube.

A back end cuts a cube into windows, calls the function on each with some overlap, and joins the results. Tiles and noise of
eoaug belong to places, so the windows agree where the overlap is wide enough: `neighborhood` says how wide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube.synthetic import OUTSIDE, SYNTHETIC
from eoaug.errors import GridError, ParameterError, did_you_mean, error_context
from eoaug.jobs.config import check_parameters
from eoaug.raster.quality import quality_of
from eoaug.verbs.planning import VERBS, plan

__all__ = ["neighborhood", "rescaled", "run", "udf"]

UDF_VERBS = ("inpaint", "super_resolve")
"""Verbs whose result has the dates of the cube, which a window of `apply_neighborhood` must keep."""

_DEFAULTS: Mapping[str, Any] = {
    "parameters": {},
    "generator": "embedded",
    "scale": 1e-4,
    "offset": 0.0,
    "crs": None,
}


def udf(verb: str, **request: Any) -> str:
    """Return the text of an openEO user-defined function that runs a verb.

    Parameters
    ----------
    verb
        ``"inpaint"`` or ``"super_resolve"``.
    **request
        ``parameters``: arguments of the verb; ``generator``: its name; ``scale`` and ``offset``: from the numbers of the
        collection to reflectance, by default those of Sentinel-2 L2A; ``crs``: reference system of the cube, e.g.
        ``"EPSG:32631"``, without which tiles lie at the corner of each window and windows do not agree.

    Returns
    -------
    str
        Python, for ``openeo.UDF``. eoaug must be installed on the back end.

    Raises
    ------
    ParameterError
        An argument that a window cannot serve.

    Examples
    --------
    >>> print(udf("super_resolve", parameters={"factor": 2, "sensor": "gaussian"}, crs="EPSG:32631").splitlines()[-1])
        return rescaled(metadata, REQUEST)
    """
    checked = _request({"verb": verb, **request})
    return _TEXT.format(request=json.dumps(checked, sort_keys=True), verb=verb)


def neighborhood(
    verb: str, bands: Sequence[str], *, gsd_m: float, size_px: int = 256, **request: Any
) -> dict[str, Any]:
    """Return the arguments ``size`` and ``overlap`` of `apply_neighborhood` with which windows agree.

    Parameters
    ----------
    verb, request
        As for `udf`.
    bands
        Names of the bands of the cube.
    gsd_m
        Pixel size of the cube in metres.
    size_px
        Edge of a window without its overlap, in pixels of the cube.

    Returns
    -------
    dict
        Lists as openEO has them, in pixels of the cube, not of the result.

    Raises
    ------
    ParameterError
        The overlap would be larger than the window. Back ends then shift their results or fail
        (openeo-geopyspark-driver, issue 1191).
    """
    checked = _request({"verb": verb, **request})
    edge = 4 * max(size_px, 64)
    coords = {"time": np.array(["2024-06-01"], "datetime64[ns]")}
    coords |= {"y": -gsd_m * (np.arange(edge) + 0.5), "x": gsd_m * (np.arange(edge) + 0.5)}
    empty = np.zeros((1, edge, edge), np.uint8)
    cube = xr.DataArray(
        np.broadcast_to(empty, (len(bands), *empty.shape)),
        {"bands": list(bands), **coords},
        ("bands", "time", "y", "x"),
    )
    ds = _opened(cube, {**checked, "crs": checked["crs"] or "EPSG:32631"})
    with error_context(verb):
        margin = plan(verb, ds, generator=checked["generator"], **checked["parameters"]).margin_px  # type: ignore[arg-type]
    factor = _factor(checked)
    overlap = -(-margin // factor)
    if overlap > size_px:
        raise ParameterError(
            f"size_px={size_px} is less than the overlap of {overlap} pixels that {verb} needs",
            f"use size_px={2 ** int(np.ceil(np.log2(overlap)))} or more",
        )
    return {
        name: [{"dimension": axis, "value": value, "unit": "px"} for axis in ("x", "y")]
        for name, value in (("size", size_px), ("overlap", overlap))
    }


def run(cube: xr.DataArray, request: Mapping[str, Any]) -> xr.DataArray:
    """Return a window of the result, with its overlap: what the user-defined function does.

    Parameters
    ----------
    cube
        Window of a cube with its overlap; dimensions ``bands``, ``y``, ``x`` and, with dates, ``t``, in any order. Rows and
        columns at its edge that are missing in every band, which a back end adds beyond the end of a cube, are left out of
        the work and missing in the result.
    request
        As in the text of `udf`.

    Returns
    -------
    xarray.DataArray
        The same dimensions in the same order, with the marks as last band, ``synthetic``. With ``super_resolve``, rows and columns are multiplied by the factor, the
        overlap as well.
    """
    checked = _request(request)
    known = (
        cube.notnull().any([d for d in cube.dims if d not in ("y", "x")]) if cube.dtype.kind == "f" else None
    )
    inner = cube if known is None else cube.isel({axis: _extent(known, axis) for axis in ("y", "x")})
    if 0 in inner.shape:
        inner = cube
    ds = _opened(inner, checked)
    with error_context(checked["verb"]):
        made = VERBS[checked["verb"]](
            ds, generator=checked["generator"], progress=False, **checked["parameters"]
        )
    names = [str(name) for name in cube["bands"].values] + [SYNTHETIC]
    layers = [made[name].astype(cube.dtype if name != SYNTHETIC else "float32") for name in names]
    joined = xr.concat(
        layers, xr.Variable("bands", names), coords="minimal", compat="override", join="override"
    )
    joined = joined.rename(time="t") if "t" in cube.dims else joined
    if "t" not in cube.dims and "time" in joined.dims:
        joined = joined.squeeze("time", drop=True)
    whole = _placed(joined.drop_vars("spatial_ref", errors="ignore"), cube, inner, _factor(checked))
    return whole.transpose(*cube.dims)


def rescaled(metadata: Any, request: Mapping[str, Any]) -> Any:
    """Return the metadata of a cube with the pixel size of the result, so that a back end rescales size and overlap too.

    Without it, windows of a finer result are joined at the places of the coarse ones (openeo-geopyspark-driver, issue 604
    and pull request 664).

    Parameters
    ----------
    metadata
        ``openeo.metadata.CubeMetadata``.
    request
        As in the text of `udf`.
    """
    factor = _factor(_request(request))
    if factor == 1:
        return metadata
    dimensions = [
        type(one)(name=one.name, extent=one.extent, crs=one.crs, step=one.step / factor)
        if getattr(one, "step", None) and one.type == "spatial"
        else one
        for one in metadata._dimensions
    ]
    return metadata._clone_and_update(dimensions=dimensions)


# -- parts ----------------------------------------------------------------------------------------------

_TEXT = '''"""openEO user-defined function: {verb} by eoaug. Made by `eoaug udf`."""
import json

import xarray

from eoaug.services.openeo import rescaled, run

REQUEST = json.loads({request!r})


def apply_datacube(cube: xarray.DataArray, context: dict) -> xarray.DataArray:
    return run(cube, REQUEST)


def apply_metadata(metadata, context: dict):
    return rescaled(metadata, REQUEST)
'''


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request with its defaults; refuse what a window cannot serve."""
    for name in given:
        if name not in (*_DEFAULTS, "verb"):
            raise ParameterError(
                f"{name!r} is no part of a request",
                f"{did_you_mean(name, _DEFAULTS)} known: {', '.join(_DEFAULTS)}".lstrip(),
            )
    request = {**_DEFAULTS, **given}
    verb, parameters = request["verb"], request["parameters"]
    if verb not in UDF_VERBS:
        raise ParameterError(
            f"verb={verb!r} changes the dates of a cube, or has none",
            f"use {' or '.join(UDF_VERBS)}, or a job of eoaug",
        )
    try:
        check_parameters(verb, parameters)
    except ValueError as error:
        raise ParameterError(f"parameters: {error}", f"see help(eoaug.{verb})") from error
    if verb == "super_resolve" and parameters.get("sensor", "auto") == "auto":
        raise ParameterError(
            f"{verb}: sensor='auto' is estimated from each window, so windows would not agree",
            "name one, e.g. parameters={'sensor': 'gaussian', 'sensor_noise': 0}, or the one in the record of a result",
        )
    if parameters.get("native") == "auto":
        raise ParameterError(
            f"{verb}: native='auto' needs attributes that openEO does not pass on",
            "name bands: native={'B05': 20}",
        )
    return request


def _factor(request: Mapping[str, Any]) -> int:
    sharpens = request["verb"] == "super_resolve" and request["parameters"].get("native") is None
    return int(request["parameters"].get("factor", 2)) if sharpens else 1


def _opened(cube: xr.DataArray, request: Mapping[str, Any]) -> xr.Dataset:
    """Return a window as a Dataset that declares scale and reference system."""
    from odc.geo.xr import assign_crs

    missing = {"bands", "y", "x"} - set(map(str, cube.dims))
    if missing:
        raise GridError(
            f"the window has no dimension {sorted(missing)[0]!r}; it has {', '.join(map(str, cube.dims))}",
            "apply the function to a raster cube with bands",
        )
    ds = (cube.rename(t="time") if "t" in cube.dims else cube).to_dataset("bands")
    for name, band in ds.data_vars.items():
        if quality_of(str(name), {}) is not None:
            ds[name] = band.fillna(0).astype(np.uint8)
        else:
            band.attrs.update(scale_factor=request["scale"], add_offset=request["offset"])
    return assign_crs(ds, request["crs"]) if request["crs"] else ds


def _extent(known: xr.DataArray, axis: str) -> slice:
    """Return the first to the last row or column with a known pixel."""
    hits = np.flatnonzero(known.any([d for d in known.dims if d != axis]).values)
    return slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0)


def _placed(made: xr.DataArray, cube: xr.DataArray, inner: xr.DataArray, factor: int) -> xr.DataArray:
    """Return a result on the whole window, missing where the window had nothing."""
    around, coords = {}, {}
    for axis in ("y", "x"):
        before = int(np.flatnonzero(cube[axis].values == inner[axis].values[0])[0])
        after = cube.sizes[axis] - inner.sizes[axis] - before
        around[axis] = (before * factor, after * factor)
        places = cube[axis].values.astype(np.float64)
        step = (places[-1] - places[0]) / max(len(places) - 1, 1)
        first = places[0] - step / 2 + step / (2 * factor)
        coords[axis] = first + step / factor * np.arange(len(places) * factor)
    whole = made.pad(around, constant_values=np.nan) if any(map(any, around.values())) else made
    whole.loc[{"bands": SYNTHETIC}] = whole.sel(bands=SYNTHETIC).fillna(float(OUTSIDE))
    return whole.assign_coords(coords)
