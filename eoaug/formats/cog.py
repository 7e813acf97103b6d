"""Cloud-optimised GeoTIFFs (COG).

A COG whose writing was interrupted still opens, reads zeros and passes validators, so callers write it under a
scratch name and rename it last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.errors import EoaugError, GridError, TargetError
from eoaug.formats.georeference import pyproj_crs
from eoaug.formats.packing import Stored

__all__ = ["CogFile", "refuse_lossy_crs"]


_COG_TILE_PX = 512


class CogFile:
    """A COG that is written block by block to a tiled scratch file, from which `close` makes the COG.

    GDAL's COG driver cannot write windows; with the scratch file one block is in memory at a time.
    """

    def __init__(self, scratch: Path, geobox: GeoBox, stored: Stored, *, name: str) -> None:
        self._scratch, self._stored, self._name = scratch, stored, name
        profile: dict[str, Any] = {
            "driver": "GTiff",
            "height": geobox.shape.y,
            "width": geobox.shape.x,
            "count": 1,
            "dtype": stored.dtype.name,
            "crs": _rasterio_crs(geobox),
            "transform": geobox.affine,
            "nodata": stored.nodata,
            "BIGTIFF": "IF_SAFER",
            "SPARSE_OK": "YES",
        }
        if min(geobox.shape) >= _COG_TILE_PX:
            profile |= {"tiled": True, "blockxsize": _COG_TILE_PX, "blockysize": _COG_TILE_PX}
        with _raster_errors(name), _rasterio().open(scratch, "w", **profile) as file:
            file.set_band_description(1, name)
            file.scales, file.offsets = (stored.scale,), (stored.offset,)

    def put(self, rows: slice, cols: slice, values: NDArray[Any]) -> None:
        """Write stored numbers of a window. The scratch file is closed in between, so there can be thousands."""
        from rasterio.windows import Window

        window = Window.from_slices(rows, cols)
        with _raster_errors(self._name), _rasterio().open(self._scratch, "r+") as file:
            file.write(np.ascontiguousarray(values), 1, window=window)

    def close(self, target: Path, *, tags: Mapping[str, str], categorical: bool = False) -> None:
        """Write the COG to ``target``, itself a scratch name, and delete the scratch file."""
        from rasterio.shutil import copy

        predictor = "FLOATING_POINT" if self._stored.dtype.kind == "f" else "STANDARD"
        with _raster_errors(self._name):
            with _rasterio().open(self._scratch, "r+") as file:
                file.update_tags(**tags)
            copy(
                str(self._scratch),
                str(target),
                driver="COG",
                COMPRESS="DEFLATE",
                PREDICTOR=predictor,
                BLOCKSIZE=_COG_TILE_PX,
                OVERVIEW_RESAMPLING="NEAREST" if categorical else "AVERAGE",
                BIGTIFF="IF_SAFER",
            )
        self._scratch.unlink()


def refuse_lossy_crs(geobox: GeoBox) -> None:
    """Refuse a reference system that a GeoTIFF cannot hold: its reader would get none, or another one.

    Raises
    ------
    GridError
        The positions that a reader computes differ by a hundredth of a pixel or more, or cannot be computed.
    """
    crs = pyproj_crs(geobox)
    if crs.to_epsg() is not None:
        return
    with _raster_errors("crs"), _rasterio().Env(GDAL_PAM_ENABLED="NO"), _rasterio().MemoryFile() as memory:
        form = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
        with memory.open(**form, crs=_rasterio_crs(geobox), transform=geobox.affine) as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        with memory.open() as file:
            text = None if file.crs is None else file.crs.to_wkt()
    if text is None or not _same_positions(crs, text, geobox):
        raise GridError(
            f"a GeoTIFF cannot hold the coordinate reference system {crs.name!r} ({crs.to_string()[:80]!r}): "
            + ("its reader gets none" if text is None else "its reader gets other positions"),
            "write the cube with format='zarr', or reproject it first, e.g. ds.odc.reproject('EPSG:4326')",
        )


def _same_positions(crs: Any, text: str, geobox: GeoBox) -> bool:
    """Tell whether a reference system read from a file puts the grid's corners where ``crs`` does."""
    import pyproj

    try:
        other = pyproj.CRS(text)
        if crs.equals(other, ignore_axis_order=True):
            return True
        moved = pyproj.Transformer.from_crs(crs, other, always_xy=True)
        height, width = geobox.shape
        cols, rows = np.array([0, width, width, 0, width / 2]), np.array([0, 0, height, height, height / 2])
        affine: Any = geobox.affine
        x, y = affine * (cols, rows)
        back = ~affine * tuple(map(np.asarray, moved.transform(x, y)))
    except pyproj.exceptions.ProjError:
        return False
    return bool(np.abs(np.array(back) - (cols, rows)).max() < 0.01)


def _rasterio_crs(geobox: GeoBox) -> Any:
    from rasterio.crs import CRS

    crs = pyproj_crs(geobox)
    epsg = crs.to_epsg()
    return CRS.from_epsg(epsg) if epsg else CRS.from_wkt(crs.to_wkt())


def _rasterio() -> Any:
    import rasterio

    return rasterio


@contextmanager
def _raster_errors(name: str) -> Iterator[None]:
    from rasterio.errors import RasterioError

    try:
        yield
    except EoaugError:
        raise
    except (RasterioError, OSError) as error:
        raise TargetError(
            f"writing band {name!r} failed: {error}",
            "check the free space and the permissions of the target; no file was left at the target",
        ) from error
