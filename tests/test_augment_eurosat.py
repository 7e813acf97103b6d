"""Every command of examples/augment_eurosat.md, on tiny checkpoints of the layouts that it names."""

from __future__ import annotations

import re
import shlex
import zipfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from tests.later import Later
from tests.test_examples import EXAMPLES

tiny_checkpoints = Later("tests.tiny_checkpoints")
tiny_captioners = Later("tests.tiny_captioners")
PAGE = (EXAMPLES / "augment_eurosat.md").read_text(encoding="utf-8")
FEWER = {"--steps 5000": "--steps 2", "--batch 16": "--batch 2", "--seeds 5": "--seeds 2"}
"""What is smaller here than on the page."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.strip() for line in PAGE.splitlines() if line.startswith("    eoaug ")]
    for full, fewer in FEWER.items():
        lines = [line.replace(full, fewer) for line in lines]
    return [shlex.split(line)[1:] for line in lines]


def test_the_page_names_commands_and_keys_that_exist() -> None:
    from eoaug.augmentation.augment_job import read_augment_job

    (text,) = blocks("yaml")
    job = read_augment_job(yaml.safe_load(text))
    assert job.policy.rounds == 2
    runner = CliRunner()
    for words in commands():
        known = runner.invoke(app, [*words[: 2 if words[0] == "plan" else 1], "--help"]).output
        for option in (word for word in words if word.startswith("--")):
            assert option in known, option


@pytest.mark.long
def test_every_command_runs_on_tiny_checkpoints(
    tmp_path: Path, eoaug_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(eoaug_data / "eurosat/eurosat_rgb_train.zip") as archive:
        for label in ("Forest", "River"):
            names = sorted(name for name in archive.namelist() if name.startswith(f"{label}/"))
            for split, some in (("train", names[:4]), ("val", names[4:6]), ("test", names[6:8])):
                for name in some:
                    archive.extract(name, f"EuroSAT_RGB/{split}")
    tiny_captioners.blip2(Path("blip2"))
    tiny_checkpoints.sd(Path("stable-diffusion-v1-5"))
    (recipe,) = blocks("json")
    Path("eurosat-sd.json").write_text(
        recipe.replace('"steps": 25', '"steps": 2').replace('"batch": 16', '"batch": 2')
    )
    job = yaml.safe_load(blocks("yaml")[0])
    job["policy"]["per_real"] = 1
    job["select"] = {"updates": 2}
    job["gate"] = {**job["gate"], "updates": 2, "seeds": 2, "fractions": [1]}
    # The words of a model with random weights name no class: the prompt falls back to the facts.
    for number, words in enumerate(commands()):
        if number == 1:
            lines = Path("captions.jsonl").read_text(encoding="utf-8").splitlines()
            assert len(lines) == 3 * 16
            done = CliRunner().invoke(
                app, ["caption", "EuroSAT_RGB", "--several", "3", "--out", "captions.jsonl"]
            )
            assert done.exit_code == 0, done.output
            Path("set.yaml").write_text(yaml.safe_dump(job))
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code in ((0, 4) if "gate" in words else (0,)), (words, done.output)
    assert Path("eurosat-augmented/gate/index.html").is_file()
    assert Path("eurosat-augmented/selection/index.html").is_file()
    made = eoaug.training_set("eurosat-augmented")
    assert len(made) > 8
    (use,) = blocks("py")
    scope: dict[str, object] = {"eoaug": eoaug}
    exec(use, scope)
    assert len(scope["data"]) == 8  # type: ignore[arg-type]
