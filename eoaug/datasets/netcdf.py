"""The one reader of learning cubes: a netCDF file of co-registered images becomes reflectance, cloud masks and dates.

Training (`datasets.training_cubes`) and evaluation (`datasets.series`) both read through this module, so that the
same file has the same reflectance, the same clear pixels and the same metadata in both.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.dimensions import dates_of, spatial_dims, time_dim
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.roles import platform_of, product_of
from eoaug.cube.stacks import split_bands
from eoaug.errors import EoaugWarning, RadiometryError, SourceError, error_context
from eoaug.raster import grid
from eoaug.raster.arrays import BoolArray
from eoaug.raster.bands import STAND_INS, common_name
from eoaug.raster.plausible import check_units, quantity_of, sample
from eoaug.raster.quality import declared_quality, nodata_of, quality_of
from eoaug.raster.quality_products import FlagClass, QualityBand
from eoaug.raster.radiometry import Scaling, declared_nodata, declared_scaling, declares_scale
from eoaug.raster.variables import plain_name, role_of

__all__ = ["ImageStack", "cloud_mask", "is_sharp", "open_netcdf", "read_clouds", "read_images", "snow_class"]


_DISPLAY_SCALE = 0.5 / 255
"""Reflectance per grey level that is assumed for 8-bit display values without a declared scale."""
_CLASSES = QualityBand(
    product="cloud_mask of a learning cube",
    classes={
        **{name: FlagClass(k) for k, name in enumerate(("clear", "cloud", "cloud_shadow", "snow", "cirrus"))},
        "no_data": FlagClass(255),
    },
    cloud=("cloud", "cloud_shadow", "cirrus"),
    unmeasured=("no_data",),
)
"""A ``cloud_mask`` without ``flag_meanings``."""
_ORDER = {"scl": 0, "cloud_mask": 1, "qa_pixel": 2}
"""Quality bands that are read rather than others."""
_CLOUD_BLUE = 0.35
"""Blue reflectance above which a pixel of a calibrated file without any mask is taken for cloud."""
_AGGREGATED = 2.0
"""A pixel at least so many times the native one has been averaged, so it is as sharp as its size allows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStack:
    """The images of one file over its whole extent; T dates, C requested bands, H x W pixels."""

    platform: str
    """Attribute ``platform`` of the file; empty if it has none."""
    values: NDArray[np.float32]
    """Shape (T, C, H, W), reflectance; NaN where missing and in bands that the file lacks."""
    clear: BoolArray
    """Shape (T, H, W), False under cloud and cloud shadow."""
    cloud_fraction: NDArray[np.float64]
    """Shape (T,), 0 to 1; NaN if the file has no mask."""
    times: NDArray[np.int64]
    """Shape (T,), seconds since 1970; 0 if the file has no dates."""
    gsd_m: float
    """Pixel size in metres; NaN if unknown."""
    lonlat_deg: tuple[float, float]
    """Centre (longitude, latitude); NaN if unknown."""
    present: BoolArray
    """Shape (C,), True for bands that the file has."""
    calibrated: BoolArray
    """Shape (C,), False for 8-bit display values without a declared scale and for absent bands."""
    sharp: BoolArray
    """Shape (C,), True for bands whose pixels are native or averaged over at least 2 x 2 native ones.

    Other bands were resampled near or below their native pixel: they hold less detail than their pixel size
    promises and must neither teach nor judge super-resolution."""


@contextmanager
def open_netcdf(path: Path) -> Iterator[xr.Dataset]:
    """Open a netCDF-4 file with its stored numbers, undecoded.

    Raises
    ------
    SourceError
        The file is not netCDF-4, or h5netcdf is not installed.
    """
    if find_spec("h5netcdf") is None:
        raise SourceError(
            f"{path.name} cannot be read: h5netcdf is not installed", "run: pip install h5netcdf h5py"
        )
    try:
        ds = xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False)
    except OSError as error:
        raise SourceError(
            f"{path.name} cannot be read as netCDF-4 ({error})", "convert it, or leave it out"
        ) from error
    with ds:
        yield ds


