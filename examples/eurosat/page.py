"""The page of the EuroSAT experiment: tables, the sentence that the interval gives, and pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eoaug.datasets.eurosat import CLASSES
from eoaug.trials.statistics import Gain, PlaceSample, gain_of

Trial = Mapping[str, NDArray[Any]]
CORRUPTIONS = {
    "seen": ("gaussian_noise", "gaussian_blur", "brightness_contrast", "haze"),
    "unseen": ("salt_and_pepper", "motion_blur", "clouds", "compression"),
}
ABOUT = """# Made images and EuroSAT

Do images that eoaug makes help to classify EuroSAT? This page was written by
`python examples/eurosat/experiment.py --out RUN --page examples/eurosat`; the same command without `--page` and with `--train` and
`--test` runs what is missing, and can be stopped at any time.

**Protocol.** Chips of EuroSAT RGB (Helber et al. 2019, doi:10.1109/JSTARS.2019.2918242, MIT licence; contains modified Copernicus
Sentinel data), 64 x 64 pixels in calibrated reflectance, split by longitude: learned from the west, tested on {tested:,} chips of the
east. A network of six convolutions with random weights; {updates} updates with 32 chips each for every row, the same initial weights
per seed; every seed is given other chips. Mixtures see a made image in place of half of the real ones, two made per real one,
of drawn land six. Drawn land: `synthesize` with the class as prompt at strength 1, which uses nothing of the real chip but its class,
seen through air as the chips are; its colours are those of 96 training chips of each class that ship with eoaug, more than 16. Variations: `synthesize` with the embedded model at strengths .3 and .5. Corruptions: noise, blur, gain and haze at severities 1 to 3.
Intervals are of 95 %, over test chips and seeds together; chips carry no coordinates, so neighbours count as independent and the
intervals are somewhat too narrow. The mixture is chosen on {validated} chips of the west that are not learned from; its rival is
the classical row with the best score *on the test*, which favours the rival.

