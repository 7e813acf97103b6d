"""Progress and failures of a job, from its journal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eoaug.display import Shown
from eoaug.errors import JobError, TargetError, printable
from eoaug.generators.registry import SHIPPED
from eoaug.jobs.config import Job, JobBase, read_job
from eoaug.jobs.journal import read_journals
from eoaug.jobs.leases import live_leases
from eoaug.jobs.report import Failure
from eoaug.stac.catalog import Root
from eoaug.stac.search import known_sources
from eoaug.storage.hosts import host_entry, host_port, split_url
from eoaug.storage.location import Location
from eoaug.storage.s3 import is_object

__all__ = ["JobStatus", "Word", "catalog_status", "job_status", "resumable", "status_of"]


@dataclass(frozen=True, kw_only=True, repr=False)
class JobStatus(Shown):
    """The state of a job, from its journal and catalog."""

    job: str
    runs: int
    published: int
    """Items that its runs published or took over, each counted once."""
    failures: tuple[Failure, ...]
    """Of items that failed and were not published later."""
    working: tuple[str, ...]
    """Items in flight, of this or another job."""

    def __str__(self) -> str:
        """Return a short text."""
        rows = {
            "job": self.job,
            "runs": str(self.runs),
            "published": str(self.published),
            "failed": str(len(self.failures)),
            "in flight": ", ".join(self.working) or "none",
        }
        lines = [f"{name:<12} {printable(text)}" for name, text in rows.items()]
        return "\n".join([*lines, *(f"  {failure.item}: {failure.problem}" for failure in self.failures)])

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def catalog_status(catalog: str | Path) -> list[JobStatus]:
    """Return the state of every job that has written to a catalog, from their journals, the latest last.

    Raises
    ------
    TargetError
        The catalog has no journal.
    """
    root = Root.at(catalog)
    names: dict[str, None] = {}
    for head, _ in read_journals(root.folder):
        names.pop(str(head.get("job")), None)
        names[str(head.get("job"))] = None
    if not names:
        raise _no_journal(catalog)
    return [_status(name, root.folder) for name in names]


def job_status(config: Job | Mapping[str, Any] | str | Path) -> JobStatus:
    """Return the state of a job.

    Parameters
    ----------
    config
        As for `run_job`.
    """
    return status_of(read_job(config))


def status_of(job: JobBase) -> JobStatus:
    """Return the state of a job of any kind."""
    return _status(job.id, Root.at(job.output.catalog).folder)


def _status(job_id: str, folder: Location) -> JobStatus:
    published: set[str] = set()
    failed: dict[str, Failure] = {}
    runs = 0
    for _, events in read_journals(folder, job_id):
        runs += 1
        for event in events:
            # A document that could not be read has an address, but no id.
            name = str(event.get("href") or event.get("item"))
            if event.get("event") == "failed":
                failed[name] = _failure(event.get("error"))
            elif event.get("event") != "too cloudy":
                published.add(name)
                failed.pop(name, None)
    return JobStatus(
        job=job_id,
        runs=runs,
        published=len(published),
        failures=tuple(failed.values()),
        working=tuple(live_leases(folder)),
    )


def _failure(fields: Any) -> Failure:
    """Return the failure that a line of a journal tells, as far as it does."""
    known = fields if isinstance(fields, Mapping) else {}
    return Failure(*(str(known.get(name, "unknown")) for name in ("item", "error", "problem", "remedy")))


@dataclass(frozen=True)
class Word:
    """What the user says on the command line that a journal may name; a catalog is an input, and so are its journals."""

    allow: tuple[str, ...] = ()
    api: str | None = None
    generator: str | None = None


def resumable(catalog: str | Path, word: Word | None = None) -> list[dict[str, Any]]:
    """Return the configurations of the jobs that have written to a catalog, from their journals, the latest last.

    A job writes to this catalog only, whatever its journal says.

    Raises
    ------
    TargetError
        The catalog has no journal.
    JobError
        A journal names an API, a generator, a host or an allow-list that the user did not.
    """
    root = Root.at(catalog)
    jobs: dict[str, dict[str, Any]] = {}
    for head, _ in read_journals(root.folder):
        jobs.pop(str(head.get("job")), None)
        jobs[str(head.get("job"))] = head
    if not jobs:
        raise _no_journal(catalog)
    return [_resumed(head, root, catalog, word or Word()) for head in jobs.values()]


def _resumed(head: Mapping[str, Any], root: Root, catalog: str | Path, word: Word) -> dict[str, Any]:
    """Return the configuration of a journal for its catalog as it lies now, after checking what it names."""
    config = head.get("config")
    source = config.get("source") if isinstance(config, dict) else None
    output = config.get("output", {}) if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(source, dict) or not isinstance(output, dict):
        raise JobError(
            f"the journal of job {head.get('job')!r} has no configuration", "run the job by its YAML"
        )
    place = next((key for key in ("catalog", "path") if isinstance(source.get(key), str)), None)
    address = str(source.get(place, "")) if place else ""
    if _is_relative(address) and str(head.get("eoaug", "")).startswith("0.1."):
        raise JobError(
            f"the journal of {str(catalog)!r} is of eoaug {head['eoaug']}, and names its source {address!r} from the "
            "folder that the job was run in, which it does not name",
            "run the job by its YAML in that folder: eoaug run job.yaml --recompute",
        )
    entries = source.get("allow") or ()
    named = [
        ("--allow", str(entry)) for entry in (entries if isinstance(entries, list | tuple) else [entries])
    ]
    if "://" in address and not is_object(address):
        parts = split_url(address)
        named.append(("--allow", host_entry(parts.scheme, *host_port(parts))))
    if output.get("api") is not None:
        named.append(("--api", str(output["api"])))
    if config.get("generator") not in (None, *SHIPPED):
        named.append(("--generator", str(config["generator"])))
    said = {("--allow", entry) for entry in word.allow} | {
        ("--api", word.api),
        ("--generator", word.generator),
    }
    if missing := [entry for entry in named if entry not in said]:
        options = " ".join(f"{option} {shlex.quote(value)}" for option, value in named)
        raise JobError(
            f"the journal of {str(catalog)!r} names {missing[0][1]!r}, and a journal may come from others",
            f"if this is yours: eoaug resume {shlex.quote(str(catalog))} {options}",
        )
    if place and _is_relative(address):
        folder = str(root.folder)
        source = {**source, place: os.path.normpath(os.path.join(folder, address))}
        if place == "catalog":
            source["journal_address"] = address
        if source.get("allow"):
            source["allow"] = [
                os.path.normpath(os.path.join(folder, entry)) if str(entry).startswith(".") else entry
                for entry in source["allow"]
            ]
    return {**config, "source": source, "output": {**output, "catalog": str(root.parent)}}


def _is_relative(address: str) -> bool:
    """Return whether an address is a path that does not begin at a root."""
    named = address in known_sources() or "://" in address or address.startswith("~")
    return bool(address) and not named and not os.path.isabs(address)


def _no_journal(catalog: str | Path) -> TargetError:
    return TargetError(
        f"{str(catalog)!r} has no journal of a job",
        "give the catalog that a job writes to, or run its YAML",
    )
