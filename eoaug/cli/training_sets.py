"""Commands of training sets: ``export``, ``caption``, ``select`` and ``gate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from eoaug.cli.options import Json, Texts, floats, option_help, print_result, reported, split

__all__ = ["commands", "judged", "selected"]

commands = typer.Typer()


@commands.command(
    "export",
    short_help="Write a training set for other tools.",
    help=option_help(
        "Write a training set, or what was made of one, as an imagefolder with metadata.jsonl, as COCO, as STAC items of the "
        "extension label, as a stac-geoparquet file, or the regions of its label rasters as GeoJSON or GeoParquet.",
        "eoaug export EuroSAT_RGB chips --format imagefolder --split train\n"
        "  eoaug export pairs changed.geojson --format polygons --task change",
    ),
)
@reported
def export(
    source: Annotated[str, typer.Argument(help="Catalog, or folder of images, as for eoaug.training_set.")],
    out: Annotated[Path, typer.Argument(help="Folder or file to write; it must not exist.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="imagefolder, coco, label-items, geoparquet or polygons."
        ),
    ],
    task: Annotated[str, typer.Option(help="classes, pixels or change: what has a label.")] = "classes",
    label: Annotated[
        str | None, typer.Option(help="Property, band or folder with the label. [default: the source's]")
    ] = None,
    split_: Annotated[
        str | None, typer.Option("--split", help="train, validate or test for all items, or place.")
    ] = None,
    classes: Annotated[Texts, typer.Option(metavar="NAMES", help="Names of the classes of pixels.")] = None,
    bands: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Bands of items, or names of those of files.")
    ] = None,
    image: Annotated[str, typer.Option(help="png (8 bits) or tif (stored numbers, all bands).")] = "png",
    flat: Annotated[bool, typer.Option("--flat", help="No folders of classes in an imagefolder.")] = False,
    background: Annotated[
        str | None, typer.Option(help="Class without annotations in COCO. [default: of change, the first]")
    ] = None,
    datetime: Annotated[
        str | None, typer.Option(help="Date or interval of images without a date, for STAC items.")
    ] = None,
) -> None:
    """Write a training set for other tools."""
    from eoaug.exports.export import export as write

    how: dict[str, Any] = {"split": split_, "classes": split(classes), "bands": split(bands)}
    written = write(
        source,
        out,
        format=form,  # type: ignore[arg-type]  # checked there, with a message
        image=image,  # type: ignore[arg-type]
        class_folders=not flat,
        background=background,
        datetime=datetime,
        task=task,  # type: ignore[arg-type]
        label=label,
        **how,
    )
    typer.echo(f"wrote {written}")


@commands.command(
    "caption",
    short_help="Write captions of a training set.",
    help=option_help(
        "Write captions of the images of a training set: from what is known of them, or by a local image-text model of "
        "transformers (BLIP-2, InstructBLIP, Florence-2, LLaVA, SmolVLM, Qwen-VL). Every caption is checked against the facts; those "
        "with a problem stay in the file with it, and are not used.",
        "eoaug caption EuroSAT_RGB --captioner facts --several 3",
    ),
)
@reported
def caption(
    source: Annotated[str, typer.Argument(help="Catalog, or folder of images, as for eoaug.training_set.")],
    captioner: Annotated[str, typer.Option(help="facts, or the folder of a model.")] = "facts",
    several: Annotated[int, typer.Option(min=1, help="Captions per image.")] = 1,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("captions.jsonl"),
    task: Annotated[str, typer.Option(help="classes, pixels or change: what has a label.")] = "classes",
    label: Annotated[
        str | None, typer.Option(help="Property, band or folder with the label. [default: the source's]")
    ] = None,
    classes: Annotated[Texts, typer.Option(metavar="NAMES", help="Names of the classes of pixels.")] = None,
    sensor: Annotated[str | None, typer.Option(help="Name of the sensor. [default: by its bands]")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint that will read the captions: its tokenizers count them.")
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help="Folder of a CLIP model that compares images with their captions, and with shuffled ones."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass on an accelerator.")] = 8,
    device: Annotated[str, typer.Option(help="Device of a model, e.g. cpu, cuda.")] = "cpu",
) -> None:
    """Write captions of a training set."""
    from eoaug import caption as write
    from eoaug import training_set

    train = training_set(source, label, task=task, classes=split(classes))  # type: ignore[arg-type]  # checked there
    how = {"checkpoint": checkpoint, "clip": clip, "batch": batch, "device": device}
    report = write(train, captioner, several=several, out=out, sensor=sensor, **how)  # type: ignore[arg-type]
    typer.echo(f"{report}\nwrote {report.path}")


SetFile = Annotated[Path, typer.Argument(metavar="SET", help="YAML file of the augmentation.")]


@commands.command(
    "select",
    short_help="Choose which made images to keep.",
    help=option_help(
        "Find made images that a classifier of real images does not take for their class, near-duplicates, and copies of "
        "real images, by the rules keep: of the policy. Writes selection.jsonl and a page to the folder selection of the "
        "catalog; `eoaug gate` and eoaug.torch.Augmented then leave out what is not kept.",
        "eoaug select set.yaml",
    ),
)
@reported
def select(
    config: SetFile,
    model: Annotated[
        str | None, typer.Option(help="small, timm:NAME or smp:ARCHITECTURE:ENCODER. [default: small]")
    ] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="Updates of every classifier. [default: 1000]")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per update. [default: 32]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. [default: selection in the catalog]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose which made images to keep."""
    selection = selected(config, {"model": model, "updates": updates, "batch": batch, "out": out})
    print_result(selection, as_json)


