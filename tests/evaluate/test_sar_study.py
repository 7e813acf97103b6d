"""The study of fine-tuning on radar: every arm is trained and judged, a killed study resumes, the null is beside it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from eoaug.cli.app import app
from eoaug.errors import EoaugError, ParameterError, SourceError
from eoaug.evaluate.sar_matrix import StudyMatrix, read_matrix
from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")
sar_study = Later("eoaug.evaluate.sar_study")
sar_report = Later("eoaug.evaluate.sar_report")
QUICK = {"steps": 2, "samples": 2, "sampling_steps": 2, "tile_px": 32, "rank": 2}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, eoaug_data: Path) -> Path:
    """Ten Sentinel-1 images of two places."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("be_bruges_2019", "be_westflanders_2018"):
        path = eoaug_data / f"cubes/train/worldcereal_{name}_s1grd_20m.nc"
        with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
            ds.isel(time=slice(0, 50, 5)).to_netcdf(folder / f"{name}.nc", engine="h5netcdf")
    (folder / "captions.json").write_text(json.dumps({"be_bruges_2019": "fields near a town"}))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.sd(tmp_path_factory.mktemp("base") / "sd")


def test_the_matrix_is_that_of_the_paper_unless_a_file_says_less(tmp_path: Path):
    names = [arm.name for arm in StudyMatrix().arms()]
    assert len(set(names)) == 2 * 3 * 3 * 2
    frozen = StudyMatrix(unet=("frozen",), text=("frozen",), vae=("frozen",))
    assert [arm.token for arm in frozen.arms()] == [True]
    path = tmp_path / "matrix.yaml"
    path.write_text("unet: [lora]\nvae: [frozen]\nseeds: [0, 1]\nsteps: 20\n")
    assert len(list(read_matrix(path).arms())) == 1 * 3 * 1 * 2 * 2
    path.write_text("unet: [most]\n")
    with pytest.raises(EoaugError, match="unet"):
        read_matrix(path)


def test_a_study_that_is_killed_resumes_to_the_same_files(places: Path, base: Path, tmp_path: Path):
    matrix = {"unet": ["lora"], "text": ["frozen"], "vae": ["frozen", "decoder"], "token": [True], **QUICK}

    def stop(arm: str, step: int, loss: float) -> None:
        if "decoder" in arm and step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sar_study.study_sar(base, places, tmp_path / "killed", matrix, progress=stop)
    seen: list[str] = []
    study = sar_study.study_sar(
        base, places, tmp_path / "killed", matrix, progress=lambda arm, step, loss: seen.append(arm)
    )
    assert all("decoder" in arm for arm in seen), "the finished arm is not trained again"
    assert [arm.name.split("_")[2] for arm in study.arms] == ["vae-frozen", "vae-decoder"]
    whole = sar_study.study_sar(base, places, tmp_path / "whole", matrix)
    for name in [arm.name for arm in study.arms]:
        for file in ("samples.npy", "figures.json"):
            here, there = (tmp_path / run / "arms" / name / file for run in ("killed", "whole"))
            assert here.read_bytes() == there.read_bytes(), (name, file)
    page = sar_report.report_study(whole)
    text = page.read_text()
    assert "real: be_westflanders_2018" in text
    assert "http" not in text.split("</style>")[-1]
    assert len(json.loads((page.parent / "figures.json").read_text())) == 3
    samples = np.load(tmp_path / "whole/arms" / study.arms[0].name / "samples.npy")
    assert samples.shape[0] == 2
    assert 0 <= samples.min() < samples.max() <= 1
    with pytest.raises(ParameterError, match="other settings"):
        sar_study.study_sar(base, places, tmp_path / "killed", {**matrix, "steps": 3})


