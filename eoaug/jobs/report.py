"""The report of a job as JSON, as Markdown and as an HTML page with pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eoaug.errors import EoaugError
from eoaug.jobs.work_items import WorkItem
from eoaug.quicklook import Picture, Section, page, rgb
from eoaug.stac.catalog import STATE, Root
from eoaug.stac.open import open_cube

__all__ = ["Failure", "Report", "write_report"]


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

    def as_dict(self) -> dict[str, str]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Report:
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
    folder: str = ""
    """Folder of this report; empty if nothing happened and no report was written."""

    @property
    def seen(self) -> int:
        """Items of the source that the run handled."""
        return self.published + self.skipped + self.adopted + len(self.failures)

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
        return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))

    def to_markdown(self) -> str:
        """Return a table of the counts and a table of the failures."""
        lines = [f"# Job {self.job}", "", f"    {json.dumps(self.described, ensure_ascii=False)}", ""]
        lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.table())]
        if self.failures:
            lines += ["", "| item | problem | remedy |", "|---|---|---|"]
            rows = [
                (failure.item, failure.problem, failure.remedy) for failure in self.failures[:_SHOWN_FAILURES]
            ]
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return text for a cell, escaped: an item's id must not become Markdown or HTML."""
    return " ".join(re.sub(r"[\\`*_\[\]<>|#!&]", lambda sign: f"&#{ord(sign[0])};", text).split())


def write_report(report: Report, root: Root, shown: Sequence[WorkItem]) -> Report:
    """Write a report next to the catalog, replacing the job's last one; return it with its folder.

    Parameters
    ----------
    report
        The report.
    root
        The catalog.
    shown
        Work items whose results are shown as pictures.
    """
    folder = root.folder / STATE / "reports" / report.job
    report = replace(report, folder=str(folder))
    sections = [
        Section("Summary", table=[("", ""), *report.table()]),
        *_pictures(root, shown),
    ]
    if report.failures:
        rows = [
            (failure.item, failure.problem, failure.remedy) for failure in report.failures[:_SHOWN_FAILURES]
        ]
        sections.append(Section("Failures", table=[("item", "problem", "remedy"), *rows]))
    lead = json.dumps(report.described, ensure_ascii=False)
    for name, text in (("report.json", report.to_json()), ("report.md", report.to_markdown())):
        (folder / name).put(text.encode())
    with folder.scratch_dir() as scratch:
        page(f"Job {report.job}", sections, scratch / "report.html", lead=lead)
        (folder / "report.html").publish(scratch / "report.html")
    return report


def _pictures(root: Root, shown: Sequence[WorkItem]) -> list[Section]:
    rows = []
    for work_item in shown:
        home = root.folder / work_item.collection / work_item.label
        try:
            cube = open_cube(str(home / f"{work_item.label}.json"))
            step = max(1, -(-max(cube.odc.geobox.shape) // _PICTURE_PX))
            y, x = cube.odc.spatial_dims
            small = cube.isel({y: slice(None, None, step), x: slice(None, None, step)}).isel(time=slice(0, 1))
            rows.append([Picture(rgb(small.load()), work_item.label, str(small.time.values[0])[:10])])
        except EoaugError:
            # A result without a band that can be shown must not make the report fail.
            continue
    return [Section("Examples", rows=[[picture for row in rows for picture in row]])] if rows else []