def selected(config: Path, given: Mapping[str, Any]) -> Any:
    """Return the selection of an augmentation, by its section ``select`` and the options that are not None."""
    from eoaug import select as choose
    from eoaug.augmentation.augment_job import read_augment_job
    from eoaug.augmentation.policy import KeepRules

    job = read_augment_job(config)
    keep = None if job.policy.keep == KeepRules() else job.policy.keep
    how = {**job.select.model_dump(exclude_unset=True), **_some(given)}
    return choose(job.source.training_set(), job.output.catalog, keep=keep, **how)


def _some(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


@commands.command(
    "gate",
    short_help="Test whether made images improve a model.",
    help=option_help(
        "Train a model with and without the images that `eoaug augment` has made, with equal updates, and test it on real "
        "images of other places. Options may stand in the section gate: of the file. Writes verdict.json and a page to the "
        "folder gate of the catalog; trials that exist are not repeated. Exit codes: 0 use the made images, 4 do not use "
        "them.",
        "eoaug gate set.yaml --fractions 0.1,1",
    ),
)
@reported
def gate(
    config: SetFile,
    seeds: Annotated[int | None, typer.Option(min=2, help="Number of seeds. [default: 5]")] = None,
    fractions: Annotated[
        str | None,
        typer.Option(help="Sizes of the training set: shares up to 1, or images per class. [default: 1]"),
    ] = None,
    doses: Annotated[
        str | None, typer.Option(help="Shares of real images to replace. [default: 0.25,0.5]")
    ] = None,
    augmentations: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Of none, basic, advanced, randaugment. [default: all]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="small, timm:NAME or smp:ARCHITECTURE:ENCODER. [default: small]")
    ] = None,
    updates: Annotated[int | None, typer.Option(min=1, help="Updates of every arm. [default: 1000]")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per update. [default: 32]")] = None,
    block_km: Annotated[
        float | None, typer.Option(help="Edge of blocks of test places. [default: 10]")
    ] = None,
    gap_km: Annotated[float | None, typer.Option(help="Least distance between splits. [default: 1]")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. [default: gate in the catalog]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Test whether made images improve a model."""
    given = {
        "seeds": seeds, "fractions": floats(fractions, "fractions"), "doses": floats(doses, "doses"),
        "augmentations": split(augmentations), "model": model, "updates": updates, "batch": batch, "block_km": block_km,
        "gap_km": gap_km, "out": out,
    }  # fmt: skip
    verdict = judged(config, given)
    print_result(verdict, as_json)
    raise typer.Exit(0 if verdict.use else 4)


def judged(config: Path, given: Mapping[str, Any]) -> Any:
    """Return the verdict on an augmentation, by its section ``gate`` and the options that are not None."""
    from eoaug import gate as judge
    from eoaug.augmentation.augment_job import read_augment_job

    job = read_augment_job(config)
    how = {**job.gate.model_dump(exclude_unset=True), **_some(given)}
    return judge(job.source.training_set(), job.output.catalog, **how)
