"""What a job does to the cube of an item: a verb with its generator, or a corruption, which has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from eoaug.corruptions.corrupt import corrupt
from eoaug.corruptions.cost import cost_of
from eoaug.engine.explain import Explanation
from eoaug.errors import error_context
from eoaug.generators.base import Generator
from eoaug.jobs.config import Job, JobVerb
from eoaug.verbs.planning import VERBS, check_known, plan
from eoaug.verbs.run import extreme_share

__all__ = ["cost_of_item", "note_of", "result_of"]


def result_of(
    verb: JobVerb,
    cube: xr.Dataset,
    arguments: Mapping[str, Any],
    generator: Generator | None,
    *,
    what: str,
) -> xr.Dataset:
    """Return the lazy result of a verb, or of a corruption, for a cube.

    Parameters
    ----------
    verb, cube, arguments
        What is made, of what.
    generator
        None for a corruption, which has none.
    what
        The item, for messages.
    """
    with error_context(what):
        if verb == "corrupt":
            return corrupt(cube, **arguments)
        check_known(verb, cube, generator=generator, **arguments)
    result: xr.Dataset = VERBS[verb](cube, generator=generator, **arguments)
    return result


def cost_of_item(cube: xr.Dataset, job: Job, generator: Generator | None) -> Explanation:
    """Return what the result of a job for the cube of an item costs, without computing a pixel."""
    if job.verb == "corrupt":
        return cost_of(cube, **job.parameters)
    assert job.verb != "composite"  # whose unit is no item
    return plan(job.verb, cube, generator=generator, **job.parameters).explain()


def note_of(job: Job, share: float) -> str:
    """Return what is unusual about the share of an item that is not measured; empty for nothing."""
    if job.verb != "corrupt":
        return extreme_share(job.verb, share)
    return f"{job.parameters['kind']} changed no pixel" if share == 0 else ""
