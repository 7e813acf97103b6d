"""Which dimensions of an xarray object are y, x, time and band: the one place that decides it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.errors import GridError, TimeError
from eoaug.raster.bands import common_name
from eoaug.raster.variables import role_of

__all__ = ["TIME_NAMES", "band_dim", "coord_variables", "dates_of", "scalar_time", "spatial_dims", "time_dim"]


TIME_NAMES = ("time", "t", "date", "datetime", "times", "dates")
"""Names of the time dimension, in lower case: xarray's, openEO's and others."""
_BAND_NAMES = ("band", "bands", "wavelength", "channel", "channels", "variable")
"""Names of the band dimension; ``variable`` is the default of `xarray.Dataset.to_dataarray`."""
_X_NAMES = ("x", "lon", "longitude", "easting", "eastings", "long")
_Y_NAMES = ("y", "lat", "latitude", "northing", "northings")
_STANDARD_NAMES = {
    "X": ("projection_x_coordinate", "longitude", "grid_longitude"),
    "Y": ("projection_y_coordinate", "latitude", "grid_latitude"),
    "T": ("time",),
}


def spatial_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """Return the names of the y and x dimensions.

    The CF attributes ``axis`` and ``standard_name`` of the coordinates decide, else the names. In a Dataset with
    variables along different ones, those of the bands count.

    Raises
    ------
    GridError
        One of them cannot be found, or is empty; or bands lie along different ones.
    """
    coords = coord_variables(obj)
    names = _of_bands(obj, coords) if isinstance(obj, xr.Dataset) else None
    names = names or _pair(obj.dims, coords)
    if names is None:
        raise GridError(
            f"no spatial dimensions among {tuple(map(str, obj.dims))}",
            "name them y and x (or latitude and longitude), or set the CF attribute axis='Y' and 'X'",
        )
    for name in names:
        if obj.sizes[name] == 0:
            raise GridError(
                f"dimension {name!r} is empty", "check the bounding box or slice that made the cube"
            )
    return names


def coord_variables(obj: xr.Dataset | xr.DataArray) -> dict[Hashable, xr.Variable]:
    """Return the coordinates as variables: xarray makes a DataArray, with coordinates of its own, of each that is asked for."""
    if isinstance(obj, xr.DataArray):
        return {name: coord.variable for name, coord in obj.coords.items()}
    names = set(obj.coords)
    return {name: variable for name, variable in obj.variables.items() if name in names}


def _of_bands(ds: xr.Dataset, coords: Mapping[Any, Any]) -> tuple[str, str] | None:
    """Return the spatial dimensions of a Dataset's variables; None where no variable has both."""
    by_names: dict[tuple[str, str], list[str]] = {}
    for name in ds.data_vars:
        if names := _pair(ds.variables[name].dims, coords):
            by_names.setdefault(names, []).append(str(name))
    if len(by_names) < 2:
        return next(iter(by_names), None)
    with_bands = {
        names: bands
        for names, members in by_names.items()
        if (bands := [n for n in members if role_of(n, ds.variables[n].attrs) == "band"])
    }
    known = {
        names: bands
        for names, members in with_bands.items()
        if (bands := [n for n in members if common_name(n, ds.variables[n].attrs)])
    }
    choices = known or with_bands or by_names
    if len(choices) > 1:
        shown = "; ".join(f"{', '.join(members[:3])} along {names}" for names, members in choices.items())
        members = next(iter(choices.values()))
        raise GridError(
            f"the variables lie on different grids: {shown}",
            f"give those of one grid, e.g. ds[{members}], and the others in a second call",
        )
    return next(iter(choices))


def _pair(dims: Collection[Hashable], coords: Mapping[Any, Any]) -> tuple[str, str] | None:
    x = _dim_along("X", dims, coords) or _named(dims, _X_NAMES)
    y = _dim_along("Y", dims, coords) or _named(dims, _Y_NAMES)
    return None if x is None or y is None or x == y else (y, x)


def _dim_along(axis: str, dims: Collection[Hashable], coords: Mapping[Any, Any]) -> str | None:
    """Return the dimension that the CF attributes of its coordinate assign to an axis."""
    for dim in dims:
        if dim in coords:
            attrs = coords[dim].attrs
            if (
                str(attrs.get("axis", "")).upper() == axis
                or attrs.get("standard_name") in _STANDARD_NAMES[axis]
            ):
                return str(dim)
    return None


