"""The cost of a job, before anything is computed."""

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
from eoaug.jobs.sources import allowed, work_items_of
from eoaug.jobs.work_items import JobContext
from eoaug.stac.band_sources import pixel_size
from eoaug.stac.catalog import Root
from eoaug.stac.items import read_item_dates
from eoaug.stac.open import open_cube
from eoaug.stac.search import as_item, signer_of
from eoaug.verbs.planning import plan

__all__ = ["JobPlan", "plan_job"]


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What a job would do, estimated without calling the model and without writing."""

    items: int
    """Items that pass the filters."""
    existing: int
    """Of these, items whose output already exists."""
    model_calls: int
    tiles: int
    stored_bytes: int
    """Bytes of the results before compression."""
    peak_bytes: int
    """Largest memory of one worker, in bytes."""
    unreadable: tuple[Failure, ...] = ()

    def __str__(self) -> str:
        """Return a short text."""
        rows = {
            "items": f"{self.items}, of which {self.existing} exist",
            "model calls": f"{self.model_calls:,} ({self.tiles:,} tiles)",
            "disk": f"{self.stored_bytes / 1e6:,.1f} MB before compression",
            "memory": f"{self.peak_bytes / 1e6:,.1f} MB in a worker",
        }
        lines = [f"{name:<12} {text}" for name, text in rows.items()]
        return "\n".join([*lines, *(f"unreadable   {failure.problem}" for failure in self.unreadable)])


def plan_job(config: Job | Mapping[str, Any] | str | Path) -> JobPlan:
    """Return what a job would do, without calling the model and without writing.

    Items of the same size and bands have the same cost, so only one of them is planned in full.

    Parameters
    ----------
    config
        As for `run_job`.
    """
    job = read_job(config)
    root = Root.at(job.output.catalog)
    context = JobContext(job, root, allowed(job))
    bookkeeper = Bookkeeper(job, root)
    costs: dict[Any, Any] = {}
    counts: Counter[Any] = Counter()
    items = existing = 0
    unreadable = []
    for work_item in work_items_of(job, bookkeeper):
        items += 1
        try:
            item = as_item(work_item.entry)
            if existing_output(root, work_item, content_key(item, work_item, context), verify=False):
                existing += 1
                continue
            access = work_item.entry.access.extended(context.allow)
            scenes = read_item_dates(item, job.source.bands, signer_of(job.source.catalog), access)
            signature = tuple(
                (name, band.dtype, tuple(band.geobox.shape), pixel_size(band.geobox))
                for scene in scenes
                for name, band in scene.sources.items()
            )
            if signature not in costs:
                costs[signature] = _cost(item, context)
            counts[signature] += 1
        except EoaugError as error:
            unreadable.append(Failure(work_item.id, type(error).__name__, error.problem, error.remedy))
    weighted = [(costs[signature], count) for signature, count in counts.items()]
    return JobPlan(
        items=items,
        existing=existing,
        model_calls=sum(cost.model_calls * count for cost, count in weighted),
        tiles=sum(cost.tiles * count for cost, count in weighted),
        stored_bytes=sum(cost.output_bytes * count for cost, count in weighted),
        peak_bytes=max((cost.peak_bytes for cost, _ in weighted), default=0),
        unreadable=(*bookkeeper.report.failures, *unreadable),
    )


def _cost(item: Any, context: JobContext) -> Any:
    job = context.job
    cube = open_cube(
        item,
        bands=job.source.bands or None,
        resolution=job.source.resolution,
        crs=job.source.crs,
        chunks={"y": job.run.chunks, "x": job.run.chunks},
        allow=context.allow,
    )
    return plan(job.verb, cube, generator=context.generator, **job.parameters).explain()
