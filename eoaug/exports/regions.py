"""Connected regions of a label raster as polygons, in pixels and in degrees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

__all__ = ["Region", "regions"]


@dataclass(frozen=True)
class Region:
    """Pixels of one class that are connected along their edges."""

    number: int
    """Of the class."""
    polygon: Any
    """A shapely polygon in pixels, x right and y down from the upper left corner, with its holes."""

    @property
    def rings(self) -> list[list[float]]:
        """Polygons without holes that cover exactly the region, as COCO has them: x, y, x, y ..."""
        return [
            [float(value) for point in list(part.exterior.coords)[:-1] for value in point]
            for part in _without_holes(self.polygon)
        ]

    def lonlat(self, geobox: GeoBox) -> dict[str, Any] | None:
        """Return the polygon as GeoJSON geometry in degrees; None without a reference system."""
        if geobox.crs is None:
            return None
        from odc.geo.geom import Geometry

        shape = Geometry(self.polygon, geobox.crs).transform(lambda x, y: geobox.affine * (x, y))
        return dict(shape.to_crs("EPSG:4326", wrapdateline=True).json)


def regions(numbers: NDArray[np.int64], ignored: int = 255) -> Iterator[Region]:
    """Yield the connected regions of a raster of class numbers.

    Parameters
    ----------
    numbers
        Shape (H, W).
    ignored
        Number of pixels without a class.
    """
    from rasterio.features import shapes
    from shapely.geometry import shape

    known = numbers != ignored
    for geometry, number in shapes(numbers.astype(np.int32), mask=known, connectivity=4):
        yield Region(int(number), shape(geometry))


def _without_holes(polygon: Any) -> list[Any]:
    """Return polygons without holes of the same area; cuts follow the edges of pixels."""
    from shapely.geometry import box

    if not polygon.interiors:
        return [polygon]
    left, bottom, right, top = polygon.bounds
    at = polygon.interiors[0].bounds[0]  # along the left edge of the hole, which so becomes a notch
    parts: list[Any] = []
    for half in (box(left, bottom, at, top), box(at, bottom, right, top)):
        cut = polygon.intersection(half)
        for part in getattr(cut, "geoms", [cut]):
            if part.geom_type == "Polygon" and part.area > 0:
                parts += _without_holes(part)
    return parts
