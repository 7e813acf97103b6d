"""The options ``uncertainty`` and ``calibrate``: expected errors, and intervals that hold on the user's own scene.

Split-conformal prediction (Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates, arXiv:2107.07511): clear pixels are
hidden in the shape of the gaps, filled by the same plan, and the expected errors are scaled by the quantile of the
normalised errors there. The scale depends on band and distance to the nearest known pixel (Mondrian categories).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import Cube
from eoaug.engine.coverage import layer_masks
from eoaug.engine.eager import compute
from eoaug.engine.inputs import Inputs
from eoaug.engine.plan import Plan
from eoaug.engine.values import Sampling
from eoaug.errors import ParameterError
from eoaug.generators.base import Generator, UncertaintyGenerator, Verb
from eoaug.raster import noise
from eoaug.raster.arrays import BoolArray, Float32Array
from eoaug.verbs.checks import flag
from eoaug.verbs.options import Options

__all__ = ["LEVEL", "Calibration", "calibrate", "with_uncertainty"]


LEVEL = 0.9
"""Share of pixels that an interval should hold."""
_Z = 1.6448536269514722
"""Half the width of a `LEVEL` interval of the normal distribution, in standard deviations."""
_SHIFTS = ((0.5, 0.5), (0.0, 0.5), (0.5, 0.0), (0.25, 0.75), (0.75, 0.25), (0.25, 0.25))
"""By which shares of the scene the gaps are moved, one round each, to where pixels are known."""
_MOST_HIDDEN = 0.4
"""Most of a date's known pixels that are hidden in a round: with less evidence left, errors would be too large."""
_BLOCK_PX = 32
"""Edge of the blocks in which hidden pixels are dropped where there are too many."""
_DISTANCES_PX = (2.0, 5.0, 12.0, 30.0)
"""Upper edges of the categories of distance; the last is open."""
_LEAST_PX = 300
"""Least number of hidden pixels of a category with a scale of its own."""


def with_uncertainty(
    sampling: Sampling, options: Options, generator: Generator, verb: Verb, cube: Cube, *, lazy: bool
) -> Sampling:
    """Return ``sampling`` with the options ``uncertainty`` and ``calibrate``; refuse what cannot be served.

    Raises
    ------
    ParameterError
        The generator has no expected error, or the verb or another option does not go with it.
    """
    wanted = flag("uncertainty", options.get("uncertainty"))
    widened = flag("calibrate", options.get("calibrate"))
    if widened and not wanted:
        raise ParameterError("calibrate=True needs uncertainty=True", "give both, or neither")
    if not wanted:
        return sampling
    if not isinstance(generator, UncertaintyGenerator):
        raise ParameterError(
            f"uncertainty=True: generator {generator.card.name!r} has no expected error",
            "use generator='embedded', or the spread of an ensemble: members=16, reduce='std'",
        )
    if verb == "synthesize":
        raise ParameterError(
            "uncertainty=True: synthesize has no truth to deviate from", "leave it out, or draw members="
        )
    if sampling.members is not None or sampling.steps:
        raise ParameterError(
            f"uncertainty=True is the expected error of the best estimate, and members={sampling.members}, "
            f"steps={sampling.steps} draw samples",
            "leave members out and give steps=0, or use reduce='std'",
        )
    if cube.form != "dataset":
        raise ParameterError(
            "uncertainty=True adds a variable per band, for which a DataArray has no place",
            "give a Dataset: array.to_dataset('band'), or array.to_dataset(name='red') for one band",
        )
    if widened and verb != "inpaint":
        raise ParameterError(
            f"calibrate=True hides pixels in the shape of the gaps, and {verb} has none",
            "use it with inpaint",
        )
    if widened and lazy:
        raise ParameterError(
            "calibrate=True needs the pixels of the scene, and the cube is lazy",
            "load it or a window of it: cube.load()",
        )
    return replace(sampling, uncertainty=True, calibrated=widened)


@dataclass
class Calibration:
    """Normalised errors at hidden pixels, and the scales that follow from them."""

    names: tuple[str, ...]
    """Bands."""
    scores: dict[tuple[str, int], list[NDArray[np.float32]]] = field(default_factory=dict)
    """By band and category of distance: one array of \\|error\\| / expected error per round."""

    def add(self, name: str, scores: NDArray[np.float32], away_px: NDArray[np.float32]) -> None:
        """Add the hidden pixels of a round."""
        category = np.digitize(away_px, _DISTANCES_PX)
        for number in range(len(_DISTANCES_PX) + 1):
            self.scores.setdefault((name, number), []).append(scores[category == number])

    def scales(self, name: str, without: int | None = None) -> NDArray[np.float64]:
        """Return the scale of the expected error by category of distance, of all rounds or without one."""
        rounds = [
            [s for i, s in enumerate(self.scores.get((name, number), [])) if i != without]
            for number in range(len(_DISTANCES_PX) + 1)
        ]
        parts = [np.concatenate(r) if r else np.zeros(0, np.float32) for r in rounds]
        whole = _scale(np.concatenate(parts))
        return np.array([_scale(part) if len(part) >= _LEAST_PX else whole for part in parts])

    def coverage(self, name: str) -> dict[str, Any]:
        """Return pixels, coverage before and after (each round by the scales of the others), in all and by distance."""
        count, before, after = np.zeros((3, len(_DISTANCES_PX) + 1))
        rounds = len(self.scores[(name, 0)])
        for held_out in range(rounds):
            scales = self.scales(name, held_out if rounds > 1 else None)
            for number, scale in enumerate(scales):
                scores = self.scores[(name, number)][held_out]
                count[number] += len(scores)
                before[number] += np.count_nonzero(scores <= _Z)
                after[number] += np.count_nonzero(scores <= _Z * scale)
        labels = [f"to {edge:g} px" for edge in _DISTANCES_PX] + [f"beyond {_DISTANCES_PX[-1]:g} px"]
        return {
            "hidden_pixels": int(count.sum()),
            "coverage_before": round(float(before.sum() / count.sum()), 3),
            "coverage": round(float(after.sum() / count.sum()), 3),
            "coverage_by_distance": {
                label: round(float(a / c), 3) for label, a, c in zip(labels, after, count, strict=True) if c
            },
        }

    def apply(self, name: str, error: Float32Array, away_px: Float32Array) -> Float32Array:
        """Return expected errors scaled by band and distance; scales are interpolated between categories."""
        centres = np.log(
            [1.0, *np.sqrt(np.multiply(_DISTANCES_PX[:-1], _DISTANCES_PX[1:])), 1.5 * _DISTANCES_PX[-1]]
        )
        scale = np.interp(np.log(np.maximum(away_px, 1.0)), centres, self.scales(name))
        return (error * scale).astype(np.float32)


