"""The report of a job as JSON, as Markdown and as an HTML page with pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from eoaug.display import Shown
from eoaug.errors import EoaugError, printable
from eoaug.jobs.work_items import JobContext, WorkItem
from eoaug.quicklook import Picture, Section, page, rgb
from eoaug.stac.catalog import STATE
from eoaug.stac.open import open_cube

__all__ = ["MOST_GENERATED", "Failure", "Report", "write_report"]


MOST_GENERATED = 10
"""Number of items with the largest generated share that a report lists."""

_PICTURE_PX = 256
"""Longest edge of a picture."""
_SHOWN_FAILURES = 1000
"""Largest number of failures in Markdown and HTML; the JSON has all."""


@dataclass(frozen=True)
class Failure:
    """One item that was not published, and why."""

    item: str
    """Id, or the address of a document that could not be read."""
    error: str
    """Type of the error."""
    problem: str
    remedy: str

    def __post_init__(self) -> None:
        for name in ("item", "error", "problem", "remedy"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def as_dict(self) -> dict[str, str]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, repr=False)
class Report(Shown):
    """What one run of a job did."""

    job: str
    """Id of the job."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """Configuration of the job."""
    published: int = 0
    """Items computed and published."""
    skipped: int = 0
    """Items that existed already: the model was not called, and nothing was written."""
    adopted: int = 0
    """Items that existed completely but were not in the catalog, since an earlier run was interrupted."""
    failures: tuple[Failure, ...] = ()
    too_cloudy: tuple[tuple[str, str], ...] = ()
    """Dates of a series (id, reason) with too little clear ground, which are left as they are."""
    notes: tuple[tuple[str, str], ...] = ()
    """Published items (id, note) in which nothing was filled, or everything."""
    timed_out: int = 0
    """Failures by timeout."""
    sent: int = 0
    """Items that were created or updated in the API."""
    seconds: float = 0.0
    """Duration from the first to the last item."""
    work_seconds: float = 0.0
    """Sum of the time in workers of all published items."""
    stored_bytes: int = 0
    """Bytes of data written."""
    workers: int = 1
    most_generated: tuple[tuple[str, float], ...] = ()
    """Id and generated share, 0 to 1, of the published items with the largest share, largest first."""
    folder: str = ""
    """Folder of this report; empty if nothing happened and no report was written."""

    @property
    def seen(self) -> int:
        """Items of the source that the run handled."""
        return self.published + self.skipped + self.adopted + len(self.too_cloudy) + len(self.failures)

    @property
    def items_per_hour(self) -> float:
        """Throughput of published items."""
        return 3600 * self.published / self.seconds if self.seconds else 0.0

    @property
    def efficiency(self) -> float:
        """Share of the workers' time spent on published items, 0 to 1."""
        return self.work_seconds / (self.seconds * self.workers) if self.seconds else 0.0

    def to_json(self) -> str:
        """Return the complete report as JSON."""
        values = asdict(self) | {"items_per_hour": self.items_per_hour, "efficiency": self.efficiency}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    def table(self) -> list[tuple[str, str]]:
        """Return rows of name and value."""
        return [
            ("published", str(self.published)),
            ("skipped, already existing", str(self.skipped)),
            ("adopted from an interrupted run", str(self.adopted)),
            *([("left as they are, too cloudy", str(len(self.too_cloudy)))] if self.too_cloudy else []),
            (
                "failed",
                f"{len(self.failures)}" + (f", {self.timed_out} by timeout" if self.timed_out else ""),
            ),
            ("time", f"{self.seconds:.1f} s"),
            ("items per hour", f"{self.items_per_hour:.0f}"),
            *([("sent to the API", str(self.sent))] if self.sent else []),
            ("written", f"{self.stored_bytes / 1e6:.2f} MB"),
            ("workers", f"{self.workers}, busy {100 * self.efficiency:.0f} % of the time"),
        ]

    def __str__(self) -> str:
        """Return a plain table with the first failures."""
        lines = [f"{name:<32} {value}" for name, value in self.table()]
        lines += [f"  {failure.item}: {failure.problem}" for failure in self.failures[:20]]
        more = len(self.failures) - 20
        lines += [f"  and {more} more"] if more > 0 else []
        notes = [*self.too_cloudy, *self.notes]
        lines += [f"  {item}: {note}" for item, note in notes[:20]]
        more = len(notes) - 20
        return "\n".join(lines + ([f"  and {more} more notes"] if more > 0 else []))

    def to_markdown(self) -> str:
        """Return a table of the counts and a table of the failures."""
        lines = [
            f"# Job {self.job}",
            "",
            f"    {printable(json.dumps(self.described, ensure_ascii=False))}",
            "",
        ]
        lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.table())]
        if self.most_generated:
            lines += ["", "| most generated | share |", "|---|---|"]
            lines += [f"| {_cell(label)} | {share:.1%} |" for label, share in self.most_generated]
        if self.failures:
            lines += ["", "| item | problem | remedy |", "|---|---|---|"]
            rows = [
                (failure.item, failure.problem, failure.remedy) for failure in self.failures[:_SHOWN_FAILURES]
            ]
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
        if notes := [*self.too_cloudy, *self.notes]:
            lines += ["", "| item | note |", "|---|---|"]
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in notes[:_SHOWN_FAILURES]]
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return text for a cell, escaped: an item's id must not become Markdown or HTML."""
    return " ".join(re.sub(r"[\\`*_\[\]<>|#!&]", lambda sign: f"&#{ord(sign[0])};", printable(text)).split())


