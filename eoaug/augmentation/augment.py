"""`augment`: more images of a training set, made by a policy, as a job that can be killed and resumed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from eoaug.augmentation.augment_job import AugmentJob, AugmentOutput, SetSource, read_augment_job
from eoaug.augmentation.draw_work import COLLECTION, DrawnImageWork, ShardWork, drawn_items, round_items
from eoaug.augmentation.missing import adds_bands, drawn_from
from eoaug.augmentation.policy import DrawKind, Policy, draw_of, draws_of, read_policy
from eoaug.augmentation.rounds import chances_of_round, joined_reports, known_chances
from eoaug.augmentation.training_items import TrainingItem, TrainingSet, split_named
from eoaug.captions.caption_file import CAPTIONS
from eoaug.corruptions.cost import cost_of
from eoaug.cube.read import read_cube
from eoaug.display import Shown
from eoaug.engine.explain import Explanation, bytes_text
from eoaug.errors import ParameterError, TargetError, error_context
from eoaug.generators.base import Generator
from eoaug.generators.registry import load
from eoaug.jobs.config import hash_of
from eoaug.jobs.report import Report
from eoaug.jobs.runner import run_work
from eoaug.jobs.work_items import JobWork
from eoaug.stac.catalog import Root
from eoaug.stac.publish import check_format
from eoaug.stac.sidecars import add_sidecars
from eoaug.verbs.planning import plan

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
    return _run(job, train, client, progress=progress, recompute=recompute)


def _run(
    job: AugmentJob, train: TrainingSet, client: Any, *, progress: bool | None, recompute: bool
) -> Report:
    _check(job, train)
    chances: list[dict[str, float]] = []
    reports: list[Report] = []
    for number in range(1, job.policy.rounds + 1):
        if number > 1:
            chances.append(chances_of_round(job, train, chances, progress))
        report = run_work(
            job,
            _work_of(job, train),
            lambda bookkeeper: round_items(job, train, chances),
            client,
            generates=_generates(job),
            progress=progress,
            recompute=recompute,
        )
        reports.append(report)
        if report.failures:  # a further round depends on all images of this one
            break
    _write_sidecars(job)
    return joined_reports(reports)


def _write_sidecars(job: AugmentJob) -> None:
    """Write the policy and the captions that it used into the catalog, as assets of its collections."""
    root = Root.at(job.output.catalog)
    if not root.parent.is_file():  # nothing could be made
        return
    folder = root.folder
    policy = yaml.safe_dump(job.policy.model_dump(mode="json"), sort_keys=True, allow_unicode=True)
    files = {"policy.yaml": policy.encode()}
    if job.source.captions is not None:
        files[CAPTIONS] = Path(job.source.captions).expanduser().read_bytes()
    for name, content in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            (folder / name).put(content)
    add_sidecars(job.output.catalog)


def _work_of(job: AugmentJob, train: TrainingSet) -> JobWork:
    if job.output.format == "chips":
        return ShardWork(job, train.label, train.task, train.classes)
    return DrawnImageWork(job)


def _generates(job: AugmentJob) -> bool:
    return any(kind.verb != "corrupt" for kind in job.policy.draws)


def _check(job: AugmentJob, train: TrainingSet) -> list[tuple[DrawKind, Explanation]]:
    """Refuse what would fail for every image, before anything is made; return the cost of each kind of draw for one image."""
    policy, form = job.policy, job.output.format
    if form != "chips":
        check_format(form)
    own = train.split("train").first_readable()
    for kind in policy.draws:
        if form == "chips" and kind.verb in ("super_resolve", "extend"):
            raise ParameterError(
                f"{kind.verb} makes images of another size or date, and the chips of a shard are of one form",
                "remove it from the policy, or use format: cog",
            )
        if (
            form == "chips"
            and kind.verb == "translate"
            and (added := adds_bands(own.open(), kind.parameters))
        ):
            raise ParameterError(
                f"translate adds {', '.join(added)} to the image, and the chips of a shard are of one form",
                "name bands of the images, or use format: zarr",
            )
    if form != "chips" and read_cube(own.open()).geobox.crs is None:
        raise ParameterError(
            f"image {own.id!r} has no coordinate reference system, and format: {form} needs one",
            "use format: chips, which also holds images on a grid in pixels",
        )
    _refuse_target(job, train)
    generator = _generator_of(job)
    return [(kind, _cost(kind, job.policy, own, generator)) for kind in policy.draws]


def _generator_of(job: AugmentJob) -> Generator | None:
    if not _generates(job):
        return None
    return load(job.generator) if isinstance(job.generator, str) else job.generator


def _cost(kind: DrawKind, policy: Policy, item: TrainingItem, generator: Generator | None) -> Explanation:
    """Return what a kind of draw costs for an image; raises what the verb refuses."""
    draw = draw_of(policy.model_copy(update={"draws": (kind,)}), item, 0)
    ds = item.open()
    with error_context(f"a draw of {item.id!r}"):
        ds = drawn_from(ds, kind.verb, draw.parameters)
        if kind.verb == "corrupt":
            return cost_of(ds, **draw.parameters)
        return plan(kind.verb, ds, generator=generator, **draw.parameters).explain()


def _refuse_target(job: AugmentJob, train: TrainingSet) -> None:
    """Refuse targets in which made images would later be taken for real ones, or old ones for images of this set.

    Raises
    ------
    TargetError
        The target lies among the images, or its collection holds images that this augmentation does not make.
    """
    out = job.output.catalog
    if "://" not in out:
        target = Path(out).expanduser().resolve()
        for home in _homes(train):
            if home in (target, *target.parents):
                raise TargetError(
                    f"{str(target)!r} lies in {str(home)!r}, which the images are read from: made images would be taken "
                    "for real ones",
                    "write next to it, e.g. to 'augmented'",
                )
    name = job.output.collection or COLLECTION
    listed = Root.at(out).listed(name)
    if not listed:
        return
    own = {item.label for item in drawn_items(job, train, known_chances(job, train))}
    # Of several dates, the further items of a work item continue its label.
    others = sorted(one for one in listed - own if not any(one[:at] in own for at in _hyphens(one)))
    if others:
        raise TargetError(
            f"collection {name!r} of {out!r} holds {len(others)} items that this policy does not make of this set, such as "
            f"{others[0]!r}: of another set, policy or split, perhaps of what is now a test image",
            "write to another catalog, or remove that collection",
        )


def _hyphens(text: str) -> list[int]:
    return [at for at, sign in enumerate(text) if sign == "-"]


def _homes(train: TrainingSet) -> set[Path]:
    """Return the folders that the images of a set are read from, above their classes and splits."""
    out = set()
    for folder in {
        Path(item.href).resolve().parent for item in train if item.href and "://" not in item.href
    }:
        if any((folder / f"{name}.json").is_file() for name in ("catalog", "collection", folder.name)):
            continue  # a catalog: collections of made images stand next to the others
        above = folder.parent
        out |= {above, above.parent} if split_named(above.name) else {above}
    return out


_CHIP_PX = 256
"""Longest edge of images that are written as chips by default."""


def _format_for(train: TrainingSet) -> Literal["cog", "chips"]:
    geobox = read_cube(train.split("train").first_readable().open()).geobox
    return "chips" if geobox.crs is None or max(geobox.shape) <= _CHIP_PX else "cog"


@dataclass(frozen=True, kw_only=True, repr=False)
class AugmentPlan(Shown):
    """What an augmentation would make, without making it."""

    real: int
    """Images of the split ``train``."""
    left_alone: int
    """Images of other splits, and of none."""
    images: int
    """Images that are made."""
    by_class: Mapping[str, int]
    """Made images of the first round by class; empty for labels of pixels."""
    by_verb: Mapping[str, int]
    """Made images of the first round."""
    items: int
    """Items of the catalog: images, or shards of chips."""
    existing: int
    """Of these, items with an output of the same name."""
    model_calls: int
    """Calls of the generator for all images, if all have the size of the first."""
    image_bytes: int
    """Size of all made images before compression, if all have the size and type of the first."""
    memory_bytes: int
    """Memory of a worker, besides that of the programme: the images that it holds, and a call of the generator."""
    rounds: int = 1
    """Rounds; which images the further ones make is known once the earlier ones are there."""

    def __str__(self) -> str:
        """Return a short text."""
        shown = ", ".join(f"{name} {count:,}" for name, count in self.by_class.items())
        verbs = ", ".join(f"{name} {count:,}" for name, count in self.by_verb.items())
        rows = {
            "real images": f"{self.real:,} of the split train; {self.left_alone:,} others are left alone",
            "made images": f"{self.images // self.rounds:,}: {verbs}{self._more}",
            **({"by class": shown} if shown else {}),
            "items": f"{self.items:,}, of which {self.existing:,} exist",
            "model calls": f"about {self.model_calls:,}",
            "size": f"about {bytes_text(self.image_bytes)} before compression",
            "memory": f"about {bytes_text(self.memory_bytes)} in a worker",
        }
        return "\n".join(f"{name:<12} {text}" for name, text in rows.items())

    @property
    def _more(self) -> str:
        if self.rounds == 1:
            return ""
        return f", and at most as many in each of {self.rounds - 1} further rounds where classifiers err"

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
    costs = _check(job, train)
    labels = {item.id: item.label for item in train}
    classes: Counter[str] = Counter()
    verbs: Counter[str] = Counter()
    for draw in draws_of(job.policy, train):
        verbs[draw.verb] += 1
        name = labels[draw.item]
        if name is not None:
            classes[name] += 1
    listed = Root.at(job.output.catalog).listed(job.output.collection or COLLECTION)
    own = list(drawn_items(job, train))
    chances = known_chances(job, train)
    names = [item.label for item in drawn_items(job, train, chances)]
    first, rounds = train.split("train").first_readable(), job.policy.rounds
    held = max((item.images for item in own), default=0)
    real = len(train.split("train"))
    return AugmentPlan(
        real=real,
        left_alone=len(train) - real,
        images=rounds * verbs.total(),
        by_class={name: classes[name] for name in train.classes if name in classes},
        by_verb=dict(sorted(verbs.items())),
        items=len(names) + (rounds - 1 - len(chances)) * len(own),
        existing=sum(name in listed for name in names),
        rounds=rounds,
        image_bytes=rounds * verbs.total() * _bytes_of(first),
        memory_bytes=held * _held_bytes(first) + max((cost.peak_bytes for _, cost in costs), default=0),
        model_calls=round(rounds * sum(_mean_calls(costs, verb) * count for verb, count in verbs.items())),
    )


def _bytes_of(item: TrainingItem) -> int:
    """Return the size of an image with the mask of what was generated."""
    variables = list(item.open().data_vars.values())
    return sum(int(var.nbytes) for var in variables) + max(int(var.size) for var in variables)


def _held_bytes(item: TrainingItem) -> int:
    """Return the size of an image with its mask in memory, where all are float32."""
    variables = list(item.open().data_vars.values())
    pixels = sum(int(var.size) for var in variables) + max(int(var.size) for var in variables)
    return pixels * np.dtype(np.float32).itemsize


def _mean_calls(costs: Sequence[tuple[DrawKind, Explanation]], verb: str) -> float:
    """Return the mean number of model calls of a draw with a verb, over the kinds of draws that have it."""
    own = [(kind.weight, cost.model_calls) for kind, cost in costs if kind.verb == verb]
    return sum(weight * calls for weight, calls in own) / sum(weight for weight, _ in own)