def read_images(ds: xr.Dataset, name: str, bands: Sequence[str], *, display_values: bool) -> ImageStack:
    """Read the bands of an open file by their attributes.

    Parameters
    ----------
    ds
        Variables (time, y, x), in any order and under any name that the verbs know, or one with a band dimension.
        Bands are known by their names or the attribute ``common_name``. Also read: ``gsd_m``, a declared scale (see
        `radiometry.declared_scaling`), and ``native_gsd_m`` if the pixels are not native. Clouds come from
        `cloud_mask`.
    name
        File name, for messages.
    bands
        Common names of the channels. A file without ``nir`` may fill it from ``nir08`` (`bands.STAND_INS`).
    display_values
        Accept 8-bit display values without a declared scale: 255 becomes reflectance 0.5.

    Raises
    ------
    SourceError
        The file has none of the bands, or they do not share one (time, y, x) grid.
    RadiometryError
        A band has no declared scale.
    """
    ds = _per_band(ds)
    variables = _band_variables(ds, bands)
    if not variables:
        raise SourceError(
            f"{name} has no band with a common name of {', '.join(bands)}",
            "leave this file out, or name its bands as the satellite does (B02) or by attrs['common_name']",
        )
    dims = _dims(ds, next(iter(variables.values())))
    ordered = {band: v.transpose(*dims) for band, v in variables.items() if set(v.dims) == set(dims)}
    variables |= ordered
    first = next(iter(variables.values()))
    if odd := [v for v in variables.values() if v.dims != dims or v.shape != first.shape]:
        raise SourceError(
            f"band {odd[0].name!r} of {name} has shape {odd[0].shape}",
            "store all bands as (time, y, x) on one grid",
        )
    dates, height, width = first.shape
    values = np.full((dates, len(bands), height, width), np.nan, np.float32)
    calibrated, sharp = np.zeros((2, len(bands)), dtype=bool)
    for channel, band in enumerate(bands):
        if band in variables:
            values[:, channel] = _reflectance(variables[band], display_values)
            calibrated[channel] = not _is_display(variables[band])
            sharp[channel] = is_sharp(variables[band].attrs)
    mask = cloud_mask(ds)
    clear = np.ones((dates, height, width), dtype=bool)
    if mask is not None:
        clear = np.broadcast_to(~mask.transpose(*dims, missing_dims="ignore").values, clear.shape)
    elif "blue" in variables and calibrated[blue := list(bands).index("blue")]:
        clear = ~(values[:, blue] > _CLOUD_BLUE)
    times = np.zeros(dates, np.int64)
    if dims[0] in ds.coords:
        with error_context(f"reading {name}"):
            times = dates_of(ds[dims[0]], dims[0]).astype("datetime64[s]").astype(np.int64)
    gsd_m, lonlat_deg = _place(ds, dims, first)
    return ImageStack(
        platform=str(ds.attrs.get("platform", "")),
        values=values,
        clear=clear,
        cloud_fraction=np.full(dates, np.nan) if mask is None else 1 - clear.mean(axis=(1, 2)),
        times=times,
        gsd_m=gsd_m,
        lonlat_deg=lonlat_deg,
        present=np.array([band in variables for band in bands]),
        calibrated=calibrated,
        sharp=sharp,
    )


def cloud_mask(ds: xr.Dataset) -> xr.DataArray | None:
    """Return True under cloud, cirrus and cloud shadow; None if the dataset has no mask.

    Parameters
    ----------
    ds
        One quality band is read as the verbs read it (`eoaug.raster.quality`): ``scl``, ``cloud_mask`` or
        ``qa_pixel`` in any spelling, in this order, else the first other one. A ``cloud_mask`` without
        ``flag_meanings`` has the classes 0 clear, 1 cloud, 2 shadow, 3 snow, 4 cirrus, 255 no data.

    Raises
    ------
    ParameterError
        Numbers that no class explains.
    """
    found = _quality(ds)
    if found is None:
        return None
    name, quality = found
    with error_context(f"quality band {name!r}"):
        return ds[name].copy(data=quality.mask(ds[name].values, nodata=nodata_of(ds[name].attrs)))


def snow_class(ds: xr.Dataset) -> BoolArray | None:
    """Return True where the band of `cloud_mask` says snow, shape (T, H, W); None if it has no such class."""
    found = _quality(_per_band(ds))
    names = [] if found is None else [name for name in found[1].classes if "snow" in name.lower()]
    if found is None or not names:
        return None
    band = ds[found[0]]
    ordered = band.transpose(*_dims(ds, band), missing_dims="ignore")
    values = found[1].mask(ordered.values, names, nodata=nodata_of(band.attrs))
    return values[None] if values.ndim == 2 else values


def _quality(ds: xr.Dataset) -> tuple[str, QualityBand] | None:
    """Return the name of the band that says which pixels are cloud, and how it is read."""
    product = product_of(ds)
    bands, unexplained = {}, []
    for name in map(str, ds.data_vars):
        attrs = ds[name].attrs
        if name.lower() == "cloud_mask":
            quality: QualityBand | None = declared_quality(name, attrs) or _CLASSES
        else:
            quality = quality_of(name, attrs, product)
        if quality is None and ds[name].ndim >= 2 and role_of(name, attrs, product=product) == "quality":
            unexplained.append(name)
        if (
            quality is None or name.lower().replace("_", "") == "datamask"
        ):  # where data are missing, not clouds
            continue
        # Flags without a cloud class are labels.
        if quality.cloud or quality.threshold is not None:
            bands[name] = quality
    if not bands:
        if unexplained:
            name = unexplained[0]
            warnings.warn(
                f"quality band {name!r} is ignored, and clouds count as clear: nothing says what its numbers mean; "
                f"declare them: ds[{name!r}].attrs.update(flag_values=[0, 1], flag_meanings='clear cloud')",
                EoaugWarning,
                stacklevel=3,
            )
        return None
    name = min(bands, key=lambda name: _ORDER.get(name.lower(), len(_ORDER)))
    return name, bands[name]


