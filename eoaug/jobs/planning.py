"""The cost of a job, before anything is computed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eoaug.display import Shown
from eoaug.engine.explain import bytes_text
from eoaug.errors import EoaugError, printable
from eoaug.jobs.bookkeeping import Bookkeeper
from eoaug.jobs.config import Job, read_job
from eoaug.jobs.content_key import existing_output, is_published
from eoaug.jobs.report import Failure
from eoaug.jobs.series import work_of
from eoaug.jobs.series_units import SeriesItem
from eoaug.jobs.sources import no_item
from eoaug.jobs.work_items import JobContext, WorkItem
from eoaug.stac.catalog import Root

__all__ = ["JobPlan", "plan_job"]


_SHOWN_ITEMS = 5
"""Number of items that the text names of each problem."""
_ITEM_BYTES, _ASSET_BYTES, _SOURCE_BYTES = 4_000, 830, 220
"""Size of the document of an item, of each of its assets, and of each of its sources, measured."""
_RECORD_BYTES = 650
"""Size of its line in the journal and of its link in the collection, measured."""


@dataclass(frozen=True, kw_only=True, repr=False)
class JobPlan(Shown):
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
    catalog_bytes: int = 0
    """Bytes of documents and journal."""
    planned: int = 0
    """Items that the job would compute."""
    unreadable: tuple[Failure, ...] = ()
    """Items that it cannot process, and why."""
    advice: str = ""
    """What would probably be better; empty for nothing."""

    def __str__(self) -> str:
        """Return a short text."""
        rows = {
            "items": f"{self.items}, of which {self.existing} exist",
            "model calls": f"{self.model_calls:,} ({self.tiles:,} tiles)",
            "disk": f"{bytes_text(self.stored_bytes)} before compression",
            "catalog": f"{bytes_text(self.catalog_bytes)} of documents and journal",
            "memory": f"{bytes_text(self.peak_bytes)} in a worker",
        }
        lines = [f"{name:<12} {text}" for name, text in rows.items()]
        for (problem, remedy), items in self.problems().items():
            shown = printable(", ".join(items[:_SHOWN_ITEMS])) + (
                ", ..." if len(items) > _SHOWN_ITEMS else ""
            )
            count = f"{len(items)} item" + ("s" if len(items) > 1 else "")
            lines += [f"{'cannot run':<12} {count}: {problem}", f"{'':<12} -> {remedy}", f"{'':<12} {shown}"]
        lines += [f"{'advice':<12} {self.advice}"] if self.advice else []
        return "\n".join(lines)

    @property
    def runnable(self) -> int:
        """Number of items that the job would process, or that exist already."""
        return self.existing + self.planned

    def problems(self) -> dict[tuple[str, str], list[str]]:
        """Return the ids of the items that cannot be processed, by problem and remedy; the largest group first.

        Problems that differ in the item's name, also within an address, are equal.
        """
        groups: dict[tuple[str, str], list[str]] = {}
        for failure in self.unreadable:
            name = re.compile(rf"(?<!\w){re.escape(failure.item)}(?!\w)")
            problem, remedy = (name.sub("ITEM", text) for text in (failure.problem, failure.remedy))
            groups.setdefault((problem, remedy), []).append(failure.item)
        return dict(sorted(groups.items(), key=lambda group: -len(group[1])))

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        groups = [
            {"problem": problem, "remedy": remedy, "items": items}
            for (problem, remedy), items in self.problems().items()
        ]
        return asdict(self) | {"runnable": self.runnable, "problems": groups}


def plan_job(config: Job | Mapping[str, Any] | str | Path) -> JobPlan:
    """Return what a job would do, without calling the model and without writing.

    Items of the same size and bands have the same cost, so only one of them is planned in full. Files are opened only
    where their item does not say on which grid they lie; whether it is right is seen when they are read.

    Parameters
    ----------
    config
        As for `run_job`.

    Raises
    ------
    SourceError
        No item passes the filters.
    """
    job = read_job(config)
    root = Root.at(job.output.catalog)
    work, work_items = work_of(job)
    context = JobContext(job, root, work)
    bookkeeper = Bookkeeper(job, root)
    costs: dict[Any, Any] = {}
    counts: Counter[Any] = Counter()
    items = existing = catalog_bytes = 0
    unreadable = []
    places: Counter[Any] = Counter()
    for work_item in work_items(bookkeeper):
        items += 1
        try:
            if not job.source.group:
                places[str(_bbox(work_item))] += 1
            # The key hashes the pixels of the inputs: it is needed only where there is an item to compare.
            if is_published(root, work_item) and existing_output(
                root, work_item, work.key(work_item, context), verify=False
            ):
                existing += 1
                continue
            signature = work.signature(work_item)
            if signature not in costs:
                costs[signature] = work.cost(work_item, context)
            counts[signature] += 1
            catalog_bytes += _catalog_bytes(work_item, signature)
        except EoaugError as error:
            unreadable.append(Failure(work_item.id, type(error).__name__, error.problem, error.remedy))
    if not items and not bookkeeper.report.failures and job.source.since is None:
        raise no_item(job)
    weighted = [(costs[signature], count) for signature, count in counts.items()]
    return JobPlan(
        items=items,
        existing=existing,
        catalog_bytes=catalog_bytes,
        planned=counts.total(),
        model_calls=sum(cost.model_calls * count for cost, count in weighted),
        tiles=sum(cost.tiles * count for cost, count in weighted),
        stored_bytes=sum(cost.output_bytes * count for cost, count in weighted),
        peak_bytes=max((cost.peak_bytes for cost, _ in weighted), default=0),
        unreadable=(*bookkeeper.report.failures, *unreadable),
        advice=_advice(job, places),
    )


def _catalog_bytes(work_item: WorkItem, signature: Any) -> int:
    """Return about how many bytes the catalog grows by for a work item: more with its bands and sources."""
    sources, bands = 1, len(signature)
    if isinstance(work_item, SeriesItem):
        sources, bands = sum(map(len, work_item.shapes)), len(work_item.shapes[0][0][0])
    # Besides the bands, the mask of what is synthetic and a thumbnail.
    return _ITEM_BYTES + _ASSET_BYTES * (bands + 2) + _SOURCE_BYTES * sources + _RECORD_BYTES


def _bbox(work_item: WorkItem) -> Any:
    entry = work_item.entry
    return entry.document.get("bbox") if entry.item is None else entry.item.bbox


def _advice(job: Job, places: Counter[str]) -> str:
    """Return what to do about items that are dates of one place and are each filled alone."""
    several = sum(count for count in places.values() if count > 1)
    if job.verb != "inpaint" or not several:
        return ""
    return (
        f"{several} items have the extent of another one, and each is filled from itself alone; "
        "source.group: place fills it from the other dates of its place"
    )
