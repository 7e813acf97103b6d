"""The contract suite: what every generator must fulfil."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import Card, Generator, Request, SteppedGenerator, Verb
from eoaug.generators.identity import identity_of
from eoaug.testing.requests import requests

__all__ = ["check_generator"]


_COUNTS = (1, 2, 5, 8)


def check_generator(generator: Generator, *, verbs: Sequence[Verb] | None = None) -> None:
    """Check everything that the engine relies on; every generator must pass.

    Checked are the card; shape, type and finite values of results; equal bytes in repeated calls, in batches of any
    composition, in threads and after pickling; that known pixels are unchanged; the order of bands, and requests that
    lack a band; and that taking all steps equals ``generate``.

    Parameters
    ----------
    generator
        The generator to check.
    verbs
        Verbs to check; default: all of the card.

    Raises
    ------
    AssertionError
        A check fails; the message names it, with generator and verb.
    """
    assert isinstance(generator, Generator), f"{generator!r} lacks card or generate"
    card = generator.card
    _check_card(card)
    _check_pickle(generator)
    chosen: list[Verb] = [v for v in get_args(Verb) if v in (card.verbs if verbs is None else verbs)]
    for verb in chosen:
        batch = requests(card, verb, max(_COUNTS))
        whole = generator.generate(batch)
        where = f"{card.name}, {verb}"
        _check_answer(whole, batch, where)
        assert _same(whole, generator.generate(batch)), f"{where}: a second call gives other bytes"
        for count in _COUNTS[:-1]:
            part = generator.generate(batch[-count:])
            assert _same(part, whole[-count:]), (
                f"{where}: a request's result changes in a call of {count} instead of {len(batch)}"
            )
        shuffled = generator.generate(batch[::-1])[::-1]
        assert _same(shuffled, whole), f"{where}: the order of the requests changes their results"
        restored = pickle.loads(pickle.dumps(generator))
        assert _same(restored.generate(batch[:2]), whole[:2]), f"{where}: other bytes after pickling"
        with ThreadPoolExecutor(4) as pool:
            alone = list(pool.map(lambda request: generator.generate([request])[0], batch[:4]))
        assert _same(np.stack(alone), whole[:4]), f"{where}: threads give other bytes"
        # A translation has no joint steps: only `generate` is called for it.
        if isinstance(generator, SteppedGenerator) and verb != "translate":
            _check_steps(generator, batch[: card.batch], whole[: card.batch], where)
        _check_bands(generator, verb, where)
    if "synthesize" in chosen:
        _check_identity(generator)


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _check_card(card: Card) -> None:
    assert card.name.strip(), f"a card needs a name, found {card.name!r}"
    assert len(set(card.bands)) == len(card.bands), f"{card.name}: bands repeat: {card.bands}"
    known = set(get_args(Verb))
    assert set() < card.verbs <= known, f"{card.name}: verbs {set(card.verbs)} are none or unknown"
    assert 0 <= card.overlap_px <= card.tile_px // 2, (
        f"{card.name}: overlap {card.overlap_px} of tile {card.tile_px}"
    )
    assert card.canvas_px == 0 or card.canvas_px >= card.tile_px, (
        f"{card.name}: draws {card.canvas_px} px for a tile of {card.tile_px}"
    )
    for name, least in (("multiple_of", 1), ("latent_factor", 1), ("batch", 1), ("context", 0)):
        found = getattr(card, name)
        assert found >= least, f"{card.name}: {name} is {found}, at least {least} is needed"
    for name, constants in (("mean", card.mean), ("std", card.std)):
        assert len(constants) in (0, len(card.bands)), (
            f"{card.name}: {len(constants)} values of {name} for {len(card.bands)} bands"
        )
        assert all(math.isfinite(v) for v in constants), f"{card.name}: {name} is not finite"
    assert bool(card.mean) == bool(card.std), f"{card.name}: mean and std belong together"
    assert all(v > 0 for v in card.std), f"{card.name}: std must be positive"
    for kind, counts in (("steps", card.steps), ("joint_steps", card.joint_steps)):
        assert set(counts) <= card.verbs, f"{card.name}: {kind} for verbs that it does not serve"
        assert all(v >= 0 for v in counts.values()), f"{card.name}: negative {kind} {dict(counts)}"
    assert card.conditions <= {"prompt", "layout", "metadata", "guidance"}, f"{card.name}: {card.conditions}"
    assert 0 <= card.gsd_m[0] < card.gsd_m[1], f"{card.name}: gsd_m {card.gsd_m} is not a range"
    assert card.sha256 == "" or len(card.sha256) == 64, f"{card.name}: sha256 {card.sha256!r}"


def _check_pickle(generator: Generator) -> None:
    size = len(pickle.dumps(generator))
    assert size < 100_000, f"{generator.card.name} pickles to {size:,} bytes: weights do not belong there"
    restored = pickle.loads(pickle.dumps(generator))
    assert restored.card == generator.card, f"{generator.card.name}: pickling changes the card"
    assert identity_of(restored) == identity_of(generator), (
        f"{generator.card.name}: pickling changes the settings"
    )


def _check_answer(answer: NDArray[Any], batch: Sequence[Request], where: str) -> None:
    expected = (len(batch), *batch[0].values.shape)
    assert answer.shape == expected, f"{where}: shape {answer.shape} instead of {expected}"
    assert answer.dtype == np.float32, f"{where}: {answer.dtype} instead of float32"
    assert np.isfinite(answer).all(), f"{where}: {int((~np.isfinite(answer)).sum())} values are not finite"
    for i, request in enumerate(batch):
        kept = request.known & ~request.fill
        assert _same(answer[i][kept], request.values[kept]), (
            f"{where}: measured pixels of request {i} changed"
        )


def _check_steps(
    generator: SteppedGenerator, batch: Sequence[Request], whole: NDArray[Any], where: str
) -> None:
    cell = generator.card.latent_factor
    H, W = batch[0].values.shape[2:]
    state = generator.begin(batch)
    for index in range(batch[0].steps or 0):
        estimate = generator.step(state, index)
        expected = (len(batch), estimate.shape[1], H // cell, W // cell)
        assert estimate.shape == expected, f"{where}: step returned {estimate.shape} instead of {expected}"
        generator.replace(state, estimate.copy())
    result = generator.finish(state)
    assert _same(result, whole), f"{where}: begin, step and finish give other bytes than generate"


def _check_bands(generator: Generator, verb: Verb, where: str) -> None:
    card = generator.card
    (request,) = requests(card, verb, 1, seed=3)
    absent = request.values.shape[1] - 1
    known, fill = request.known.copy(), request.fill.copy()
    known[:, absent] = fill[:, absent] = False
    values = np.where(known, request.values, np.float32(0))
    coarse = request.coarse
    if coarse is not None:
        coarse = coarse.copy()
        coarse[:, absent] = np.nan
    lacking = replace(request, values=values, known=known, fill=fill, coarse=coarse)
    _check_answer(generator.generate([lacking]), [lacking], f"{where} without its last band")
    if verb != "super_resolve":
        return
    assert request.coarse is not None
    # Flat bands of well separated levels must come back in their own slots.
    levels = np.linspace(-1, 1, request.values.shape[1], dtype=np.float32)
    flat = replace(request, coarse=np.broadcast_to(levels[:, None, None], request.coarse.shape).copy())
    means = generator.generate([flat])[0, 0].mean(axis=(1, 2))
    if len(levels) > 1:
        match = float(np.corrcoef(levels, means)[0, 1])
        assert match > 0.9, f"{where}: bands come back in other slots (correlation {match:.2f})"


def _check_identity(generator: Generator) -> None:
    card = generator.card
    (request,) = requests(card, "synthesize", 1)
    first = generator.generate([request])
    for change in ({"member": 1}, {"seed": request.seed + 1}, {"origin": (1024, 2048)}):
        other = generator.generate([replace(request, **change)])
        assert not _same(first, other), f"{card.name}, synthesize: {change} changes nothing"
