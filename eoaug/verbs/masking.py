"""The arguments ``mask`` and ``mask_buffer`` of every verb: which pixels are no measurement of the ground.

`eoaug.verbs.fill_mask` converts what the user gave to pixels; here a band is chosen where the user named none, the
mask is dilated, and both are put into the words of the provenance record.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from eoaug.cube.model import Cube
from eoaug.cube.read import read_cube
from eoaug.cube.roles import quality_variable, with_labels
from eoaug.errors import EoaugError, EoaugWarning, ParameterError
from eoaug.raster.grid import edges_m
from eoaug.raster.masks import dilate
from eoaug.verbs.fill_mask import mask_of, mask_variable
from eoaug.verbs.omnicloudmask import NAME, model_mask

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = [
    "MASK_BUFFER_M",
    "NONE",
    "Mask",
    "Masking",
    "cube_for",
    "mask_by",
    "mask_note",
    "mask_of_cube",
    "mask_px",
    "warn_of_unused",
]


MASK_BUFFER_M = 100.0
"""Default dilation of a mask that a quality band says, in metres.

Measured on four Sentinel-2 series with their SCL (two in Belgium, Tanzania, Romania; 300 dates). Share of the pixels
called clear, on partly cloudy dates, that lie outside the range of the clear dates, by distance from the mask: up to 40 m
25 to 64 %, at 60 to 80 m 6 to 39 %, at 100 to 140 m 4 to 19 %, beyond 300 m 0 to 6 %. Of all pixels left, 8 to 33 %
contradict without a buffer and 3 to 9 % with 100 m; with 200 m it is 1 to 8 %, and two thirds of the good pixels of
such dates are lost instead of 34 to 52 %. Not growing specks of one or two native pixels was no better at equal loss.
Other processors: HLS dilates by 150 m, MAJA by 240 m, FORCE by 300 m around clouds and 90 m around shadows.
"""

Mask = xr.DataArray | str | Sequence[str] | None
"""What the argument ``mask`` may be."""
NONE = "none"
"""The mask that masks nothing, also not what the cube's quality band says."""
_NOTICEABLE = 0.01
"""Share of cloud from which on an unused quality band is worth a warning."""
_MOST = 1e5
_PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True)
class Masking:
    """Pixels that are no measurement of the ground, and how the provenance record says so."""

    pixels: Any = None
    """Shape (T, Y, X), bool, NumPy or dask; None without a mask."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """``mask`` and ``mask_buffer``: a number is metres, a text pixels. Empty without a mask."""


def cube_for(ds: Any, mask: Any, labels: Sequence[str] | str | None = None) -> Cube:
    """Return the cube of a verb, without the variable that its mask names among the bands, and with ``labels`` marked."""
    if isinstance(ds, xr.Dataset):
        ds, labels = with_labels(ds, labels), None
    if isinstance(mask, str) and mask != NONE and not _is_model(mask) and isinstance(ds, xr.Dataset):
        variable = mask_variable(ds, mask)
        if variable in ds.data_vars:
            return replace(read_cube(ds.drop_vars(variable)), source=ds)
    return read_cube(ds, labels)


def mask_of_cube(cube: Cube, mask: Any, buffer: Any, *, default_m: float = MASK_BUFFER_M) -> Masking:
    """Return what a verb takes for no evidence: `mask_by`, and without a mask what the cube's own quality band says.

    Raises
    ------
    ParameterError
        See `mask_by`; also a quality band of the cube whose numbers nothing explains.
    """
    name = _quality_name(cube) if mask is None else None
    if name is None:
        return mask_by(cube, mask, buffer, default_m=default_m)
    try:
        return mask_by(cube, name, buffer, default_m=default_m)
    except ParameterError as error:
        raise ParameterError(
            error.problem, f"{error.remedy}; or take every pixel as it is: mask='{NONE}'"
        ) from error


def _quality_name(cube: Cube) -> str | None:
    return quality_variable(cube.source, cube.names_yx, [band.name for band in cube.bands])


def mask_by(
    cube: Cube, mask: Any, buffer: Any, *, default_m: float = MASK_BUFFER_M, fills: bool = False
) -> Masking:
    """Return the pixels that a mask says, dilated.

    Parameters
    ----------
    cube
        The cube; see `mask_of`.
    mask
        As the user gave it; None or ``"none"``: no mask.
    buffer
        The argument ``mask_buffer``; None: ``default_m`` for what a quality band says, 0 for booleans.
    default_m
        Metres.
    fills
        True if the pixels are to be filled: then the dilation adds none that was never measured, such as those beyond
        the edge of a swath.

    Raises
    ------
    ParameterError
        A buffer without a mask or that is no distance, or metres on a grid whose pixel size is not known.
    """
    given = _distance(buffer)
    none = isinstance(mask, str) and mask == NONE
    if mask is None or none:
        if given is not None:
            raise ParameterError(
                f"mask_buffer={buffer!r} dilates a mask, and there is none", "give mask= too, or leave it out"
            )
        return Masking(record={"mask": NONE} if none else {})
    found, of_quality = (model_mask(cube, mask), True) if _is_model(mask) else mask_of(cube, mask)
    radius, unit = given or ((default_m if of_quality else 0.0), "m")
    if radius and unit == "m" and cube.geobox.crs is None:
        radius = _without_metres(buffer, radius)
    pixels = found
    if radius:
        pixels = _dilated(found, radius, edges_m(cube.geobox) if unit == "m" else (1.0, 1.0))
        measured = _where_measured(cube) if fills else None
        if measured is not None:
            pixels = (pixels & measured) | found
    if len(pixels) == 1 and cube.times is not None and len(cube.times) > 1:
        pixels = pixels.repeat(len(cube.times), axis=0)
    described = mask if isinstance(mask, str) else list(mask) if not isinstance(mask, xr.DataArray) else True
    return Masking(pixels, {"mask": described, "mask_buffer": radius if unit == "m" else f"{radius:g}px"})


def _is_model(mask: Any) -> bool:
    return isinstance(mask, str) and mask.partition(":")[0] == NAME


def _without_metres(buffer: Any, radius: float) -> float:
    """Refuse metres that the user asked for on a grid without a reference system; of the default, warn."""
    if buffer is not None:
        raise ParameterError(
            f"mask_buffer={buffer!r} is in metres, and the cube has no coordinate reference system that says how "
            "large its pixels are",
            "give pixels, mask_buffer='10px', or add the reference system: ds.odc.assign_crs('EPSG:32633')",
        )
    _warn(
        "the mask was not dilated, although masks of quality bands miss the rims of clouds: without a coordinate "
        f"reference system {radius:g} m are no number of pixels; give them, mask_buffer='10px', or say that the mask "
        "is enough: mask_buffer=0"
    )
    return 0.0


def _warn(text: str) -> None:
    warnings.warn(text, EoaugWarning, skip_file_prefixes=(_PACKAGE,))


def mask_note(record: Mapping[str, Any]) -> str:
    """Return the mask of a provenance record in words; empty without one."""
    if "mask_buffer" not in record:
        return ""
    mask, buffer = record["mask"], record["mask_buffer"]
    name = "as given" if mask is True else mask if isinstance(mask, str) else ", ".join(mask)
    unit = "" if isinstance(buffer, str) else " m"
    return f"{name}, dilated by {buffer if unit == '' else format(buffer, 'g')}{unit}" if buffer else name


def mask_px(record: Mapping[str, Any], geobox: GeoBox) -> int:
    """Return how far a mask reaches in pixels of the cube by its dilation."""
    buffer = record.get("mask_buffer", 0.0)
    if isinstance(buffer, str):
        return math.ceil(float(buffer.removesuffix("px")))
    return math.ceil(buffer / min(edges_m(geobox))) if buffer else 0


def warn_of_unused(cube: Cube) -> None:
    """Warn if a quality band lies unused next to cloudy pixels that `inpaint` would return as measured.

    The share of cloud is counted in NumPy cubes; of lazy ones it is what their items say (``cloud_cover``).
    """
    name = _quality_name(cube)
    if name is None:
        return
    if hasattr(cube.source[name].data, "dask"):
        percent = cube.along_time("cloud_cover", "eo:cloud_cover")
        if percent is None or percent.dtype.kind not in "iuf" or not np.isfinite(percent).any():
            return
        share = float(np.nanmean(percent)) / 100
    else:
        try:
            share = float(np.mean(mask_of(cube, name)[0]))
        except EoaugError:  # numbers that nothing explains are refused where the user names the band
            return
    if share >= _NOTICEABLE:
        _warn(
            f"{name!r} says that {share:.1%} of the pixels are cloud, and inpaint takes them for land; fill them too, "
            f"mask={name!r}, or keep them without this warning: mask='{NONE}'"
        )


def _distance(buffer: Any) -> tuple[float, str] | None:
    """Return number and unit, ``m`` or ``px``, of the argument ``mask_buffer``."""
    if buffer is None:
        return None
    unit, number = "m", buffer
    if isinstance(buffer, str):
        parts = re.fullmatch(r"\s*([0-9.]+(?:e\+?\d+)?)\s*(m|px)?\s*", buffer)
        if parts is not None:
            number, unit = _number(parts[1]), parts[2] or "m"
    real = isinstance(number, int | float | np.number) and not isinstance(number, bool)
    if not real or not 0 <= float(number) <= _MOST:
        raise ParameterError(
            f"mask_buffer={buffer!r} is no distance from 0 to {_MOST:,.0f}",
            "give metres, e.g. mask_buffer=100, or pixels, e.g. mask_buffer='10px'",
        )
    return float(number), unit


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _dilated(mask: Any, radius: float, pixel: tuple[float, float]) -> Any:
    if not hasattr(mask, "dask"):
        return dilate(np.asarray(mask), radius, pixel)
    # One pixel more than the disk, so that its outermost pixel is not a matter of rounding.
    rows, cols = (min(int(radius / edge) + 1, size) for edge, size in zip(pixel, mask.shape[1:], strict=True))
    grow = partial(dilate, radius=radius, pixel=pixel)
    return mask.map_overlap(
        grow, depth={0: 0, 1: rows, 2: cols}, boundary="none", dtype=bool, meta=np.empty((0, 0, 0), bool)
    )


def _where_measured(cube: Cube) -> Any:
    """Return shape (T, Y, X), True where any band has a measurement; None if there is one everywhere."""
    out: Any = None
    for band in cube.bands:
        known = np.isfinite(band.data) if band.dtype.kind == "f" else None
        if band.nodata is not None and not np.isnan(band.nodata):
            other = band.data != band.nodata
            known = other if known is None else known & other
        if known is None:
            return None
        out = known if out is None else out | known
    return out
