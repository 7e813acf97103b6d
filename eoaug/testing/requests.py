"""Requests as the engine would make them."""

from __future__ import annotations

import numpy as np

from eoaug.engine.layout import lattice_for
from eoaug.generators.base import METADATA_FIELDS, Card, Request, Verb
from eoaug.generators.interpolation.texture import texture
from eoaug.raster.sensor import Sensor

__all__ = ["requests"]


# -- requests -----------------------------------------------------------------------------------------


def requests(card: Card, verb: Verb, count: int = 1, *, seed: int = 0, factor: int = 2) -> list[Request]:
    """Return requests as the engine would make them for a card: neighbouring tiles of random content.

    Parameters
    ----------
    card
        Whose tile size, bands and context the requests have.
    verb
        What they ask for.
    count
        How many, each with its own origin and content, all of one shape.
    seed
        Of content, masks and of the requests.
    factor
        Refinement of super-resolution, for cards that serve any.
    """
    refinement = (*card.factors, factor)[0] if verb == "super_resolve" else 1
    lattice = lattice_for(card, refinement, verb)
    channels = len(card.bands) or 3
    dates = 1 + (min(card.context, 2) if verb in ("inpaint", "extend") else 0)
    return [
        _request(card, verb, (3 * lattice.stride, (i - 1) * lattice.stride), dates, channels,
                 lattice.size, refinement, np.random.default_rng([seed, i]), seed)
        for i in range(count)
    ]  # fmt: skip


def _request(
    card: Card,
    verb: Verb,
    origin: tuple[int, int],
    dates: int,
    channels: int,
    size: int,
    factor: int,
    rng: np.random.Generator,
    seed: int,
) -> Request:
    target = dates // 2
    shape = (dates, channels, size, size)
    values = np.stack([texture(origin, shape[1:], seed=seed, time=t) for t in range(dates)])
    known = np.ones(shape, bool)
    fill = np.zeros(shape, bool)
    cut = size // 3
    if dates > 1:
        known[0, :, :cut, :cut] = False
    if verb == "inpaint":
        fill[target, :, cut : 2 * cut, cut:] = True
        known[target] &= ~fill[target]
    else:
        fill[target] = True
        known[target] = False
    values[~known] = 0
    coarse = sensor = None
    if verb == "super_resolve":
        coarse = rng.normal(size=(1, channels, size // factor, size // factor)).astype(np.float32)
        sensor = Sensor(factor=factor, mtf=(0.3,))
    day = 18_700 + 10 * np.arange(dates)
    metadata = np.full((dates, len(METADATA_FIELDS)), np.nan)
    metadata[:, :3] = 12.5, 48.25, 10.0 / factor
    metadata[:, 4:] = 2021, 3, 1
    return Request(
        values=values.astype(np.float32),
        known=known,
        fill=fill,
        times=(day * 86_400).astype(np.int64),
        metadata=metadata,
        origin=origin,
        coarse=coarse,
        factor=factor,
        sensor=sensor,
        seed=seed,
        steps=card.steps.get(verb),
    )
