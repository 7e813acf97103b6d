"""The argument ``memory``: chunks and batches whose work fits into it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from eoaug.cube.model import Cube
from eoaug.engine.explain import bytes_text, peak_bytes
from eoaug.engine.plan import Plan
from eoaug.errors import ParameterError
from eoaug.verbs.arguments import chunks_of
from eoaug.verbs.options import Options

__all__ = ["bytes_of", "within_memory"]


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_LIBRARIES = {False: 260_000_000, True: 850_000_000}
"""Bytes that a first run takes beyond the import, without and with networks: compiled loops, scipy, and torch with small
weights (measured: 209 and 764 MB)."""
_SLACK = 1.25
"""Factor on the estimated peak of a chunk; tests hold the estimate to a quarter."""
_LARGEST, _SMALLEST = 2048, 64


def bytes_of(value: Any) -> int:
    """Return the bytes that ``memory`` names: a number, or a text such as ``"2GB"``, ``"500 MB"`` or ``"1.5GiB"``."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", str(value), re.IGNORECASE)
    if found is None or isinstance(value, bool) or not float(found[1]):
        raise ParameterError(f"memory={value!r} is not a size", 'e.g. memory="2GB"')
    unit = _UNITS[found[2].lower()]
    binary = {10**3: 2**10, 10**6: 2**20, 10**9: 2**30, 10**12: 2**40}
    return int(float(found[1]) * (binary[unit] if found[3] and unit > 1 else unit))


def within_memory(plan: Plan, cube: Cube, options: Options) -> Plan:
    """Return a plan with the largest chunks whose work fits into ``memory``, one on each core; without it, the plan.

    Parameters
    ----------
    plan
        With any chunks.
    cube
        The input.
    options
        The options of the verb.
    """
    asked = options.get("memory")
    if asked is None:
        return plan
    if options.get("chunks") is not None:
        raise ParameterError("both memory and chunks are given", "give one: memory chooses the chunks")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    libraries = _LIBRARIES[bool(plan.card.sha256)]
    most = (bytes_of(asked) - libraries) / cores / _SLACK
    least = 0
    for candidate in _candidates(plan, cube):
        least = peak_bytes(candidate)
        if least <= most:
            return candidate
    needed = libraries + int(least * cores * _SLACK)
    raise ParameterError(
        f"memory={asked!r} is not enough: the smallest chunk of {_SMALLEST} px takes {bytes_text(least * _SLACK)} on each of "
        f"{cores} cores, and the libraries {bytes_text(libraries)}",
        f'give memory="{-(-needed // 10**6)}MB" or more, fewer dates, bands or members, or fewer cores',
    )


def _candidates(plan: Plan, cube: Cube) -> Iterator[Plan]:
    """Yield plans with ever smaller chunks: less work is repeated in large ones."""
    shape = (len(plan.calendar.out_times), *plan.grid.geobox.shape.yx)
    batch = plan.chunking.batch_tiles
    edge = _LARGEST
    while edge >= _SMALLEST:
        for dates in dict.fromkeys((shape[0], 1)):
            lengths = chunks_of(
                {"time": dates, "y": edge, "x": edge},
                cube,
                shape,
                factor=plan.grid.factor,
                stride=plan.lattice.stride,
                copies=plan.sampling.result_members or 1,
            )
            for tiles in dict.fromkeys((batch, 1)):
                yield replace(plan, chunking=replace(plan.chunking, lengths=lengths, batch_tiles=tiles))
        edge //= 2
