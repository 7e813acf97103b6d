"""Readers of bands for odc: a raster file through GDAL, or one date of a Zarr array; errors name item and asset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from odc.geo.converters import rio_geobox
from odc.geo.geobox import GeoBox
from odc.geo.overlap import compute_reproject_roi
from odc.geo.roi import roi_is_empty, roi_shape
from odc.geo.warp import resampling_s2rio
from odc.loader import RioDriver
from odc.loader._reader import pick_overview
from odc.loader._rio import _do_read
from odc.loader.types import RasterBandMetadata, RasterGroupMetadata
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window
from scipy import ndimage

from eoaug.cube.synthetic import GENERATED, MEASURED, OUTSIDE, SYNTHETIC, TRANSFERRED
from eoaug.errors import EoaugError
from eoaug.formats.judged_zarr import judged_store
from eoaug.stac.band_sources import BandSource, open_overview, open_raster, unreadable
from eoaug.stac.headers import header_of, refuse_contradictions

__all__ = ["MARK_FUSER", "SOURCE", "Driver"]


SOURCE = "eoaug:source"
"""Extra field of an asset that holds its `BandSource` for `Driver`."""

_KERNEL_PX = 4
"""Pixels around a window that resampling reads, in pixels of the coarser grid: Lanczos needs 3."""


_RADIUS_PX = {"nearest": 0, "bilinear": 1, "cubic": 2, "cubic_spline": 2, "lanczos": 3}
"""Reach of a resampling, in pixels of the coarser grid; the others average over a pixel."""

MARK_FUSER = f"{__name__}.fuse_marks"
"""Name under which odc finds `fuse_marks`."""


def fuse_marks(dst: NDArray[Any], src: NDArray[Any]) -> None:
    """Lay marks over those of another item of the same date: the bands may come from either."""
    np.copyto(dst, src, where=_RANK[src] > _RANK[dst])


_RANK = np.zeros(256, np.uint8)
_RANK[MEASURED], _RANK[TRANSFERRED], _RANK[GENERATED] = 1, 2, 3


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
            if self._reader is not None:
                return self._reader.read(*args, **kwargs)
            return self._read_raster(address, *args, **kwargs)
        except EoaugError:
            raise
        except Exception as error:  # rasterio, zarr, numpy and the network each raise their own
            unreadable(self._source.item, self._source.asset, self._source.href, error)

    def _read_raster(
        self,
        address: str,
        cfg: Any,
        dst_geobox: GeoBox,
        *,
        dst: NDArray[Any] | None = None,
        selection: Any = None,
    ) -> Any:
        assert selection is None
        source = self._source
        what = f"asset {source.asset!r} of item {source.item!r}"
        with open_raster(address, source.driver, source.access, what=what) as file:
            refuse_contradictions(
                source.declared,
                header_of(file),
                source.index,
                item=source.item,
                asset=source.asset,
                href=source.href,
            )
            return _pixels(file, source.index, cfg, dst_geobox, dst)


def _pixels(file: Any, index: int, cfg: Any, dst_geobox: GeoBox, dst: NDArray[Any] | None) -> Any:
    """Read as `odc.loader` does, from the file that is open: it would open the address again itself."""
    ttol = 0.9 if cfg.nearest else 0.05
    fit = compute_reproject_roi(rio_geobox(file), dst_geobox, ttol=ttol)
    level = None
    if cfg.use_overviews and fit.read_shrink > 1:
        level = pick_overview(fit.read_shrink, file.overviews(index))
    with nullcontext(file) if level is None else open_overview(file, level) as pixels:
        return _do_read(rasterio.band(pixels, index), cfg, dst_geobox, fit, dst=dst)


class Driver(RioDriver):
    """odc's rasterio driver with the classes above, extended by Zarr.

    Zarr arrays are not read through GDAL: it takes their grid from the coordinates, and loses the affine of
    grids that are rotated or one pixel wide.
    """

    def __init__(self, resampling: str | Mapping[str, str] = "nearest") -> None:
        super().__init__(md_parser=_PlainParser())
        names = {resampling} if isinstance(resampling, str) else {"nearest", *resampling.values()}
        self._radius_px = max(_RADIUS_PX.get(name, 1) for name in names)

    def open(self, src: Any, ctx: Any) -> Any:
        """Return the reader of one band of one date."""
        del ctx
        source: BandSource = src.driver_data
        if SYNTHETIC in source.names and source.dtype == "uint8":
            reader: Any = _MarkReader(source, self._radius_px)
        elif source.array:
            reader = _ArrayReader(source)
        else:
            reader = None
        return _NamingReader(reader, source)

    def __dask_tokenize__(self) -> Any:
        return type(self).__name__, self._radius_px


@dataclass(frozen=True)
class _MarkReader:
    """Reads marks, so that a pixel of any grid is marked if a marked pixel may have contributed to it.

    A mask on another grid is not one of its overviews, which leave pixels out, nor an interpolation of it.
    """

    source: BandSource
    radius_px: int
    """Reach of the bands' resampling."""

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: NDArray[Any] | None = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """Return the window of ``dst_geobox`` that the mask covers, and its codes."""
        assert selection is None
        grid = self.source.geobox
        fit = compute_reproject_roi(grid, dst_geobox, ttol=0.05 if self.radius_px else 0.9)
        if fit.paste_ok and fit.read_shrink == 1:
            roi: Any = fit.roi_dst
            codes = None if roi_is_empty(roi) or roi_is_empty(fit.roi_src) else self._window(fit.roi_src)
        else:
            # GDAL finds source pixels of another reference system to a fraction of a pixel.
            radius = max(self.radius_px, int(grid.crs != dst_geobox.crs))
            if fit.scale:
                radius = math.ceil(radius * max(1.0, *fit.scale2.xy))
            fit = compute_reproject_roi(grid, dst_geobox, padding=radius + _KERNEL_PX)
            roi = fit.roi_dst
            codes = None
            if not roi_is_empty(roi) and not roi_is_empty(fit.roi_src):
                codes = np.full(roi_shape(roi), OUTSIDE, np.uint8)
                reproject(
                    _grown(self._window(fit.roi_src), radius),
                    codes,
                    src_transform=grid[fit.roi_src].transform,
                    src_crs=str(grid.crs),
                    src_nodata=int(OUTSIDE),
                    dst_transform=dst_geobox[roi].transform,
                    dst_crs=str(dst_geobox.crs),
                    dst_nodata=int(OUTSIDE),
                    resampling=Resampling.max,
                    tolerance=0,
                )
        out: NDArray[Any] = np.empty(roi_shape(roi), cfg.dtype) if dst is None else dst[roi]
        out[...] = OUTSIDE if codes is None else codes
        return roi, out

    def _window(self, roi: Any) -> NDArray[np.uint8]:
        source = self.source
        if source.array:
            array = _array_of(source)
            return np.asarray(array[(*source.place, *roi)], dtype=np.uint8)
        with open_raster(source.href, source.driver, source.access, what=f"asset {source.asset!r}") as file:
            window = Window.from_slices(*roi, height=file.height, width=file.width)
            return np.asarray(file.read(source.index, window=window), dtype=np.uint8)


