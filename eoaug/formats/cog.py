"""Cloud-optimised GeoTIFFs (COG).

A COG whose writing was interrupted still opens, reads zeros and passes validators, so `write_cog` writes it under a
temporary name and renames it last.
"""

from __future__ import annotations

import os
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
from eoaug.storage.atomic import atomic_write

__all__ = ["CogFile", "write_cog"]


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


def write_cog(
    path: str | os.PathLike[str],
    values: NDArray[Any],
    geobox: GeoBox,
    *,
    stored: Stored,
    name: str = "",
    tags: Mapping[str, str] | None = None,
    categorical: bool = False,
    overwrite: bool = False,
) -> None:
    """Write one band as a COG, completely or not at all.

    Parameters
    ----------
    path
        Target file.
    values
        Shape (H, W), in physical units, or in stored numbers when ``stored.packed``.
    geobox
        Grid of ``values``.
    stored
        Type, nodata, scale and offset of the file.
    name
        Band description.
    tags
        Dataset-level GDAL tags.
    categorical
        True for classes and masks: overviews by nearest neighbour instead of average.
    overwrite
        Replace an existing file.

    Raises
    ------
    TargetError
        The file exists or cannot be written.
    """
    target = Path(path)
    if values.shape != tuple(geobox.shape):
        raise GridError(
            f"writing {target.name!r}: values have shape {values.shape}, the grid {tuple(geobox.shape)}",
            "give the geobox of the values",
        )
    with atomic_write(target, overwrite=overwrite) as scratch:
        file = CogFile(scratch.with_suffix(".scratch.tif"), geobox, stored, name=name or target.stem)
        file.put(slice(0, values.shape[0]), slice(0, values.shape[1]), stored.pack(values))
        file.close(scratch, tags=tags or {}, categorical=categorical)


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
