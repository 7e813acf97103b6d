"""What a job has done, as JSON for machines, Markdown for people and a page with pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from eoaug.errors import EoaugError
from eoaug.jobs.units import WorkItem
from eoaug.quicklook import Picture, Section, page, rgb
from eoaug.stac.catalog import STATE, Root
from eoaug.stac.open import open_cube

__all__ = ["Failure", "Report", "write_report"]


_PICTURE_PX = 256
"""Longest edge of a picture."""
_SHOWN_FAILURES = 1000
"""Failures that Markdown and page list; the JSON has all."""


@dataclass(frozen=True)
class Failure:
    """One item that was not published, and why."""

    item: str
    """Id, or the address of a document that could not be read."""
    error: str
    """Kind of error."""
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
    """What the job is about."""
    published: int = 0
    """Items made and published."""
    skipped: int = 0
    """Items that stood already: no call of the model, no byte written."""
    adopted: int = 0
    """Items that stood complete, and only had to be listed: a run had died in between."""
    failures: tuple[Failure, ...] = ()
    timed_out: int = 0
    """Failures by time."""
    sent: int = 0
    """Items that an API did not have in this form, and has now."""
    seconds: float = 0.0
    """From first to last item."""
    work_seconds: float = 0.0
    """Sum of the times that published items took in workers."""
    stored_bytes: int = 0
    """Bytes of data written."""
    workers: int = 1
    folder: str = ""
    """Where this report was written; empty when there was nothing to tell."""

    @property
    def seen(self) -> int:
        """Items of the source that the run dealt with."""
        return self.published + self.skipped + self.adopted + len(self.failures)

    @property
    def items_per_hour(self) -> float:
        """Published items."""
        return 3600 * self.published / self.seconds if self.seconds else 0.0

    @property
    def efficiency(self) -> float:
        """Work done over what the workers could have done, 0 to 1."""
        return self.work_seconds / (self.seconds * self.workers) if self.seconds else 0.0

    def to_json(self) -> str:
        """Return all of it."""
        told = asdict(self) | {"items_per_hour": self.items_per_hour, "efficiency": self.efficiency}
        return json.dumps(told, indent=2, ensure_ascii=False) + "\n"

    def table(self) -> list[tuple[str, str]]:
        """Return rows of name and value."""
        return [
            ("published", str(self.published)),
            ("skipped, standing already", str(self.skipped)),
            ("taken over from a run that died", str(self.adopted)),
            ("failed", f"{len(self.failures)}" + (f", {self.timed_out} by time" if self.timed_out else "")),
            ("time", f"{self.seconds:.1f} s"),
            ("items per hour", f"{self.items_per_hour:.0f}"),
            *([("sent to the API", str(self.sent))] if self.sent else []),
            ("written", f"{self.stored_bytes / 1e6:.2f} MB"),
            ("workers", f"{self.workers}, busy {100 * self.efficiency:.0f} % of the time"),
        ]

    def __str__(self) -> str:
        """Return a plain table with the first failures."""
        lines = [f"{name:<32} {value}" for name, value in self.table()]
        lines += [f"  {one.item}: {one.problem}" for one in self.failures[:20]]
        more = len(self.failures) - 20
        return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))

    def to_markdown(self) -> str:
        """Return a table, and one of the failures."""
        lines = [f"# Job {self.job}", "", f"    {json.dumps(self.described, ensure_ascii=False)}", ""]
        lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.table())]
        if self.failures:
            lines += ["", "| item | error | what to do |", "|---|---|---|"]
            rows = [(one.item, one.problem, one.remedy) for one in self.failures[:_SHOWN_FAILURES]]
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Plain text for a cell: what an item calls itself must not become Markdown or HTML."""
    return " ".join(re.sub(r"[\\`*_\[\]<>|#!&]", lambda sign: f"&#{ord(sign[0])};", text).split())


def write_report(report: Report, root: Root, shown: Sequence[WorkItem]) -> Report:
    """Write a report beside the catalog, in place of the job's last one; return it with its folder.

    Parameters
    ----------
    report
        What to tell.
    root
        The catalog.
    shown
        Units whose source and result are shown as pictures.
    """
    folder = root.folder / STATE / "reports" / report.job
    told = replace(report, folder=str(folder))
    sections = [
        Section("What was done", table=[("", ""), *told.table()]),
        *_pictures(root, shown),
    ]
    if told.failures:
        rows = [(one.item, one.problem, one.remedy) for one in told.failures[:_SHOWN_FAILURES]]
        sections.append(Section("What failed", table=[("item", "error", "what to do"), *rows]))
    lead = json.dumps(told.described, ensure_ascii=False)
    for name, text in (("report.json", told.to_json()), ("report.md", told.to_markdown())):
        (folder / name).put(text.encode())
    with folder.scratch_dir() as room:
        page(f"Job {told.job}", sections, room / "report.html", lead=lead)
        (folder / "report.html").publish(room / "report.html")
    return told


def _pictures(root: Root, shown: Sequence[WorkItem]) -> list[Section]:
    rows = []
    for unit in shown:
        home = root.folder / unit.collection / unit.label
        try:
            cube = open_cube(str(home / f"{unit.label}.json"))
            step = max(1, -(-max(cube.odc.geobox.shape) // _PICTURE_PX))
            y, x = cube.odc.spatial_dims
            small = cube.isel({y: slice(None, None, step), x: slice(None, None, step)}).isel(time=slice(0, 1))
            rows.append([Picture(rgb(small.load()), unit.label, str(small.time.values[0])[:10])])
        except EoaugError:
            # A report must not fail over a picture: some results have no band that can be shown.
            continue
    return [Section("Some results", rows=[[picture for row in rows for picture in row]])] if rows else []