def _grown(codes: NDArray[np.uint8], radius_px: int) -> NDArray[np.uint8]:
    """Return codes in which every pixel within a radius of a marked one is marked too."""
    if radius_px == 0:
        return codes
    ranks = ndimage.maximum_filter(
        np.where(codes == OUTSIDE, MEASURED, codes), 2 * radius_px + 1, mode="nearest"
    )
    return np.where((ranks == MEASURED) & (codes == OUTSIDE), OUTSIDE, ranks)


def _array_of(source: BandSource) -> Any:
    """Return the array of a band, judged again: it may be read on another machine than its item."""
    what = f"asset {source.asset!r} of item {source.item!r}"
    store = judged_store(source.href, source.driver, source.access, [source.array], what=what)
    return zarr.open_array(store, path=source.array, mode="r", zarr_format=3)


@dataclass(frozen=True)
class _ArrayReader:
    """Reads one date of one array, with the interface of odc's reader of raster files."""

    source: BandSource

    def read(
        self, cfg: Any, dst_geobox: GeoBox, *, dst: NDArray[Any] | None = None, selection: Any = None
    ) -> tuple[tuple[slice, slice], NDArray[Any]]:
        """Return the window of ``dst_geobox`` that the array covers, and its pixels."""
        assert selection is None
        grid = self.source.geobox
        nearest = cfg.resampling == "nearest"
        fit = compute_reproject_roi(grid, dst_geobox, ttol=0.9 if nearest else 0.05)
        if not fit.paste_ok or fit.read_shrink != 1:
            reach = math.ceil(_KERNEL_PX * max(1.0, *fit.scale2.xy)) if fit.scale else 1
            fit = compute_reproject_roi(grid, dst_geobox, padding=reach)
        roi: Any = fit.roi_dst
        out: NDArray[Any] = np.empty(roi_shape(roi), cfg.dtype) if dst is None else dst[roi]
        if roi_is_empty(roi):
            return roi, out
        if roi_is_empty(fit.roi_src):
            out[...] = 0 if cfg.fill_value is None else cfg.fill_value
            return roi, out
        selected: Any = (*self.source.place, *fit.roi_src)
        window = np.asarray(_array_of(self.source)[selected])
        if fit.paste_ok and fit.read_shrink == 1:
            out[...] = window
        else:
            self._warp(window, grid[fit.roi_src], out, dst_geobox[roi], cfg, fit.scale2.xy)
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
