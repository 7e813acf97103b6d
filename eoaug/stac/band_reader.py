"""Readers of bands for odc: a raster file through GDAL, or one date of a Zarr array; errors name item and asset."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from odc.geo.roi import roi_is_empty, roi_shape
from odc.geo.warp import resampling_s2rio
from odc.loader import RioDriver
from odc.loader.types import RasterBandMetadata, RasterGroupMetadata
from rasterio.warp import reproject

from eoaug.errors import EoaugError
from eoaug.stac.band_sources import BandSource, open_raster, unreadable
from eoaug.stac.headers import header_of, refuse_contradictions
from eoaug.stac.zarr_groups import store_of
from eoaug.storage.gdal import GDAL_OPTIONS, gdal_options

__all__ = ["SOURCE", "Driver"]


SOURCE = "eoaug:source"
"""Extra field of an asset that holds its `BandSource` for `Driver`."""

_KERNEL_PX = 4
"""Pixels around a window that resampling reads, in pixels of the coarser grid: Lanczos needs 3."""


class _PlainParser:
    """Gives odc the type and nodata that `open_cube` put on an asset, and the reader its `BandSource`."""

    def extract(self, md: Any) -> RasterGroupMetadata:
        """Return type and nodata of every band."""
        return RasterGroupMetadata(
            {
                (name, 1): RasterBandMetadata(
                    asset.extra_fields["data_type"], _odc_nodata(asset.extra_fields.get("nodata")), "1"
                )
                for name, asset in md.assets.items()
            }
        )

    def driver_data(self, md: Any, band_key: tuple[str, int]) -> Any:
        """Return the `BandSource` of a band."""
        return md.assets[band_key[0]].extra_fields[SOURCE]


def _odc_nodata(value: Any) -> float | None:
    return None if value is None else float(value)


class _NamingReader:
    """Names item and asset when a band cannot be read."""

    def __init__(self, reader: Any, source: BandSource) -> None:
        self._reader, self._source = reader, source

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Read as odc does."""
        source = self._source
        try:
            # The pixels may be read on another machine than the item.
            address = source.access.resolve(
                source.href, what=f"asset {source.asset!r} of item {source.item!r}"
            )
            if source.array:
                return self._reader.read(*args, **kwargs)
            return self._read_raster(address, *args, **kwargs)
        except EoaugError:
            raise
        except Exception as error:  # rasterio, zarr, numpy and the network each raise their own
            unreadable(self._source.item, self._source.asset, self._source.href, error)

    def _read_raster(self, address: str, *args: Any, **kwargs: Any) -> Any:
        source = self._source
        what = f"asset {source.asset!r} of item {source.item!r}"
        with (
            open_raster(address, source.driver, source.access, what=what) as file,
            rasterio.Env(**GDAL_OPTIONS, **gdal_options()),
        ):
            refuse_contradictions(
                source.declared,
                header_of(file),
                source.index,
                item=source.item,
                asset=source.asset,
                href=source.href,
            )
            # odc chooses the driver by content; it can only choose the one that has opened the file here.
            return self._reader.read(*args, **kwargs)


class Driver(RioDriver):
    """odc's rasterio driver with the classes above, extended by Zarr.

    Zarr arrays are not read through GDAL: it takes their grid from the coordinates, and loses the affine of
    grids that are rotated or one pixel wide.
    """

    def __init__(self) -> None:
        super().__init__(md_parser=_PlainParser())

    def open(self, src: Any, ctx: Any) -> Any:
        """Return the reader of one band of one date."""
        source: BandSource = src.driver_data
        if source.array:
            reader: Any = _ArrayReader(source.href, source.driver, source.array, source.place, source.geobox)
        else:
            reader = super().open(replace(src, band=source.index), ctx)
        return _NamingReader(reader, source)


@dataclass(frozen=True)
class _ArrayReader:
    """Reads one date of one array, with the interface of odc's reader of raster files."""

    href: str
    form: str
    """``zarr`` or ``icechunk``."""
    array: str
    place: tuple[int, ...]
    """Index along the dimensions before y and x."""
    grid: GeoBox

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: NDArray[Any] | None = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """Return the window of ``dst_geobox`` that the array covers, and its pixels."""
        assert selection is None
        nearest = cfg.resampling == "nearest"
        fit = compute_reproject_roi(self.grid, dst_geobox, ttol=0.9 if nearest else 0.05)
        if not fit.paste_ok or fit.read_shrink != 1:
            reach = math.ceil(_KERNEL_PX * max(1.0, *fit.scale2.xy)) if fit.scale else 1
            fit = compute_reproject_roi(self.grid, dst_geobox, padding=reach)
        roi: Any = fit.roi_dst
        out: NDArray[Any] = np.empty(roi_shape(roi), cfg.dtype) if dst is None else dst[roi]
        if roi_is_empty(roi):
            return roi, out
        if roi_is_empty(fit.roi_src):
            out[...] = 0 if cfg.fill_value is None else cfg.fill_value
            return roi, out
        array = zarr.open_array(store_of(self.href, self.form), path=self.array, mode="r")
        selected: Any = (*self.place, *fit.roi_src)
        window = np.asarray(array[selected])
        if fit.paste_ok and fit.read_shrink == 1:
            out[...] = window
        else:
            self._warp(window, self.grid[fit.roi_src], out, dst_geobox[roi], cfg, fit.scale2.xy)
        return roi, out

    @staticmethod
    def _warp(
        window: NDArray[Any],
        source: GeoBox,
        out: NDArray[Any],
        target: GeoBox,
        cfg: Any,
        scale: tuple[float, float],
    ) -> None:
        """Resample as odc does for files, but so that a pixel does not depend on the window around it."""
        x, y = (round(min(1.0, 1.0 / pixels), 3) for pixels in scale)
        reproject(
            window,
            out,
            src_transform=source.transform,
            src_crs=str(source.crs),
            src_nodata=cfg.fill_value,
            dst_transform=target.transform,
            dst_crs=str(target.crs),
            dst_nodata=cfg.fill_value,
            resampling=resampling_s2rio(cfg.resampling),
            # By default GDAL takes the kernel size from the window, and interpolates positions along its rows.
            XSCALE=x,
            YSCALE=y,
            tolerance=0,
        )
