"""One item of a job, from its document to its place in the catalog: what a worker does.

`perform` never raises: whatever happens to one item is its outcome, and no other's. It is safe to run twice,
here and elsewhere at once: the item's content key says whether the work is done, its lease who does it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pystac
import xarray as xr

from eoaug.cube import operations
from eoaug.cube.provenance import renamed
from eoaug.cube.write import checksum
from eoaug.errors import EoaugError, JobError, SourceError, TargetError
from eoaug.generators import Generator, load
from eoaug.generators.base import identity_of
from eoaug.guard import clean_href, safe_id
from eoaug.objects import StoreError, entries, head, is_object
from eoaug.stac.catalog import Root, broken_seal
from eoaug.stac.config import Job
from eoaug.stac.integrity import damage
from eoaug.stac.items import Scene, read_scenes
from eoaug.stac.ledger import Lease, leased
from eoaug.stac.places import Place
from eoaug.stac.publish import Claim, collection_of, publish
from eoaug.stac.read import open_cube
from eoaug.stac.search import Found, as_item, signer_of

__all__ = ["Outcome", "Task", "Unit", "content_key", "perform", "standing", "unit_of", "version"]

Status = Literal["published", "present", "busy", "failed"]


@dataclass(frozen=True)
class Unit:
    """One item of the source."""

    found: Found
    item: str
    """Id of the source's item."""
    collection: str
    """Id of the collection that the result goes to."""
    label: str
    """Id of the result's item, or of the first one."""


@dataclass(frozen=True)
class Outcome:
    """What became of one item."""

    unit: Unit
    status: Status
    items: tuple[Mapping[str, Any], ...] = ()
    """Of every item that stands: what `Root.register` looks at."""
    key: str = ""
    seconds: float = 0.0
    """Time in the worker."""
    attempts: int = 1
    stored_bytes: int = 0
    """Bytes of the data that were written."""
    error: EoaugError | None = None
    timed_out: bool = False


@dataclass(frozen=True)
class Task:
    """What the items of a job share; pickles small."""

    job: Job
    root: Root
    allow: tuple[str, ...]
    """What addresses of the items may point to."""
    scheduler: str | None = None
    """dask's, by name, inside of a worker."""

    @property
    def generator(self) -> Generator:
        """The job's generator; loaded once per process."""
        given = self.job.generator
        return _loaded(given, self.job.run.device) if isinstance(given, str) else given


@lru_cache(maxsize=4)
def _loaded(name: str, device: str | None) -> Generator:
    return load(name) if device is None else load(name, device=device)


def unit_of(found: Found, item: pystac.Item, job: Job) -> Unit:
    """Return the unit of an item.

    The label tells source, verb and request; another request makes another item beside the first, while
    another content of the source or another model replaces what is there.
    """
    name, request = safe_id(item.id)[:80], job.request
    if name != item.id:  # ids that were cut or cleaned may meet
        request = hashlib.sha256(f"{request} {item.id}".encode()).hexdigest()
    label = f"{name}-{job.verb.replace('_', '-')}-{request[:8]}"
    return Unit(found, item.id, collection_of(job.output.collection, item.collection_id or ""), label)


def perform(unit: Unit, task: Task) -> Outcome:
    """Do what is left to do for one item, with the attempts that the job allows."""
    run, begun = task.job.run, time.monotonic()
    error: EoaugError | None = None
    for attempt in range(1, run.retries + 2):
        try:
            done = _in_time(unit, task)
            return replace(done, seconds=time.monotonic() - begun, attempts=attempt)
        except TimeoutError:
            error = JobError(
                f"item {unit.item!r} took longer than run.timeout_s={run.timeout_s:g}.",
                "Give more time, or smaller run.chunks.",
            )
            took = time.monotonic() - begun
            return Outcome(unit, "failed", seconds=took, attempts=attempt, error=error, timed_out=True)
        except EoaugError as caught:
            error = caught
            if not isinstance(caught, SourceError | TargetError):  # the same again, whenever it is tried
                break
        except MemoryError:
            error = JobError(
                f"item {unit.item!r} needs more memory than this worker has.",
                "Give smaller run.chunks, or workers with more memory.",
            )
            break
        except Exception as caught:  # a generator's own error must not end the job
            told = (str(caught).splitlines() or [""])[0]
            error = JobError(
                f"item {unit.item!r} failed with {type(caught).__name__}: {told}.",
                "Run the job again; if it stays, look at this item alone.",
            )
        if attempt <= run.retries:
            time.sleep(min(0.1 * 2**attempt, 5.0))
    return Outcome(unit, "failed", seconds=time.monotonic() - begun, attempts=attempt, error=error)


