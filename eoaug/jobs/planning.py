"""What a job will cost, before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eoaug.errors import EoaugError
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.config import Job, read_job
from eoaug.jobs.content_key import content_key, existing_output
from eoaug.jobs.report import Failure
from eoaug.jobs.sources import allowed, units
from eoaug.jobs.units import JobContext
from eoaug.stac.band_sources import pixel_size
from eoaug.stac.catalog import Root
from eoaug.stac.items import read_item_dates
from eoaug.stac.open import open_cube
from eoaug.stac.search import as_item, signer_of
from eoaug.verbs.planning import plan

__all__ = ["JobPlan", "plan_job"]


# -- what would be done, and what was ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What a job would do: told without calling the model and without writing."""

    items: int
    """That pass the filters."""
    standing: int
    """Of these, items whose result stands already."""
    model_calls: int
    tiles: int
    stored_bytes: int
    """Of the results before compression."""
    peak_bytes: int
    """In one worker, at most."""
    unreadable: tuple[Failure, ...] = ()

    def __str__(self) -> str:
        """Return a short text."""
        rows = {
            "items": f"{self.items}, of which {self.standing} are done",
            "model calls": f"{self.model_calls:,} ({self.tiles:,} tiles)",
            "disk": f"{self.stored_bytes / 1e6:,.1f} MB before compression",
            "memory": f"{self.peak_bytes / 1e6:,.1f} MB in a worker",
        }
        lines = [f"{name:<12} {text}" for name, text in rows.items()]
        return "\n".join([*lines, *(f"unreadable   {one.problem}" for one in self.unreadable)])


def plan_job(config: Job | Mapping[str, Any] | str | Path) -> JobPlan:
    """Return what a job would do, without calling the model and without writing.

    Items of one size and with the same bands cost the same, so only one of each kind is planned in full.

    Parameters
    ----------
    config
        As for `run_job`.
    """
    job = read_job(config)
    root = Root.at(job.output.catalog)
    task = JobContext(job, root, allowed(job))
    books = Bookkeeper(job, root)
    kinds: dict[Any, Any] = {}
    counts: Counter[Any] = Counter()
    items = done = 0
    lost = []
    for unit in units(job, books):
        items += 1
        try:
            item = as_item(unit.found)
            if existing_output(root, unit, content_key(item, unit, task), verify=False):
                done += 1
                continue
            access = unit.found.access.extended(task.allow)
            scenes = read_item_dates(item, job.source.bands, signer_of(job.source.catalog), access)
            kind = tuple(
                (name, band.dtype, tuple(band.geobox.shape), pixel_size(band.geobox))
                for scene in scenes
                for name, band in scene.sources.items()
            )
            if kind not in kinds:
                kinds[kind] = _cost(item, task)
            counts[kind] += 1
        except EoaugError as error:
            lost.append(Failure(unit.item, type(error).__name__, error.problem, error.remedy))
    costs = [(kinds[kind], many) for kind, many in counts.items()]
    return JobPlan(
        items=items,
        standing=done,
        model_calls=sum(cost.model_calls * many for cost, many in costs),
        tiles=sum(cost.tiles * many for cost, many in costs),
        stored_bytes=sum(cost.output_bytes * many for cost, many in costs),
        peak_bytes=max((cost.peak_bytes for cost, _ in costs), default=0),
        unreadable=(*books.report.failures, *lost),
    )


def _cost(item: Any, task: JobContext) -> Any:
    job = task.job
    cube = open_cube(
        item,
        bands=job.source.bands or None,
        resolution=job.source.resolution,
        crs=job.source.crs,
        chunks={"y": job.run.chunks, "x": job.run.chunks},
        allow=task.allow,
    )
    return plan(job.verb, cube, generator=task.generator, **job.parameters).explain()
