"""The commands that score generators, and that compare ways to fine-tune them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eoaug.cli.options import Json, Texts, option_help, reported, split
from eoaug.errors import ParameterError

__all__ = ["commands", "studies"]

commands = typer.Typer()
studies = typer.Typer(
    help="Compare ways to fine-tune a checkpoint.",
    short_help="Compare ways to fine-tune a checkpoint.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@commands.command(
    "evaluate",
    short_help="Score a generator against classical baselines.",
    help=option_help(
        "Score a generator against classical baselines on cubes whose truth is known: gaps with and without "
        "other dates, super-resolution, new dates, and unconditional synthesis. Best estimates and single samples "
        "are scored; --members adds ensembles. Writes table.md, table.json, model-index.yaml for the head of a model card, "
        "contact sheets as PNG, and index.html, a self-contained page with pictures.",
        "eoaug evaluate embedded --data validation-cubes --out evaluation\n"
        "  eoaug evaluate embedded --data validation-cubes --train train-cubes --all-windows "
        "--members 32 --out evaluation\n"
        '  eoaug evaluate embedded --data validation-cubes --tasks "dirty masks,unknown sensor" --out evaluation\n'
        "  eoaug evaluate classical --data cubes --tasks translate --out evaluation",
    ),
)
@reported
def evaluate(
    generator: Annotated[str, typer.Argument(help="Name of a generator.")],
    data: Annotated[Path, typer.Option(help="Folder of netCDF cubes that training never used.")],
    out: Annotated[Path, typer.Option(help="Folder for the report; existing files are replaced.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Folder of the training cubes, to measure whether samples reproduce them."),
    ] = None,
    tasks: Annotated[
        Texts,
        typer.Option(
            metavar="NAMES",
            help="Tasks: inpaint, 'inpaint with radar', 'inpaint with dates', x2, x4 (also 'x2 box', "
            "'x2 triangle' ...), 'next date', 'date between', synthesis, throughput; through the verbs, as users call "
            "them: 'dirty masks', 'unknown sensor', 'all bands', '20 m to 10 m', translate; or all. [default: all but those "
            "five]",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of windows per task and place.")] = 16,
    all_windows: Annotated[
        bool,
        typer.Option("--all-windows", help="Use every window; adds scores per sensor from 100 windows on."),
    ] = False,
    members: Annotated[
        int, typer.Option(help="Ensemble size, e.g. 32 for the coverage of intervals; 0: no ensembles.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps of samples. [default: the generator's]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the gaps and of the generator's noise.")] = 0,
    as_json: Json = False,
) -> None:
    """Score a generator against classical baselines."""
    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out} is a file", "name a folder for the report")
    from eoaug.evaluate.evaluation import DEFAULT_PARTS, PARTS
    from eoaug.evaluate.evaluation import evaluate as score
    from eoaug.evaluate.report import write_report
    from eoaug.generators import load

    named = split(tasks)
    evaluation = score(
        load(generator),
        data,
        train_dir=train,
        tasks=PARTS if named == ["all"] else named or DEFAULT_PARTS,
        limit=None if all_windows else limit,
        members=members,
        steps=steps,
        seed=seed,
    )
    page = write_report(evaluation, out)
    typer.echo(evaluation.table.to_json() if as_json else evaluation.table.to_markdown())
    typer.echo(page, err=as_json)


@commands.command(
    "evaluate-land",
    short_help="Compare land drawn by class with real chips.",
    help=option_help(
        "Draw images of the ten classes of EuroSAT by prompt, and compare edges, lines, regions, gradients, spectra and features "
        "with chips of places that training did not use. Every figure has that of another real draw as its yardstick. Writes "
        "land.md, land.json, and land.png and real.png to look at.",
        "eoaug evaluate-land embedded --chips eurosat --out evaluation",
    ),
)
@reported
def evaluate_land(
    generator: Annotated[str, typer.Argument(help="Name of a generator that takes a prompt.")],
    chips: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder with eurosat_rgb_train.zip and eurosat_rgb_val.zip."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report; existing files are replaced.")],
    images: Annotated[int, typer.Option(help="Images per class.")] = 10,
    seed: Annotated[int, typer.Option(help="Random seed of the images and of the choice of chips.")] = 0,
) -> None:
    """Compare land drawn by class with real chips."""
    from eoaug.evaluate.land import evaluate_land as compare
    from eoaug.generators import load

    found = compare(load(generator), chips, images=images, seed=seed)
    found.write(out)
    typer.echo(found.to_markdown())


@studies.command(
    "sar",
    short_help="Compare ways to fine-tune a checkpoint on radar images.",
    help=option_help(
        "Fine-tune a checkpoint on radar images once for every combination of parts: UNet, text encoders, autoencoder, and a "
        "word that is learned. Every arm takes the same steps; its samples are compared with real images by amplitude "
        "distribution, texture and CLIP, and so are real images of another place. A killed study is resumed by the same command. "
        "Writes study.md, figures.json, samples.png and index.html.",
        "eoaug study sar --base sdxl-folder --data sentinel-1-cubes --out study\n"
        "  eoaug study sar --base sd-folder --data sentinel-1-cubes --clip sar-clip --out study matrix.yaml",
    ),
)
@reported
def study(
    base: Annotated[str, typer.Option(help="Checkpoint folder, or owner/name@commit on the hub.")],
    data: Annotated[
        Path,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of netCDF cubes of two or more places with a radar band.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    matrix: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, help="YAML file with the arms. [default: those of the paper]"
        ),
    ] = None,
    other_place: Annotated[
        str | None, typer.Option(help="Cube that is kept from training. [default: the last by name]")
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of a CLIP model.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device, e.g. cpu or cuda:0. [default: a GPU if there is one]")
    ] = None,
) -> None:
    """Compare ways to fine-tune a checkpoint on radar images."""
    from eoaug.evaluate.sar_report import report_study
    from eoaug.evaluate.sar_study import study_sar

    def progress(arm: str, step: int, loss: float) -> None:
        typer.echo(f"{arm}: step {step}, loss {loss:.4f}", err=True)

    done = study_sar(
        base, data, out, matrix, other_place=other_place, clip=clip, device=device, progress=progress
    )
    page = report_study(done)
    typer.echo((out / "study.md").read_text(encoding="utf-8"))
    typer.echo(page)
