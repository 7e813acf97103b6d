"""What a job does to the cube of an item: a verb with its generator, or a corruption, which has none."""

from __future__ import annotations

import xarray as xr

from eoaug.corruptions.corrupt import corrupt
from eoaug.corruptions.cost import cost_of
from eoaug.engine.explain import Explanation
from eoaug.errors import error_context
from eoaug.generators.identity import identity_of
from eoaug.jobs.work_items import JobContext
from eoaug.verbs.planning import VERBS, check_known, plan
from eoaug.verbs.prepare import extreme_share

__all__ = ["cost_of_item", "method_identity", "note_of", "result_of_item"]


def result_of_item(cube: xr.Dataset, item_id: str, context: JobContext) -> xr.Dataset:
    """Return the lazy result of a job for the cube of an item."""
    job = context.job
    arguments = dict(job.parameters)
    if job.verb == "corrupt":
        with error_context(f"item {item_id!r}"):
            return corrupt(cube, **arguments)
    if job.run.batch_tiles is not None:
        arguments["batch_tiles"] = job.run.batch_tiles
    with error_context(f"item {item_id!r}"):
        check_known(job.verb, cube, generator=context.generator, **arguments)
    result: xr.Dataset = VERBS[job.verb](cube, generator=context.generator, **arguments)
    return result


def cost_of_item(cube: xr.Dataset, context: JobContext) -> Explanation:
    """Return what the result of `result_of_item` costs, without computing a pixel."""
    job = context.job
    if job.verb == "corrupt":
        return cost_of(cube, **job.parameters)
    return plan(job.verb, cube, generator=context.generator, **job.parameters).explain()


def method_identity(context: JobContext) -> str:
    """Return what identifies the method of a job: the generator; of a corruption, its name."""
    return "corruption" if context.job.verb == "corrupt" else identity_of(context.generator)


def note_of(context: JobContext, share: float) -> str:
    """Return what is unusual about the share of an item that is not measured; empty for nothing."""
    verb = context.job.verb
    if verb != "corrupt":
        return extreme_share(verb, share)
    return f"{context.job.parameters['kind']} changed no pixel" if share == 0 else ""
