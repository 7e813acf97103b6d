"""How a coarse pixel measures the fine grid: blur, decimation, and the way back to consistency.

Numpy and compiled loops. One convention: f fine pixels make one coarse pixel along each axis, the coarse pixel lies on
the centre of its f x f cell, and beyond the array's border the image goes on mirrored (half-sample
symmetric), which commutes with the decimation and so keeps every identity exact up to a straight border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import ParameterError
from eoaug.raster.arrays import Float64Array
from eoaug.raster.power import decibels_of, multiplied, power_of
from eoaug.raster.sensor_kernels import (
    DETAIL_BANDS,
    GAUSSIAN_MTF,
    RESAMPLINGS,
    Filters,
    Resampling,
    filters_of,
    interpolation,
    noise_gains,
    transfer_at_nyquist,
)

__all__ = ["Sensor"]


_MTF_ERROR = 0.05
"""How far the MTF of the sampled kernel may lie from the one asked for."""
_NUMBER = int | float | np.integer | np.floating
_LEAST_WEIGHT = 0.2
"""Least sum of weights of the valid pixels under a kernel with negative weights or without weight on pixels of its cell."""
_NOISE_CELLS = 2
"""Radius in coarse pixels of the square over which a correction is compared with noise."""
_NOISE_MARGIN = 2.0
"""Factor on the noise power: the mean square of 25 corrections that are noise alone rarely exceeds it."""
_NAMES = 'give "box", "bilinear", "cubic", "nearest", "gaussian", an MTF, or one of these per band'


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
    mtf: tuple[float | Resampling, ...] | None
    """Modulation transfer at the Nyquist frequency of the coarse grid, between 0.05 and 0.95, or the name of a
    resampling; one per band or one for all. None: ``"box"``, the mean over the f x f cell."""
    noise: tuple[float, ...] = ()
    """Standard deviation of the noise of a coarse pixel, in the unit of the images, one per band or one for all; empty or
    0: none. `project` does not sharpen what lies below it."""
    decibels: tuple[float, ...] = ()
    """Size of one unit of the images in decibels, one per band or one for all; empty or 0: no decibels. A coarse pixel of radar
    is the mean of power, which is up to 2.5 dB above the mean of the decibels of speckle of one look."""

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
        _check_numbers(self.noise, self.decibels)
        if self.mtf is None:
            return
        _check_mtf(self.mtf, self.factor)
        mtf = tuple(value if isinstance(value, str) else float(value) for value in self.mtf)
        object.__setattr__(self, "mtf", None if set(mtf) == {"box"} else mtf)

    @classmethod
    def of(cls, spec: str | float | Sequence[str | float], factor: int, n_bands: int) -> Sensor:
        """Return the sensor that ``spec`` names.

        Parameters
        ----------
        spec
            The MTF at Nyquist, ``"gaussian"`` (MTF 0.3) or a `Resampling`: of all bands, or one per band.
        factor
            Fine pixels per coarse pixel along one axis, 2 to 8.
        n_bands
            Number of bands of the cube, which a sequence must match.
        """
        if isinstance(spec, str):
            return cls(factor=factor, mtf=(_named(spec),))
        if isinstance(spec, _NUMBER):
            return cls(factor=factor, mtf=(float(spec),))
        try:
            mtf = tuple(_named(value) if isinstance(value, str) else value for value in spec)
        except TypeError:
            raise ParameterError(f"a sensor was given as {spec!r}", _NAMES) from None
        if len(mtf) not in (1, n_bands):
            raise ParameterError(
                f"the sensor has {len(mtf)} MTF values for {n_bands} bands",
                "give one value, or one per band in the cube's order",
            )
        return cls(factor=factor, mtf=mtf)

    def of_band(self, index: int) -> Sensor:
        """Return the sensor of one band."""
        return self.of_bands([index])

    def of_bands(self, indices: Sequence[int]) -> Sensor:
        """Return the sensor of some bands."""
        mtf = self.mtf
        if mtf is not None and len(mtf) > 1:
            mtf = tuple(mtf[index] for index in indices)
        noise, decibels = (
            tuple(each[index] for index in indices) if len(each) > 1 else each
            for each in (self.noise, self.decibels)
        )
        if (mtf, noise, decibels) == (self.mtf, self.noise, self.decibels):
            return self
        return replace(self, mtf=mtf, noise=noise, decibels=decibels)

    @property
    def of_decibels(self) -> Sensor:
        """The same sensor for images whose unit is one decibel, in the bands that are decibels."""
        return replace(self, decibels=tuple(float(unit > 0) for unit in self.decibels))

    @property
    def radius_px(self) -> int:
        """How far one pass of `project` reaches, in fine pixels.

        The result at a pixel depends on fine pixels at most so far away along either axis, and on coarse
        pixels whose cell touches that window.
        """
        kernel, back, inverse = self._filters()
        (first, _), (_, last) = (
            np.flatnonzero(taps.any(axis=0))[[0, -1]].tolist() for taps in (kernel, back)
        )
        wider = (back.shape[1] - kernel.shape[1]) // 2
        averaged = _NOISE_CELLS + 1 if any(self.noise) else 0
        reach: int = last - first - wider + (inverse.shape[1] // 2 + averaged) * self.factor
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
        kernel = self._filters().kernel
        _check(fine, kernel, "fine", self.factor)
        if any(self.decibels):
            power = power_of(np.asarray(fine, dtype=np.float64), self.decibels)
            measured = replace(self, decibels=()).degrade(power).astype(np.float64)
            return decibels_of(measured, self.decibels).astype(np.float32)
        exact = np.asarray(fine, dtype=np.float64)
        valid = np.isfinite(exact)
        if valid.all():
            return _measure(exact, kernel, self.factor).astype(np.float32)
        weight = _measure(valid.astype(np.float64), kernel, self.factor)
        total = _measure(np.where(valid, exact, 0.0), kernel, self.factor)
        *lead, height, width = valid.shape
        f = self.factor
        cells = np.where(valid, exact, 0.0).reshape(*lead, height // f, f, width // f, f)
        own = valid.reshape(cells.shape).sum(axis=(-3, -1))
        mean = np.divide(total, weight, out=np.full(total.shape, np.nan), where=(own > 0) & (weight > 0))
        if kernel.min() < 0 or (kernel == 0).any():
            # Where no weight is left of the valid pixels, or positive and negative weights cancel: the mean of the cell.
            plain = (own > 0) & (weight <= _LEAST_WEIGHT)
            mean = np.divide(cells.sum(axis=(-3, -1)), own, out=mean, where=plain)
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
        kernel = self._filters().kernel
        _check(coarse, kernel, "coarse", 1)
        return _spread(np.asarray(coarse, dtype=np.float64), kernel, self.factor).astype(np.float32)

    def project(
        self, fine: NDArray[np.floating], coarse: NDArray[np.floating], *, passes: int = 1
    ) -> NDArray[np.float32]:
        """Return the image near ``fine`` that the sensor would have measured as ``coarse``.

        One pass is x + U G (y - A x): A degrades, U is its adjoint, and G a short inverse of A U. It is the
        range-null-space decomposition (Wang et al. 2022, DDNM, arXiv:2212.00490) with A's
        pseudo-inverse U (A U)^-1 as a finite filter, or iterative back-projection (Irani & Peleg 1991,
        doi:10.1016/1049-9652(91)90045-L) with the one step made nearly exact. For the box one pass is exact.

        In bands of `decibels`, A measures power, and the correction is U (y - A x) in decibels (the simultaneous
        multiplicative algebraic reconstruction technique: Byrne 1993, doi:10.1109/83.210869): power stays positive, and speckle that
        no blur can have made does not diverge under G. For the box one pass is exact; after one pass of an MTF of 0.3, speckle of
        four looks is left with a residual of about 1 dB.

        With `noise`, the correction G (y - A x) is split into four undecimated bands, smooth and detailed along rows
        and columns, and each is multiplied by the Wiener gain max(0, 1 - n / e): e is its mean square over 5 x 5
        coarse pixels, n what noise alone leaves in it after a cubic interpolation (Lee 1980,
        doi:10.1109/TPAMI.1980.4766994). Flat land stays as interpolated, edges are sharpened in full, and what remains of
        the residual lies within the noise.

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
        kernel, back, inverse = self._filters()
        _check(fine, kernel, "fine", self.factor)
        _check(coarse, kernel, "coarse", 1)
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
            kernel, back, inverse = (
                taps[bands] if len(taps) > 1 else taps for taps in (kernel, back, inverse)
            )
        below = _below_noise(self, bands)
        units = (
            self.of_bands(np.flatnonzero(bands).tolist()).decibels
            if len(self.decibels) > 1
            else self.decibels
        )
        for _ in range(passes):
            seen = decibels_of(_measure(power_of(exact, units), kernel, self.factor), units)
            residual = np.nan_to_num(measured - seen, nan=0.0)
            correction = multiplied(_correlate(residual, inverse), residual, units)
            if below is not None:
                correction = _above_noise(correction, below)
            exact += _spread(correction, back, self.factor)
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
        _check(coarse, None, "coarse", 1)
        return _spread(np.asarray(coarse, dtype=np.float64), interpolation(self.factor), self.factor).astype(
            np.float32
        )

    def _filters(self) -> Filters:
        return filters_of(self.factor, self.mtf)


