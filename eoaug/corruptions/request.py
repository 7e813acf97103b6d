"""What a corruption is asked to do, as a value that can be sent to workers, and one image of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eoaug.corruptions.kinds import KINDS, Corruption
from eoaug.corruptions.units import ImageBand
from eoaug.raster import noise
from eoaug.raster.arrays import Float64Array
from eoaug.raster.tiles import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["CorruptionRequest", "ImageAt", "drawn"]


@dataclass(frozen=True, kw_only=True)
class CorruptionRequest:
    """A corruption of one cube."""

    kind: str
    values: Mapping[str, Any]
    """Parameters, as `eoaug.corruptions.kinds.parameters_of` returns them."""
    seed: int
    bands: tuple[ImageBand, ...]
    times: tuple[int, ...]
    """Seconds since 1970 of every date; (0,) without dates."""
    extent: Window
    """Absolute pixels of the cube."""
    geobox: GeoBox
    """Grid of the cube."""
    like: GeoBox
    """Grid on which clouds have their exact cover."""
    sun: tuple[tuple[float, float], ...] = ()
    """Zenith and azimuth of the sun in degrees by date; only for clouds."""

    @property
    def corruption(self) -> Corruption:
        """Entry of the registry."""
        return KINDS[self.kind]

    def number(self, name: str) -> float:
        """Return a parameter that is a number."""
        return float(self.values[name])

    @property
    def affected(self) -> tuple[bool, ...]:
        """By band, whether the corruption applies to it."""
        return tuple(band.quantity in self.corruption.quantities for band in self.bands)


@dataclass(frozen=True)
class ImageAt:
    """A window of one date of a request."""

    request: CorruptionRequest
    window: Window
    """Absolute pixels."""
    date: int
    """Index of the date."""

    @property
    def time(self) -> int:
        """Seconds since 1970."""
        return self.request.times[self.date]

    def number(self, name: str) -> float:
        """Return a parameter that is a number."""
        return self.request.number(name)

    def normal(self, stream: str) -> Float64Array:
        """Return standard normal noise of the window; the same absolute pixels get the same numbers."""
        numbers = noise.normal(
            (self.window.top, self.window.left),
            (1, *self.window.shape),
            seed=self.request.seed,
            stream=f"corrupt {self.request.kind} {stream}",
            time=self.time,
        )
        return np.asarray(numbers[0], np.float64)

    def uniform(self, stream: str) -> Float64Array:
        """Return uniform noise of the window in (0, 1)."""
        from scipy import special

        return np.asarray(special.ndtr(self.normal(stream)), np.float64)


def drawn(request: CorruptionRequest, *identity: object) -> float:
    """Return a number in [0, 1) that depends on kind, seed and identity alone."""
    text = "|".join(map(str, ("eoaug corrupt 1", request.kind, request.seed, *identity)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little") / 2**48
