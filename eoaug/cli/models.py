"""Commands about generators: list, train, fine-tune, convert weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from eoaug.cli.options import (
    Bbox,
    Collections,
    Datetime,
    Limit,
    Texts,
    floats,
    option_help,
    options_of,
    reported,
    settings_from,
    split,
)
from eoaug.errors import EoaugError, ParameterError
from eoaug.generators.embedded.ground_cover import CLASSES
from eoaug.training.finetune import Tuning

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(
    "generators",
    short_help="List the installed generators.",
    help=option_help("List the installed generators.", "eoaug generators"),
)
@reported
def generators() -> None:
    """List the installed generators."""
    from eoaug.generators import available, load

    for name in available():
        try:
            card = load(name).card
        except EoaugError as error:
            typer.echo(f"{name}\n  cannot be loaded: {error.problem}")
            continue
        low, high = card.gsd_m
        rows = {
            "": card.description,
            "verbs": ", ".join(sorted(card.verbs)),
            "bands": ", ".join(card.bands) + "; others by its priors" * card.extra_bands
            if card.bands
            else "any, each processed separately",
            "gsd": "any" if high == float("inf") else f"{low:g} to {high:g} m",
            "uses": ", ".join(sorted(card.conditions)),
            "licence": card.licence,
            "sha256": card.sha256,
        }
        typer.echo(name)
        typer.echo("\n".join(f"  {label:<9}{text}" for label, text in rows.items() if text))


@commands.command(
    "train",
    short_help="Train the embedded model.",
    help=option_help(
        "Train the networks of the embedded generator. An interrupted training is resumed by the same command.",
        "eoaug train train.yaml --data cubes --out runs/embedded",
    ),
)
@reported
def train(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML file of the training.")],
    out: Annotated[Path, typer.Option(help="Folder for weights and checkpoints.")],
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder of netCDF cubes, for all stages but land."),
    ] = None,
    chips: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder with eurosat_rgb_train.zip and eurosat_ms_train.zip, for the stage land.",
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop each stage after this many minutes.")] = None,
) -> None:
    """Train the networks of the embedded generator."""
    import logging

    from eoaug.training.pretrain import pretrain

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    for stage, sha256 in pretrain(config, data, out, chips_dir=chips, minutes=minutes).items():
        if sha256:  # empty in all processes but the first
            typer.echo(f"{stage} {sha256}")


@commands.command(
    "convert-weights",
    short_help="Convert pickled weights to safetensors.",
    help=option_help(
        "Convert pickled weights of a checkpoint to safetensors files in the same folder. The pickles are read in a "
        "sandboxed process.",
        "eoaug convert-weights diffusionsat-512",
    ),
)
@reported
def convert(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Checkpoint folder.")],
) -> None:
    """Convert pickled weights of a checkpoint to safetensors."""
    from eoaug.generators.checkpoints.convert import convert_weights

    for path in convert_weights(folder):
        typer.echo(path)


_TUNING = {
    "mode": "Train low-rank matrices (LoRA), or all weights of the targets.",
    "target": "Components to train: unet, text, vae.",
    "parts": "How each part is trained, instead of mode and target: unet and text full, lora or frozen; vae frozen, lora, "
    "decoder_lora, decoder or full; e.g. unet=full,text=lora.",
    "rank": "Rank of the LoRA.",
    "token": "Textual-inversion token to learn, e.g. <sar>.",
    "steps": "Training steps.",
    "batch": "Windows per step.",
    "rate": "Learning rate.",
    "snr": "Largest signal-to-noise ratio in the loss weights (min-SNR); 0: no weighting.",
    "ema": "Decay of the moving average of the weights; 0: no average.",
    "checkpointing": "Gradient checkpointing: less memory, longer training.",
    "precision": "Compute dtype.",
    "bands": "Bands of the three channels.",
    "stretch": "Reflectances (or other values) mapped to -1 and 1.",
    "prompt": "Caption of cubes that have none.",
    "tile_px": "Edge of a training window in pixels. [default: that of the UNet]",
    "save_every": "Steps between training checkpoints.",
    "latents": "Folder in which latents of images are kept, also for later trainings. [default: none are kept]",
    "latents_gb": "Largest size of that folder in GB.",
    "seed": "Random seed.",
    "device": "Device, e.g. cpu or cuda:0. [default: a GPU if there is one]",
}
"""Help texts of the fields of `Tuning`."""


@commands.command(
    "finetune",
    short_help="Fine-tune a checkpoint on cubes.",
    help=option_help(
        "Train a LoRA, a textual-inversion token or all weights of a checkpoint on cubes (netCDF files, or the "
        "items of a catalog) or on the images of a training set. An interrupted training is resumed by the same command.",
        'eoaug finetune --base sd-folder --cubes cubes --out my-lora --rank 16 --token "<field>"\n'
        "  eoaug finetune --base sd-folder --cubes sentinel-1-catalog --bands vv,vh,vv --stretch -25,0 \\\n"
        "    --captions captions.json --out sar-lora\n"
        "  eoaug finetune --base sd-folder --images EuroSAT_RGB --captions captions.jsonl --tile-px 64 --out eurosat-lora\n"
        "  eoaug finetune --base sdxl-folder --cubes cubes --parts unet=full,text=lora --token '<sar>' --out sdxl-sar",
    ),
)
@reported
@options_of(Tuning, _TUNING)
def tune(
    context: typer.Context,
    base: Annotated[str, typer.Option(help="Checkpoint folder, or owner/name@commit on the hub.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapter and the training checkpoints.")],
    cubes: Annotated[
        str | None, typer.Option(help="Folder of netCDF cubes, or a catalog, collection, item or STAC API.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Instead of cubes, a training set: folder of class folders, or catalog; its split train is used."
        ),
    ] = None,
    captions: Annotated[
        str | None,
        typer.Option(
            help="File of `eoaug caption` (.jsonl), or JSON: prompts or class of each cube or image, by file name or item id. "
            "Of a training set also facts: captions of every window. [default: captions.json in the folder of the cubes; "
            "the class of an image]",
        ),
    ] = None,
    collections: Collections = None,
    bbox: Bbox = None,
    datetime: Datetime = None,
    limit: Limit = None,
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="YAML file with options of this command; typed options precede it.",
        ),
    ] = None,
    *,
    values: Mapping[str, Any],
) -> None:
    """Fine-tune a checkpoint on cubes."""
    from tqdm import tqdm

    from eoaug.storage.documents import read_mapping
    from eoaug.training.finetune import finetune

    written = {} if config is None else read_mapping(config, noun="options", remedy="write rank: 16")[0]
    tuning = settings_from(Tuning, values, written, context)
    filters = {
        "collections": split(collections),
        "bbox": floats(bbox, "bbox", 4),
        "datetime": datetime,
        "limit": limit,
    }
    search = {name: value for name, value in filters.items() if value is not None}
    source = _images_from(cubes, images)
    with tqdm(total=tuning.steps, unit="step", disable=None) as bar:

        def update(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}")

        tuned = finetune(base, source, out, tuning, captions=captions, search=search, progress=update)
    typer.echo(tuned.path)


def _images_from(cubes: str | None, images: str | None) -> Any:
    """Return what to train on: the source of cubes, or a training set."""
    from eoaug.augmentation.training_set import training_set

    if (cubes is None) == (images is None):
        raise ParameterError("finetune needs either --cubes or --images", "name one of them")
    return cubes if images is None else training_set(images)


@commands.command(
    "tune-land",
    short_help="Tune the land of the embedded generator on a training set.",
    help=option_help(
        "Write a generator that draws the classes of a training set by prompt, class map or policy: with the colours, contrast, "
        "roughness and bands of the set, in shapes of the ten ground covers of embedded. Every class is judged by images that "
        "were held back; one that does not pass is not offered. Minutes on a CPU.",
        "eoaug tune-land EuroSAT_RGB --out eurosat-land\n"
        '  eoaug synthesize --generator ./eurosat-land --prompt "annual crop with a river" \\\n'
        "    --like 500000,5000000,502000,5002000 --crs EPSG:32633 --resolution 10\n"
        "  eoaug tune-land crops-catalog --classes maize=annual_crop,hops=permanent_crop,cloud=none --out crops-land",
    ),
)
@reported
def tune_land(
    source: Annotated[str, typer.Argument(help="Catalog, or folder of images, as for eoaug.training_set.")],
    out: Annotated[Path, typer.Option(help="Folder for the generator.")],
    task: Annotated[str, typer.Option(help="classes or pixels: what has a class.")] = "classes",
    label: Annotated[
        str | None, typer.Option(help="Property, band or folder with the class. [default: the source's]")
    ] = None,
    bands: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Bands of items, or names of those of files.")
    ] = None,
    collections: Collections = None,
    classes: Annotated[
        Texts,
        typer.Option(
            metavar="CLASS=COVER",
            help=f"Ground cover of a class: one of {', '.join(CLASSES)}, or none. [default: by its name or structure]",
        ),
    ] = None,
    gsd_m: Annotated[
        float | None, typer.Option("--gsd", help="Pixel size in metres of images that do not say it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the generator. [default: the folder's]")] = None,
    images: Annotated[int, typer.Option(help="Images drawn of every class to judge it.")] = 24,
    offer_all: Annotated[
        bool, typer.Option("--offer-all", help="Offer classes that do not pass, too.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Tune the land of the embedded generator on a training set."""
    from eoaug import training_set
    from eoaug.land_tuning.tune import tune_land as tune_set

    how: dict[str, Any] = {"task": task, "bands": split(bands), "collections": split(collections)}
    train = training_set(source, label, **how)
    pairs = [text.partition("=") for text in split(classes) or []]
    typer.echo(
        tune_set(
            train, out, name=name, classes={key: cover for key, _, cover in pairs}, gsd_m=gsd_m, images=images,
            offer_all=offer_all, seed=seed,
        )
    )  # fmt: skip
    typer.echo(f"wrote {out}")