def write_report(report: Report, context: JobContext, shown: Sequence[WorkItem]) -> Report:
    """Write a report next to the catalog, replacing the job's last one; return it with its folder.

    Parameters
    ----------
    report
        The report.
    context
        The job and its catalog.
    shown
        Work items whose sources and results are shown as pictures.
    """
    folder = context.root.folder / STATE / "reports" / report.job
    report = replace(report, folder=str(folder))
    sections = [
        Section("Summary", table=[("", ""), *report.table()]),
        *_pictures(context, shown),
    ]
    if report.most_generated:
        ranked = [(label, f"{share:.1%}") for label, share in report.most_generated]
        sections.insert(
            1, Section("Most generated", table=[("item", "generated share of the pixels"), *ranked])
        )
    if report.failures:
        rows = [
            (failure.item, failure.problem, failure.remedy) for failure in report.failures[:_SHOWN_FAILURES]
        ]
        sections.append(Section("Failures", table=[("item", "problem", "remedy"), *rows]))
    if notes := [*report.too_cloudy, *report.notes]:
        sections.append(Section("Notes", table=[("item", "note"), *notes[:_SHOWN_FAILURES]]))
    lead = json.dumps(report.described, ensure_ascii=False)
    for name, text in (("report.json", report.to_json()), ("report.md", report.to_markdown())):
        (folder / name).put(text.encode())
    with folder.scratch_dir() as scratch:
        page(f"Job {report.job}", sections, scratch / "report.html", lead=lead)
        (folder / "report.html").publish(scratch / "report.html")
    return report


def _pictures(context: JobContext, shown: Sequence[WorkItem]) -> list[Section]:
    """Return the pictures before and after, and why some are missing."""
    rows, missing = [], []
    for work_item in shown:
        row = []
        for when, opened in (("before", context.work.source), ("after", partial(_result, context))):
            try:
                row.append(_picture(opened(work_item), f"{work_item.label}, {when}"))
            except EoaugError as error:  # an item that cannot be shown must not make the report fail
                missing.append((work_item.label, when, error.problem))
        if row:
            rows.append(row)
    sections = [Section("Before and after", rows=rows)] if rows else []
    if missing:
        sections.append(Section("Missing pictures", table=[("item", "picture", "reason"), *missing]))
    return sections


def _result(context: JobContext, work_item: WorkItem) -> Any:
    home = context.root.folder / work_item.collection / work_item.label
    return open_cube(str(home / f"{work_item.label}.json"))


def _picture(cube: Any, caption: str) -> Picture:
    """Return the picture of a cube's first date, made of every n-th pixel."""
    step = max(1, -(-max(cube.odc.geobox.shape) // _PICTURE_PX))
    y, x = cube.odc.spatial_dims
    small = cube.isel({y: slice(None, None, step), x: slice(None, None, step)})
    if "time" not in small.dims:
        return Picture(rgb(small.load()), caption)
    small = small.isel(time=slice(0, 1)).load()
    return Picture(rgb(small), caption, str(small.time.values[0])[:10])
