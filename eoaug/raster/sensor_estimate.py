"""How an image was measured, from the image alone: its transfer at the Nyquist frequency, and its noise.

The power spectrum of land is smooth, with a slope that differs between scenes; a sensor or a resampling leaves its transfer in
it, with what it folded over (aliasing) on top. ``sensor_spectra.json`` holds the mean log spectra of images made by each of
`CANDIDATES` and their covariance over scenes, from the training cubes (`eoaug.training.sensor_spectra`); linear discriminant
analysis gives the probability of each candidate (Fisher 1936, doi:10.1111/j.1469-1809.1936.tb02137.x). What is used is the
candidate that loses least under these probabilities, where a result worse than cubic interpolation counts several times: where unsure, less is
sharpened.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.arrays import Float64Array
from eoaug.raster.sensor_kernels import Resampling, transfer_at_nyquist

__all__ = [
    "BLOCK_PX",
    "CANDIDATES",
    "FALLBACK",
    "SensorEstimate",
    "block_spectra",
    "estimate_sensors",
    "features_of",
]


BLOCK_PX = 32
"""Edge in pixels of the blocks whose spectra are averaged; no smaller image can be estimated."""
CANDIDATES: tuple[float | Resampling, ...] = (
    0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, "bilinear", "cubic", "box", "nearest",
)  # fmt: skip
FALLBACK: Resampling = "box"
"""Used where nothing can be estimated: right for averaged images, and it sharpens others too little rather than too much."""

_STEP_PX = 16
_SATURATED = 0.02
"""Largest share of a block at the largest value of the image."""
_FLAT_SHARE = 0.05
"""Share of the pixels, those with the least detail around them, from which the noise is taken."""
_WHITE_ENERGY = 0.353
"""Detail that the flattest of white noise of variance 1 has (by simulation)."""
_WORSE = {"2": 5.0, "4": 2.0}
"""How many times a decibel below cubic interpolation counts, by refinement: at 2 it is lost more easily."""
_STRANGE = 80.0
"""Squared Mahalanobis distance from the nearest candidate beyond which a spectrum is like none of them."""
_EDGES = (0.08, 0.14, 0.2, 0.26, 0.32, 0.38, 0.44, 0.501)
_CORNERS = (0.501, 0.58, 0.66, 0.8)


@dataclass(frozen=True)
class SensorEstimate:
    """How one band was measured, as far as its image shows."""

    sensor: float | Resampling
    """MTF at Nyquist, or a resampling: what loses least."""
    mtf: float
    """Expected transfer at the Nyquist frequency; NaN without an estimate."""
    std: float
    """Its standard deviation."""
    noise: float
    """Standard deviation of the noise, in the unit of the image: of all that varies in its flattest twentieth."""
    blocks: int
    """Blocks of 32 x 32 pixels that it was estimated from."""
    losses: tuple[float, ...]
    """Expected PSNR of each of `CANDIDATES` relative to ``sensor``, dB; empty without an estimate."""
    reason: str = ""
    """Why nothing was estimated and `FALLBACK` is used; empty otherwise."""


def estimate_sensors(bands: Sequence[Sequence[NDArray[np.floating]]], factor: int) -> list[SensorEstimate]:
    """Estimate how the bands of a scene were measured.

    Parameters
    ----------
    bands
        Of each band the same windows of the scene, shape (rows, columns), physical values, NaN where not measured.
        Bands are estimated together and apart: half of the evidence of a band is that of all.
    factor
        The refinement, which decides what a wrong sensor costs.
    """
    known = _table()
    spectra = [block_spectra(windows) for windows in bands]
    evidence = [_evidence(power) if len(power) else None for power in spectra]
    seen = [each for each in evidence if each is not None and each.max() > -_STRANGE / 2]
    pooled = np.mean(seen, axis=0) if seen else None
    out = []
    for windows, power, own in zip(bands, spectra, evidence, strict=True):
        noise = _noise(windows)
        reason = _why_not(power, own)
        if reason or own is None or pooled is None:
            out.append(SensorEstimate(FALLBACK, np.nan, np.nan, noise, len(power), (), reason))
            continue
        weight = np.exp(0.5 * (own + pooled) - np.max(0.5 * (own + pooled)))
        # Each candidate was seen at two refinements: how sharp the scene itself is, is not known.
        chance = (weight / weight.sum()).reshape(-1, len(CANDIDATES)).sum(axis=0)
        table = "2" if factor < 3 else "4"
        used, cubic = known.gains[table]
        cost = used - _WORSE[table] * np.maximum(0.0, cubic[:, None] - used)
        best = int(np.argmax(chance @ cost))
        losses = chance @ used - float(chance @ used[:, best])
        transfer = np.array([transfer_at_nyquist(max(factor, 4), name) for name in CANDIDATES])
        mean = float(chance @ transfer)
        std = float(np.sqrt(chance @ (transfer - mean) ** 2))
        out.append(
            SensorEstimate(
                CANDIDATES[best], mean, std, noise, len(power), tuple(np.round(losses, 3).tolist())
            )
        )
    return out


def block_spectra(windows: Sequence[NDArray[np.floating]]) -> Float64Array:
    """Return the power of every complete block of the windows in `features_of`'s frequency bands.

    Shape (blocks, frequency bands); white noise of variance v has the power v in each. Blocks with a missing pixel, without
    contrast or with saturated pixels are left out.
    """
    rows, masks = _plane(), _masks()
    values = [window[np.isfinite(window)] for window in windows]
    largest = max((float(each.max()) for each in values if each.size), default=np.inf)
    out = []
    for window in windows:
        image = np.asarray(window, np.float64)
        if min(image.shape) < BLOCK_PX:
            continue
        for top in _starts(image.shape[0]):
            blocks = np.stack(
                [image[top : top + BLOCK_PX, left : left + BLOCK_PX] for left in _starts(image.shape[1])]
            )
            good = np.isfinite(blocks).all(axis=(1, 2)) & (np.ptp(blocks, axis=(1, 2)) > 0)
            good &= (blocks >= largest).mean(axis=(1, 2)) <= _SATURATED
            if good.any():
                flat = blocks[good].reshape(int(good.sum()), -1)
                # Without mean and slope, whose jump at the edges would leak into all frequencies.
                flat = flat - (flat @ rows.T) @ rows
                tapered = flat.reshape(-1, BLOCK_PX, BLOCK_PX) * _taper()
                power = np.abs(np.fft.fft2(tapered)) ** 2 / np.sum(_taper() ** 2)
                out.append(power.reshape(len(power), -1) @ masks.T)
    return np.concatenate(out) if out else np.zeros((0, len(masks)))


def features_of(spectra: Float64Array) -> Float64Array:
    """Return the mean log spectrum of the blocks with much detail, relative to its low frequencies.

    Shape (frequency bands,). Of the half of the blocks with more detail, without the tenth with most, where clouds, their edges
    and broken pixels are.
    """
    logs = np.log(np.maximum(spectra, 1e-300))
    order = np.argsort(logs[:, 2:8].mean(axis=1), kind="stable")
    mean = logs[order[len(order) // 2 : len(order) - len(order) // 10]].mean(axis=0)
    return np.asarray(mean - mean[:6].mean())


class _LearnedSpectra:
    """The learned spectra."""

    def __init__(self) -> None:
        held = json.loads(Path(__file__).with_name("sensor_spectra.json").read_text())
        if held["candidates"] != list(CANDIDATES):
            raise RuntimeError("sensor_spectra.json is of other candidates; make it again")
        self.means = np.array(held["means"])
        """Shape (2 candidates, frequency bands): those at refinement 2, then those at 4."""
        self.precision = np.linalg.inv(np.array(held["covariance"]))
        self.gains = {
            factor: (np.array(gain)[:, 1:], np.array(gain)[:, 0]) for factor, gain in held["gains"].items()
        }
        """By refinement: PSNR relative to the right sensor of every candidate used (true, used), and of cubic
        interpolation (true)."""


@lru_cache(maxsize=1)
def _table() -> _LearnedSpectra:
    return _LearnedSpectra()


def _evidence(spectra: Float64Array) -> Float64Array:
    """Return the log likelihood of the candidates at both refinements."""
    known = _table()
    off = features_of(spectra) - known.means
    return np.asarray(-0.5 * np.einsum("ci,ij,cj->c", off, known.precision, off))


def _why_not(spectra: Float64Array, evidence: Float64Array | None) -> str:
    if evidence is None:
        return f"no complete block of {BLOCK_PX} x {BLOCK_PX} pixels with contrast"
    if evidence.max() <= -_STRANGE / 2:
        return "the spectrum is like that of no known sensor"
    return ""


def _noise(windows: Sequence[NDArray[np.floating]]) -> float:
    """Return the standard deviation of the noise: that of white noise with the high frequencies of the flattest parts."""
    energies = [_detail_energy(np.asarray(window, np.float64)) for window in windows if min(window.shape) > 6]
    known = np.concatenate([np.zeros(0), *(e[np.isfinite(e) & (e > 0)] for e in energies)])
    if not known.size:
        return 0.0
    return float(np.sqrt(np.quantile(known, _FLAT_SHARE) / _WHITE_ENERGY))


def _detail_energy(image: Float64Array) -> Float64Array:
    """Return the mean square over 5 x 5 pixels of an image less its mean over 3 x 3, weighted 1-2-1; 0 where it is constant."""
    smooth = (image[:-2] + 2 * image[1:-1] + image[2:]) / 4
    smooth = (smooth[:, :-2] + 2 * smooth[:, 1:-1] + smooth[:, 2:]) / 4
    energy = (image[1:-1, 1:-1] - smooth) ** 2
    energy = np.mean([energy[k : energy.shape[0] - 4 + k] for k in range(5)], axis=0)
    return np.asarray(np.mean([energy[:, k : energy.shape[1] - 4 + k] for k in range(5)], axis=0))


def _starts(size: int) -> list[int]:
    last = size - BLOCK_PX
    starts: list[int] = np.linspace(0, last, -(-last // _STEP_PX) + 1).astype(int).tolist()
    return starts


@lru_cache(maxsize=1)
def _plane() -> Float64Array:
    """Return an orthonormal basis of the planes over a block, shape (3, pixels)."""
    y, x = np.mgrid[:BLOCK_PX, :BLOCK_PX] - (BLOCK_PX - 1) / 2
    basis = np.stack([np.ones_like(y), y, x]).reshape(3, -1)
    return np.asarray(basis / np.linalg.norm(basis, axis=1, keepdims=True))


@lru_cache(maxsize=1)
def _taper() -> Float64Array:
    window = np.hanning(BLOCK_PX + 2)[1:-1]
    return np.outer(window, window)


@lru_cache(maxsize=1)
def _masks() -> Float64Array:
    """Return weights of sum 1 over the frequencies of each band: rings, apart by direction, and rings of the corners."""
    frequency = np.abs(np.fft.fftfreq(BLOCK_PX))
    v, u = np.meshgrid(frequency, frequency, indexing="ij")
    radius, slope = np.hypot(u, v), np.minimum(u, v) / np.maximum(np.maximum(u, v), 1e-9)
    masks = []
    for low, high in itertools.pairwise(_EDGES):
        ring = (radius >= low) & (radius < high)
        masks += [ring & (slope < 0.42), ring & (slope >= 0.42)]
    masks += [(radius >= low) & (radius < high) for low, high in itertools.pairwise(_CORNERS)]
    return np.stack([mask.ravel() / mask.sum() for mask in masks])
