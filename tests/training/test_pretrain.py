"""Training is a function of config, data and seed: stopping and going on changes nothing."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

import eoaug
from eoaug.errors import ParameterError
from eoaug.generators.embedded.generator import Embedded
from eoaug.generators.weights import load_weights, sha256_of
from eoaug.training.pretrain import STAGES, pretrain

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")

REGRESSOR = {
    "kind": "mean",
    "image_channels": 36,
    "facts": 13,
    "bands": 6,
    "width": 8,
    "dilations": [1],
}

CONFIG = {
    "bands": list(BANDS),
    "mean": [0.1] * 6,
    "std": [0.05] * 6,
    "tile_px": 64,
    "context": 2,
    "pyramid": 0,
    "seed": 5,
    "stages": {
        "detail": {"architecture": REGRESSOR, "tasks": {"x2": 1, "x4": 1}, "pool": 6},
        "residual": {
            "architecture": {
                "kind": "denoiser",
                "image_channels": 42,
                "facts": 13,
                "bands": 6,
                "widths": [8, 8, 8],
                "refine": 8,
            },
            "tasks": {"holes": 1, "x2": 1, "x4": 1},
            "pool": 6,
        },
    },
    "card": {
        "gsd_m": [1.0, 120.0],
        "overlap_px": 8,
        "drawn_px": 72,
        "multiple_of": 8,
        "batch": 8,
        "context": 3,
        "steps": {"synthesize": 2, "inpaint": 0, "extend": 0, "super_resolve": 0},
        "member_steps": {},
        "joint_steps": {"synthesize": 1, "inpaint": 1, "extend": 1},
        "conditions": ["metadata"],
        "guided": [],
        "licence": "Apache-2.0",
        "description": "tiny",
    },
    "gains": {"gap": [0.9, 0.9, 0.9, 1.1, 1.1]},
    "layers": {
        "gap": "prior",
        "mixed": "prior",
        "dates": "prior",
        "x2": "detail",
        "x4": "detail",
        "x8": "detail",
    },
}
for _stage in CONFIG["stages"].values():
    _stage |= {"batch": 2, "steps": 4, "lr": 1e-3, "weight_decay": 0.0, "ema": 0.9, "checkpoint_s": 1e9}
    _stage |= {"noise": {"mean": 0.0, "std": 1.0}}


@pytest.fixture
def run(tmp_path, write, chips_folder):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.nc", px=72)

    def _run(out, steps=4, stages=STAGES, **changes):
        config = copy.deepcopy(CONFIG) | changes
        chips = chips_folder if "land" in stages else None
        for stage in config["stages"].values():
            stage["steps"] = steps
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        return pretrain(
            tmp_path / "train.yaml", tmp_path / "data", tmp_path / out, chips_dir=chips, stages=stages
        )

    return _run


def test_every_stage_writes_weights_of_its_hash(run, tmp_path):
    hashes = run("out", steps=1)
    for stage in STAGES:
        path = tmp_path / "out" / f"{stage}.safetensors"
        assert sha256_of(path) == hashes[stage]
        assert all(np.isfinite(tensor).all() for tensor in load_weights(path).values())


def test_a_stopped_run_goes_on_as_if_it_had_not(run):
    run("stopped", steps=2, stages=["detail"])
    assert run("stopped", stages=["detail"]) == run("through", stages=["detail"])


def test_what_is_trained_generates(run, tmp_path):
    run("out", steps=1, stages=[*STAGES, "land"])
    box = (0, 0, 640, 640)
    made = eoaug.synthesize(
        like=box, crs="EPSG:32633", resolution=10, generator=Embedded(tmp_path / "out"), times=["2024-06-01"]
    ).compute()
    assert list(made.data_vars)[:6] == list(BANDS)
    assert all(np.isfinite(made[band].values).all() for band in BANDS)


def test_an_unknown_stage_is_refused(run):
    with pytest.raises(ParameterError, match="texture"):
        run("out", stages=["texture"])


def test_the_diffusion_goes_on_as_well(run):
    for out in ("stopped", "through"):
        run(out, steps=1, stages=["detail"])
    run("stopped", steps=2, stages=["residual"])
    assert run("stopped", stages=["residual"]) == run("through", stages=["residual"])


def test_bfloat16_learns_the_same_less_exactly_and_goes_on_as_well(run, tmp_path):
    run("exact", stages=["detail"])
    run("stopped", steps=2, stages=["detail"], precision="bfloat16")
    stopped = run("stopped", stages=["detail"], precision="bfloat16")
    assert stopped == run("half", stages=["detail"], precision="bfloat16")
    exact, half = (load_weights(tmp_path / out / "detail.safetensors") for out in ("exact", "half"))
    assert any((half[name] != value).any() for name, value in exact.items())
    for name, value in exact.items():
        np.testing.assert_allclose(half[name], value, atol=4e-3)


def test_an_unknown_precision_is_refused(run):
    with pytest.raises(ParameterError, match="float8"):
        run("out", stages=["detail"], precision="float8")


def test_a_run_leaves_losses_and_a_sheet_to_look_at(run, tmp_path):
    run("out", steps=100, stages=["detail"])
    (row,) = map(json.loads, (tmp_path / "out" / "detail.log.jsonl").read_text().splitlines())
    assert row["step"] == 100
    assert 0 < row["loss"] < 10
    pixels = np.asarray(Image.open(tmp_path / "out" / "detail.png"))
    columns = (pixels.shape[1] // 2) // (64 + 2)
    assert columns == 3, "below, found, truth"
    assert pixels.std() > 5


_TOGETHER = """
import sys
from eoaug.training.pretrain import pretrain
config, data, out = sys.argv[1:4]
pretrain(config, data, out, stages=["detail"])
pretrain(config, data, out + "-timed", stages=["detail"], minutes=0.05)
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(run, tmp_path):
    """Each takes half of every batch, and gradients are averaged: equal up to the order of sums."""
    pytest.importorskip("accelerate")
    run("alone", stages=["detail"])
    (tmp_path / "together.py").write_text(_TOGETHER)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    ports = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    work = [str(tmp_path / name) for name in ("together.py", "train.yaml", "data", "together")]
    done = subprocess.run(
        [*launch, *ports, "--main_process_port", "0", *work],
        capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "together-timed" / "detail.safetensors").exists(), "by one clock"
    alone, together = (load_weights(tmp_path / out / "detail.safetensors") for out in ("alone", "together"))
    moved = 0.0
    for name, value in alone.items():
        np.testing.assert_allclose(together[name], value, atol=2e-3)
        moved = max(moved, float(np.abs(value).max()))
    assert moved > 0.01
