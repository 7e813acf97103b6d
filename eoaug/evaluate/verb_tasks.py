"""Tasks that are judged through the verbs, as users call them: everything at its default, on files as they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from eoaug.errors import EoaugWarning
from eoaug.evaluate.all_bands import all_bands
from eoaug.evaluate.dirty_masks import dirty_masks
from eoaug.evaluate.native_sharpening import native_sharpening
from eoaug.evaluate.scenes import Strip, read_scenes
from eoaug.evaluate.table import Figure
from eoaug.evaluate.translation import translations
from eoaug.evaluate.unknown_sensor import unknown_sensor
from eoaug.generators.base import Generator, Verb
from eoaug.progress import Progress, track

__all__ = ["VERB_TASKS", "ByVerbs", "judge_by_verbs"]


_VERBS: dict[str, Verb] = {
    "dirty masks": "inpaint",
    "unknown sensor": "super_resolve",
    "all bands": "inpaint",
    "20 m to 10 m": "super_resolve",
    "translate": "translate",
}
VERB_TASKS = tuple(_VERBS)
"""Real clouds with the masks that come with them; super-resolution of images made in seven ways that are not named; every band
of a file; coarse bands sharpened with the fine ones of their cube; bands made from others."""
_EDGES_PX = {"dirty masks": 96, "unknown sensor": 192, "all bands": 64, "20 m to 10 m": 192, "translate": 144}
"""Largest edge of the window of each file."""


@dataclass(eq=False)
class ByVerbs:
    """The result of all such tasks."""

    figures: list[Figure] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)


def judge_by_verbs(
    generator: Generator,
    folder: Path,
    tasks: Sequence[str],
    skipped: dict[str, str],
    *,
    limit: int | None,
    seed: int,
    progress: Progress,
) -> ByVerbs:
    """Return the figures of some of `VERB_TASKS`, and the worst dates.

    Parameters
    ----------
    generator
        Any generator; tasks of verbs that its card does not name are left out.
    folder
        Folder of netCDF files.
    tasks
        Which tasks.
    skipped
        Files that cannot be used are added, with the reason.
    limit
        Largest number of dates per file.
    seed
        Of synthetic holes.
    progress
        A bar per task.
    """
    out = ByVerbs()
    for task in VERB_TASKS:
        if task not in tasks or _VERBS[task] not in generator.card.verbs:
            continue
        native = task in ("20 m to 10 m", "translate")
        scenes = read_scenes(folder, _EDGES_PX[task], skipped, native=native)
        with track(len(scenes), what=task, unit="file", progress=progress) as bar, warnings.catch_warnings():
            # Of bands that priors make and sensors that contradict the image: both are what is judged.
            warnings.simplefilter("ignore", EoaugWarning)
            if task == "dirty masks":
                figures, out.strips = dirty_masks(generator, scenes, skipped, limit=limit, progress=bar)
            elif task == "unknown sensor":
                figures = unknown_sensor(generator, scenes, skipped, progress=bar)
            elif task == "all bands":
                figures = all_bands(generator, scenes, skipped, limit=limit, seed=seed, progress=bar)
            elif task == "translate":
                figures = translations(generator, folder, scenes, skipped, limit=limit, progress=bar)
            else:
                figures = native_sharpening(generator, scenes, skipped, progress=bar)
        out.figures += figures
    return out
