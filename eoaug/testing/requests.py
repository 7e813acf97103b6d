"""Requests as the engine would make them."""

from __future__ import annotations

from typing import Any

import numpy as np

from eoaug.engine.layout import lattice_for
from eoaug.generators.base import Card, Request, Verb, metadata_rows
from eoaug.generators.interpolation.texture import texture
from eoaug.raster.sensor import Sensor

__all__ = ["requests"]


def requests(card: Card, verb: Verb, count: int = 1, *, seed: int = 0, factor: int = 2) -> list[Request]:
    """Return requests as the engine would make them for a card: neighbouring tiles of random content.

    Parameters
    ----------
    card
        Card that sets tile size, bands and context of the requests.
    verb
        Verb of the requests.
    count
        Number of requests, each with its own origin and content, all of one shape.
    seed
        Random seed of content and masks, and seed of the requests.
    factor
        Refinement of super-resolution, for cards that serve any.
    """
    refinement = (*card.factors, factor)[0] if verb == "super_resolve" else 1
    stride = lattice_for(card, refinement, verb).stride
    return [
        _request(card, verb, refinement, (3 * stride, (number - 1) * stride), (seed, number))
        for number in range(count)
    ]


def _request(card: Card, verb: Verb, factor: int, origin: tuple[int, int], seeds: tuple[int, int]) -> Request:
    """Return the request of one tile; ``seeds`` are the seed of the request and the number of the tile."""
    size = lattice_for(card, factor, verb).size
    channels = len(card.bands) or 3
    dates = 1 + (min(card.context, 2) if verb in ("inpaint", "extend", "translate") else 0)
    seed, _ = seeds
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
    elif verb == "translate":
        # The first band, from the others of its date.
        fill[target, 0] = True
        known[target, 0] = False
    else:
        fill[target] = True
        known[target] = False
    values[~known] = 0
    coarse = sensor = None
    if verb == "super_resolve":
        cells = (1, channels, size // factor, size // factor)
        coarse = np.random.default_rng(seeds).normal(size=cells).astype(np.float32)
        sensor = Sensor(factor=factor, mtf=(0.3,))
    times = (18_700 + 10 * np.arange(dates, dtype=np.int64)) * 86_400
    return Request(
        values=values.astype(np.float32),
        known=known,
        fill=fill,
        times=times,
        metadata=metadata_rows(
            times, dated=False, lon_deg=12.5, lat_deg=48.25, gsd_m=10.0 / factor, year=2021, month=3, day=1
        ),
        origin=origin,
        coarse=coarse,
        factor=factor,
        sensor=sensor,
        seed=seed,
        steps=card.steps.get(verb),
        **_meaning(card, channels) if verb == "translate" else {},
    )


def _meaning(card: Card, channels: int) -> dict[str, Any]:
    """Return what a request of the verb translate says of its channels."""
    units = zip(card.mean, card.std, strict=True) if card.mean else [(0.15, 0.05)] * channels
    names = card.bands or ("red", "nir", "swir16")
    return {"translated": True, "channel_names": names, "channel_units": tuple(units)}
