"""The synthetic mask: its codes, its attributes, and the share of pixels that were not measured.

Every result carries it as the uint8 variable `SYNTHETIC`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import NDArray

from eoaug.errors import TargetError
from eoaug.raster.bands import SYNTHETIC

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = [
    "ATTRIBUTES",
    "GENERATED",
    "MEASURED",
    "OUTSIDE",
    "SYNTHETIC",
    "TRANSFERRED",
    "Refusal",
    "SyntheticShare",
    "codes_of",
    "lost_marks",
    "note_grid",
    "why_untrusted",
]

MEASURED, GENERATED, TRANSFERRED, OUTSIDE = (np.uint8(n) for n in (0, 1, 2, 255))
"""Codes of a pixel: as given; made by the generator; derived from generated bands; beyond the scene."""

ATTRIBUTES: Mapping[str, Any] = {
    "long_name": "origin of the pixel",
    "flag_values": np.array([MEASURED, GENERATED, TRANSFERRED, OUTSIDE], dtype=np.uint8),
    "flag_meanings": "measured generated transferred outside",
}
"""CF attributes of the variable."""


@dataclass
class SyntheticShare:
    """Counts, block by block, which share of the pixels inside the scene was not measured."""

    inside: int = 0
    """Pixels that are not `OUTSIDE`."""
    synthetic: int = 0
    """Pixels that are `GENERATED` or `TRANSFERRED`."""

    def add(self, mask: NDArray[np.uint8]) -> None:
        """Count a block of the mask, of any shape."""
        inside, made = int((mask != OUTSIDE).sum()), int(((mask == GENERATED) | (mask == TRANSFERRED)).sum())
        if inside != made + int((mask == MEASURED).sum()):
            unknown = np.unique(mask[~np.isin(mask, _CODES)]).tolist()
            raise TargetError(
                f"the synthetic mask holds {unknown[:3]}, which are no codes of it", _CODES_REMEDY
            )
        self.inside += inside
        self.synthetic += made

    @property
    def share(self) -> float | None:
        """Between 0 and 1; None without a pixel inside the scene."""
        return self.synthetic / self.inside if self.inside else None


# -- marks that can be trusted ------------------------------------------------------------------------

_CODES = (MEASURED, GENERATED, TRANSFERRED, OUTSIDE)
_CODES_REMEDY = (
    "give uint8 codes (0 measured, 1 generated, 2 transferred, 255 outside), or booleans: True = generated"
)
_GRID = "eoaug_grid"
"""Encoding of the mask with the grid that it was made on. xarray keeps the encoding of a variable that is selected from,
and drops it when it computes a new one: a mask of eoaug without any encoding is a mean, a maximum, an interpolation."""

Refusal = tuple[str, str]
"""Problem and remedy of an error; each floor raises its own class."""


def note_grid(marks: xr.Variable | xr.DataArray, geobox: GeoBox) -> None:
    """Note in the encoding of a new mask on which grid and dates it is exact, and its flags if it has none."""
    marks.attrs = {**ATTRIBUTES, **marks.attrs}
    marks.encoding = {**marks.encoding, _GRID: (tuple(geobox.affine)[:6], geobox.crs, _dates(marks))}


def _dates(marks: xr.Variable | xr.DataArray) -> tuple[int, ...]:
    """Return the dates of a mask in seconds; empty if it has none."""
    if isinstance(marks, xr.DataArray):
        for dim in marks.dims:
            if dim in marks.coords and marks[dim].dtype.kind == "M":
                return _seconds(marks[dim].values)
    return ()


def _seconds(times: NDArray[np.datetime64]) -> tuple[int, ...]:
    return tuple(times.astype("datetime64[s]").astype(np.int64).tolist())


def lost_marks() -> Refusal:
    """Return the refusal of a cube with generated pixels and without a mask."""
    return (
        f"the cube holds generated pixels, and its mask {SYNTHETIC!r} is missing",
        f"keep it when you select bands, e.g. result[['B04', {SYNTHETIC!r}]], or assign it again: "
        f"ds.assign({SYNTHETIC}=result.{SYNTHETIC}); of a reduction: "
        f"ds.assign({SYNTHETIC}=result.{SYNTHETIC}.isin([1, 2]).any('time'))",
    )


def why_untrusted(
    marks: xr.Variable | xr.DataArray, geobox: GeoBox, times: NDArray[np.datetime64] | None = None
) -> Refusal | None:
    """Return why a mask may miss generated pixels; None if it marks every one of them.

    The minimum, the median or a linear interpolation of a mask can be 0 where a generated pixel went into the bands, and
    nothing in the numbers shows it. So every mask that was computed from one of ours is refused, except one of booleans,
    which nobody gets by chance.

    Parameters
    ----------
    marks
        The mask.
    geobox
        Grid of its cube.
    times
        Dates of its cube, for a mask without coordinates.
    """
    if marks.dtype.kind == "b":
        return None
    ours = str(marks.attrs.get("flag_meanings", "")) == ATTRIBUTES["flag_meanings"]
    # xarray's coarsen keeps the encoding; a median of codes is float64, a selection with gaps float32.
    transform, crs, made_of = marks.encoding.get(_GRID, (marks.attrs.get("spatial:transform"), None, ()))
    dates = _dates(marks) if times is None else _seconds(times)
    fewer = len(dates) < len(made_of) and not set(dates) <= set(made_of)
    coarsened = _GRID in marks.encoding and (not ours or marks.dtype == np.float64 or fewer)
    if not ours and not coarsened:
        if marks.dtype.kind in "iu":
            return None
        return f"the synthetic mask has type {marks.dtype} and no flags", _CODES_REMEDY
    if not marks.encoding or coarsened:
        return (
            f"the synthetic mask was computed ({marks.dtype}), as by a mean, a resampling or an interpolation, and "
            "may miss generated pixels",
            "assign one that marks a pixel if any of its inputs was generated, e.g. of a mean over time "
            f"ds.assign({SYNTHETIC}=result.{SYNTHETIC}.isin([1, 2]).any('time')); if grid and dates are still those "
            f"of the result, ds.assign({SYNTHETIC}=result.{SYNTHETIC}); for another grid write the result as it is, "
            "then eoaug.open_cube(catalog, resolution=...)",
        )
    if transform is None or _is_crop(Affine(*map(float, transform)), crs, geobox):
        return None
    return (
        f"the synthetic mask was made on another grid (pixels of {abs(float(transform[0])):g}, the cube has "
        f"{abs(geobox.affine.a):g}), and may miss generated pixels",
        "write the result as it is, then open it on the new grid: eoaug.open_cube(catalog, resolution=...); or assign "
        f"booleans that are True where any input was generated: ds.assign({SYNTHETIC}=...)",
    )


def _is_crop(made_on: Affine, crs: Any, geobox: GeoBox) -> bool:
    """Tell whether a grid consists of pixels of another one, in either direction along its axes."""
    if crs is not None and geobox.crs is not None and crs != geobox.crs:
        return False
    step = ~made_on @ geobox.affine
    whole = all(abs(value - round(value)) < 0.02 for value in (step.c, step.f))
    return whole and bool(
        np.allclose([abs(step.a), abs(step.e), step.b, step.d], [1, 1, 0, 0], rtol=0, atol=1e-3)
    )


def codes_of(marks: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return trusted marks as codes.

    Parameters
    ----------
    marks
        Codes of any numeric type, or booleans: True = generated. NaN, which alignment and concatenation put where there was
        no mask, is `OUTSIDE` where no band has data.
    missing
        Of the same shape, True where no band has data.

    Raises
    ------
    TargetError
        NaN where a band has data, or a number that is no code.
    """
    if marks.dtype.kind == "f":
        unknown = np.isnan(marks)
        if (unknown & ~missing).any():
            raise TargetError(
                f"the synthetic mask is NaN at {int((unknown & ~missing).sum())} pixels with data, as after joining "
                "cubes with and without a mask",
                f"give the measured cube a mask first: measured.assign({SYNTHETIC}=xr.zeros_like(measured['B04'], "
                f"dtype='uint8').drop_attrs()); or write the cubes one after the other",
            )
        marks = np.where(unknown, OUTSIDE, marks)
    if not np.isin(marks, _CODES).all():
        wrong = np.unique(marks[~np.isin(marks, _CODES)]).tolist()
        raise TargetError(f"the synthetic mask holds {wrong[:3]}, which are no codes of it", _CODES_REMEDY)
    return marks.astype(np.uint8)