def _named(dims: Collection[Hashable], names: Collection[str]) -> str | None:
    return next((str(dim) for dim in dims if str(dim).lower() in names), None)


def time_dim(dims: Collection[Hashable], coords: Mapping[Any, Any]) -> str | None:
    """Return the time dimension among ``dims``: by CF attributes, else by name, else by dates along it; or None."""
    dated = (str(d) for d in dims if d in coords and _holds_dates(coords[d]))
    return _dim_along("T", dims, coords) or _named(dims, TIME_NAMES) or next(dated, None)


def scalar_time(coords: Mapping[Any, Any]) -> str | None:
    """Return the scalar coordinate with the one date of a cube: by CF attributes, else by name; or None."""
    scalars = [str(name) for name, coord in coords.items() if coord.ndim == 0]
    dated = [name for name in scalars if _holds_dates(coords[name])]
    return _dim_along("T", dated, coords) or _named(dated, TIME_NAMES) or _named(scalars, TIME_NAMES)


def _holds_dates(coord: Any) -> bool:
    return bool(coord.dtype.kind == "M" or (coord.dtype.kind == "O" and _calendar(np.ravel(coord.values))))


def band_dim(dims: Collection[Hashable]) -> str | None:
    """Return the band dimension among ``dims``, or None."""
    return _named(dims, _BAND_NAMES)


# -- dates ------------------------------------------------------------------------------------------------


def dates_of(coord: xr.DataArray, name: str) -> NDArray[np.datetime64]:
    """Return the dates of a coordinate; dates of cftime are converted where their calendar is the common one.

    Parameters
    ----------
    coord
        The coordinate, along ``name`` or a scalar.
    name
        Of the coordinate, for messages.

    Raises
    ------
    TimeError
        Values that are not dates of the common calendar, or missing ones.
    """
    values = np.atleast_1d(coord.values)
    if values.dtype.kind == "O" and _is_common(values):
        values = np.array([date.isoformat() for date in values], "datetime64[us]")
    if values.dtype.kind != "M":
        raise _undecoded(values, coord.attrs, name)
    if np.isnat(values).any():
        remedy = (
            f"drop them: ds.dropna({name!r})"
            if coord.ndim
            else f"give the date: ds.assign_coords({name}=...)"
        )
        raise TimeError(f"{name!r} holds missing dates (NaT)", remedy)
    return values


def _calendar(values: NDArray[Any]) -> str:
    """Return the calendar of cftime dates; empty for other values."""
    return str(getattr(values.flat[0], "calendar", "")) if values.size else ""


_COMMON_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
_REFORM = (1582, 10, 15)
"""First day on which these are one calendar."""


def _is_common(values: NDArray[Any]) -> bool:
    """Tell whether dates of cftime are dates of the common calendar."""
    return all(
        getattr(date, "calendar", "") in _COMMON_CALENDARS and (date.year, date.month, date.day) >= _REFORM
        for date in values.flat
    )


def _undecoded(values: NDArray[Any], attrs: Mapping[str, Any], name: str) -> TimeError:
    """Return the error for values that are no dates, with a remedy that fits them."""
    at = f"ds[{name!r}].values"
    calendar = _calendar(values) if values.dtype.kind == "O" else ""
    if calendar:
        more = ", align_on='year'" if calendar == "360_day" else ""
        return TimeError(
            f"{name!r} holds dates of the calendar {calendar!r} (cftime), such as {values.flat[0]}",
            f"ds.convert_calendar('standard', dim={name!r}, use_cftime=False{more})",
        )
    shown = (
        f"{name!r} holds {values.dtype} values such as {values.flat[0]!r}, not dates" if values.size else name
    )
    if "since" in str(attrs.get("units", "")):
        return TimeError(
            f"{shown}, and its units are {attrs['units']!r}", "decode them: xarray.decode_cf(ds)"
        )
    if values.dtype.kind in "iuf":
        form = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d"}.get(
            len(str(int(values.flat[0]))) if np.isfinite(values).all() else 0
        )
        decoded = f"pandas.to_datetime({at}, unit='D')  # or the unit that they count in, since 1970"
        if form is not None:
            decoded = f"pandas.to_datetime({at}.astype(int).astype(str), format={form!r})"
    else:
        decoded = f"pandas.to_datetime({at}, utc=True).tz_localize(None)"
    comment = "".join(decoded.partition("  #")[1:])
    return TimeError(shown, f"decode them: ds.assign_coords({name}={decoded.partition('  #')[0]}){comment}")
