"""What a job does with each item of a catalog: open it, run the verb, and publish the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from eoaug.cube.provenance import renamed
from eoaug.engine.dask_graph import computed_by
from eoaug.engine.explain import Explanation
from eoaug.errors import SourceError
from eoaug.generators.base import Generator
from eoaug.generators.identity import identity_of
from eoaug.jobs.config import Job
from eoaug.jobs.content_key import ReadItem, content_key, read_bands, read_item, shapes_of
from eoaug.jobs.verb_calls import cost_of_item, note_of, result_of
from eoaug.jobs.work_items import JobContext, WorkItem
from eoaug.stac.item_document import Claim
from eoaug.stac.open import open_cube
from eoaug.stac.publish import publish
from eoaug.stac.search import SourceItem, as_item, signer_of

__all__ = ["CatalogWork", "generator_of", "labels_of"]


@dataclass(frozen=True)
class CatalogWork:
    """A verb over the items of a catalog."""

    job: Job
    allow: tuple[str, ...]
    """What addresses in the items may point to."""

    def key(self, work_item: WorkItem, context: JobContext) -> str:
        """Return the content key; see `content_key`."""
        generator = generator_of(self.job, context)
        method = "corruption" if generator is None else identity_of(generator)
        return content_key([self._read(work_item.entry).identity], self.job, method)

    def publish(
        self, work_item: WorkItem, context: JobContext, key: str, claim: Claim
    ) -> list[dict[str, Any]]:
        """Publish the result of an item, with an item per date and member where the files are COGs."""
        job = self.job
        # Estimates from samples of the pixels are made here too, not as further tasks of the cluster.
        with computed_by(context.scheduler):
            result = renamed(self._result(work_item, context), key)
        labels = labels_of(work_item.label, result, single=job.output.format != "cog")
        return list(
            publish(
                result, context.root, work_item.collection, format=job.output.format, ids=labels, claim=claim
            )
        )

    def source(self, work_item: WorkItem) -> Any:
        """Return the cube of an item, lazily."""
        return self._opened([work_item.entry])

    def note(self, share: float) -> str:
        """Return what is unusual about the share of an item that is not measured; empty for nothing."""
        return note_of(self.job, share)

    def signature(self, work_item: WorkItem) -> Any:
        """Return what work items of equal cost share: names, types and grids of the bands."""
        entry = work_item.entry
        return shapes_of(read_bands(as_item(entry), entry.access, self.job, self.allow, grids_only=True))

    def cost(self, work_item: WorkItem, context: JobContext) -> Explanation:
        """Return what a work item costs, without computing a pixel."""
        cube = self._opened([work_item.entry], chunks=self._chunks)
        return cost_of_item(cube, self.job, generator_of(self.job, context))

    def _read(self, entry: SourceItem) -> ReadItem:
        return read_item(entry, self.job, self.allow)

    @property
    def _chunks(self) -> dict[str, int]:
        return {"y": self.job.run.chunks, "x": self.job.run.chunks}

    def _opened(self, entries: Sequence[SourceItem], **how: Any) -> Any:
        """Return the cube of items, lazily."""
        source, items = self.job.source, [as_item(entry) for entry in entries]
        names = {item.collection_id for item in items}
        return open_cube(
            items,
            collections=sorted(map(str, names)) if all(names) else None,  # the job has chosen them
            bands=source.bands or None,
            resolution=source.resolution,
            crs=source.crs,
            patch_url=signer_of(source.catalog),
            allow=self.allow,
            **how,
        )

    def _result(self, work_item: WorkItem, context: JobContext) -> xr.Dataset:
        job = self.job
        assert job.verb != "composite"  # whose unit is no item
        cube = self._opened([work_item.entry], chunks=self._chunks, labels=job.labels or None)
        what = f"item {work_item.id!r}"
        if not isinstance(cube, xr.Dataset):
            raise SourceError(
                f"{what} has bands on several grids", "choose bands of one grid with source.bands"
            )
        arguments = dict(job.parameters)
        if job.run.batch_tiles is not None and job.generates:
            arguments["batch_tiles"] = job.run.batch_tiles
        if job.run.memory is not None and job.generates:
            arguments["memory"] = job.run.memory
        return result_of(job.verb, cube, arguments, generator_of(job, context), what=what)


def generator_of(job: Job, context: JobContext) -> Generator | None:
    """Return the generator of a job; None for verbs without."""
    return context.generator if job.generates else None


def labels_of(label: str, result: xr.Dataset, *, single: bool) -> list[str]:
    """Return the ids of the items of a result; the first is the work item's own."""
    if single:
        return [label]
    dates = [f"{time:%Y%m%dT%H%M%S}" for time in result.indexes["time"]]
    members = [f"m{k:03d}" for k in range(result.sizes["member"])] if "member" in result.dims else [""]
    suffixes = [
        "-".join(part for part in (date if len(dates) > 1 else "", member) if part)
        for date in dates
        for member in members
    ]
    return [label, *(f"{label}-{suffix}" for suffix in suffixes[1:])]
