"""`augment`: more images of a training set, made by a policy, as a job that can be killed and resumed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from eoaug.augmentation.augment_job import AugmentJob, AugmentOutput, SetSource, read_augment_job
from eoaug.augmentation.draw_work import DrawnImageWork, ShardWork, drawn_items
from eoaug.augmentation.policy import Policy, draws_of, read_policy
from eoaug.augmentation.training_items import TrainingSet
from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError, TargetError
from eoaug.generators.base import Generator
from eoaug.generators.registry import load
from eoaug.jobs.config import hash_of
from eoaug.jobs.report import Report
from eoaug.jobs.runner import run_work
from eoaug.jobs.work_items import JobWork
from eoaug.stac.catalog import Root
from eoaug.stac.publish import check_format

__all__ = ["AugmentPlan", "augment", "plan_augment", "run_augment"]


def augment(
    train: TrainingSet,
    out: str | os.PathLike[str],
    *,
    policy: Policy | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    generator: Generator | str = "embedded",
    format: Literal["cog", "zarr", "icechunk", "chips"] | None = None,  # noqa: A002  (the word that users know)
    collection: str | None = None,
    client: Any = None,
    progress: bool | None = None,
    recompute: bool = False,
) -> Report:
    """Make images of the split ``train`` of a training set, and write them with their labels to a catalog.

    Every draw depends on the policy, its image and its number alone: any number of workers, and any number of
    interruptions, give the same images. Existing ones are skipped, so the same call goes on where a killed one ended.

    Parameters
    ----------
    train
        From `training_set`. Images of other splits, and of none, are never touched.
    out
        Catalog to write to: a folder, or ``s3://bucket/prefix``. `training_set` opens it.
    policy
        What to make: a `Policy`, a mapping, or a YAML file. Default: five variations per image by
        `synthesize` at strength 0.3, more of rare classes.
    generator
        Name or object; not used by corruptions.
    format
        ``cog``, ``zarr``, ``icechunk``: an item per made image, as `write` makes it. ``chips``: one Zarr group per
        thousand images, for many small images and for those without coordinates. Default: chips for images of at most
        256 pixels or without coordinates, else cog.
    collection
        Id of the collection; default ``augmented``.
    client
        A ``distributed.Client``; None: this process.
    progress
        True or False; default: a bar on a terminal, elsewhere a line every 30 s.
    recompute
        Continue what another version of eoaug began, and make all images again.

    Returns
    -------
    Report
        Counts and failures. An image that cannot be made does not stop the others; in the format chips it stops those of
        its shard.

    Raises
    ------
    ParameterError
        No image is in the split ``train``, or policy, format and images do not fit together.
    SourceError, TargetError, JobError
        Images cannot be read, ``out`` cannot be written, or the cluster is lost.

    Examples
    --------
    >>> train = eoaug.training_set("EuroSAT_RGB", split="place")  # doctest: +SKIP
    >>> eoaug.augment(train, "augmented", policy={"per_real": 2}).published  # doctest: +SKIP
    """
    if not isinstance(train, TrainingSet):
        raise ParameterError(f"train={train!r} is no training set", "give eoaug.training_set(...)")
    chosen = format or _format_for(train)
    job = AugmentJob(
        source=SetSource(path="memory", items=hash_of([item.id for item in train])),
        policy=Policy() if policy is None else read_policy(policy),
        generator=generator,
        output=AugmentOutput(catalog=str(out), format=chosen, collection=collection),
    )
    return _run(job, train, client, progress=progress, recompute=recompute)


def run_augment(
    config: AugmentJob | Mapping[str, Any] | str | os.PathLike[str],
    client: Any = None,
    *,
    progress: bool | None = None,
    recompute: bool = False,
) -> Report:
    """Run an augmentation from a YAML file, or the rest of it; see `augment`."""
    job = read_augment_job(config)
    train = job.source.training_set()
    _refuse_source(job)
    return _run(job, train, client, progress=progress, recompute=recompute)


def _run(
    job: AugmentJob, train: TrainingSet, client: Any, *, progress: bool | None, recompute: bool
) -> Report:
    _refuse_inside(train, job.output.catalog)
    _check(job, train)
    return run_work(
        job,
        _work_of(job, train),
        lambda bookkeeper: drawn_items(job, train),
        client,
        generates=_generates(job),
        progress=progress,
        recompute=recompute,
    )


def _work_of(job: AugmentJob, train: TrainingSet) -> JobWork:
    if job.output.format == "chips":
        return ShardWork(job, train.label, train.task, train.classes)
    return DrawnImageWork(job)


def _generates(job: AugmentJob) -> bool:
    return any(kind.verb != "corrupt" for kind in job.policy.draws)


def _check(job: AugmentJob, train: TrainingSet) -> None:
    """Refuse what would fail for every image, before anything is made."""
    policy, form = job.policy, job.output.format
    if form != "chips":
        check_format(form)
    own = train.split("train")
    for key, value in (("rounds", policy.rounds), ("keep", policy.keep)):
        if value != Policy.model_fields[key].default:
            raise ParameterError(
                f"policy.{key} has no effect yet", f"leave {key} out, and choose among the images yourself"
            )
    for kind in policy.draws:
        if form == "chips" and kind.verb in ("super_resolve", "extend"):
            raise ParameterError(
                f"{kind.verb} makes images of another size or date, and the chips of a shard are of one form",
                "remove it from the policy, or use format: cog",
            )
    if form != "chips" and read_cube(own[0].open()).geobox.crs is None:
        raise ParameterError(
            f"image {own[0].id!r} has no coordinate reference system, and format: {form} needs one",
            "use format: chips, which also holds images on a grid in pixels",
        )


def _refuse_inside(train: TrainingSet, out: str) -> None:
    """Refuse to write among the classes of a folder of images, also where the set was given from Python."""
    first = train[0].href
    if "://" in out or "://" in first or not first or first.endswith(".json"):
        return
    target = Path(out).expanduser().resolve()
    if Path(first).resolve().parent.parent in (target, *target.parents):
        raise TargetError(
            f"{str(target)!r} lies in the folder of the images, where made images would be taken for real ones",
            "write next to it",
        )


def _refuse_source(job: AugmentJob) -> None:
    """Refuse to write into the folder that the images are read from."""
    if "://" in job.source.path or "://" in job.output.catalog:
        return
    source, out = (Path(text).expanduser().resolve() for text in (job.source.path, job.output.catalog))
    if (
        source.is_dir()
        and (out == source or source in out.parents)
        and not (source / "catalog.json").is_file()
    ):
        raise TargetError(
            f"output.catalog {str(out)!r} lies in the folder of the images {str(source)!r}, where made images would be "
            "taken for real ones",
            "write next to it, e.g. output: {catalog: augmented}",
        )


_CHIP_PX = 256
"""Longest edge of images that are written as chips by default."""


def _format_for(train: TrainingSet) -> Literal["cog", "chips"]:
    geobox = read_cube(train.split("train")[0].open()).geobox
    return "chips" if geobox.crs is None or max(geobox.shape) <= _CHIP_PX else "cog"


@dataclass(frozen=True, kw_only=True)
class AugmentPlan:
    """What an augmentation would make, without making it."""

    real: int
    """Images of the split ``train``."""
    left_alone: int
    """Images of other splits, and of none."""
    images: int
    """Images that are made."""
    by_class: Mapping[str, int]
    """Made images by class; empty for labels of pixels."""
    by_verb: Mapping[str, int]
    items: int
    """Items of the catalog: images, or shards of chips."""
    existing: int
    """Of these, items with an output of the same name."""

    def __str__(self) -> str:
        """Return a short text."""
        shown = ", ".join(f"{name} {count:,}" for name, count in self.by_class.items())
        verbs = ", ".join(f"{name} {count:,}" for name, count in self.by_verb.items())
        rows = {
            "real images": f"{self.real:,} of the split train; {self.left_alone:,} others are left alone",
            "made images": f"{self.images:,}: {verbs}",
            **({"by class": shown} if shown else {}),
            "items": f"{self.items:,}, of which {self.existing:,} exist",
        }
        return "\n".join(f"{name:<12} {text}" for name, text in rows.items())

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def plan_augment(config: AugmentJob | Mapping[str, Any] | str | os.PathLike[str]) -> AugmentPlan:
    """Return what an augmentation would make; nothing is made or written.

    Raises
    ------
    EoaugError
        As for `augment`.
    """
    job = read_augment_job(config)
    train = job.source.training_set()
    _refuse_source(job)
    _check(job, train)
    if _generates(job) and isinstance(job.generator, str):
        load(job.generator)
    labels = {item.id: item.label for item in train}
    classes: Counter[str] = Counter()
    verbs: Counter[str] = Counter()
    for draw in draws_of(job.policy, train):
        verbs[draw.verb] += 1
        name = labels[draw.item]
        if name is not None:
            classes[name] += 1
    listed = Root.at(job.output.catalog).listed(job.output.collection or "augmented")
    names = [item.label for item in drawn_items(job, train)]
    real = len(train.split("train"))
    return AugmentPlan(
        real=real,
        left_alone=len(train) - real,
        images=verbs.total(),
        by_class={name: classes[name] for name in train.classes if name in classes},
        by_verb=dict(sorted(verbs.items())),
        items=len(names),
        existing=sum(name in listed for name in names),
    )
