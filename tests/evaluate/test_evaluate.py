"""Cases hide their answers, the table is in reflectance whatever the model units, and real cubes run."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from eoaug.errors import ParameterError, SourceError
from eoaug.evaluate import evaluate
from eoaug.evaluate.windows import CLOUD_COVER, TASKS, WINDOW_PX, cases, read_series
from eoaug.generators.classical import Classical

pytest.importorskip("h5py", reason="h5netcdf reads netCDF4 through h5py")

DATA = Path(os.environ.get("EOAUG_DATA", Path(__file__).parents[3] / "shared" / "data"))
VALIDATION = DATA / "cubes" / "validation"
SLOTS = ("green", "red", "nir", "swir16")


class InOtherUnits(Classical):
    """The classical generator with named bands and model units, as a learned one has."""

    @property
    def card(self):
        return replace(
            super().card,
            name="other units",
            bands=SLOTS,
            mean=(0.1, 0.2, 0.3, 0.1),
            std=(0.05, 0.1, 0.2, 0.3),
        )


@pytest.fixture
def folder(tmp_path):
    """Two places: five dates with a cloudy one, and one large scene; and an 8-bit file."""
    rng = np.random.default_rng(0)

    def bands(shape, dtype="uint16", **attrs):
        rows, cols = np.mgrid[: shape[1], : shape[2]]
        scene = 1500 + 400 * np.sin(rows / 5) + 300 * np.cos(cols / 7)
        dates = 50 * np.arange(shape[0])[:, None, None]
        return {
            name: (
                ("time", "y", "x"),
                (scene + dates + 30 * rng.normal(size=shape) + 100 * number).astype(dtype),
                {"common_name": name, "gsd_m": 10.0, "_FillValue": 0, **attrs},
            )
            for number, name in enumerate(("red", "green", "nir"))
        }

    scale = {"reflectance_scale": 1e-4, "reflectance_offset": 0.0}
    scl = np.full((5, 70, 66), 4, np.uint8)
    scl[2] = 9
    times = np.array("2020-01-01", "datetime64[ns]") + np.array([0, 5, 10, 15, 40]) * np.timedelta64(1, "D")
    series = {**bands((5, 70, 66), **scale), "scl": (("time", "y", "x"), scl)}
    series["nir"][2]["native_gsd_m"] = 20.0
    series["red"][1][3, 0, 0] = 0
    xr.Dataset(series, coords={"time": times}).to_netcdf(tmp_path / "series.nc", engine="h5netcdf")
    xr.Dataset(bands((1, 130, 128), **scale)).to_netcdf(tmp_path / "scene.nc", engine="h5netcdf")
    xr.Dataset(bands((1, 64, 64), "uint8")).to_netcdf(tmp_path / "aerial.nc", engine="h5netcdf")
    return tmp_path


def test_windows_and_their_dates(folder):
    (window,) = read_series(folder / "series.nc", SLOTS)
    np.testing.assert_array_equal(window.usable, [0, 1, 4])  # 2 is cloudy, 3 has a missing pixel
    np.testing.assert_array_equal(window.present, [True, True, True, False])
    np.testing.assert_array_equal(window.sharp, [True, True, False, False])
    assert window.metadata[4].tolist()[2:] == [10, 0, 2020, 2, 10]
    assert 0.05 < np.nanmin(window.values) < np.nanmax(window.values) < 0.4
    assert [w.origin for w in read_series(folder / "scene.nc", SLOTS)] == [(0, 0), (0, 64), (64, 0), (64, 64)]


@pytest.mark.parametrize("task", TASKS)
def test_no_case_tells_its_answer(folder, task):
    (window,) = read_series(folder / "series.nc", SLOTS)
    found = list(cases(task, window, InOtherUnits().card, steps=3, seed=5))
    assert len(found) == {"next date": 2, "date between": 1}.get(task, 3)
    for case in found:
        request, target = case.request, case.target
        verb = {"inpaint with dates": "inpaint", "x2": "super_resolve", "x4": "super_resolve"}
        assert request.verb == verb.get(task, "extend" if "date" in task else task)
        assert np.flatnonzero(request.target).tolist() == [target]
        assert not (request.known & request.fill).any()
        assert not request.values[~request.known].any()
        assert (np.diff(request.times) > 0).all()
        assert (request.steps, request.seed) == (3, 5)
        assert not case.counts[3].any()
        assert np.isfinite(case.truth[case.counts]).all()
        if request.verb == "inpaint":
            assert request.fill[target, 0].sum() == round(CLOUD_COVER * WINDOW_PX**2)
        if request.verb == "super_resolve":
            assert not request.known.any()
            np.testing.assert_array_equal(case.counts.any(axis=(1, 2)), [True, True, False, False])


def test_cards_limit_the_cases(folder):
    (window,) = read_series(folder / "series.nc", SLOTS)
    card = InOtherUnits().card
    assert not list(cases("inpaint with dates", window, replace(card, context=0)))
    assert not list(cases("date between", window, replace(card, context=1)))
    assert not list(cases("x2", window, replace(card, verbs=frozenset({"inpaint"}))))
    assert {len(c.request.times) for c in cases("inpaint with dates", window, replace(card, context=1))} == {
        2
    }


def test_the_table_is_in_reflectance(folder):
    bare, other = (evaluate(generator, folder, limit=2) for generator in (Classical(), InOtherUnits()))
    for one, two in zip(bare.figures, other.figures, strict=True):
        assert (one.task, one.metric, one.windows, one.places) == (
            two.task,
            two.metric,
            two.windows,
            two.places,
        )
    for task in TASKS:
        one, two = bare.figure(task, "classical"), other.figure(task, "other units")
        assert one.value == pytest.approx(two.value, abs=0.05)
    assert bare.figure("inpaint", "classical").windows == 4
    assert bare.figure("inpaint", "classical").places == 2
    assert np.isnan(bare.figure("date between", "classical").low)
    assert (
        bare.figure("x2", "classical", "residual").value < bare.figure("x2", "bicubic", "residual").value / 50
    )


def test_the_table_as_text(folder):
    table = evaluate(Classical(), folder, tasks=["x2"], limit=1)
    assert "| x2 | classical | psnr_db | " in table.to_markdown()
    assert "aerial.nc was left out: Band 'red' holds 8-bit" in table.to_markdown().replace("'green'", "'red'")
    parsed = json.loads(table.to_json())
    assert parsed["generator"] == "classical"
    assert len(parsed["figures"]) == len(table.figures)
    with pytest.raises(KeyError):
        table.figure("x4", "classical")


def test_misuse_is_refused(folder, tmp_path_factory):
    with pytest.raises(SourceError, match=r"no \*\.nc"):
        evaluate(Classical(), tmp_path_factory.mktemp("empty"))
    with pytest.raises(ParameterError, match="'x3'"):
        evaluate(Classical(), folder, tasks=["x3"])
    with pytest.raises(ParameterError, match="limit of windows per place is 0"):
        evaluate(Classical(), folder, limit=0)


@pytest.mark.skipif(not VALIDATION.is_dir(), reason=f"no validation cubes at {VALIDATION}; set EOAUG_DATA")
def test_the_classical_generator_on_real_cubes():
    table = evaluate(Classical(), VALIDATION, limit=2)
    assert "naip_nd_prairie_2019_2020.nc" in table.skipped
    for task, opponent in (
        ("inpaint", "nearest pixel"),
        ("inpaint with dates", "push-pull"),
        ("x4", "bicubic"),
    ):
        gain = table.figure(task, "classical").value - table.figure(task, opponent).value
        assert gain > 0.5, (task, opponent)
