"""What `augment` does with a draw, and with a shard of draws: make the images, and publish them with labels and sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import batched
from typing import Any

import numpy as np
import xarray as xr

from eoaug.augmentation.augment_job import AugmentJob
from eoaug.augmentation.drawn_images import OpenedDraw, make, make_together
from eoaug.augmentation.missing import able_to_miss, loses_pixels
from eoaug.augmentation.policy import Draw, draws_by_round
from eoaug.augmentation.training_items import TrainingItem, TrainingSet, label_properties
from eoaug.corruptions.image_work import CLOUD_MASK, OPACITY
from eoaug.corruptions.results import with_cloud_layers
from eoaug.cube.carried import PROPERTIES, SPLIT
from eoaug.cube.provenance import Provenance, renamed
from eoaug.cube.provenance import of as provenance_of
from eoaug.cube.read import read_cube
from eoaug.cube.roles import label_variables
from eoaug.cube.synthetic import SYNTHETIC
from eoaug.engine.dask_graph import computed_by
from eoaug.errors import EoaugError, ParameterError, error_context
from eoaug.formats.chips import Chip, write_chips
from eoaug.generators.base import Generator
from eoaug.generators.identity import identity_of
from eoaug.jobs.catalog_work import labels_of
from eoaug.jobs.config import hash_of
from eoaug.jobs.content_key import version
from eoaug.jobs.work_items import JobContext, WorkItem
from eoaug.jobs.worker import explained, may_pass
from eoaug.stac.collection_fields import LEFT_OUT
from eoaug.stac.item_document import Claim, Target
from eoaug.stac.model_item import known_item
from eoaug.stac.publish import publish, put_item
from eoaug.stac.search import SourceItem
from eoaug.stac.shard_items import shard_document
from eoaug.storage.access import AccessPolicy
from eoaug.storage.names import safe_id

__all__ = ["COLLECTION", "DrawnImageWork", "DrawnItem", "ShardWork", "drawn_items", "label_of", "round_items"]


COLLECTION = "augmented"
"""Default id of the collection of made images."""
_SHARD_BYTES = 2**28
"""Largest size of the images of a shard as float32."""
_POOL = 64
"""Images that go through the generator together, so that its batches are full."""


@dataclass(frozen=True)
class DrawnItem(WorkItem):
    """Draws that are made and published together: one, or those of a shard."""

    draws: tuple[tuple[TrainingItem, Draw], ...]

    @property
    def images(self) -> int:
        """Number of images that are made."""
        return len(self.draws)


def drawn_items(
    job: AugmentJob, train: TrainingSet, chances: Sequence[Mapping[str, float]] = ()
) -> Iterator[DrawnItem]:
    """Yield the work items of an augmentation: of the first round, and of those whose probabilities are given.

    Parameters
    ----------
    job, train
        The augmentation and its set.
    chances
        As for `eoaug.augmentation.policy.draws_by_round`.
    """
    for number, draws in enumerate(draws_by_round(job.policy, train, chances), 1):
        yield from _items_of_round(job, train, draws, number)


def round_items(
    job: AugmentJob, train: TrainingSet, chances: Sequence[Mapping[str, float]]
) -> Iterator[DrawnItem]:
    """Yield the work items of the last round alone."""
    draws = draws_by_round(job.policy, train, chances)[-1]
    return _items_of_round(job, train, draws, 1 + len(chances))


def _items_of_round(
    job: AugmentJob, train: TrainingSet, draws: Iterable[Draw], number: int
) -> Iterator[DrawnItem]:
    request, collection = job.request[:8], job.output.collection or COLLECTION
    by_id = {item.id: item for item in train}
    drawn = ((by_id[draw.item], draw) for draw in draws)
    if job.output.format == "chips":
        real = train.split("train")
        # Two sets in one catalog, and one set with other splits, have other shards.
        own = hash_of([item.id for item in real])[:8]
        begin = f"chips-{request}-{own}" if number == 1 else f"chips-{request}-{own}-round-{number}"
        for shard, some in enumerate(batched(drawn, _per_shard(job, real.first_readable()))):
            yield _drawn_item(collection, f"{begin}-{shard:05d}", some)
        return
    for item, draw in drawn:
        yield _drawn_item(collection, label_of(item, draw, request), ((item, draw),))


def _per_shard(job: AugmentJob, first: TrainingItem) -> int:
    """Return the number of chips of a shard, which is held in memory while it is made."""
    pixels = sum(var.size for var in first.open().data_vars.values())
    return max(1, min(job.output.shard, _SHARD_BYTES // (pixels * np.dtype(np.float32).itemsize)))


def label_of(item: TrainingItem, draw: Draw, request: str) -> str:
    """Return the id of a made image."""
    name = safe_id(item.id)[:80]
    if name != item.id:  # shortened or cleaned ids may be equal
        request = hashlib.sha256(f"{request} {item.id}".encode()).hexdigest()[:8]
    return f"{name}-{draw.verb.replace('_', '-')}-{request}-{draw.number:03d}"


def _drawn_item(collection: str, label: str, draws: Iterable[tuple[TrainingItem, Draw]]) -> DrawnItem:
    return DrawnItem(SourceItem({}, "", AccessPolicy()), label, collection, label, tuple(draws))


def _key(work_item: WorkItem, job: AugmentJob, context: JobContext) -> str:
    """Return the content key of draws: the hash of the images, of what is made of them, and of the model."""
    assert isinstance(work_item, DrawnItem)
    uses = any(draw.verb != "corrupt" for _, draw in work_item.draws)
    sources = {item.id: item for item, _ in work_item.draws}
    identities = {name: _identity(item) for name, item in sources.items()}  # several draws share an image
    parts = {
        "eoaug": version(),
        "request": job.request,
        "generator": identity_of(context.generator) if uses else "corruption",
        "draws": [
            [identities[item.id], draw.verb, draw.number, dict(draw.parameters), draw.axis]
            for item, draw in work_item.draws
        ],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _identity(item: TrainingItem) -> str:
    """Return the identity of an image; one that cannot be read gets another when it can."""
    try:
        return item.identity
    except (EoaugError, OSError):
        return "not readable"


def _generator(work_item: DrawnItem, context: JobContext) -> Generator | None:
    return context.generator if any(d.verb != "corrupt" for _, d in work_item.draws) else None


@dataclass(frozen=True)
class _DrawWork:
    """What images and shards have in common."""

    job: AugmentJob

    def key(self, work_item: WorkItem, context: JobContext) -> str:
        """Return the content key: the hash of the images, of what is made of them, and of the model."""
        return _key(work_item, self.job, context)

    def source(self, work_item: WorkItem) -> Any:
        """Return the first real image."""
        assert isinstance(work_item, DrawnItem)
        return work_item.draws[0][0].open()

    def note(self, share: float) -> str:
        """Return nothing: what a draw changes is the policy's choice."""
        return ""


