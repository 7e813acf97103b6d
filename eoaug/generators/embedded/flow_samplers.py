"""Samplers as plain functions on the linear path x_t = t x + (1 - t) e, t from 0 (noise) to 1 (clean).

Imports numpy. A model is anything that returns the clean estimate x_hat(x_t, t); noise and schedule are
arguments, and any array type with arithmetic will do. No randomness here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["dpmpp_2m", "euler", "karras", "noised", "sample_dpmpp_2m"]


type Array = Any
"""A NumPy array or a tensor: whatever adds and multiplies."""


def karras(
    steps: int, *, sigma_max: float = 80.0, sigma_min: float = 0.05, rho: float = 7.0
) -> tuple[float, ...]:
    """Return ``steps + 1`` times, dense where the large scales are decided (arXiv:2206.00364, eq. 5).

    On the linear path sigma = (1 - t) / t. The mean of a tile of n pixels shows through noise of sigma about
    sqrt(n): for 64 x 64 pixels it is settled at t = 0.02 to 0.1, which even steps in t jump over.

    Parameters
    ----------
    steps
        Number of model calls, at least 1.
    sigma_max, sigma_min
        Noise over signal at the first and the last call; the last step then goes to t = 1.
    rho
        Exponent of the schedule: the larger, the more of the steps are at small sigma.
    """
    if steps == 1:
        return (1.0 / (1.0 + sigma_max), 1.0)
    # A path that begins at low noise still needs a descending schedule.
    low, high = min(sigma_min, sigma_max / 4) ** (1 / rho), sigma_max ** (1 / rho)
    sigma = [(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)]
    return (*(1.0 / (1.0 + s) for s in sigma), 1.0)


def noised(clean: Array, noise: Array, t: float) -> Array:
    """Return the point of the path, x_t = t x + (1 - t) e."""
    return t * clean + (1.0 - t) * noise


def euler(x_t: Array, clean: Array, t: float, t_next: float) -> Array:
    """Return x at ``t_next`` on the straight line from x_t to the clean estimate.

    The exact solution for a constant estimate; the same as DDIM (Song et al. 2021, arXiv:2010.02502,
    eq. 12) and as first-order DPM-Solver++.
    """
    return ((1.0 - t_next) * x_t + (t_next - t) * clean) / (1.0 - t)


def dpmpp_2m(
    x_t: Array, clean: Array, previous: Array | None, t_previous: float, t: float, t_next: float
) -> Array:
    """Return x at ``t_next`` by DPM-Solver++ (2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2).

    Parameters
    ----------
    x_t, clean
        Point and clean estimate at ``t``.
    previous
        Clean estimate at ``t_previous``; None on the first step, which is then of first order.
    t_previous, t, t_next
        Three successive times. To t = 1 and from t = 0 the step is of first order: lambda is infinite.
    """
    if previous is None or t_next >= 1.0 or t_previous <= 0.0:
        return euler(x_t, clean, t, t_next)
    lambda_previous, lambda_t, lambda_next = (float(np.log(u / (1.0 - u))) for u in (t_previous, t, t_next))
    half_ratio = (lambda_next - lambda_t) / (2.0 * (lambda_t - lambda_previous))
    extrapolated = (1.0 + half_ratio) * clean - half_ratio * previous
    return euler(x_t, extrapolated, t, t_next)


type Model = Callable[[Array, float], Array]
type Correct = Callable[[Array], Array]


def sample_dpmpp_2m(
    model: Model, noise: Array, schedule: Sequence[float], *, correct: Correct | None = None
) -> Array:
    """Return the sample at the end of a schedule, with one model call per step (`dpmpp_2m`).

    Parameters
    ----------
    model
        (x_t, t) to the clean estimate.
    noise
        The point at ``schedule[0]``.
    schedule
        Ascending times, ending with 1.
    correct
        Applied to every clean estimate, to put measured values back (Lugmayr et al. 2022, arXiv:2201.09865;
        Wang et al. 2022, arXiv:2212.00490).
    """
    x, previous, t_previous = noise, None, 0.0
    for t, t_next in itertools.pairwise(schedule):
        clean = model(x, t)
        clean = clean if correct is None else correct(clean)
        x = dpmpp_2m(x, clean, previous, t_previous, t, t_next)
        previous, t_previous = clean, t
    return x
