"""The command line, on the sample catalog with the classical generator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from typer.testing import CliRunner, Result

import eoaug
from eoaug.cli import models
from eoaug.cli.app import app
from eoaug.stac.summary import summarise
from eoaug.testing import scene
from eoaug.training.finetune import Tuning

SAMPLE = Path(__file__).parents[1] / "catalogs" / "sample"
ITEM = "S2A_MSIL2A_20170617T113321_36_85"
ONE = [str(SAMPLE), "--ids", ITEM, "--bands", "B02,B04", "--generator", "classical"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def written(folder: Path) -> list[pystac.Item]:
    return list(pystac.Catalog.from_file(str(folder / "catalog.json")).get_items(recursive=True))


def test_version() -> None:
    assert run("--version").output.strip() == eoaug.__version__


COMMANDS = [
    *(("inpaint",), ("extend",), ("super-resolve",), ("synthesize",)),
    *(("plan", verb) for verb in ("inpaint", "extend", "super-resolve", "synthesize")),
    *(
        ("generators",),
        ("inspect",),
        ("demo",),
        ("evaluate",),
        ("train",),
        ("convert-weights",),
        ("finetune",),
    ),
    *(("run",), ("resume",), ("status",), ("validate",), ("gc",), ("job-script",), ("plan", "job")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches_with_an_example(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"  eoaug {' '.join(command)}" in result.output


def test_super_resolve_writes_a_catalog(tmp_path: Path) -> None:
    result = run("super-resolve", *ONE, "--factor", 4, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (item,) = written(tmp_path / "out")
    assert item.get_self_href() == result.output.strip()
    assert item.properties["eoaug:operation"] == "super_resolve"
    assert {"B02", "B04", "synthetic", "thumbnail"} == set(item.assets)
    with rasterio.open(item.assets["B02"].get_absolute_href()) as file:
        assert file.shape == (480, 480)


def test_options_are_the_arguments_of_python(tmp_path: Path) -> None:
    assert (
        run("synthesize", *ONE, "--seed", 3, "--strength", 0.4, "--members", 2, "--out", tmp_path).exit_code
        == 0
    )
    cube = eoaug.open_cube(SAMPLE, ids=[ITEM], bands=["B02", "B04"], chunks=None)
    expected = cube.eoaug.synthesize(seed=3, strength=0.4, members=2, generator="classical")
    for member, item in enumerate(sorted(written(tmp_path), key=lambda found: found.id)):
        with rasterio.open(item.assets["B04"].get_absolute_href()) as file:
            stored = file.read(1)
        # The type of the source holds no reflectance below 0, and its 0 is nodata.
        assert np.abs(stored * 1e-4 - expected.B04.values[member, 0].clip(1e-4)).max() <= 0.51e-4


def test_members_are_reduced_to_their_median(tmp_path: Path) -> None:
    result = run("synthesize", *ONE, "--members", 3, "--reduce", "median", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (item,) = written(tmp_path)
    cube = eoaug.open_cube(SAMPLE, ids=[ITEM], bands=["B02", "B04"], chunks=None)
    expected = cube.eoaug.synthesize(members=3, reduce="median", generator="classical")
    with rasterio.open(item.assets["B04"].get_absolute_href()) as file:
        assert np.abs(file.read(1) * 1e-4 - expected.B04.values[0].clip(1e-4)).max() <= 0.51e-4


def test_extend_to_zarr(tmp_path: Path) -> None:
    result = run("extend", *ONE, "--times", "2017-05-01,2017-08-01", "--format", "zarr", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (item,) = written(tmp_path)
    assert xr.open_zarr(item.assets["data"].get_absolute_href()).sizes["time"] == 3


def test_a_mask_may_be_a_raster_file(tmp_path: Path) -> None:
    cube = eoaug.open_cube(SAMPLE, ids=[ITEM], bands=["B02"], chunks=None)
    hidden = np.zeros(cube.odc.geobox.shape.yx, np.uint8)
    hidden[30:60, 20:50] = 1
    mask = tmp_path / "mask.tif"
    rows, columns = hidden.shape
    grid = {"crs": str(cube.odc.geobox.crs), "transform": cube.odc.geobox.affine}
    with rasterio.open(
        mask, "w", driver="GTiff", width=columns, height=rows, count=1, dtype="uint8", **grid
    ) as file:
        file.write(hidden, 1)
    result = run("inpaint", *ONE, "--mask", mask, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (item,) = written(tmp_path / "out")
    with rasterio.open(item.assets["synthetic"].get_absolute_href()) as file:
        assert np.array_equal(file.read(1), hidden)


def test_each_takes_far_places_one_by_one(tmp_path: Path) -> None:
    some = [SAMPLE, "--collections", "sentinel-2-l2a", "--bands", "B02", "--generator", "classical"]
    refused = run("super-resolve", *some, "--out", tmp_path)
    assert refused.exit_code == 2
    assert "--each" in refused.stderr
    assert run("super-resolve", *some, "--each", "--out", tmp_path).exit_code == 0
    assert len(written(tmp_path)) == 6


def test_a_scene_from_nothing(tmp_path: Path) -> None:
    like = ["--like", "500000,5000000,501000,5001000", "--crs", "EPSG:32633", "--resolution", 10]
    result = run("synthesize", *like, "--times", "2024-06-01", "--generator", "classical", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (item,) = written(tmp_path)
    assert item.properties["proj:code"] == "EPSG:32633"
    assert item.properties["eoaug:synthetic"] is True


def test_plan_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("plan", "super-resolve", *ONE, "--factor", 2)
    assert result.exit_code == 0
    assert "model calls" in result.output
    assert "one thread" not in result.output
    assert "one thread" in run("plan", "super-resolve", *ONE, "--factor", 2, "--time").output
    assert list(tmp_path.iterdir()) == []


def test_generators_lists_cards() -> None:
    output = run("generators").output
    assert "classical" in output
    assert "embedded" in output
    assert "Apache-2.0" in output


def test_inspect_tells_what_is_there_and_what_is_made(tmp_path: Path) -> None:
    output = run("inspect", SAMPLE).output
    for text in (ITEM, "sentinel-1-grd", "EPSG:32633", "B8A (nir08)", "no item is marked"):
        assert text in output
    run("super-resolve", *ONE, "--out", tmp_path)
    assert "super_resolve by classical, 100% of the pixels: 1 item" in run("inspect", tmp_path).output


def test_inspect_says_what_eoaug_sees_in_a_netcdf_file(tmp_path: Path) -> None:
    scene((32, 40), dates=2, bands=("B03",)).to_netcdf(tmp_path / "own.nc", engine="h5netcdf")
    output = run("inspect", tmp_path / "own.nc").output
    for text in ("32 x 40 pixels of 10 m", "B03 (green)", ".super_resolve(factor=2)"):
        assert text in output
    rows = dict(json.loads(run("inspect", tmp_path / "own.nc", "--json").output)["rows"])
    assert rows["dates"].startswith("2, ")


def test_contents_of_an_item_and_of_a_search() -> None:
    (file,) = SAMPLE.glob(f"*/{ITEM}/*.json")
    (found,) = summarise(file)
    assert found.items == (ITEM,)
    (found,) = summarise(SAMPLE, collections=["sentinel-2-l2a"], datetime="2017-06")
    assert len(found.items) == 3
    assert (found.first, found.last) == ("2017-06-13", "2017-06-17")


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "nowhere"),
        ("inpaint", SAMPLE, "--out", "o"),
        ("super-resolve", *ONE, "--factor", 3, "--sensor", "sharp", "--out", "o"),
        ("super-resolve", *ONE, "--factor", 99, "--out", "o"),
        ("extend", *ONE, "--times", "someday", "--out", "o"),
        ("extend", *ONE[:3], "--bands", "B77", "--times", "2017-05-01", "--out", "o"),
        ("synthesize", "--out", "o"),
        ("synthesize", SAMPLE, "--like", "0,0,1,1", "--out", "o"),
        ("synthesize", "--like", "0,0,1", "--out", "o"),
        ("synthesize", "--like", "0,0,1,1", "--bands", "red", "--out", "o"),
        ("super-resolve", SAMPLE, "--each", "--ids", "nobody", "--out", "o"),
        ("inpaint", *ONE[:-1], "clasical", "--out", "o"),
        ("super-resolve", *ONE, "--reduce", "most", "--out", "o"),
        ("evaluate", "classical", "--data", ".", "--out", __file__),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:1] + arguments[-4:])),
)
def test_errors_are_two_lines_and_code_2(
    arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    first, second = result.stderr.strip().splitlines()
    assert first.startswith("Error: ")
    assert second.startswith("  -> ")
    assert not (tmp_path / "o").exists()


# -- options of fine-tuning ---------------------------------------------------------------------------


def tuning_of(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Tuning:
    """Return what `eoaug finetune` passes to `finetune`."""
    passed = []

    def finetune(base: str, cubes: str, out: Path, tuning: Tuning, **options: object) -> object:
        passed.append(tuning)
        return tuning

    monkeypatch.setattr("eoaug.training.finetune.finetune", finetune)
    monkeypatch.setattr(Tuning, "path", "adapter", raising=False)
    result = run("finetune", "--base", "b", "--cubes", "c", "--out", "o", *arguments)
    assert result.exit_code == 0, result.output
    return passed[0]


def test_options_of_finetune_are_the_fields_of_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert models._TUNING.keys() == {field.name for field in fields(Tuning)}
    assert tuning_of(monkeypatch) == Tuning()
    given = (
        "--target",
        "unet,text",
        "--bands",
        "vv",
        "--bands",
        "vh,vv",
        "--stretch",
        "-25,0",
        "--snr",
        0,
        "--ema",
        0,
    )
    assert tuning_of(monkeypatch, *given, "--checkpointing", "--tile-px", 64, "--rank", 4) == replace(
        Tuning(),
        target=("unet", "text"),
        bands=("vv", "vh", "vv"),
        stretch=(-25.0, 0.0),
        snr=None,
        ema=None,
        checkpointing=True,
        tile_px=64,
        rank=4,
    )


# -- streams that nobody reads ------------------------------------------------------------------------


def in_shell(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of bash in which ``eoaug`` is the command line."""
    main = (
        f"{sys.executable} -c 'import sys; sys.argv[0] = \"eoaug\"; from eoaug.cli.app import main; main()'"
    )
    return subprocess.run(
        ["bash", "-c", f'eoaug() {{ {main} "$@"; }}\n{script}'],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "streams",
    [
        ">&- 2>&- <&-",
        # The next test closes these, too.
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("2>&1 | true", "| true", ">&-", "2>&-")),
    ],
)
def test_closed_streams_change_nothing(streams: str, tmp_path: Path) -> None:
    one = f"{SAMPLE} --ids {ITEM} --bands B02 --generator classical --out out"
    done = in_shell(f"eoaug super-resolve {one} {streams}; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
    assert len(written(tmp_path / "out")) == 1


def test_closed_streams_keep_the_exit_code(tmp_path: Path) -> None:
    done = in_shell("eoaug inspect nowhere 2>&- >&-; echo $?", tmp_path)
    assert done.stdout.strip() == "2"
    done = in_shell("eoaug inspect nowhere 2>&1 | true; echo ${PIPESTATUS[0]}", tmp_path)
    assert done.stdout.strip() == "2"


def test_the_sample_has_a_name_unless_a_file_is_called_so(tmp_path, monkeypatch):
    from eoaug.jobs.config import Source
    from eoaug.stac.sample import named_source, sample

    monkeypatch.chdir(tmp_path)
    assert named_source("sample") == Source(catalog="sample").catalog == str(sample())
    assert named_source("sample/x") == "sample/x"
    (tmp_path / "sample").mkdir()
    assert named_source("sample") == Source(catalog="sample").catalog == "sample"


def test_help_and_pages_name_no_path_of_a_checkout():
    """What they show works after a plain installation, which has no folder ``catalogs``."""
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *(root / "eoaug").rglob("*.py")]
    shown = [
        page.name
        for page in pages
        if re.search(r"(open_cube\(\W*|eoaug \S+ |catalog: )catalogs/", page.read_text("utf-8"))
    ]
    assert shown == []
