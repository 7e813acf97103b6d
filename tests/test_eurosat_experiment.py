"""The EuroSAT experiment: its page says what the trials say, and the whole runs on a handful of chips."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_examples import EXAMPLES

CLASSES = 10


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(EXAMPLES / "eurosat"))
    import experiment as script

    return script


def options(out: Path, **more: object) -> argparse.Namespace:
    given = {"out": out, "per_class": [4], "seeds": 2, "updates": 7, "page": out / "page"}
    return argparse.Namespace(**{**given, **more})


def write_trials(script: object, given: argparse.Namespace, right: dict[str, float], seeds: int = 2) -> None:
    """Write trials in which a recipe finds a given share of the classes, .5 unless it is named."""
    true = np.arange(400) % CLASSES
    for per_class, seed, recipe in script.cells(given):  # type: ignore[attr-defined]
        if seed >= seeds:
            continue
        rng = np.random.default_rng([seed, len(recipe.name)])
        hits = rng.random(400) < right.get(recipe.name, 0.5)
        first = np.where(hits, true, (true + 1) % CLASSES)
        found = {"test": np.stack([first, (true + 2) % CLASSES, (true + 3) % CLASSES], 1), "true": true}
        kinds = ("validate", "clean", *script.SEEN, *script.UNSEEN)  # type: ignore[attr-defined]
        found |= dict.fromkeys(kinds, hits[:50])
        path = script.path_of(given, per_class, seed, recipe)  # type: ignore[attr-defined]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **found)


@pytest.mark.parametrize(("share", "word"), [(0.8, "**Use**"), (0.5, "**Do not use**")])
def test_the_page_says_what_the_interval_says(
    experiment: object, tmp_path: Path, share: float, word: str
) -> None:
    from page import write_page  # type: ignore[import-not-found]

    given = options(tmp_path)
    write_trials(experiment, given, {"basic": 0.6, "advanced + both": share})
    write_page(given, experiment.RECIPES, experiment.path_of)  # type: ignore[attr-defined]
    text = (tmp_path / "page/README.md").read_text()
    assert word in text
    assert "| basic | " in text
    assert " | rival | " in text
    assert "256 chips a class: not asked for" in text
    assert "advanced + drawn" in text
    row = next(line for line in text.splitlines() if line.startswith("| advanced + both |"))
    assert abs(float(row.split("|")[2]) - 100 * share) < 5


def test_a_page_of_an_unfinished_run_names_what_is_missing(experiment: object, tmp_path: Path) -> None:
    from page import write_page

    given = options(tmp_path, per_class=[4, 8], seeds=3)
    write_trials(experiment, options(tmp_path, seeds=3), {}, seeds=2)
    write_page(given, experiment.RECIPES, experiment.path_of)  # type: ignore[attr-defined]
    text = (tmp_path / "page/README.md").read_text()
    assert "4 chips a class: 1 of 3 seeds" in text
    assert "8 chips a class: 0 trials are there" in text
    with pytest.raises(SystemExit, match="run the experiment first"):
        write_page(options(tmp_path, updates=9), experiment.RECIPES, experiment.path_of)  # type: ignore[attr-defined]


@pytest.mark.long
def test_the_experiment_runs_and_resumes(tmp_path: Path, eoaug_data: Path) -> None:
    import zipfile

    for split, count in (("train", 4), ("val", 2)):
        with zipfile.ZipFile(eoaug_data / f"eurosat/eurosat_rgb_{split}.zip") as archive:
            by_class: dict[str, list[str]] = {}
            for name in archive.namelist():
                by_class.setdefault(name.split("/")[0], []).append(name)
            for some in by_class.values():
                for name in some[:count]:
                    archive.extract(name, tmp_path / "chips" / split)
    arguments = ["--train", tmp_path / "chips/train", "--test", tmp_path / "chips/val", "--out", tmp_path / "run", "--per-class", 1,
                 "--seeds", 2, "--updates", 2, "--kept-back", 2, "--corrupted", 1]  # fmt: skip
    script = [sys.executable, str(EXAMPLES / "eurosat/experiment.py"), *map(str, arguments)]
    first = subprocess.run(script, capture_output=True, text=True, check=True)
    assert len(first.stdout.splitlines()) == 22
    trials = sorted((tmp_path / "run/trials/2").iterdir())
    shutil.copy(trials[0], tmp_path / "kept.npz")
    trials[0].unlink()
    again = subprocess.run(script, capture_output=True, text=True, check=True)
    assert len(again.stdout.splitlines()) == 1
    with np.load(trials[0]) as new, np.load(tmp_path / "kept.npz") as old:
        assert all(np.array_equal(new[name], old[name]) for name in old.files)
    subprocess.run([*script, "--page", str(tmp_path / "page")], capture_output=True, check=True)
    assert (tmp_path / "page/README.md").is_file()
    assert (tmp_path / "page/made.png").is_file()