def _in_time(unit: Unit, task: Task) -> Outcome:
    """Do the work, and stop waiting for it when its time is over: a thread cannot be stopped itself."""
    limit = task.job.run.timeout_s
    hold = _Hold()
    if limit is None:
        return _work(unit, task, hold)
    box: list[Outcome | BaseException] = []

    def go() -> None:
        try:
            box.append(_work(unit, task, hold))
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=go, name=f"eoaug {unit.label}", daemon=True)
    thread.start()
    thread.join(limit)
    if not box:
        hold.let_go()
        raise TimeoutError
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


@dataclass
class _Hold:
    """The right to publish, which can be taken away from a thread that hangs."""

    lease: Lease | None = None
    lost: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        if self.lost.is_set():
            raise JobError("the item's time was over before it was published.", "Give more run.timeout_s.")
        assert self.lease is not None
        self.lease.check()

    def let_go(self) -> None:
        self.lost.set()
        if self.lease is not None:
            self.lease.give_back()


def _work(unit: Unit, task: Task, hold: _Hold) -> Outcome:
    job, root = task.job, task.root
    item = as_item(unit.found)
    key = content_key(item, unit, task)
    there = standing(root, unit, key, verify=job.run.verify)
    if there:
        return Outcome(unit, "present", there, key)
    with leased(root.folder, f"{unit.collection}/{unit.label}", seconds=job.run.lease_s) as lease:
        if lease is None:
            return Outcome(unit, "busy", key=key)
        there = standing(root, unit, key, verify=job.run.verify)
        if there:  # made while we waited
            return Outcome(unit, "present", there, key)
        hold.lease = lease
        result = _result(item, task, key)
        claim = Claim({"eoaug:content_key": key}, hold.check, task.scheduler)
        labels = _labels(unit.label, result, single=job.output.format != "cog")
        made = list(publish(result, root, unit.collection, format=job.output.format, ids=labels, claim=claim))
    size = sum(_size(root.folder / unit.collection / one["id"], one) for one in made)
    return Outcome(unit, "published", tuple(map(_summary, made)), key, stored_bytes=size)


def _result(item: pystac.Item, task: Task, key: str) -> xr.Dataset:
    job = task.job
    source = job.source
    cube = open_cube(
        item,
        bands=source.bands or None,
        resolution=source.resolution,
        crs=source.crs,
        chunks={"y": job.run.chunks, "x": job.run.chunks},
        patch_url=signer_of(source.catalog),
        allow=task.allow,
    )
    if not isinstance(cube, xr.Dataset):
        raise SourceError(
            f"item {item.id!r} has bands on several grids.", "Choose bands of one grid with source.bands."
        )
    arguments = dict(job.parameters)
    if job.run.batch_tiles is not None:
        arguments["batch_tiles"] = job.run.batch_tiles
    verb = getattr(operations, job.verb)
    result: xr.Dataset = verb(cube, generator=task.generator, **arguments)
    return renamed(result, key)


def _labels(label: str, result: xr.Dataset, *, single: bool) -> list[str]:
    """Ids of the items of a result; the first is the unit's own."""
    if single:
        return [label]
    dates = [f"{time:%Y%m%dT%H%M%S}" for time in result.indexes["time"]]
    members = [f"m{k:03d}" for k in range(result.sizes["member"])] if "member" in result.dims else [""]
    tails = [
        "-".join(part for part in (date if len(dates) > 1 else "", member) if part)
        for date in dates
        for member in members
    ]
    return [label, *(f"{label}-{tail}" for tail in tails[1:])]


