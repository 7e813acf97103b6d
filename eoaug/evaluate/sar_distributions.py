"""How backscatter is distributed: distances of histograms, fits of speckle models, and the equivalent number of looks.

Arrays of any shape in linear units; values that are not finite and positive are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats
from scipy.spatial import distance as spatial_distance

from eoaug.errors import ParameterError

__all__ = [
    "MODELS",
    "DistributionDistances",
    "LogCumulants",
    "SpeckleFit",
    "distribution_distances",
    "enl",
    "fit_speckle",
    "log_cumulants",
]

Model = Literal["rayleigh", "gamma", "lognormal", "k", "g0"]
MODELS: tuple[Model, ...] = ("rayleigh", "gamma", "lognormal", "k", "g0")

_PRIOR_COUNT = 0.5
"""Added to every bin for the Kullback-Leibler divergence, which is infinite where one histogram is empty (Jeffreys)."""
_NODES = 512
"""Quantiles of the texture over which the K distribution is averaged."""
_MOST_SHAPE = 1e6
"""Shape at which a texture is constant: the model is a Gamma distribution."""


def _positive(values: NDArray[Any]) -> NDArray[np.float64]:
    flat = np.asarray(values, np.float64).ravel()
    flat = flat[np.isfinite(flat) & (flat > 0)]
    if flat.size < 2:
        raise ParameterError(
            f"{flat.size} of {np.size(values)} values are positive", "give at least two, in linear units"
        )
    return flat


# -- distances ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DistributionDistances:
    """Distances of two distributions on one fixed histogram; all are 0 for equal ones."""

    kl: float
    """Kullback-Leibler divergence of the second from the first, in nats (Kullback and Leibler 1951)."""
    js: float
    """Jensen-Shannon divergence in nats, 0 to ln 2 (Lin 1991, doi:10.1109/18.61115)."""
    wasserstein: float
    """1-Wasserstein distance in the unit of the values (Villani 2009)."""
    ks: float
    """Kolmogorov-Smirnov distance, 0 to 1: the largest difference of the cumulative histograms."""


def distribution_distances(
    first: NDArray[Any], second: NDArray[Any], *, limits: tuple[float, float], bins: int = 256
) -> DistributionDistances:
    """Return the distances of two sets of values on a histogram of fixed limits.

    The limits are constants of the comparison, never of one of the images: amplitudes that were normalised by mean + 3
    standard deviations have 0 to 1 (arXiv:2506.13307). Values beyond them count in the outermost bins.

    Parameters
    ----------
    first, second
        Any shapes; values that are not finite are left out.
    limits
        Lower end of the first bin and upper end of the last one.
    bins
        Number of bins.
    """
    low, high = limits
    if not (low < high and bins > 1):
        raise ParameterError(
            f"limits={limits} with bins={bins} make no histogram", "e.g. limits=(0, 1), bins=256"
        )
    counts = []
    for values in (first, second):
        finite = np.asarray(values, np.float64).ravel()
        finite = finite[np.isfinite(finite)]
        if not finite.size:
            raise ParameterError(f"none of {np.size(values)} values is finite", "give measured values")
        counts.append(np.histogram(np.clip(finite, low, high), bins, (low, high))[0])
    p, q = (count / count.sum() for count in counts)
    smooth = [(count + _PRIOR_COUNT) / (count + _PRIOR_COUNT).sum() for count in counts]
    step = np.abs(np.cumsum(p) - np.cumsum(q))
    return DistributionDistances(
        kl=float(stats.entropy(*smooth)) if not np.array_equal(counts[0], counts[1]) else 0.0,
        js=float(spatial_distance.jensenshannon(p, q) ** 2),
        wasserstein=float(step[:-1].sum() * (high - low) / bins),
        ks=float(step.max()),
    )


# -- fits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogCumulants:
    """Cumulants of the logarithm of intensity (Nicolas 2002, Traitement du Signal 19, 139)."""

    first: float
    second: float
    third: float


def log_cumulants(intensity: NDArray[Any]) -> LogCumulants:
    """Return mean, variance and third central moment of ln I."""
    logs = np.log(_positive(intensity))
    return LogCumulants(*(float(v) for v in (logs.mean(), logs.var(), ((logs - logs.mean()) ** 3).mean())))


@dataclass(frozen=True)
class SpeckleFit:
    """A model of intensity, fitted by log-cumulants."""

    model: Model
    parameters: Mapping[str, float]
    """``mean``; ``looks`` but of the log-normal; ``shape`` of the texture of K (nu) and G0 (-alpha); ``sigma`` of ln I."""
    ks: float
    """Kolmogorov-Smirnov distance between the sample and the model, 0 to 1."""


def fit_speckle(intensity: NDArray[Any], model: Model, *, looks: float | None = None) -> SpeckleFit:
    """Return a model of speckled intensity, with parameters from the log-cumulants of the sample.

    Parameters
    ----------
    intensity
        Any shape, linear power.
    model
        ``rayleigh``: one look, so amplitude has a Rayleigh distribution. ``gamma``: fully developed speckle of L looks.
        ``lognormal``. ``k``: speckle times a Gamma texture (Jakeman and Pusey 1976). ``g0``: speckle times an inverse
        Gamma texture (Frery et al. 1997, doi:10.1109/36.581981).
    looks
        Number of looks of ``k`` and ``g0``, where it is known, as it is of a product. None: from the third
        log-cumulant, which needs many samples.

    Returns
    -------
    The fit. Where the cumulants leave no texture (less variance than speckle of ``looks``), its shape is infinite.
    """
    sample = _positive(intensity)
    k = log_cumulants(sample)
    parameters, cdf = _FITS[model](k, looks)
    at = np.sort(sample)
    expected = cdf(at)
    ranks = np.arange(at.size + 1) / at.size
    ks = max(float(np.abs(expected - ranks[:-1]).max()), float(np.abs(expected - ranks[1:]).max()))
    return SpeckleFit(model, parameters, ks)


_Cdf = Callable[[NDArray[np.float64]], NDArray[np.float64]]
_Fitted = tuple[dict[str, float], _Cdf]


def _gamma_model(looks: float, first: float) -> _Fitted:
    mean = float(np.exp(first - special.digamma(looks) + np.log(looks)))
    return {"mean": mean, "looks": looks}, stats.gamma(looks, scale=mean / looks).cdf


def _fit_rayleigh(k: LogCumulants, looks: float | None) -> _Fitted:
    del looks
    return _gamma_model(1.0, k.first)


def _fit_gamma(k: LogCumulants, looks: float | None) -> _Fitted:
    return _gamma_model(looks or _shape_of(k.second), k.first)


def _fit_lognormal(k: LogCumulants, looks: float | None) -> _Fitted:
    del looks
    sigma = float(np.sqrt(k.second))
    return {"mean": float(np.exp(k.first + k.second / 2)), "sigma": sigma}, stats.lognorm(
        sigma, scale=np.exp(k.first)
    ).cdf


def _fit_k(k: LogCumulants, looks: float | None) -> _Fitted:
    looks, shape = _texture(k, looks, sign=1)
    mean = float(
        np.exp(k.first - special.digamma(looks) + np.log(looks) - special.digamma(shape) + np.log(shape))
    )
    texture = stats.gamma(shape, scale=mean / shape).ppf((np.arange(_NODES) + 0.5) / _NODES)

    def cdf(at: NDArray[np.float64]) -> NDArray[np.float64]:
        # On a grid of logarithms: the quadrature at every pixel would be slow.
        low, high = np.log(at[0]), np.log(at[-1])
        grid = np.linspace(float(low), float(high), 1024)
        values = special.gammainc(looks, looks * np.exp(grid)[:, None] / texture).mean(axis=1)
        return np.asarray(np.interp(np.log(at), grid, values))

    return {"mean": mean, "looks": looks, "shape": shape}, cdf


def _fit_g0(k: LogCumulants, looks: float | None) -> _Fitted:
    looks, shape = _texture(k, looks, sign=-1)
    scale = np.exp(k.first + special.digamma(shape) - special.digamma(looks) + np.log(looks))
    mean = float(scale / (shape - 1)) if shape > 1 else float("inf")
    return {"mean": mean, "looks": looks, "shape": shape}, stats.f(
        2 * looks, 2 * shape, scale=scale / shape
    ).cdf


_FITS: dict[str, Callable[[LogCumulants, float | None], _Fitted]] = {
    "rayleigh": _fit_rayleigh,
    "gamma": _fit_gamma,
    "lognormal": _fit_lognormal,
    "k": _fit_k,
    "g0": _fit_g0,
}


def _shape_of(variance: float) -> float:
    """Return the shape of a Gamma distribution whose logarithm has a variance: trigamma(shape) = variance."""
    if variance <= special.polygamma(1, _MOST_SHAPE):
        return _MOST_SHAPE
    low = 1e-3
    if variance >= special.polygamma(1, low):
        return low
    return float(optimize.brentq(lambda shape: special.polygamma(1, shape) - variance, low, _MOST_SHAPE))


def _texture(k: LogCumulants, looks: float | None, *, sign: int) -> tuple[float, float]:
    """Return looks and shape of a texture, whose third log-cumulant counts with ``sign``."""
    if looks is not None:
        return looks, _shape_of(k.second - float(special.polygamma(1, looks)))

    def misfit(logarithm: float) -> float:
        shape = _shape_of(k.second - float(special.polygamma(1, np.exp(logarithm))))
        return float(special.polygamma(2, np.exp(logarithm)) + sign * special.polygamma(2, shape) - k.third)

    # Both Gamma factors of K may change places: the looks are the larger, and the texture the heavier tail.
    whole = np.log(_shape_of(k.second))
    low, high = (
        (np.log(_shape_of(k.second / 2)), np.log(_MOST_SHAPE)) if sign > 0 else (whole, np.log(_MOST_SHAPE))
    )
    try:
        found = float(np.exp(optimize.brentq(misfit, low + 1e-9, high)))
    except ValueError:  # no looks explain the third cumulant: speckle alone
        return float(np.exp(whole)), _MOST_SHAPE
    return found, _shape_of(k.second - float(special.polygamma(1, found)))


# -- looks --------------------------------------------------------------------------------------------


def enl(intensity: NDArray[Any], *, patch_px: int = 16, share: float = 0.25) -> float:
    """Return the equivalent number of looks, mean^2 / variance of intensity, on the most homogeneous patches of images.

    The rule: images are cut into patches of ``patch_px``, and each patch into four quadrants. The ``share`` of patches whose
    quadrants have the most similar means is homogeneous, and the looks are the mean over their quadrants. The means
    choose and the variance within the quadrants is measured, so the choice does not favour patches of little speckle.

    Parameters
    ----------
    intensity
        Shape (..., H, W), linear power; patches with a pixel that is not finite and positive are left out.
    patch_px
        Even edge of a patch.
    share
        Share of the patches, 0 to 1.

    Returns
    -------
    The looks; NaN without a patch.
    """
    image = np.asarray(intensity, np.float64)
    half, (height, width) = patch_px // 2, image.shape[-2:]
    if patch_px < 4 or patch_px % 2 or not 0 < share <= 1:
        raise ParameterError(
            f"patch_px={patch_px}, share={share} choose no patches",
            "use an even patch_px from 4, share in (0, 1]",
        )
    rows, cols = height // patch_px, width // patch_px
    cut = image[..., : rows * patch_px, : cols * patch_px].reshape(-1, rows, 2, half, cols, 2, half)
    quadrants = cut.transpose(0, 1, 4, 2, 5, 3, 6).reshape(-1, 4, half * half)
    quadrants = quadrants[(np.isfinite(quadrants) & (quadrants > 0)).all(axis=(1, 2))]
    if not len(quadrants):
        return float("nan")
    means = quadrants.mean(axis=2)
    unlike = np.log(means).std(axis=1)
    chosen = np.argsort(unlike, kind="stable")[: max(1, round(share * len(quadrants)))]
    variance = quadrants[chosen].var(axis=2, ddof=1)
    # The square of a mean of n pixels is too large by variance / n.
    square = means[chosen] ** 2 - variance / (half * half)
    return float(1 / np.mean(variance / square))
