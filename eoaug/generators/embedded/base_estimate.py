"""The base estimate of a conditional request: the prior, and the correction of a regressor.

Numpy. Training and inference share this code, so that networks get the same features in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from eoaug.generators.base import Request, present_bands
from eoaug.generators.embedded.features import Features, category, extract_features
from eoaug.generators.interpolation import back_projection
from eoaug.generators.interpolation.best_estimate import LinearEstimate, best_linear_estimate
from eoaug.generators.interpolation.spread import local_contrast
from eoaug.raster.arrays import Float32Array

__all__ = ["PRIOR", "BaseEstimate", "Regressors", "base_estimates", "of_one_shape"]


PRIOR = "prior"
"""Name of the layer without a network."""

_CLIP = 8.0
"""Limit of the normalised base estimate among the features."""

Forward = Callable[[str, Sequence[Float32Array], Sequence[Float32Array]], Iterable[Float32Array]]
"""From a network's name, feature images (trailing channels of zeros may be cut off) and feature vectors to
corrections (C, H, W) in the network's unit."""


class BaseEstimate:
    """Base estimate of one conditional request; images (C, H, W) in model units.

    Parameters
    ----------
    request
        One date to fill.
    context
        Number of context dates that the networks take.
    slots
        Number of channels that the networks take, the first ones; None: all. The others have the prior alone.

    Attributes
    ----------
    target : int
        Index of the date to fill.
    category : str
        See `features.category`.
    present : ndarray of bool
        Shape (C, 1, 1), True for bands of the cube.
    slots : int
        Number of channels that the networks take.
    base : ndarray
        The best estimate: at first the prior, after `correct` with the regressor's correction; 0 for absent bands.
    """

    def __init__(self, request: Request, context: int, slots: int | None = None) -> None:
        self.request = request
        self.target = int(np.flatnonzero(request.target)[0])
        channels = request.values.shape[1]
        self.slots = channels if slots is None else slots
        served = request if self.slots == channels else request.of_channels(range(self.slots))
        self.category = category(served)
        self.present = present_bands(request)[:, None, None]
        self._served, self._context = served, context
        self._linear: list[tuple[list[int], LinearEstimate]] | None = None
        if request.coarse is None:
            self._around = None
            self._linear = _best_linear_estimates(request, self.target, self.slots)
            prior = np.zeros(request.values.shape[1:], np.float32)
            for group, made in self._linear:
                prior[group] = made.image
        else:
            self._around = back_projection.prior_with_halo(request, self.target)
            prior = back_projection.tile_of(request, self._around)
        self._prior: Float32Array = np.where(self.present, prior, np.float32(0))
        self.base = self._prior

    @cached_property
    def features(self) -> Features:
        """Inputs of the networks; centre and contrast of all channels."""
        return extract_features(self._served, self._prior, self.target, context=self._context)

    def consistent(self, estimate: Float32Array) -> Float32Array:
        """Return an estimate made consistent with the measurements: the coarse image, then the known pixels."""
        request, out = self.request, estimate
        if self._around is not None:
            out = back_projection.consistent(request, self.target, out, self._around, passes=2)
        known = request.known[self.target]
        return np.where(known, request.values[self.target], out).astype(np.float32, copy=False)

    def correct(self, units: Float32Array) -> None:
        """Add the correction of a regressor, in units of the tile's contrast, to the base."""
        own = np.s_[: self.slots]
        corrected = self.base.copy()
        corrected[own] = self.base[own] + self.features.contrast[own] * units * self.present[own]
        self.base = self.consistent(self.supported(corrected))

    def supported(self, estimate: Float32Array) -> Float32Array:
        """Return an estimate limited to what the other dates support, if there are any."""
        out = estimate.copy()
        for group, made in self._linear or ():
            if made.limits is not None:
                out[group] = np.clip(estimate[group], *made.limits)
        return out

    def spread(self) -> Float32Array:
        """Return the expected size of the residual around each pixel, model units."""
        if self._linear is not None:
            error = np.zeros(self.base.shape, np.float32)
            for group, made in self._linear:
                error[group] = made.error
            return error
        features = self.features
        return features.contrast * local_contrast((self.base - features.centre) / features.contrast)

    @property
    def used(self) -> int:
        """Number of leading channels of ``features.image`` that the request has dates for; the others are 0."""
        return 2 * self.slots * len(self.request.times)

    def image(self) -> Float32Array:
        """Return the input of a network that samples the residual: the normalised base, then ``features.image``."""
        normal = np.clip((self.base - self.features.centre) / self.features.contrast, -_CLIP, _CLIP)
        return np.concatenate([(normal * self.present)[: self.slots], self.features.image])


def _best_linear_estimates(
    request: Request, target: int, slots: int
) -> list[tuple[list[int], LinearEstimate]]:
    """Return the estimates of groups of channels: those of the slots, and each kind of the others, apart.

    A speckled radar band says nothing of the roughness of reflectance. The estimate of the slots does not depend on
    what else the cube holds.
    """
    channels = request.values.shape[1]
    if slots == channels:
        return [(list(range(channels)), best_linear_estimate(request, target))]
    kinds = request.extra_kinds or tuple(map(str, range(channels - slots)))
    groups = [list(range(slots))]
    groups += [[slots + i for i, own in enumerate(kinds) if own == kind] for kind in dict.fromkeys(kinds)]
    parts = [(group, request.of_channels(group)) for group in groups]
    return [(group, best_linear_estimate(part, target)) for group, part in parts if part.fill[target].any()]


class Regressors:
    """The networks that correct the prior, by category of request.

    Parameters
    ----------
    layers
        Network by category, `PRIOR` for none.
    scales
        By network and category: one unit of its output, in units of the tile's contrast.
    forward
        Runs a network.
    """

    def __init__(
        self, layers: Mapping[str, str], scales: Mapping[str, Mapping[str, float]], forward: Forward
    ) -> None:
        self._layers, self._scales, self._forward = layers, scales, forward

    def correct(self, estimates: Sequence[BaseEstimate]) -> None:
        """Correct every estimate whose category has a network."""
        for name in sorted(set(self._layers.values()) - {PRIOR}):
            served = [
                estimate
                for estimate in estimates
                if self._layers[estimate.category] == name and estimate.present[: estimate.slots].any()
            ]
            for group in of_one_shape(served):
                images = [estimate.features.image[: estimate.used] for estimate in group]
                corrections = self._forward(name, images, [estimate.features.facts for estimate in group])
                for estimate, correction in zip(group, corrections, strict=True):
                    # 0 for categories that the network was not trained on.
                    scale = np.float32(self._scales[name].get(estimate.category, 0.0))
                    estimate.correct(scale * correction)


def of_one_shape(estimates: Iterable[BaseEstimate]) -> list[list[BaseEstimate]]:
    """Return estimates in groups of one size and number of dates.

    Within a group a network skips the channels of missing dates. Which channels it skips may change the last bits of a
    result, so they must not depend on the other requests of the batch.
    """
    groups: dict[tuple[int, ...], list[BaseEstimate]] = {}
    for estimate in estimates:
        shape = (len(estimate.request.times), *estimate.base.shape[1:])
        groups.setdefault(shape, []).append(estimate)
    return list(groups.values())


def base_estimates(
    requests: Sequence[Request], context: int, regressors: Regressors, slots: int | None = None
) -> list[BaseEstimate]:
    """Return the base estimates of conditional requests, corrected by the regressors; ``slots`` as in `BaseEstimate`."""
    estimates = [BaseEstimate(request, context, slots) for request in requests]
    regressors.correct(estimates)
    return estimates