**The paper's figures.** Sousa et al. (2025, Information 16(2) 81, arXiv:2406.06218) report top-1 39 % and top-3 66 % with a CLIP
RN50, and, tuned on synthetic images alone, zero-shot accuracies of 58.07 % (RN50) and 69.23 % (ViT-B/32). That is another protocol:
pre-trained networks of 38 to 151 million parameters that compare images with words, and another split; the figures cannot be
compared with those below.
"""


def write_page(options: argparse.Namespace, recipes: Sequence[Any], path_of: Callable[..., Path]) -> None:
    """Write README.md and pictures from the complete trials of a run."""
    sections, missing, facts = [], [], {}
    for per_class in options.per_class:
        name = f"{per_class} chips a class" if per_class else "all chips"
        ready = {
            recipe.name: [path_of(options, per_class, seed, recipe) for seed in range(options.seeds)]
            for recipe in recipes
        }
        seeds = [s for s in range(options.seeds) if all(paths[s].is_file() for paths in ready.values())]
        if len(seeds) < 2:
            missing.append(f"{name}: {sum(path.is_file() for some in ready.values() for path in some)} trials are there, and "
                           "no two seeds of all rows")  # fmt: skip
            continue
        trials = {
            row: [dict(np.load(paths[seed])) for seed in seeds]
            for row, paths in ready.items()
            if all(paths[seed].is_file() for seed in seeds)
        }
        missing += [f"{name}: {row}" for row in ready if row not in trials]
        if len(seeds) < options.seeds:
            missing.append(f"{name}: {options.seeds - len(seeds)} of {options.seeds} seeds")
        facts = {"tested": len(trials["basic"][0]["true"]), "validated": len(trials["basic"][0]["validate"])}
        sections.append(_section(name, trials, recipes))
    if not sections:
        raise SystemExit("no size has two seeds of all rows yet: run the experiment first")
    options.page.mkdir(parents=True, exist_ok=True)
    shown = _pictures(options.out, options.page)
    text = "\n".join(
        [ABOUT.format(updates=options.updates, **facts), *sections, _not_run(options, missing), shown]
    )
    (options.page / "README.md").write_text(text, encoding="utf-8")
    print(options.page / "README.md")


def _not_run(options: argparse.Namespace, missing: Sequence[str]) -> str:
    rows = [f"- {one}" for one in missing]
    for per_class in (256, 0):
        if per_class not in options.per_class:
            rows.append(f"- {per_class or 'all'} chips{' a class' if per_class else ''}: not asked for")
    return "\n".join(["## What was not run", "", *rows, ""]) if rows else ""


def _confusions(trials: Sequence[Trial]) -> NDArray[np.int64]:
    """Return counts by seed, chip, true and predicted class."""
    out = np.zeros((len(trials), len(trials[0]["true"]), len(CLASSES), len(CLASSES)), np.int64)
    for seed, trial in enumerate(trials):
        out[seed, np.arange(len(trial["true"])), trial["true"], trial["test"][:, 0]] = 1
    return out


def _points(gain: Gain) -> str:
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def _share(trials: Sequence[Trial], names: Sequence[str]) -> float:
    return 100 * float(np.mean([trial[name].mean() for trial in trials for name in names]))


def _section(name: str, trials: Mapping[str, Sequence[Trial]], recipes: Sequence[Any]) -> str:
    sample = PlaceSample.of(len(next(iter(trials.values()))[0]["true"]), seed=0)
    confusions = {row: _confusions(some) for row, some in trials.items()}
    top1 = {row: np.mean([t["test"][:, 0] == t["true"] for t in some]) for row, some in trials.items()}
    classical = [recipe.name for recipe in recipes if not recipe.made and recipe.name in trials]
    mixtures = [recipe.name for recipe in recipes if 0 < recipe.p < 1 and recipe.name in trials]
    rival = max(classical, key=lambda row: top1[row])
    chosen = max(mixtures, key=lambda row: _share(trials[row], ["validate"]))
    gains = {
        row: gain_of(confusions[row], confusions[rival], sample, pixels=False)
        for row in trials
        if row != rival
    }
    lines = [
        f"## {name[:1].upper()}{name[1:]}, {len(trials[rival])} seeds",
        "",
        f"**{'Use' if gains[chosen][0].low > 0 else 'Do not use'}**: {chosen}, the mixture that validation chose, gives "
        f"{_points(gains[chosen][0])} points over {rival}, the best classical row; {len(trials)} rows were tried.",
        "",
        "| | top-1 % | top-3 % | gain in points, 95 % | corrupted, kinds seen in the made images % | corrupted, other kinds % |",
        "|---|---|---|---|---|---|",
    ]
    for row, some in trials.items():
        top3 = 100 * np.mean([(t["test"] == t["true"][:, None]).any(axis=1) for t in some])
        gain = "rival" if row == rival else _points(gains[row][0])
        robust = " | ".join(f"{_share(some, kinds):.1f}" for kinds in CORRUPTIONS.values())
        lines.append(f"| {row} | {100 * top1[row]:.1f} | {top3:.1f} | {gain} | {robust} |")
    lines += ["", f"By corruption (severity 3, {len(trials[rival][0]['clean'])} test chips), % correct:", ""]
    kinds = ["clean", *CORRUPTIONS["seen"], *CORRUPTIONS["unseen"]]
    lines += [
        f"| | {' | '.join(kind.replace('_', ' ') for kind in kinds)} |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for row, some in trials.items():
        lines.append(f"| {row} | " + " | ".join(f"{_share(some, [kind]):.1f}" for kind in kinds) + " |")
    lines += [
        "",
        "By class, % correct and gain in points; of two such tables, one interval does not hold by chance:",
        "",
    ]
    lines += [f"| | {rival} | {chosen} | gain |", "|---|---|---|---|"]
    for number, label in enumerate(CLASSES):
        own = [100 * np.mean([(t["test"][:, 0] == number)[t["true"] == number].mean() for t in trials[row]]) for row in (rival, chosen)]  # fmt: skip
        lines.append(f"| {label} | {own[0]:.1f} | {own[1]:.1f} | {_points(gains[chosen][number + 1])} |")
    return "\n".join([*lines, ""])


def _pictures(out: Path, page: Path) -> str:
    """Write a sheet of real chips over images made of them; return the text that shows it."""
    arrays = out / "arrays"
    found = [_made_by_id(arrays, kind) for kind in ("variations", "corruptions")]
    ids = next((json.loads(path.read_text()) for path in sorted(arrays.glob("train-*.json"))), [])
    both = [name for name in ids if all(name in by_id for _, by_id in found)]
    columns = [next((name for name in both if name.startswith(f"{label}_")), None) for label in CLASSES]
    if None in columns:
        return ""
    real = np.load(sorted(arrays.glob("train-*/images.npy"))[0], mmap_mode="r")
    rows = [[real[ids.index(name)] for name in columns]]
    rows += [[images[by_id[name][turn]] for name in columns] for images, by_id in found for turn in (0, 1)]
    sheet = np.concatenate([np.concatenate(row, axis=2) for row in rows], axis=1).astype(np.float32)
    low, high = np.percentile(sheet, (1, 99), axis=(1, 2), keepdims=True)
    levels = (255 * np.clip((sheet - low) / (high - low), 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(levels).resize((levels.shape[1] * 2, levels.shape[0] * 2), Image.Resampling.NEAREST).save(
        page / "made.png"
    )
    about = "First row: real chips of the ten classes. Below: two variations of each, and two corruptions."
    return "\n".join(["## Pictures", "", about, "", "![real chips over images made of them](made.png)", ""])


def _made_by_id(arrays: Path, kind: str) -> tuple[NDArray[Any], dict[str, list[int]]]:
    """Return the images of a kind that were made for the first seed, and their numbers by the id of the real one."""
    index = sorted(arrays.glob(f"{kind}-*-0.json"))
    if not index:
        return np.zeros(0), {}
    return np.load(index[0].with_suffix("") / "images.npy", mmap_mode="r"), json.loads(index[0].read_text())