def _scale(scores: NDArray[np.float32]) -> float:
    """Return the split-conformal quantile of scores over that of the normal distribution; 1 without any score."""
    if not len(scores):
        return 1.0
    rank = min(np.ceil((len(scores) + 1) * LEVEL) / len(scores), 1.0)
    return max(float(np.quantile(scores, rank, method="higher")) / _Z, 1e-3)


def calibrate(
    plan: Plan, inputs: Inputs, arrays: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Any], Calibration]:
    """Return the arrays of a result with calibrated errors, and the calibration.

    Parameters
    ----------
    plan, inputs
        Of an `inpaint` with uncertainty; NumPy inputs.
    arrays
        Its result, by variable.

    Raises
    ------
    ParameterError
        Nothing is filled, or no clear pixel can be hidden.
    """
    layers = plan.bands.layers
    masks = list(layer_masks(plan, inputs))
    known = np.stack([clear for clear, _ in masks])
    gaps = np.any([target for _, target in masks], axis=0)
    calibration = Calibration(tuple(layer.name for layer in layers))
    for hidden in _hidden(gaps, known.all(axis=0)):
        blind = replace(plan, fill="mask", coverage=None, token="")
        made = compute(blind, replace(inputs, mask=gaps | hidden), progress=False)
        away_px = _away_px(gaps | hidden)
        for layer, band in zip(layers, inputs.bands, strict=True):
            chosen = hidden & (made[layer.std_name] > 0)
            truth, filled = (layer.to_physical(np.asarray(a)[chosen]) for a in (band, made[layer.name]))
            scores = np.abs(truth - filled) / made[layer.std_name][chosen]
            calibration.add(layer.name, scores.astype(np.float32), away_px[chosen])
    if not calibration.scores:
        raise ParameterError(
            f"calibrate=True: {float(gaps.mean()):.0%} of the pixels are filled, and no clear pixel can be hidden in "
            "the shape of a gap",
            "calibrate on a scene with gaps and clear land, or leave it out",
        )
    away_px = _away_px(gaps)
    scaled = {
        layer.std_name: calibration.apply(layer.name, arrays[layer.std_name], away_px) for layer in layers
    }
    return {**arrays, **scaled}, calibration


def _hidden(gaps: BoolArray, clear: BoolArray) -> Iterator[BoolArray]:
    """Yield the clear pixels to hide, round after round: the gaps of each date, moved, where all bands are known."""
    rows, cols = gaps.shape[1:]
    for number, (down, right) in enumerate(_SHIFTS):
        moved = np.roll(gaps, (round(down * rows), round(right * cols)), axis=(1, 2)) & clear
        for date, (image, evidence) in enumerate(zip(moved, clear, strict=True)):
            share = image.sum() / max(int(evidence.sum()), 1)
            if share > _MOST_HIDDEN:
                image &= _blocks(image.shape, _MOST_HIDDEN / share, number, date)
        if moved.any():
            yield moved


def _blocks(shape: tuple[int, ...], share: float, number: int, date: int) -> BoolArray:
    """Return a mask of blocks that covers ``share`` of an image, the same in every run."""
    rows, cols = (-(-edge // _BLOCK_PX) for edge in shape)
    drawn = noise.normal((0, 0), (1, rows, cols), seed=number, stream="calibration blocks", time=date)[0]
    chosen = drawn <= np.quantile(drawn, share)
    for axis, edge in enumerate(shape):
        chosen = chosen.repeat(_BLOCK_PX, axis=axis).take(range(edge), axis=axis)
    return np.asarray(chosen)


def _away_px(missing: BoolArray) -> Float32Array:
    """Return the distance of each missing pixel to the nearest other one of its date, shape (T, Y, X)."""
    from scipy import ndimage

    away: Float32Array = np.full(missing.shape, float(max(missing.shape[1:])), np.float32)
    for image, out in zip(missing, away, strict=True):
        if not image.all():
            out[...] = ndimage.distance_transform_edt(image)
    return away
