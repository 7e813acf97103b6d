"""How much of a cube is known, and how much of it a plan fills: exact for NumPy, block by block for lazy cubes."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.inputs import Inputs
from eoaug.engine.layout import Layout
from eoaug.engine.tile_requests import valid
from eoaug.engine.values import Coverage, Layer
from eoaug.errors import EoaugWarning

__all__ = ["KnownProbe", "clear_share", "coverage_of", "knows_anything", "layer_masks"]


def coverage_of(plan: Layout, inputs: Inputs) -> Coverage | None:
    """Return clear share and share to fill by date; None for lazy inputs and without any."""
    if not inputs.bands or any(hasattr(array, "dask") for array in inputs.arrays()):
        return None
    shape = np.shape(inputs.bands[0])
    clear = np.zeros(shape, bool)
    fill = np.zeros((len(plan.calendar.out_times), *shape[1:]), bool)
    for known, target in layer_masks(plan, inputs):
        clear |= known
        fill |= target
    return Coverage(clear.mean(axis=(1, 2)), fill.mean(axis=(1, 2)))


def layer_masks(plan: Layout, inputs: Inputs) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield for every layer which pixels are known, shape (Tin, Y, X), and which are generated, (Tout, Y, X).

    Parameters
    ----------
    plan
        The plan.
    inputs
        NumPy arrays.
    """
    mask = None if inputs.mask is None else np.asarray(inputs.mask, bool)
    for layer, band in zip(plan.bands.layers, inputs.bands, strict=True):
        measured = np.stack([valid(layer, image) for image in np.asarray(band)])
        seen_through = plan.verb == "translate" and layer.slot in plan.bands.seen_through
        known = measured if mask is None or seen_through else measured & ~mask
        target = np.zeros((len(plan.calendar.out_times), *known.shape[1:]), bool)
        if layer.origin != "observed":
            for date, image in enumerate(target):
                image |= _filled(plan, date, known, measured, mask)
        yield known, target


def _filled(
    plan: Layout,
    date: int,
    known: NDArray[np.bool_],
    measured: NDArray[np.bool_],
    mask: NDArray[np.bool_] | None,
) -> Any:
    """Return the pixels of one band that are generated on a date, as `tile_requests` decides it."""
    given = plan.calendar.given(date)
    near = list(plan.neighbours(date))
    if plan.fill == "scene":
        return True
    if plan.verb == "extend" and given is not None:
        return False
    if plan.fill == "footprint":
        return measured[near].any(axis=0)
    assert given is not None
    if plan.fill == "measured":
        return (measured if plan.verb == "synthesize" else known)[given]
    if plan.fill == "mask":
        assert mask is not None
        return mask[given]
    if plan.fill in ("everything", "translated"):
        return ~known[given]
    return ~known[given] & known[[d for d in near if d != given]].any(axis=0)


def knows_anything(layers: Sequence[Layer], bands: Sequence[Any], mask: Any) -> bool:
    """Return True if any pixel is measured and not masked. Lazy arrays are read block by block up to that pixel."""
    for window in _windows(bands, mask):
        hidden = None if mask is None else np.asarray(_read(mask[window]), bool)
        if hidden is not None and hidden.all():
            continue
        for layer, band in zip(layers, bands, strict=True):
            known = valid(layer, np.asarray(_read(band[window])))
            if (known if hidden is None else known & ~hidden).any():
                return True
    return False


def clear_share(plan: Layout, inputs: Inputs, date: int, enough: float) -> float:
    """Return the share of the ground that is clear on a date, or on one that it may depend on, 0 to 1.

    The ground is what any of these dates measured in the first band, cloud or not. Lazy arrays are read block by block,
    the nearest date first, and no further than to the share that is enough.

    Parameters
    ----------
    plan, inputs
        The plan and its inputs.
    date
        Index of the date in the result.
    enough
        From this share on, the result is a lower bound.
    """
    layer, band, calendar = plan.bands.layers[0], inputs.bands[0], plan.calendar
    away = np.abs(calendar.in_times - calendar.out_times[date])
    near = sorted(plan.neighbours(date), key=lambda one: (away[one], one))
    total = int(np.prod(np.shape(band)[1:]))
    ground = clear = 0
    for rows, cols in _blocks(band):
        measured = np.zeros((rows.stop - rows.start, cols.stop - cols.start), bool)
        seen = measured.copy()
        for one in near:
            good = valid(layer, np.asarray(_read(band[one, rows, cols])))
            measured |= good
            if good.any():
                hidden = (
                    None if inputs.mask is None else np.asarray(_read(inputs.mask[one, rows, cols]), bool)
                )
                seen |= good if hidden is None else good & ~hidden
            if seen.all() or clear + seen.sum() >= enough * total:
                break
        ground, clear = ground + int(measured.sum()), clear + int(seen.sum())
        if clear >= enough * total:
            return clear / total
    return clear / ground if ground else 0.0


def _blocks(array: Any) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the blocks of an array over (T, Y, X)."""
    sizes = array.chunks[1:] if hasattr(array, "dask") else tuple((n,) for n in np.shape(array)[1:])
    rows, cols = ([slice(*map(int, e)) for e in pairwise(np.concatenate([[0], np.cumsum(n)]))] for n in sizes)
    yield from product(rows, cols)


def _windows(bands: Sequence[Any], mask: Any) -> Iterator[tuple[slice, ...]]:
    """Yield blocks of the first lazy array, those in the middle first: swaths are empty at their corners."""
    lazy = next((array for array in (*bands, mask) if hasattr(array, "dask")), None)
    if lazy is None:
        for date in range(len(bands[0])):
            yield (slice(date, date + 1), slice(None), slice(None))
        return
    edges = [np.concatenate([[0], np.cumsum(sizes)]) for sizes in lazy.chunks]
    middle = np.array([e[-1] / 2 for e in edges])
    blocks = [tuple(slice(int(e[i]), int(e[i + 1])) for e, i in zip(edges, index, strict=True))
              for index in np.ndindex(*lazy.numblocks)]  # fmt: skip

    def distance(block: tuple[slice, ...]) -> float:
        return float(np.abs([(b.start + b.stop) / 2 for b in block] - middle)[1:].sum())

    yield from sorted(blocks, key=distance)


def _read(array: Any) -> Any:
    return array.compute(scheduler="synchronous") if hasattr(array, "dask") else array


@dataclass(eq=False)
class KnownProbe:
    """The question whether a lazy cube has any known pixel, answered once per process and only if a chunk has none."""

    name: str
    """The answer's key: equal for equal cubes."""
    layers: tuple[Layer, ...]
    bands: tuple[Any, ...]
    mask: Any
    what: str
    """What asks, for the warning."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self) -> bool:
        """Return the answer; a cube that cannot be read here counts as known."""
        with self._lock:
            if self.name not in _ANSWERS:
                try:
                    _ANSWERS[self.name] = knows_anything(self.layers, self.bands, self.mask)
                except TypeError:  # futures of a cluster in place of arrays
                    _ANSWERS[self.name] = True
                if not _ANSWERS[self.name]:
                    way = (
                        "fill='all' generates it"
                        if self.what == "inpaint"
                        else "mask='none' takes masked pixels too"
                    )
                    text = f"{self.what} left the cube as it is: not one pixel is measured; {way}"
                    warnings.warn(text, EoaugWarning, stacklevel=2)
            return _ANSWERS[self.name]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


_ANSWERS: dict[str, bool] = {}
