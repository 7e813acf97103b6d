"""Commands of training sets: ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eoaug.cli.options import Texts, option_help, reported, split

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(
    "export",
    short_help="Write a training set for other tools.",
    help=option_help(
        "Write a training set, or what was made of one, as an imagefolder with metadata.jsonl, as COCO, as STAC items of the "
        "extension label, or as a stac-geoparquet file.",
        "eoaug export EuroSAT_RGB chips --format imagefolder --split train",
    ),
)
@reported
def export(
    source: Annotated[str, typer.Argument(help="Catalog, or folder of images, as for eoaug.training_set.")],
    out: Annotated[Path, typer.Argument(help="Folder or file to write; it must not exist.")],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="imagefolder, coco, label-items or geoparquet.")
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
