"""The arguments `sensor` and `sensor_noise`: named, or estimated from a bounded sample of the cube."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import Cube, CubeBand
from eoaug.errors import EoaugWarning, ParameterError
from eoaug.raster.sensor import Sensor
from eoaug.raster.sensor_estimate import CANDIDATES, SensorEstimate, estimate_sensors
from eoaug.raster.sensor_kernels import Resampling, transfer_at_nyquist

__all__ = ["SensorChoice", "choose_sensor"]


_WINDOW_PX = 64
_WINDOWS = 16
"""Windows that are read at once, and complete blocks that are enough; three times as many are read at most."""
_ROUNDS = 3
_CONTRADICTION_DB = 1.0
"""Expected loss against the estimate from which a named sensor contradicts the image."""
_PACKAGE = str(Path(__file__).parent.parent)


@dataclass(frozen=True)
class SensorChoice:
    """How the pixels of a cube were measured, as far as named or seen."""

    sensor: Sensor
    """Of the bands of the cube; noise in physical units."""
    record: dict[str, Any]
    """Parameters for the provenance record."""
    notes: tuple[tuple[str, str], ...]
    """(Label, text) for `Plan.explain`."""


def choose_sensor(cube: Cube, mask: Any, sensor: Any, noise: Any, factor: int) -> SensorChoice:
    """Return the sensor of a cube.

    Parameters
    ----------
    cube
        If anything is left to be estimated, at most 48 windows of 64 x 64 pixels are read, the same of a lazy cube and of one
        in memory.
    mask
        Shape (T, Y, X), True for pixels that do not count, such as cloud; or None.
    sensor
        As for `Sensor.of`, or ``"auto"``.
    noise
        Standard deviation of the noise in physical units, of all bands or one per band; None: estimated.
    factor
        Refinement factor.
    """
    auto = isinstance(sensor, str) and sensor == "auto"
    named = None if auto else Sensor.of(sensor, factor, len(cube.bands))
    given_noise = None if noise is None else _noise_of(noise, cube)
    seen: list[SensorEstimate] = []
    if auto or given_noise is None:
        seen = estimate_sensors(_windows(cube, mask), factor)
    if given_noise is None:
        given_noise = tuple(float(f"{each.noise:.4g}") for each in seen)
    model = named or Sensor(factor=factor, mtf=tuple(each.sensor for each in seen))
    model = replace(model, noise=given_noise if any(given_noise) else ())
    if named is not None and seen:
        _warn_of_contradiction(cube, named, sensor, seen)
    record: dict[str, Any] = {
        "sensor": "box" if model.mtf is None else list(model.mtf),
        "sensor_noise": list(given_noise),
    }
    if seen:
        pairs = zip(cube.bands, seen, strict=True)
        record["sensor_estimate"] = {band.name: _recorded(each) for band, each in pairs}
    return SensorChoice(model, record, tuple(_notes(cube, model, given_noise, seen)))


def _noise_of(noise: Any, cube: Cube) -> tuple[float, ...]:
    count = len(cube.bands)
    try:
        values = np.broadcast_to(np.asarray(noise, np.float64), count)
    except (TypeError, ValueError):
        values = np.array([math.nan])
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ParameterError(
            f"sensor_noise={noise!r} is no standard deviation of {count} bands",
            "give a number of 0 or more in physical units, or one per band",
        )
    return tuple(values.tolist())


# -- what was seen ------------------------------------------------------------------------------------


def _recorded(estimate: SensorEstimate) -> dict[str, Any]:
    out: dict[str, Any] = {"blocks": estimate.blocks, "noise": float(f"{estimate.noise:.4g}")}
    if estimate.reason:
        return out | {"reason": estimate.reason}
    return out | {"mtf": round(estimate.mtf, 3), "std": round(estimate.std, 3)}


def _notes(
    cube: Cube, model: Sensor, noise: Sequence[float], seen: Sequence[SensorEstimate]
) -> Iterator[tuple[str, str]]:
    """Yield a line per band: the sensor that is used, and what the image shows."""
    for index, band in enumerate(cube.bands):
        mtf = model.of_band(index).mtf
        used = "box" if mtf is None else mtf[0]
        text = f"{used}, noise {noise[index]:.2g}"
        if seen and seen[index].reason:
            text += f"; not estimated: {seen[index].reason}"
        elif seen:
            text += f"; estimated MTF {seen[index].mtf:.2f} +/- {seen[index].std:.2f}"
        yield f"sensor of {band.name}", text


def _warn_of_contradiction(cube: Cube, named: Sensor, given: Any, seen: Sequence[SensorEstimate]) -> None:
    """Warn if the image shows that a named sensor would cost more than it helps."""
    against = []
    for index, (band, each) in enumerate(zip(cube.bands, seen, strict=True)):
        mtf = named.of_band(index).mtf
        value: float | Resampling = "box" if mtf is None else mtf[0]
        if each.losses and (lost := -each.losses[_nearest(value, named.factor)]) > _CONTRADICTION_DB:
            against.append(f"{band.name} MTF {each.mtf:.2f} +/- {each.std:.2f}, about {lost:.1f} dB")
    if against:
        text = (
            f"sensor={given!r} contradicts the image, which shows: {'; '.join(against)} of PSNR lost against "
            "sensor='auto'; use that unless you know the sensor"
        )
        warnings.warn(text, EoaugWarning, skip_file_prefixes=(_PACKAGE,))


def _nearest(value: float | Resampling, factor: int) -> int:
    """Return the index of the candidate that is most like a sensor."""
    if value in CANDIDATES:
        return CANDIDATES.index(value)
    transfer = transfer_at_nyquist(factor, value)
    return int(np.argmin([abs(transfer_at_nyquist(max(factor, 4), name) - transfer) for name in CANDIDATES]))


# -- the sample ---------------------------------------------------------------------------------------


def _windows(cube: Cube, mask: Any) -> list[list[NDArray[np.float64]]]:
    """Return windows of every band in physical units, NaN where missing or masked."""
    dates = cube.bands[0].data.shape[0]
    positions = list(_positions((dates, *cube.shape_yx)))
    sources = [band.data for band in cube.bands] + ([] if mask is None else [mask])
    out: list[list[NDArray[np.float64]]] = [[] for _ in cube.bands]
    complete = 0
    for first in range(0, min(len(positions), _ROUNDS * _WINDOWS), _WINDOWS):
        chosen = positions[first : first + _WINDOWS]
        read = _computed([array[where] for where in chosen for array in sources])
        for start in range(0, len(read), len(sources)):
            hidden = False if mask is None else np.asarray(read[start + len(sources) - 1], bool)
            here = read[start : start + len(cube.bands)]
            images = [_physical(b, a) for b, a in zip(cube.bands, here, strict=True)]
            for windows, image in zip(out, images, strict=True):
                windows.append(np.where(hidden, np.nan, image))
            complete += bool(np.mean([np.isfinite(w[-1]).mean() for w in out]) > 0.5)
        if complete >= _WINDOWS // 2:
            break
    return out


def _positions(shape: tuple[int, int, int]) -> Iterator[tuple[int, slice, slice]]:
    """Yield windows of a stack of images, each once, spread over dates, rows and columns."""
    starts = [
        np.linspace(0, max(size - _WINDOW_PX, 0), -(-size // _WINDOW_PX)).astype(int) for size in shape[1:]
    ]
    counts = np.array([shape[0], *map(len, starts)])
    total = int(np.prod(counts))
    if total <= _ROUNDS * _WINDOWS:
        indices = np.stack(np.unravel_index(np.arange(total), tuple(counts)), axis=1)
        # Every third first: a round is spread as well.
        indices = np.concatenate([indices[k::_ROUNDS] for k in range(_ROUNDS)])
    else:
        # An additive sequence of low discrepancy in three dimensions (Roberts 2018; the root of x^4 = x + 1).
        steps = 1.2207440846057596 ** -np.arange(1.0, 4.0)
        points = (0.5 + np.arange(1, 1000)[:, None] * steps) % 1.0
        indices = (points * counts).astype(int)
    for t, y, x in dict.fromkeys(map(tuple, indices.tolist())):
        top, left = int(starts[0][y]), int(starts[1][x])
        yield t, slice(top, top + _WINDOW_PX), slice(left, left + _WINDOW_PX)


def _computed(arrays: list[Any]) -> list[Any]:
    if not any(hasattr(array, "dask") for array in arrays):
        return arrays
    from eoaug.engine.dask_graph import computed

    return computed(arrays)


def _physical(band: CubeBand, stored: NDArray[Any]) -> NDArray[np.float64]:
    values = np.asarray(stored)
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if band.nodata is not None and not math.isnan(band.nodata):
        valid &= values != band.nodata
    return np.where(valid, np.asarray(band.scaling(values), np.float64), np.nan)
