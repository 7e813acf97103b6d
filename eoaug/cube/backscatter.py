"""backscatter: the radar bands of a cube as amplitude, intensity or decibels, with what is no measurement missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube.roles import platform_of
from eoaug.errors import BandError, ParameterError
from eoaug.raster.backscatter import (
    BACKSCATTER,
    CALIBRATION,
    SAR_SENSORS,
    AmplitudeRange,
    BackscatterForm,
    Calibration,
    amplitude_range,
    calibration_of,
    convert_backscatter,
    physical_form,
)
from eoaug.raster.bands import POLARISATIONS, common_name
from eoaug.raster.radiometry import NODATA_KEYS, SCALE_ATTRS, declared_nodata

__all__ = ["backscatter"]

_UNITS: dict[str, str] = {"amplitude": "amplitude", "intensity": "m2 m-2", "decibel": "dB"}


def backscatter[T: (xr.Dataset, xr.DataArray)](
    ds: T,
    to: BackscatterForm = "decibel",
    *,
    bands: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    floor_db: float | str | None = None,
    normalise: AmplitudeRange | tuple[float, float] | bool = False,
) -> T:
    """Return a cube whose radar bands hold one form of backscatter; other variables are returned as they are.

    Parameters
    ----------
    ds
        The cube, or a DataArray of one band. Each radar band declares its form by ``units`` (``dB``, ``m2 m-2``, ``power``, ``amplitude``) or by
        ``attrs["backscatter"]``; complex numbers (single-look complex images) become amplitude.
    to
        ``"amplitude"``, ``"intensity"`` (power) or ``"decibel"``.
    bands
        Names of the radar bands. Default: those called, or with the common name, ``vv``, ``vh``, ``hh``, ``hv``.
    calibration
        ``"sigma0"``, ``"gamma0"`` or ``"beta0"``, where the attributes do not say it. It is recorded, never converted.
    floor_db
        Backscatter in decibels below which a pixel is missing, because border noise and subtracted thermal noise are no
        measurement; or the name of a sensor, e.g. ``"sentinel-1"`` for -35 dB. Default: pixels stay. What is not
        positive in linear units is always missing.
    normalise
        With ``to="amplitude"``: divide by mean + 3 standard deviations and clip to 0 to 1 (arXiv:2506.13307). True takes
        them from each band, which computes a lazy one; a pair gives (mean, standard deviation). The divisor is recorded
        as ``scale_factor``, so the result still declares its amplitude, up to what was clipped.

    Returns
    -------
    The cube with radar bands in float32, NaN where missing, and the attributes ``backscatter``, ``calibration`` (where
    known) and ``units``. Lazy bands stay lazy.

    Raises
    ------
    BandError
        No radar band, or one of ``bands`` is missing.
    RadiometryError
        A band does not say its form.
    ParameterError
        ``normalise`` with another form than amplitude, or an unknown sensor.
    """
    if to not in _UNITS:
        raise ParameterError(f"to={to!r} is unknown", f"use one of {', '.join(_UNITS)}")
    if normalise is not False and to != "amplitude":
        raise ParameterError(f"normalise= is for amplitudes, to={to!r}", "use to='amplitude'")
    if isinstance(ds, xr.DataArray):
        name = str(ds.name or "band")
        whole = backscatter(
            ds.to_dataset(name=name),
            to,
            bands=[name],
            calibration=calibration,
            floor_db=floor_db,
            normalise=normalise,
        )
        return whole[name].rename(ds.name)
    floor = _floor(floor_db)
    out = {}
    for name in _radar_bands(ds, bands):
        values, attrs = _converted(ds[name], to, floor)
        known = calibration or calibration_of(attrs, name)
        kept = {k: v for k, v in attrs.items() if k not in {*SCALE_ATTRS, *NODATA_KEYS}}
        kept |= {BACKSCATTER: to, "units": _UNITS[to], **({CALIBRATION: known} if known else {})}
        if normalise is not False:
            limits = _limits(values, normalise)
            values = (values / np.float32(limits.white)).clip(0, 1)
            kept |= {"scale_factor": limits.white, "amplitude_mean": limits.mean, "amplitude_std": limits.std}
        band = values.astype(np.float32).assign_attrs(kept)
        band.attrs = kept
        band.encoding = {k: v for k, v in ds[name].encoding.items() if k in ("grid_mapping", "coordinates")}
        out[name] = band
    return ds.assign(out)


def _radar_bands(ds: xr.Dataset, bands: Sequence[str] | None) -> list[str]:
    if bands is not None:
        for name in bands:
            if name not in ds.data_vars:
                raise BandError(
                    f"the cube has no variable {name!r}",
                    f"its variables: {', '.join(map(str, ds.data_vars))}",
                )
        return list(bands)
    platform = platform_of(ds)
    found = [
        str(name)
        for name, v in ds.data_vars.items()
        if common_name(str(name), v.attrs, platform) in POLARISATIONS
    ]
    if not found:
        raise BandError(
            f"no radar band among {', '.join(map(str, ds.data_vars))}",
            "name them: bands=['slc'], or set attrs['common_name'] = 'vv'",
        )
    return found


def _floor(floor_db: float | str | None) -> float | None:
    if not isinstance(floor_db, str):
        return floor_db
    if floor_db not in SAR_SENSORS:
        raise ParameterError(
            f"floor_db={floor_db!r} is unknown", f"use one of {', '.join(SAR_SENSORS)}, or decibels"
        )
    return SAR_SENSORS[floor_db].floor_db


def _converted(
    variable: xr.DataArray, to: BackscatterForm, floor: float | None
) -> tuple[xr.DataArray, Mapping[str, Any]]:
    """Return a band in the wanted form, NaN where missing, and the attributes that it had."""
    name, attrs = str(variable.name), variable.attrs
    form, scaling = physical_form(attrs, variable.dtype, variable.encoding, name=name)
    nodata = None
    if variable.dtype.kind != "c":
        nodata = declared_nodata(attrs, variable.dtype, name=name, encoding=variable.encoding)

    def convert(stored: Any) -> Any:
        values = scaling(np.abs(stored) if stored.dtype.kind == "c" else stored)
        if nodata is not None and not np.isnan(nodata):
            values = np.where(stored == nodata, np.nan, values)
        if floor is not None:
            values = np.where(convert_backscatter(values, form, "decibel") >= floor, values, np.nan)
        return convert_backscatter(values, form, to).astype(np.float32)

    return xr.apply_ufunc(convert, variable, dask="parallelized", output_dtypes=[np.float32]), attrs


def _limits(values: xr.DataArray, normalise: AmplitudeRange | tuple[float, float] | bool) -> AmplitudeRange:
    if normalise is True:
        return amplitude_range(values.values)
    if isinstance(normalise, AmplitudeRange):
        return normalise
    mean, std = normalise  # type: ignore[misc]
    return AmplitudeRange(float(mean), float(std))
