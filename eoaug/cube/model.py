"""What a cube is once it is read: bands, grid, dates, and the user's object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.raster.products import UNKNOWN_PRODUCT, Product
from eoaug.raster.radiometry import Scaling

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Cube", "CubeBand", "Form"]


Form = Literal["dataset", "bands", "single"]
"""What the user gave: a variable per band; an array with a band dimension; an array of one band."""


@dataclass(frozen=True)
class CubeBand:
    """One spectral variable of a cube: where its numbers are and what they mean."""

    name: str
    """The variable's name, or the label along the band dimension."""
    common_name: str | None
    """STAC common name, where it is known."""
    data: Any
    """Shape (T, Y, X): NumPy or dask array of stored numbers."""
    dims: tuple[str, ...]
    """The variable's own dimensions in its own order (without the band dimension)."""
    scaling: Scaling
    """From stored numbers to physical units."""
    nodata: float | None
    """Stored number that means missing; NaN is missing in any floating band."""
    attrs: Mapping[str, Any] = field(default_factory=dict)
    encoding: Mapping[str, Any] = field(default_factory=dict)
    product: Product = UNKNOWN_PRODUCT
    """Sensor and processing level, as far as they are known."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers in memory."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype


@dataclass(frozen=True)
class Cube:
    """A data cube, normalised: bands of shape (T, Y, X) on one grid, and the object that it was read from."""

    bands: tuple[CubeBand, ...]
    geobox: GeoBox
    """Grid of all bands. Without a georeference: pixel units and no CRS."""
    georeferenced: bool
    times: NDArray[np.datetime64] | None
    """Shape (T,), or None for a cube without a date."""
    names_yx: tuple[str, str]
    """Names of the spatial dimensions."""
    name_time: str | None
    """Name of the time dimension, or None if the cube has none."""
    source: xr.Dataset
    """The user's object as a Dataset."""
    form: Form
    marks: xr.Variable | None = None
    """The synthetic mask of an earlier verb, as read."""
    name_band: str = "band"
    """Name of the band dimension (form ``bands``)."""
    band_labels: Any = None
    """Coordinate along the band dimension, in the user's order (form ``bands``)."""
    array_name: Any = None
    array_attrs: Mapping[str, Any] = field(default_factory=dict)
    array_dims: tuple[str, ...] = ()

    @property
    def lazy(self) -> bool:
        """True if any band is a dask array."""
        return any(hasattr(band.data, "dask") for band in self.bands)

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, cols = self.geobox.shape.yx
        return int(rows), int(cols)

    def along_time(self, *names: str) -> NDArray[Any] | None:
        """Return the first of the named coordinates as shape (T,), or None."""
        for name in names:
            if name in self.source.coords:
                values = np.atleast_1d(np.asarray(self.source.coords[name].values))
                count = 1 if self.times is None else len(self.times)
                if values.shape == (count,):
                    return values
        return None