def _below_noise(sensor: Sensor, bands: NDArray[np.bool_]) -> Float64Array | None:
    """Return the mean squares of a correction that is noise alone, shape (4, 1 or C, 1, 1); None without noise."""
    if not any(sensor.noise):
        return None
    count = len(bands)
    gains = np.array([noise_gains(sensor.factor, value) for value in (sensor.mtf or ("box",))]).T
    below = np.broadcast_to(gains, (4, count)) * np.broadcast_to(np.square(sensor.noise), count)
    return np.asarray(_NOISE_MARGIN * below[:, bands, None, None])


def _check_mtf(mtf: tuple[float | Resampling, ...], factor: int) -> None:
    if not mtf:
        raise ParameterError("a sensor has an empty tuple of MTF values", 'give one value, or "box"')
    for value in mtf:
        if isinstance(value, str) and value in RESAMPLINGS:
            continue
        if isinstance(value, bool) or not isinstance(value, _NUMBER) or not 0.05 < value < 0.95:
            raise ParameterError(
                f"an MTF at Nyquist is {value!r}, outside (0.05, 0.95)",
                "give the modulation transfer at the coarse grid's Nyquist frequency, such as 0.3",
            )
        reached = transfer_at_nyquist(factor, value)
        if abs(reached - value) > _MTF_ERROR:
            raise ParameterError(
                f"{factor} fine pixels per coarse pixel cannot show an MTF of {value:g}: the "
                f"sharpest kernel reaches {reached:.2f}",
                f"give a smaller MTF or a larger factor than {factor}",
            )