@dataclass(frozen=True)
class DrawnImageWork(_DrawWork):
    """Publishes every draw as an item of its own."""

    def publish(
        self, work_item: WorkItem, context: JobContext, key: str, claim: Claim
    ) -> list[dict[str, Any]]:
        """Publish the image of a draw."""
        assert isinstance(work_item, DrawnItem)
        ((item, draw),) = work_item.draws
        with computed_by(context.scheduler):
            one = OpenedDraw(item, draw, item.open())
            made = make(one, _generator(work_item, context), batch_tiles=self.job.run.batch_tiles)
            result = renamed(made, key)
        form = self.job.output.format
        assert form != "chips"  # the work of a shard
        labels = labels_of(work_item.label, result, single=form != "cog")
        with error_context(f"draw {draw.number} of {item.id!r}"):
            return list(
                publish(result, context.root, work_item.collection, format=form, ids=labels, claim=claim)
            )


@dataclass(frozen=True)
class _LeftOut:
    """An image that could not be made."""

    id: str
    error: Exception

    def as_dict(self) -> dict[str, str]:
        """Return JSON values."""
        error = explained(self.error, f"image {self.id!r}")
        return {
            "id": self.id,
            "error": type(error).__name__,
            "problem": error.problem,
            "remedy": error.remedy,
        }


def _opened(some: Sequence[tuple[TrainingItem, Draw]]) -> list[OpenedDraw | Exception]:
    """Return draws with their images in memory, or why an image cannot be read; several draws share an image."""
    images: dict[str, xr.Dataset | Exception] = {}
    for item, _ in some:
        if item.id not in images:
            try:
                images[item.id] = item.open().load()
            except Exception as error:
                images[item.id] = error
    return [
        image if isinstance(image := images[item.id], Exception) else OpenedDraw(item, draw, image)
        for item, draw in some
    ]