def _summary(item: Mapping[str, Any]) -> dict[str, Any]:
    dates = ("datetime", "start_datetime", "end_datetime")
    told = {name: item["properties"][name] for name in dates if name in item["properties"]}
    return {"id": item["id"], "bbox": item["bbox"], "properties": told}


def _size(home: Place, item: Mapping[str, Any]) -> int:
    folders = {(home / asset["href"]).relative_to(home).parts[0] for asset in item["assets"].values()}
    return sum(p.size for name in folders for p in (home / name).rglob("*") if p.is_file())


# -- what is there already --------------------------------------------------------------------------------


def content_key(item: pystac.Item, unit: Unit, task: Task) -> str:
    """Return the hash of everything that decides a result: input, request, model, version of eoaug.

    Raises
    ------
    SourceError
        An input is not there, or is not what its item's checksum says.
    """
    job, generator = task.job, task.generator
    guard = unit.found.guard.allowing(task.allow)
    scenes = read_scenes(item, job.source.bands, signer_of(job.source.catalog), guard)
    parts = {
        "eoaug": version(),
        "request": job.request,
        "generator": identity_of(generator),
        "item": [item.id, item.collection_id, item.properties, _inputs(item, scenes)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache  # the library's metadata are read and parsed anew each time, a fifth of the planning of an item
def version() -> str:
    """Return the version of eoaug."""
    return metadata.version("eoaug")


def _inputs(item: pystac.Item, scenes: Sequence[Scene]) -> list[Any]:
    """What identifies the pixels: checksums of local files, and of others what the item tells of them."""
    found: dict[str, Any] = {}
    for scene in scenes:
        for source in scene.sources.values():
            asset = item.assets[source.asset]
            fields = {name: value for name, value in asset.extra_fields.items() if name != "href"}
            told = fields.get("file:checksum")
            if is_object(source.href):
                content = told or _versions(source.href, folder=bool(source.array))
            elif "://" in source.href:
                content = told or clean_href(source.href)
            elif os.path.isdir(source.href):
                parts = sorted(part for part in Path(source.href).rglob("*") if part.is_file())
                content = [[part.relative_to(source.href).as_posix(), checksum(part)] for part in parts]
            else:
                content = checksum(Path(source.href))
                if isinstance(told, str) and told.startswith("1220") and told.lower() != content:
                    raise SourceError(
                        f"asset {source.asset!r} of item {item.id!r} is not the file that its file:checksum "
                        f"tells: {told[4:16]}... became {content[4:16]}....",
                        "Fetch the file again, or correct the item.",
                    )
            found.setdefault(source.asset, [content, fields])
    return sorted(found.items())


def _versions(href: str, *, folder: bool) -> Any:
    """What the store says of an object, or of all objects of a Zarr group: other content, other tags."""
    if not folder:
        return [head(href).tag, head(href).size]
    return sorted([key.removeprefix(href), one.tag, one.size] for key, one in entries(href, deep=True) if one)


def standing(root: Root, unit: Unit, key: str, *, verify: bool) -> tuple[dict[str, Any], ...]:
    """Return what stands of a unit's result: all of its items with that key and all of their data, or nothing."""
    folder = root.folder / unit.collection
    waiting, found = [unit.label], []
    while waiting:
        home = folder / waiting.pop()
        try:
            content = (home / f"{home.name}.json").read_bytes()
            item = json.loads(content)
            properties = item["properties"]
            if properties["eoaug:content_key"] != key or broken_seal(content):
                return ()
            if next(damage(home, item, deep=verify), None):
                return ()
            waiting += properties.get("eoaug:siblings", [])
            found.append(_summary(item))
        except StoreError:  # out of reach is not the same as not there
            raise
        except (OSError, ValueError, KeyError, TypeError):
            return ()
    return tuple(found)
