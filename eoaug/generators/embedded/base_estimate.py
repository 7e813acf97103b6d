"""What is expected of a request before anything is drawn: the prior, and what a regressor adds to it.

Numpy. Training and use come through here, so a network is trained on what it will be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from eoaug.generators.base import Request, present_bands
from eoaug.generators.embedded.features import category, conditions
from eoaug.generators.interpolation import back_projection, best_estimate
from eoaug.generators.interpolation.spread import local_contrast
from eoaug.raster.arrays import Float32Array

__all__ = ["PRIOR", "BaseEstimate", "Regressors", "alike", "base_estimates"]


PRIOR = "prior"
"""The layer without a network."""

_CLIP = 8.0
"""Limit of the normalised base among the conditions."""

Forward = Callable[[str, Sequence[Float32Array], Sequence[Float32Array]], Iterable[Float32Array]]
"""Network by name, conditions as images (channels at the end that are 0 may be left away) and as facts; to
moves (C, H, W) in the network's unit."""


class BaseEstimate:
    """What one conditional request stands on; images (C, H, W) in model units.

    Parameters
    ----------
    request
        One date to fill.
    context
        Most other dates that the networks are told.

    Attributes
    ----------
    target : int
        Index of the date to fill.
    category : str
        `conditions.category`.
    present : ndarray of bool
        Shape (C, 1, 1), True for the bands that there are.
    told : Conditions
        What the networks are told.
    base : ndarray
        The best estimate so far: at first the prior, 0 for absent bands.
    """

    def __init__(self, request: Request, context: int) -> None:
        self.request = request
        self.target = int(np.flatnonzero(request.target)[0])
        self.category = category(request)
        self.present = present_bands(request)[:, None, None]
        self._doubt: Float32Array | None = None
        if request.coarse is None:
            self._around = None
            prior, self._doubt = best_estimate.best_linear_estimate(request, self.target)
        else:
            self._around = back_projection.surroundings(request, self.target)
            prior = back_projection.tile_of(request, self._around)
        self.base = np.where(self.present, prior, np.float32(0))
        self.told = conditions(request, self.base, context=context)

    def consistent(self, estimate: Float32Array) -> Float32Array:
        """Return an estimate with every measurement put back: the coarse image, then the known pixels."""
        request, out = self.request, estimate
        if self._around is not None:
            out = back_projection.consistent(request, self.target, out, self._around, passes=2)
        known = request.known[self.target]
        return np.where(known, request.values[self.target], out).astype(np.float32, copy=False)

    def move(self, units: Float32Array) -> None:
        """Add to the base what a regressor expects, in units of the tile's contrast."""
        moved = self.base + self.told.contrast * units * self.present
        self.base = self.consistent(moved.astype(np.float32))

    def spread(self) -> Float32Array:
        """Return the size that what is missing will have around each pixel, model units."""
        if self._doubt is not None:
            return self._doubt
        told = self.told
        return told.contrast * local_contrast((self.base - told.centre) / told.contrast)

    @property
    def used(self) -> int:
        """How many channels of ``told.image`` the request has dates for; the others are 0."""
        return 2 * len(self.base) * len(self.request.times)

    def image(self) -> Float32Array:
        """Return the conditions of a network on top of the base: the base, then what is told."""
        normal = np.clip((self.base - self.told.centre) / self.told.contrast, -_CLIP, _CLIP)
        return np.concatenate([normal * self.present, self.told.image])


class Regressors:
    """Which network, if any, adds to the prior of each category, and in which unit.

    Parameters
    ----------
    layers
        Network by category, `PRIOR` for none.
    scales
        By network and category: one unit of its answer, in the tile's contrast.
    forward
        Runs a network.
    """

    def __init__(
        self, layers: Mapping[str, str], scales: Mapping[str, Mapping[str, float]], forward: Forward
    ) -> None:
        self._layers, self._scales, self._forward = layers, scales, forward

    def add(self, ground: Sequence[BaseEstimate]) -> None:
        """Move the base of every ground whose category has a network."""
        for name in sorted(set(self._layers.values()) - {PRIOR}):
            served = [one for one in ground if self._layers[one.category] == name]
            for group in alike(served):
                images = [one.told.image[: one.used] for one in group]
                moves = self._forward(name, images, [one.told.facts for one in group])
                for one, move in zip(group, moves, strict=True):
                    # Of a category that it never met in training a network says nothing.
                    one.move(np.float32(self._scales[name].get(one.category, 0.0)) * move)


def alike(ground: Iterable[BaseEstimate]) -> list[list[BaseEstimate]]:
    """Return grounds in groups of one size and number of dates: a network then skips the places of dates that lack.

    What a request is answered must not hang on its company, so nobody else's dates count.
    """
    groups: dict[tuple[int, ...], list[BaseEstimate]] = {}
    for one in ground:
        groups.setdefault((len(one.request.times), *one.base.shape[1:]), []).append(one)
    return list(groups.values())


def base_estimates(requests: Sequence[Request], context: int, regressors: Regressors) -> list[BaseEstimate]:
    """Return the grounds of conditional requests, regressors added."""
    found = [BaseEstimate(request, context) for request in requests]
    regressors.add(found)
    return found
