"""The command that shows the four verbs on the sample catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eoaug.cli.options import option_help, reported

__all__ = ["commands"]

commands = typer.Typer()


@commands.command(
    "demo",
    short_help="Run the four verbs on real Sentinel-2 data.",
    help=option_help(
        "Run the four verbs on the sample catalog, which is part of eoaug: hide and degrade pixels whose truth is "
        "known, restore them, and compare. Writes a catalog, a picture and a page. Takes about two minutes.",
        "eoaug demo --out demo-output",
    ),
)
@reported
def demo(
    out: Annotated[Path, typer.Option(help="Output folder; that of an earlier demo is replaced.")] = Path(
        "demo-output"
    ),
    generator: Annotated[str, typer.Option(help="Name of a generator, e.g. classical.")] = "embedded",
) -> None:
    """Run the four verbs on real Sentinel-2 data."""
    from eoaug.cli.demo import run

    run(generator, out)