def read_clouds(path: Path) -> BoolArray | None:
    """Return the `cloud_mask` of a file, shape (T, H, W), True = cloud or shadow; None if it has no mask."""
    with open_netcdf(path) as ds:
        mask = cloud_mask(_per_band(ds))
        if mask is None:
            return None
        values = mask.transpose(*_dims(ds, mask), missing_dims="ignore").values
        return values[None] if values.ndim == 2 else values


def _per_band(ds: xr.Dataset) -> xr.Dataset:
    """Return a variable per band, also of a file of one DataArray with a band dimension."""
    stacks = [v for v in ds.data_vars.values() if v.ndim > 2]
    stack = split_bands(stacks[0]) if len(stacks) == 1 else None
    if stack is None:
        return ds
    scalars = {name: v for name, v in ds.data_vars.items() if v.ndim == 0}
    return stack.dataset.assign(scalars).assign_attrs(ds.attrs)


def _band_variables(ds: xr.Dataset, bands: Sequence[str]) -> dict[str, xr.DataArray]:
    """Return the first variable of each common name, else of one that may stand in for it."""
    platform = platform_of(ds)
    known: dict[str | None, xr.DataArray] = {}
    for name, variable in ((str(n), v) for n, v in ds.data_vars.items()):
        if role_of(name, variable.attrs, platform=platform) == "band":
            common = common_name(plain_name(name, variable.attrs), variable.attrs, platform)
            known.setdefault(common, variable)
    chosen = {}
    for band in bands:
        names = (band, *(name for name, replaced in STAND_INS.items() if replaced == band))
        if fitting := [name for name in names if name in known]:
            chosen[band] = known[fitting[0]]
    return chosen


def _dims(ds: xr.Dataset, variable: xr.DataArray) -> tuple[str, str, str]:
    """Return the names of the dimensions (time, y, x) of a variable."""
    y, x = spatial_dims(variable)
    return time_dim([d for d in variable.dims if d not in (y, x)], ds.coords) or "time", y, x


def _place(
    ds: xr.Dataset, dims: tuple[str, str, str], band: xr.DataArray
) -> tuple[float, tuple[float, float]]:
    """Return pixel size in metres and centre (longitude, latitude) of a file, declared or of its grid; NaN without."""
    gsd, centre = float(band.attrs.get("gsd_m", np.nan)), (np.nan, np.nan)
    if "bbox_lonlat" in ds.attrs:
        west, south, east, north = (float(edge) for edge in ds.attrs["bbox_lonlat"])
        centre = (west + east) / 2, (south + north) / 2
    if np.isfinite(gsd):  # a learning cube declares what is known of its place
        return gsd, centre
    geobox, georeferenced = geobox_from_coords(ds, dims[1], dims[2])
    if not georeferenced or geobox.crs is None:
        return gsd, centre
    height, width = geobox.shape.yx
    lon, lat = grid.lonlat(geobox, [height / 2], [width / 2])[0].tolist()
    return grid.gsd_m(geobox), centre if np.isfinite(centre).all() else (lon, lat)


def _is_display(variable: xr.DataArray) -> bool:
    """Return whether a variable holds 8-bit display values whose reflectance is not known."""
    return variable.dtype == np.uint8 and not declares_scale(variable.attrs)


def is_sharp(attrs: Mapping[str, Any]) -> bool:
    """Return whether the pixels of a band are native, or averaged over at least 2 x 2 native ones.

    Parameters
    ----------
    attrs
        Attributes of the band: ``native_gsd_m`` and ``gsd_m``.
    """
    native = attrs.get("native_gsd_m")
    if native is None:
        return True
    gsd = float(attrs.get("gsd_m", np.nan))
    return gsd == float(native) or gsd >= _AGGREGATED * float(native)


def _reflectance(variable: xr.DataArray, display_values: bool) -> NDArray[np.float32]:
    """Return reflectance (T, H, W) with NaN at fill values."""
    if not _is_display(variable):
        scaling = declared_scaling(variable.attrs, variable.dtype, name=str(variable.name))
    elif display_values:
        scaling = Scaling(_DISPLAY_SCALE)
    else:
        raise RadiometryError(
            f"band {variable.name!r} holds 8-bit display values without a declared scale",
            "use calibrated reflectance; errors in stretched grey values cannot be compared",
        )
    values = np.asarray(scaling(variable.values), dtype=np.float32)
    nodata = declared_nodata(variable.attrs, variable.dtype, name=str(variable.name))
    if nodata is not None:
        values[variable.values == nodata] = np.nan
    if scaling == Scaling() and len(values):
        check_units(str(variable.name), quantity_of(variable.attrs.get("common_name")), sample(values[0]))
    return values
