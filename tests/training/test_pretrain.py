"""Training is a function of config, data and seed: stopping and going on changes nothing."""

import copy

import numpy as np
import pytest
import yaml

import eoaug
from eoaug.errors import ParameterError
from eoaug.generators.embedded import Embedded
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
        "fill": {"architecture": REGRESSOR, "tasks": {"holes": 1}, "pool": 6},
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
        "layout": {"factor": 4, "windows": 6},
    },
    "card": {
        "gsd_m": [1.0, 120.0],
        "overlap_px": 8,
        "multiple_of": 8,
        "batch": 8,
        "context": 3,
        "steps": {"synthesize": 2, "inpaint": 0, "extend": 0, "super_resolve": 0},
        "member_steps": {},
        "joint_steps": 1,
        "conditions": ["metadata"],
        "licence": "Apache-2.0",
        "description": "tiny",
    },
    "layers": {"gap": "fill", "dates": "prior", "x2": "detail", "x4": "detail", "x8": "detail"},
}
for _stage in CONFIG["stages"].values():
    _stage |= {"batch": 2, "steps": 4, "lr": 1e-3, "weight_decay": 0.0, "ema": 0.9, "checkpoint_s": 1e9}
    _stage |= {"noise": {"mean": 0.0, "std": 1.0}}


@pytest.fixture
def run(tmp_path, write):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "a.nc", px=72)

    def _run(out, steps=4, stages=STAGES):
        config = copy.deepcopy(CONFIG)
        for stage in config["stages"].values():
            stage["steps"] = steps
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
        return pretrain(tmp_path / "train.yaml", tmp_path / "data", tmp_path / out, stages=stages)

    return _run


def test_every_stage_writes_weights_of_its_hash(run, tmp_path):
    hashes = run("out", steps=1)
    for stage in ("detail", "fill", "residual"):
        path = tmp_path / "out" / f"{stage}.safetensors"
        assert sha256_of(path) == hashes[stage]
        assert all(np.isfinite(tensor).all() for tensor in load_weights(path).values())


@pytest.mark.parametrize("stage", ["detail"])
def test_a_stopped_run_goes_on_as_if_it_had_not(run, tmp_path, stage):
    run("stopped", steps=2, stages=[stage])
    assert run("stopped", stages=[stage]) == run("through", stages=[stage])


def test_what_is_trained_generates(run, tmp_path):
    run("out", steps=1)
    box = (0, 0, 640, 640)
    made = eoaug.synthesize(
        like=box, crs="EPSG:32633", resolution=10, generator=Embedded(tmp_path / "out"), times=["2024-06-01"]
    ).compute()
    assert list(made.data_vars)[:6] == list(BANDS)
    assert all(np.isfinite(made[band].values).all() for band in BANDS)


def test_an_unknown_stage_is_refused(run):
    with pytest.raises(ParameterError, match="texture"):
        run("out", stages=["texture"])
