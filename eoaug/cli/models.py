"""Commands about generators: list, train, fine-tune, convert weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from eoaug.cli.options import Texts, floats, option_help, reported, split
from eoaug.errors import EoaugError

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(
    "generators",
    short_help="List the installed generators.",
    help=option_help("List the generators that are installed.", "eoaug generators"),
)
@reported
def generators() -> None:
    """List the generators that are installed."""
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
            "bands": ", ".join(card.bands) or "any, each on its own",
            "pixels": "of any size" if high == float("inf") else f"of {low:g} to {high:g} m",
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
        "Train the embedded generator's networks; a stopped training goes on where it was.",
        "eoaug train train.yaml --data cubes --out runs/embedded",
    ),
)
@reported
def train(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML of the training.")],
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of netCDF cubes.")],
    out: Annotated[Path, typer.Option(help="Folder for weights and checkpoints.")],
    minutes: Annotated[float | None, typer.Option(help="Stop each stage after so much time.")] = None,
) -> None:
    """Train the embedded generator's networks; a stopped training goes on where it was."""
    import logging

    from eoaug.training.pretrain import pretrain

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    for stage, sha256 in pretrain(config, data, out, minutes=minutes).items():
        if sha256:  # of several processes the first one tells
            typer.echo(f"{stage} {sha256}")


@commands.command(
    "convert-weights",
    short_help="Turn pickled weights into safetensors.",
    help=option_help(
        "Write safetensors beside the pickled weights of a checkpoint, read in a process that can do nothing else.",
        "eoaug convert-weights diffusionsat-512",
    ),
)
@reported
def convert(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Checkpoint folder.")],
) -> None:
    """Write safetensors beside the pickled weights of a checkpoint."""
    from eoaug.generators.checkpoints.convert import convert_weights

    for path in convert_weights(folder):
        typer.echo(path)


@commands.command(
    "finetune",
    short_help="Fine-tune a checkpoint on cubes.",
    help=option_help(
        "Train a LoRA, a word or all weights of a checkpoint on cubes: netCDF files, or the items of a catalog; "
        "a stopped training goes on.",
        'eoaug finetune --base sd-folder --cubes cubes --out my-lora --rank 16 --token "<field>"\n'
        "  eoaug finetune --base sd-folder --cubes sentinel-1-catalog --bands vv,vh,vv --stretch -25,0 \\\n"
        "    --captions captions.json --out sar-lora",
    ),
)
@reported
def tune(
    base: Annotated[str, typer.Option(help="Checkpoint folder, or owner/name@commit on the hub.")],
    cubes: Annotated[
        str, typer.Option(help="Folder of netCDF cubes, or a catalog, collection, item or STAC API.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the adapter and its state.")],
    mode: Annotated[
        Literal["lora", "full"], typer.Option(help="Low-rank matrices, or all weights.")
    ] = "lora",
    target: Annotated[list[str], typer.Option(metavar="NAMES", help="Of unet,text,vae.")] = ["unet"],  # noqa: B006
    rank: Annotated[int, typer.Option(help="Of the LoRA.")] = 16,
    token: Annotated[str | None, typer.Option(help="A new word to learn, e.g. <sar>.")] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1000,
    batch: Annotated[int, typer.Option(help="Windows per step.")] = 1,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the forward.")
    ] = "float32",
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Less memory, more time.")] = False,
    bands: Annotated[
        Texts, typer.Option(metavar="NAMES", help="Of the three channels. [default: red,green,blue]")
    ] = None,
    stretch: Annotated[str, typer.Option(help="Reflectance of black and white.")] = "0,0.3",
    captions: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="JSON: prompt or class by cube (file name, or item id). [default: captions.json there]",
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Caption of cubes that have none.")] = "a satellite image",
    collections: Annotated[Texts, typer.Option(metavar="NAMES", help="Only these collections.")] = None,
    bbox: Annotated[str | None, typer.Option(help="Only items in west,south,east,north in degrees.")] = None,
    datetime: Annotated[str | None, typer.Option(help="Only items of this date or interval.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many items per collection.")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Edge of a window. [default: the UNet's]")] = None,
    snr: Annotated[float, typer.Option(help="Largest signal-to-noise weight (min-SNR); 0: none.")] = 5.0,
    ema: Annotated[float, typer.Option(help="Decay of the average that is written; 0: none.")] = 0.999,
    save_every: Annotated[int, typer.Option(help="Steps between states to go on from.")] = 250,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0. [default: a GPU if there is one]")] = None,
) -> None:
    """Train a LoRA, a word or all weights of a checkpoint on cubes."""
    from tqdm import tqdm

    from eoaug.generators.checkpoints.safe_read import read_json
    from eoaug.training.finetune import Tuning, finetune

    low, high = floats(stretch, "stretch", 2) or (0.0, 0.3)
    tuning = Tuning(
        mode=mode,
        target=tuple(split(target) or ()),
        rank=rank,
        token=token,
        steps=steps,
        batch=batch,
        rate=rate,
        precision=precision,
        checkpointing=checkpointing,
        bands=tuple(split(bands) or ("red", "green", "blue")),  # type: ignore[arg-type]
        prompt=prompt,
        snr=snr or None,
        ema=ema or None,
        save_every=save_every,
        stretch=(low, high),
        tile_px=tile_px,
        seed=seed,
        device=device,
    )
    told = {
        "collections": split(collections),
        "bbox": floats(bbox, "bbox", 4),
        "datetime": datetime,
        "limit": limit,
    }
    search = {name: value for name, value in told.items() if value is not None}
    texts = None if captions is None else {k: str(v) for k, v in read_json(captions).items()}
    with tqdm(total=steps, unit="step", disable=None) as bar:

        def tell(step: int, loss: float) -> None:
            bar.update(step - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}")

        tuned = finetune(base, cubes, out, tuning, captions=texts, search=search, progress=tell)
    typer.echo(tuned.path)