def test_real_images_of_a_place_are_nearer_to_another_than_noise_is(places: Path):
    cubes = sar_study.radar_amplitudes(places, "VV")
    names = sorted(cubes)
    real = sar_study.radar_images({names[0]: cubes[names[0]]})
    other = sar_study.radar_images({names[1]: cubes[names[1]]}, real.limits)
    assert 0.9 < real.places[names[0]].max() <= 1
    null = sar_study.compared(real, other.patches(32))
    own = sar_study.compared(real, real.patches(32))
    noise = sar_study.compared(real, np.random.default_rng(0).random((8, 32, 32)))
    for name in ("amplitude js", "contrast", "entropy"):
        assert own[name] == 0 < null[name] < noise[name], name


def test_what_is_no_study_is_refused(places: Path, base: Path, tmp_path: Path):
    with pytest.raises(SourceError, match="'nowhere'"):
        sar_study.study_sar(base, places, tmp_path, QUICK, other_place="nowhere")
    with pytest.raises(EoaugError, match="no band 'hh'"):
        sar_study.study_sar(base, places, tmp_path, {**QUICK, "band": "hh"})


STUDY = "import sys; from eoaug.cli.app import main; sys.argv[0] = 'eoaug'; main()"
STEP = re.compile(r"^(unet-\S+): step (\d+), loss")


def command(base: Path, places: Path, out: Path, matrix: Path) -> list[str]:
    own = ["study", "sar", str(matrix), "--base", str(base), "--data", str(places), "--out", str(out)]
    return [sys.executable, "-W", "ignore", "-c", STUDY, *own, "--device", "cpu"]


def trained(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield the arm and the step of every line that tells one."""
    for line in lines:
        if found := STEP.match(line):
            yield found[1], int(found[2])


@pytest.mark.slow
def test_a_study_that_is_killed_in_its_second_arm_ends_with_the_same_report(places, base, tmp_path):
    """By SIGKILL, between two of its checkpoints; the first arm is not trained again, the second not from its beginning."""
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(
        "unet: [lora]\ntext: [frozen]\nvae: [frozen, lora, decoder]\ntoken: [true]\nsteps: 12\nsamples: 2\n"
        "sampling_steps: 2\ntile_px: 32\nrank: 2\n"
    )
    killed, quiet = tmp_path / "killed", tmp_path / "quiet"
    with subprocess.Popen(
        command(base, places, killed, matrix), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        for arm, step in trained(process.stderr):
            if "vae-lora" in arm and step >= 8:
                process.send_signal(signal.SIGKILL)
                break
        assert process.wait(60) == -signal.SIGKILL
    done = [path.parent.name for path in sorted(killed.glob("arms/*/figures.json"))]
    assert len(done) == 1
    assert "vae-frozen" in done[0]
    resumed, whole = (
        subprocess.run(command(base, places, out, matrix), capture_output=True, text=True, check=True)
        for out in (killed, quiet)
    )
    steps = list(trained(resumed.stderr.splitlines()))
    assert not [arm for arm, _ in steps if "vae-frozen" in arm]
    assert min(step for arm, step in steps if "vae-lora" in arm) > 3
    assert len({arm for arm, _ in trained(whole.stderr.splitlines())}) == 3
    names = ["study.md", "figures.json", *(f"arms/{p.name}/samples.npy" for p in (quiet / "arms").iterdir())]
    for name in names:
        assert (killed / name).read_bytes() == (quiet / name).read_bytes(), name
    assert "samples.png" in {path.name for path in killed.iterdir()}


@pytest.mark.long
def test_eight_combinations_run_from_the_command_line_on_sdxl(places: Path, tmp_path: Path):
    base = tiny_checkpoints.xl(tmp_path / "xl")
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(
        "unet: [full, lora]\ntext: [lora, full]\nvae: [frozen]\ntoken: [false, true]\nsteps: 3\nsamples: 2\n"
        "sampling_steps: 2\ntile_px: 32\nrank: 2\n"
    )
    clip = tiny_checkpoints.clip(tmp_path / "clip")
    call = [
        "study",
        "sar",
        str(matrix),
        "--base",
        str(base),
        "--data",
        str(places),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, [*call, "--clip", str(clip)])
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "out/figures.json").read_text())) == 9
    assert "CLIP shuffled" in (tmp_path / "out/study.md").read_text()