@dataclass(frozen=True)
class ShardWork(_DrawWork):
    """Publishes the draws of a shard as one item."""

    label: str
    """Of the training set, as its task and classes are."""
    task: Any
    classes: tuple[str, ...]

    def publish(
        self, work_item: WorkItem, context: JobContext, key: str, claim: Claim
    ) -> list[dict[str, Any]]:
        """Make the images of a shard, and publish them together; those that cannot be made are left out and named."""
        assert isinstance(work_item, DrawnItem)
        generator = _generator(work_item, context)
        chips: list[Chip] = []
        left_out: list[_LeftOut] = []
        with computed_by(context.scheduler):
            for some in batched(work_item.draws, _POOL):
                for one in self._made(some, generator):
                    if isinstance(one, _LeftOut):
                        left_out.append(one)
                    else:
                        chips.append(one)
                context.advance(len(some))
        if not chips:
            raise left_out[0].error
        prov = self._provenance(chips, generator, key)
        model = known_item(prov)
        folder = context.root.folder / work_item.collection
        fields = dict(claim.fields)
        if any(may_pass(one.error) for one in left_out):
            # Another key than that of the whole shard: the next run makes it again.
            fields["eoaug:content_key"] = hashlib.sha256(f"{key} incomplete".encode()).hexdigest()
        target = Target(context.root, folder, model, replace(claim, fields=fields))
        names = sorted({draw.verb for _, draw in work_item.draws})
        properties = label_properties(self.task, self.label, self.classes, split="train")
        properties |= {"title": f"{len(chips)} images made by {', '.join(names)}"}
        if left_out:
            properties[LEFT_OUT] = [one.as_dict() for one in left_out]
        with folder.scratch_dir() as scratch:
            data = scratch / "data"
            data.mkdir()
            first = chips[0].ds
            rows = write_chips(chips, data)
            y, x = read_cube(first).names_yx
            if model is not None:
                context.root.register_model(model)
            labels = {name: first[name].attrs for name in label_variables(first) if name != SYNTHETIC}
            shape = (first.sizes[y], first.sizes[x])
            document = shard_document(work_item.label, data, rows, shape, prov, properties, labels, target)
            return [put_item(data, document, target)]

    def _made(
        self, some: Sequence[tuple[TrainingItem, Draw]], generator: Generator | None
    ) -> Iterator[Chip | _LeftOut]:
        """Yield a chip per draw, in order."""
        request, opened = self.job.request[:8], _opened(some)
        # All chips of a shard are of one type.
        kinds = self.job.policy.draws
        losing = any(loses_pixels(kind.verb, kind.parameters) for kind in kinds)
        clouded = any(kind.verb == "corrupt" and kind.parameters["kind"] == "clouds" for kind in kinds)
        whole = [one for one in opened if isinstance(one, OpenedDraw)]
        made = iter(make_together(whole, generator, batch_tiles=self.job.run.batch_tiles))
        for (item, draw), one in zip(some, opened, strict=True):
            result = one if isinstance(one, Exception) else next(made)
            if isinstance(result, Exception):
                yield _LeftOut(label_of(item, draw, request), result)
                continue
            assert isinstance(one, OpenedDraw)
            result = able_to_miss(result) if losing else result
            result = with_cloud_layers(result) if clouded else result
            kept = {*one.ds.data_vars, SYNTHETIC, *((CLOUD_MASK, OPACITY) if clouded else ())}
            yield _chip(item, draw, result[[n for n in result.data_vars if n in kept]], request)

    def _provenance(self, chips: Sequence[Chip], generator: Generator | None, key: str) -> Provenance:
        """Return the record of a shard; each chip has its own in the table."""
        records = [record for chip in chips if (record := provenance_of(chip.ds)) is not None]
        if not records:
            raise ParameterError(
                "no image of the shard has a record of how it was made", "name verbs or corruptions"
            )
        first = next((r for r in records if r.operation != "corrupt"), records[0])
        return Provenance(
            operation="augment",
            generator="corrupt" if generator is None else first.generator,
            model_sha256=first.model_sha256,
            licence=first.licence,
            model_files=first.model_files,
            seed=self.job.policy.seed,
            parameters={"policy": self.job.policy.model_dump(mode="json", exclude={"rounds"})},
            token=key,
            software=first.software,
            digital_source_type=first.digital_source_type,
            cpu_capability=first.cpu_capability,
        )


def _chip(item: TrainingItem, draw: Draw, result: xr.Dataset, request: str) -> Chip:
    """Return a made image with its line of the table."""
    prov = provenance_of(result)
    marks = result[SYNTHETIC].values if SYNTHETIC in result else np.zeros(1, np.uint8)
    inside = marks != 255
    share = float(((marks != 0) & inside).sum() / max(int(inside.sum()), 1))
    fields = {
        "id": label_of(item, draw, request),
        "made_from": item.id,
        "href": item.href,
        "label": item.label,
        "split": item.properties.get(SPLIT, item.split),
        "draw": draw.number,
        "verb": draw.verb,
        "axis": draw.axis,
        "share": share,
        "properties": dict(item.properties),
        "record": None if prov is None else json.loads(prov.portable().to_json()),
    }
    return Chip(result.drop_vars(["item_id", "item_href", PROPERTIES], errors="ignore"), fields)
