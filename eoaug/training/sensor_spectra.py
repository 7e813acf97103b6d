"""The spectra from which `eoaug.raster.sensor_estimate` knows a sensor: ``python -m eoaug.training.sensor_spectra FOLDER``.

Clear images of the training cubes are reduced by every candidate, twice and four times, and super-resolved as if any other had
measured them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.datasets.netcdf import open_netcdf, read_images
from eoaug.errors import EoaugError
from eoaug.generators.interpolation.back_projection import coarse_prior
from eoaug.raster import sensor_estimate
from eoaug.raster.sensor import Sensor
from eoaug.raster.sensor_estimate import BLOCK_PX, CANDIDATES, block_spectra, features_of

__all__ = ["images", "learned_spectra"]


_BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
_FACTORS = (2, 4)
_NOISES = ((0.0, 2.0), (1e-4, 1.0), (1e-3, 1.0))
"""(Variance of the noise relative to the band's, weight)."""
_RIDGE = 0.15
"""Variance added to every feature: places beyond those of training differ more."""
_LARGEST_PX, _CHECKED_PX, _EDGE_PX = 256, 192, 8
_DATES = 3


def images(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield (place, image) of at most three clear dates per file; shape (bands, rows, columns), mean 0, deviation 1."""
    for path in sorted(folder.glob("*.nc")):
        try:
            with open_netcdf(path) as ds:
                stack = read_images(ds, path.name, _BANDS, display_values=True)
        except EoaugError:
            continue
        bands = stack.present & stack.sharp
        if not bands.any():
            continue
        clear = np.isfinite(stack.values[:, bands]).all(axis=1) & stack.clear
        dates = np.flatnonzero(clear.mean(axis=(1, 2)) >= 0.95)
        for date in (
            dates[np.unique(np.linspace(0, len(dates) - 1, _DATES).round().astype(int))] if len(dates) else []
        ):
            image = _middle(stack.values[date][bands])
            level = np.nanmean(image, axis=(1, 2), keepdims=True)
            image = np.where(np.isfinite(image), image, level)
            spread = image.std(axis=(1, 2), keepdims=True)
            if (spread > 1e-6).all():
                yield "_".join(path.stem.split("_")[:2]), ((image - level) / spread).astype(np.float32)


def learned_spectra(folder: Path) -> dict[str, Any]:
    """Return the content of ``sensor_spectra.json``."""
    rng = np.random.default_rng(0)
    rows: list[tuple[str, int, float, NDArray[np.float64]]] = []
    gains: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for place, image in images(folder):
        for k, factor in enumerate(_FACTORS):
            if min(image.shape[1:]) // factor < BLOCK_PX:
                continue
            for true, name in enumerate(CANDIDATES):
                coarse = Sensor.of(name, factor, 1).degrade(image)
                gains.setdefault((factor, true), []).append(_gains(image, coarse, factor, true))
                for variance, weight in _NOISES:
                    noisy = coarse + np.sqrt(variance) * rng.normal(size=coarse.shape)
                    spectra = [block_spectra([band]) for band in noisy]
                    found = [features_of(each) for each in spectra if len(each)]
                    rows += [
                        (f"{place} {factor}", k * len(CANDIDATES) + true, weight, each) for each in found
                    ]
    total: Counter[str] = Counter()
    for place, _, weight, _ in rows:
        total[place] += weight  # type: ignore[assignment]
    features, kind = np.array([row[3] for row in rows]), np.array([row[1] for row in rows])
    # Every place counts once, however many dates and bands it has.
    weights = np.array([weight / total[place] for place, _, weight, _ in rows])
    classes = [kind == each for each in range(len(_FACTORS) * len(CANDIDATES))]
    means = np.array([np.average(features[each], axis=0, weights=weights[each]) for each in classes])
    off = features - means[kind]
    covariance = (off * weights[:, None]).T @ off / weights.sum() + _RIDGE * np.eye(off.shape[1])
    table = {
        str(factor): [
            np.median(gains[factor, true], axis=0).round(2).tolist() for true in range(len(CANDIDATES))
        ]
        for factor in _FACTORS
    }
    return {
        "candidates": list(CANDIDATES),
        "means": means.round(3).tolist(),
        "covariance": covariance.round(4).tolist(),
        "gains": table,
    }


def _middle(image: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, cols = (min(size, _LARGEST_PX) // 8 * 8 for size in image.shape[1:])
    top, left = (image.shape[1] - rows) // 2, (image.shape[2] - cols) // 2
    return image[:, top : top + rows, left : left + cols]


def _gains(
    image: NDArray[np.float32], coarse: NDArray[np.float32], factor: int, true: int
) -> NDArray[np.float64]:
    """Return the PSNR of cubic interpolation, then of every candidate used, relative to that of the right one, dB."""
    truth = image[:, :_CHECKED_PX, :_CHECKED_PX]
    seen = coarse[:, : truth.shape[1] // factor, : truth.shape[2] // factor]
    made = [Sensor.of("box", factor, 1).upsample(seen)]
    made += [coarse_prior(seen, Sensor.of(name, factor, 1)) for name in CANDIDATES]
    inner = np.s_[:, _EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX]
    psnr = np.array([-10 * np.log10(((each - truth)[inner] ** 2).mean(axis=(1, 2))).mean() for each in made])
    return np.asarray(psnr - psnr[1 + true])


if __name__ == "__main__":
    made = json.dumps(learned_spectra(Path(sys.argv[1])))
    Path(sensor_estimate.__file__).with_name("sensor_spectra.json").write_text(made)