def _check_numbers(noise: tuple[float, ...], decibels: tuple[float, ...]) -> None:
    for deviation in noise:
        if not 0 <= deviation < np.inf:
            raise ParameterError(
                f"the noise of a sensor is {deviation!r}",
                "give its standard deviation, 0 or a positive number",
            )
    for unit in decibels:
        if not 0 <= unit < np.inf:
            raise ParameterError(
                f"one unit of the images of a sensor is {unit!r} decibels",
                "give a positive number, or 0 for images that are linear",
            )


def _check(image: NDArray[np.floating], kernel: Float64Array | None, name: str, multiple: int) -> None:
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


def _named(name: str) -> float | Resampling:
    if name == "gaussian":
        return GAUSSIAN_MTF
    if name in RESAMPLINGS:
        return name
    raise ParameterError(f"no sensor is called {name!r}", _NAMES)


# The compiled loops add whole lines, one tap after the other. A matrix product or a convolution of a
# library would sum in an order that depends on the array's size, and bytes with it.


def _measure(fine: Float64Array, kernel: Float64Array, factor: int) -> Float64Array:
    """Return A x: the kernel's mean of the fine pixels around each coarse pixel."""
    for axis in (-2, -1):
        fine = _filtered(fine, kernel, axis, factor)
    return fine


def _filtered(fine: Float64Array, kernel: Float64Array, axis: int, factor: int = 1) -> Float64Array:
    from eoaug.raster.compiled import filtered

    out = filtered(_planes(fine), np.ascontiguousarray(kernel), axis == -2, factor)
    return np.asarray(out.reshape(*fine.shape[:-2], *out.shape[1:]))


def _spread(coarse: Float64Array, kernel: Float64Array, factor: int) -> Float64Array:
    """Return U y: each coarse pixel laid down as f times the kernel."""
    from eoaug.raster.compiled import laid_down

    taps = factor * kernel.reshape(kernel.shape[0], -1, factor)
    rows = laid_down(_planes(coarse), taps, True)
    out = laid_down(rows, taps, False)
    return np.asarray(out.reshape(*coarse.shape[:-2], *out.shape[1:]))


def _planes(images: Float64Array) -> Float64Array:
    return np.ascontiguousarray(images).reshape(-1, *images.shape[-2:])


def _above_noise(correction: Float64Array, below: Float64Array) -> Float64Array:
    """Return what of a correction lies above the noise; ``below`` as from `_below_noise`."""
    average = np.full((1, 2 * _NOISE_CELLS + 1), 1.0 / (2 * _NOISE_CELLS + 1))
    out = np.zeros_like(correction)
    for (rows, cols), least in zip(DETAIL_BANDS, below, strict=True):
        part = _filtered(_filtered(correction, rows[None], -2), cols[None], -1)
        energy = _correlate(part**2, average)
        # Nothing is divided by 0 where neither the image nor the noise varies.
        out += part * np.maximum(0.0, 1.0 - least / np.maximum(energy, np.maximum(least, 1e-300)))
    return out


def _correlate(coarse: Float64Array, taps: Float64Array) -> Float64Array:
    """Return G r: a symmetric filter along both axes of the coarse grid."""
    return _measure(coarse, taps, 1)
