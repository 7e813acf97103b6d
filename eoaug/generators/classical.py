"""The torch-free generator: smooth fill, linear in time, cubic with back-projection.

Numpy and scipy. Learned generators start from these classical estimates and are compared with them. All work band by
band, with a fixed number of sums in a fixed order, and use nothing outside the tile but `Request.context_cells`.
Unknown values are 0 in the input, as in `Request`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eoaug.errors import GeneratorError
from eoaug.generators.base import Card, Request
from eoaug.generators.interpolation.back_projection import prior_with_halo, tile_of
from eoaug.generators.interpolation.band_guide import guided_batch
from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.generators.interpolation.texture import texture
from eoaug.generators.interpolation.time_series import temporal
from eoaug.generators.translation.estimate import translated_batch
from eoaug.raster.arrays import Float32Array

__all__ = ["Classical", "estimate"]


def estimate(request: Request) -> Float32Array:
    """Return the classical estimate of a request.

    Parameters
    ----------
    request
        Pixels under ``fill`` count as unknown, except in synthesize: there a known pixel under ``fill`` is the start of
        a variation.

    Returns
    -------
    Shape (T, C, H, W), model units: known pixels as they are, target dates estimated everywhere, 0
    elsewhere.
    """
    known = request.known & ~request.fill
    out = np.where(request.known, request.values, np.float32(0))
    verb = request.verb
    for date in np.flatnonzero(request.target).tolist():
        if verb == "super_resolve":
            made = tile_of(request, prior_with_halo(request, date))
        elif verb == "synthesize":
            field = texture(
                request.origin,
                out.shape[1:],
                seed=request.seed,
                member=request.member,
                time=int(request.times[date]),
            )
            # Without a start: mean 0, standard deviation 1. A variation adds the field times its strength.
            start = push_pull(request.values[date], request.known[date]) if request.strength < 1.0 else 0
            made = start + np.float32(request.strength) * field
        else:
            made = temporal(request.values, known, request.times, date, request.context_cells)
        out[date] = np.where(known[date], request.values[date], made)
    return out


@dataclass(frozen=True)
class Classical:
    """The generator without weights: deterministic, any bands, each on its own.

    It ignores member and seed except in synthesize, which is a null model: noise with the power spectrum of a landscape
    (`texture`).
    """

    @property
    def card(self) -> Card:
        """What this generator can do."""
        return _CARD

    def generate(self, requests: Sequence[Request]) -> Float32Array:
        """Return shape (B, T, C, H, W), model units; pixels not under ``fill`` are the request's.

        Parameters
        ----------
        requests
            All of one shape.
        """
        if requests and requests[0].guided:
            return guided_batch(requests)
        if requests and requests[0].translated:
            return translated_batch(requests)
        if len(shapes := {request.values.shape for request in requests}) != 1:
            raise GeneratorError(
                f"classical: generate got requests of {len(shapes)} shapes: {sorted(shapes)}",
                "pass one or more requests of equal shape per call",
            )
        return np.stack(
            [
                np.where(
                    request.fill,
                    estimate(request),
                    np.where(request.known, request.values, np.float32(0)),
                )
                for request in requests
            ]
        )


_CARD = Card(
    name="classical",
    tile_px=64,
    overlap_px=8,
    batch=8,
    context=3,
    uses_context=True,
    member_steps={"translate": 1},
    sharpens_bands=True,
    verbs=frozenset({"synthesize", "inpaint", "extend", "super_resolve", "translate"}),
    description=(
        "Push-pull fill, linear in time corrected from clear pixels, cubic interpolation with "
        "back-projection, Gaussian texture; no weights."
    ),
)
