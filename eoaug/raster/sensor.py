"""How a coarse pixel measures the fine grid: blur, decimation, and the way back to consistency.

Numpy only. One convention: f fine pixels make one coarse pixel along each axis, the coarse pixel lies on
the centre of its f x f cell, and beyond the array's border the image goes on mirrored (half-sample
symmetric), which commutes with the decimation and so keeps every identity exact up to a straight border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError
from eoaug.raster.arrays import Float64Array

__all__ = ["Sensor"]


_GAUSSIAN_MTF = 0.3
"""MTF at Nyquist of ``"gaussian"``: Sentinel-2's bands lie between 0.15 and 0.3 (ESA's requirement)
to 0.35, most other land sensors near."""
_SUPPORT_SIGMA = 3.3
"""Half width of the sampled Gaussian: 0.1 % of its mass lies beyond."""
_INVERSE_CELLS = 8
"""Largest radius of the inverse filter, in coarse pixels."""
_INVERSE_ERROR = 1e-3
"""Share of a residual that the inverse filter may leave at its worst frequency before it is widened."""
_MTF_ERROR = 0.05
"""How far the MTF of the sampled kernel may lie from the one asked for."""
_NUMBER = int | float | np.integer | np.floating


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """The forward model of a coarse measurement, with its adjoint and its inverse filter.

    The kernel is separable. With ``mtf`` m it is a Gaussian of standard deviation
    sqrt(-2 ln m) / pi coarse pixels, whose transfer function at the coarse grid's Nyquist frequency is m
    (Wald's protocol with the sensor's MTF: Aiazzi et al. 2006, doi:10.14358/PERS.72.5.591).

    All methods take arrays (..., C, H, W) of any float type, compute in float64 with sums in one fixed
    order, and return float32: the value of a pixel depends on the pixels within reach and not on where
    the array begins or how large it is.

    Examples
    --------
    >>> sensor = Sensor.of("box", 2, 1)
    >>> sensor.degrade(np.arange(16.0).reshape(1, 4, 4)).tolist()
    [[[2.5, 4.5], [10.5, 12.5]]]
    >>> sensor.radius_px, Sensor.of("gaussian", 4, 1).radius_px
    (1, 45)
    """

    factor: int
    """Fine pixels per coarse pixel along one axis, 2 to 8."""
    mtf: tuple[float, ...] | None
    """Modulation transfer at the Nyquist frequency of the coarse grid, between 0.05 and 0.95, one per
    band or one for all; None: the mean over the f x f cell."""

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | np.integer):
            raise ParameterError(
                f"a sensor's factor is a whole number, got {self.factor!r}", "give an integer from 2 to 8"
            )
        if not 2 <= self.factor <= 8:
            raise ParameterError(
                f"a sensor's factor is {self.factor}, outside 2 to 8",
                "give factor=2 to 8; for more, super-resolve twice",
            )
        object.__setattr__(self, "factor", int(self.factor))
        if self.mtf is None:
            return
        if not self.mtf:
            raise ParameterError("a sensor has an empty tuple of MTF values", 'give one value, or "box"')
        for value in self.mtf:
            if isinstance(value, bool) or not isinstance(value, _NUMBER) or not 0.05 < value < 0.95:
                raise ParameterError(
                    f"an MTF at Nyquist is {value!r}, outside (0.05, 0.95)",
                    "give the modulation transfer at the coarse grid's Nyquist frequency, such as 0.3",
                )
        object.__setattr__(self, "mtf", tuple(float(value) for value in self.mtf))
        for value in self.mtf:
            reached = _transfer_at_nyquist(self.factor, value)
            if abs(reached - value) > _MTF_ERROR:
                raise ParameterError(
                    f"{self.factor} fine pixels per coarse pixel cannot show an MTF of {value:g}: the "
                    f"sharpest kernel reaches {reached:.2f}",
                    f"give a smaller MTF or a larger factor than {self.factor}",
                )

    @classmethod
    def of(
        cls, spec: Literal["box", "gaussian"] | str | float | Sequence[float], factor: int, n_bands: int
    ) -> Sensor:
        """Return the sensor that ``spec`` names.

        Parameters
        ----------
        spec
            ``"box"`` (mean of the cell), ``"gaussian"`` (MTF 0.3), the MTF at Nyquist of all bands, or one
            MTF per band.
        factor
            Fine pixels per coarse pixel along one axis, 2 to 8.
        n_bands
            Number of bands of the cube, which a sequence must match.
        """
        if isinstance(spec, str):
            if spec == "box":
                return cls(factor=factor, mtf=None)
            if spec == "gaussian":
                return cls(factor=factor, mtf=(_GAUSSIAN_MTF,))
            raise ParameterError(
                f"no sensor is called {spec!r}", 'give "box", "gaussian", an MTF, or one MTF per band'
            )
        if isinstance(spec, _NUMBER):
            return cls(factor=factor, mtf=(float(spec),))
        try:
            mtf = tuple(spec)
        except TypeError:
            raise ParameterError(
                f"a sensor was given as {spec!r}", 'give "box", "gaussian", an MTF, or one MTF per band'
            ) from None
        if len(mtf) not in (1, n_bands):
            raise ParameterError(
                f"the sensor has {len(mtf)} MTF values for {n_bands} bands",
                "give one value, or one per band in the cube's order",
            )
        return cls(factor=factor, mtf=mtf)

    def of_band(self, index: int) -> Sensor:
        """Return the sensor of one band."""
        if self.mtf is None or len(self.mtf) == 1:
            return self
        return replace(self, mtf=(self.mtf[index],))

    @property
    def radius_px(self) -> int:
        """How far one pass of `project` reaches, in fine pixels.

        The result at a pixel depends on fine pixels at most so far away along either axis, and on coarse
        pixels whose cell touches that window.
        """
        kernel, inverse = self._filters()
        used = np.flatnonzero(kernel.any(axis=0)).tolist()
        reach: int = used[-1] - used[0] + inverse.shape[1] // 2 * self.factor
        return reach

    def degrade(self, fine: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return what the sensor measures: blur on the fine grid, one value per coarse pixel.

        Parameters
        ----------
        fine
            Shape (..., C, H, W), H and W multiples of the factor. NaN is left out and the kernel's other
            weights are scaled up to one (normalised convolution: Knutsson & Westin 1993,
            doi:10.1109/CVPR.1993.341081).

        Returns
        -------
        Shape (..., C, H // f, W // f); NaN where a coarse pixel's own cell has no valid pixel.
        """
        kernel, _ = self._filters()
        self._check(fine, kernel, "fine", self.factor)
        exact = np.asarray(fine, dtype=np.float64)
        valid = np.isfinite(exact)
        if valid.all():
            return _measure(exact, kernel, self.factor).astype(np.float32)
        weight = _measure(valid.astype(np.float64), kernel, self.factor)
        total = _measure(np.where(valid, exact, 0.0), kernel, self.factor)
        *lead, height, width = valid.shape
        f = self.factor
        seen = valid.reshape(*lead, height // f, f, width // f, f).any(axis=(-3, -1))
        mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=seen)
        return np.asarray(mean, dtype=np.float32)

    def adjoint(self, coarse: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the adjoint of `degrade`, times f**2 so that it keeps the level of an image.

        Parameters
        ----------
        coarse
            Shape (..., C, h, w), without NaN.

        Returns
        -------
        Shape (..., C, h f, w f), with <degrade(x), y> = <x, adjoint(y)> / f**2 for every x and y.
        """
        kernel, _ = self._filters()
        self._check(coarse, kernel, "coarse", 1)
        return _spread(np.asarray(coarse, dtype=np.float64), kernel, self.factor).astype(np.float32)

    def project(
        self, fine: NDArray[np.floating], coarse: NDArray[np.floating], *, passes: int = 1
    ) -> NDArray[np.float32]:
        """Return the image near ``fine`` that the sensor would have measured as ``coarse``.

        One pass is x + U G (y - A x): A degrades, U is its adjoint, and G a short inverse of A U. It is the
        range-null-space decomposition (Wang et al. 2022, DDNM, arXiv:2212.00490) with A's
        pseudo-inverse U (A U)^-1 as a finite filter, or iterative back-projection (Irani & Peleg 1991,
        doi:10.1016/1049-9652(91)90045-L) with the one step made nearly exact. For the box one pass is exact.

        Parameters
        ----------
        fine
            Shape (..., C, H, W), finite.
        coarse
            Shape (..., C, H // f, W // f); NaN where nothing was measured and nothing is demanded.
        passes
            Fixed number of passes; each reaches `radius_px` further and multiplies what is left of the
            residual by at most 0.001 (MTF 0.3 and more) to 0.2 (MTF 0.05).
        """
        if passes < 0:
            raise ParameterError(f"project was asked for {passes} passes", "give passes=1 or more")
        kernel, inverse = self._filters()
        self._check(fine, kernel, "fine", self.factor)
        self._check(coarse, kernel, "coarse", 1)
        exact = np.array(fine, dtype=np.float64)
        measured = np.asarray(coarse, dtype=np.float64)
        expected = (*exact.shape[:-2], exact.shape[-2] // self.factor, exact.shape[-1] // self.factor)
        if measured.shape != expected:
            raise ParameterError(
                f"a fine image of shape {exact.shape} meets a coarse one of shape {measured.shape}",
                f"give coarse with shape {expected}, factor {self.factor}",
            )
        if bad := int(np.sum(~np.isfinite(exact))):
            raise ParameterError(
                f"the fine image to project has {bad} values that are not finite",
                "fill them before, for example with classical.push_pull",
            )
        out = exact.astype(np.float32)
        bands = np.isfinite(measured).any(axis=(*range(exact.ndim - 3), -2, -1))
        if not bands.all():
            # Bands that were not measured come back as they are.
            exact, measured = exact[..., bands, :, :], measured[..., bands, :, :]
            kernel, inverse = (taps[bands] if len(taps) > 1 else taps for taps in (kernel, inverse))
        for _ in range(passes):
            residual = np.nan_to_num(measured - _measure(exact, kernel, self.factor), nan=0.0)
            exact += _spread(_correlate(residual, inverse), kernel, self.factor)
        out[..., bands, :, :] = exact
        return out

    def upsample(self, coarse: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the cubic interpolation of ``coarse`` on the fine grid, without a shift.

        Cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711) between the centres of the coarse
        pixels; reaches two and a half coarse pixels. No detail is added and no measurement enforced:
        `project` does that.

        Parameters
        ----------
        coarse
            Shape (..., C, h, w), without NaN.
        """
        self._check(coarse, None, "coarse", 1)
        return _spread(np.asarray(coarse, dtype=np.float64), _cubic(self.factor), self.factor).astype(
            np.float32
        )

    def _filters(self) -> _Filters:
        return _band_filters(self.factor, self.mtf)

    def _check(
        self, image: NDArray[np.floating], kernel: Float64Array | None, name: str, multiple: int
    ) -> None:
        shape = np.shape(image)
        if len(shape) < 3 or 0 in shape[-2:]:
            raise ParameterError(
                f"the {name} image has shape {shape}", "give an array (..., bands, rows, columns)"
            )
        if shape[-2] % multiple or shape[-1] % multiple:
            raise ParameterError(
                f"the {name} image has {shape[-2]} x {shape[-1]} pixels, no multiple of factor {multiple}",
                "crop or pad it to whole coarse pixels",
            )
        if kernel is not None and kernel.shape[0] not in (1, shape[-3]):
            raise ParameterError(
                f"the sensor has {kernel.shape[0]} MTF values and the {name} image {shape[-3]} bands",
                "give one MTF, or one per band",
            )


class _Filters(NamedTuple):
    kernel: Float64Array
    """Shape (1 or C, (2 m + 1) f): weights of the fine pixels around a coarse pixel, m cells each side."""
    inverse: Float64Array
    """Shape (1 or C, 2 R + 1): weights of the coarse pixels around a coarse pixel."""


def _sampled_gaussian(factor: int, mtf: float) -> Float64Array:
    """Return the kernel at the fine pixels' centres, whole cells long, of sum 1."""
    sigma_px = factor * math.sqrt(-2.0 * math.log(mtf)) / math.pi
    # At least the own cell: a coarse pixel sees each of its fine pixels, however sharp it is.
    half_px = max(_SUPPORT_SIGMA * sigma_px, factor / 2)
    cells = 2 * math.ceil((half_px - factor / 2) / factor) + 1
    offset = np.arange(cells * factor) + 0.5 - cells * factor / 2
    weight = np.where(np.abs(offset) <= half_px, np.exp(-0.5 * (offset / sigma_px) ** 2), 0.0)
    return np.asarray(weight / weight.sum())


def _transfer_at_nyquist(factor: int, mtf: float) -> float:
    kernel = _sampled_gaussian(factor, mtf)
    offset = np.arange(kernel.size) + 0.5 - kernel.size / 2
    return float(np.sum(kernel * np.cos(np.pi * offset / factor)))


def _inverse_filter(kernel: Float64Array, factor: int) -> Float64Array:
    """Return the shortest filter that undoes A U to `_INVERSE_ERROR`, or the longest allowed."""
    cells = kernel.size // factor - 1
    # A U is Toeplitz: the autocorrelation of the kernel at whole cells, with the adjoint's gain f.
    forward = factor * np.correlate(kernel, kernel, mode="full")[kernel.size - 1 - cells * factor :: factor]
    forward = forward[: 2 * cells + 1]
    frequency = np.linspace(0.0, 0.5, 257)
    inverse = np.ones(1)
    for radius in range(_INVERSE_CELLS + 1):
        rows = 2 * (radius + cells) + 1
        product = np.zeros((rows, 2 * radius + 1))
        for j in range(2 * radius + 1):
            product[j : j + forward.size, j] = forward
        unit = np.zeros(rows)
        unit[rows // 2] = 1.0
        least = np.linalg.lstsq(product, unit, rcond=None)[0]
        # The level of an image must be right after one pass; the solver's last bits, which differ between
        # processors, must not.
        inverse = np.round(0.5 * (least + least[::-1]) / (least.sum() * forward.sum()), 10)
        left = 1.0 - _response(forward, frequency) * _response(inverse, frequency)
        if np.abs(left).max() < _INVERSE_ERROR:
            break
    return np.asarray(inverse)


def _response(taps: Float64Array, frequency: Float64Array) -> Float64Array:
    offset = np.arange(taps.size) - taps.size // 2
    return np.asarray(np.cos(2 * np.pi * np.outer(frequency, offset)) @ taps)


@lru_cache(maxsize=256)
def _design(factor: int, mtf: float | None) -> tuple[Float64Array, Float64Array]:
    if mtf is None:
        return np.full(factor, 1.0 / factor), np.ones(1)
    kernel = _sampled_gaussian(factor, mtf)
    return kernel, _inverse_filter(kernel, factor)


@lru_cache(maxsize=64)
def _band_filters(factor: int, mtf: tuple[float, ...] | None) -> _Filters:
    bands = [_design(factor, value) for value in (mtf or (None,))]
    stacked = []
    for filters in zip(*bands, strict=True):
        size = max(taps.size for taps in filters)
        rows = [np.pad(taps, (size - taps.size) // 2) for taps in filters]
        stacked.append(np.stack(rows))
        stacked[-1].flags.writeable = False
    return _Filters(*stacked)


@lru_cache(maxsize=16)
def _cubic(factor: int) -> Float64Array:
    """Return Keys' kernel (a = -1/2) as weights of fine pixels around a coarse one, divided by f."""
    cells = 5
    distance = np.abs(np.arange(cells * factor) + 0.5 - cells * factor / 2) / factor
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    kernel = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))[None] / factor
    kernel.flags.writeable = False
    return kernel


@lru_cache(maxsize=256)
def _mirrored(size: int, pad: int) -> NDArray[np.intp]:
    """Return the indices of a line with ``pad`` pixels mirrored on at each end, edge pixels repeated."""
    around = np.arange(-pad, size + pad) % (2 * size)
    return np.minimum(around, 2 * size - 1 - around)


def _mirror(image: Float64Array, axis: int, pad: int) -> Float64Array:
    # One take with a kept index: np.pad does the same with ten times the overhead.
    return image.take(_mirrored(image.shape[axis], pad), axis) if pad else image


def _along(image: Float64Array, axis: int, start: int, stop: int, step: int = 1) -> Float64Array:
    return image[..., start:stop:step, :] if axis == -2 else image[..., start:stop:step]


# The three loops below add whole arrays, one tap after the other. A matrix product or a convolution of a
# library would sum in an order that depends on the array's size, and bytes with it.


def _measure(fine: Float64Array, kernel: Float64Array, factor: int) -> Float64Array:
    """Return A x: the kernel's mean of the fine pixels around each coarse pixel."""
    pad = (kernel.shape[1] // factor // 2) * factor
    taps = [(tap, kernel[:, tap, None, None]) for tap in np.flatnonzero(kernel.any(axis=0)).tolist()]
    for axis in (-2, -1):
        size = fine.shape[axis]
        mirrored = _mirror(fine, axis, pad)
        total = np.zeros(())
        for tap, weight in taps:
            part = weight * _along(mirrored, axis, tap, tap + size, factor)
            total = np.add(total, part, out=part)
        fine = total
    return fine


def _spread(coarse: Float64Array, kernel: Float64Array, factor: int) -> Float64Array:
    """Return U y: each coarse pixel laid down as f times the kernel."""
    cells = kernel.shape[1] // factor // 2
    taps = factor * kernel.reshape(kernel.shape[0], 2 * cells + 1, factor)
    used = taps.any(axis=0).tolist()
    for axis in (-2, -1):
        size = coarse.shape[axis]
        mirrored = _mirror(coarse, axis, cells)
        shape = list(coarse.shape)
        shape[axis] = size * factor
        fine = np.zeros(shape)
        for phase in range(factor):
            out = _along(fine, axis, phase, size * factor, factor)
            for cell in range(2 * cells, -1, -1):
                if used[cell][phase]:
                    weight = taps[:, cell, phase, None, None]
                    out += weight * _along(mirrored, axis, 2 * cells - cell, 2 * cells - cell + size)
        coarse = fine
    return coarse


def _correlate(coarse: Float64Array, taps: Float64Array) -> Float64Array:
    """Return G r: a symmetric filter along both axes of the coarse grid."""
    return _measure(coarse, taps, 1)
