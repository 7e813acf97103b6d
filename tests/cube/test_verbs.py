"""What the four verbs promise: laziness, equal bytes anywhere, measurements kept, marks on what is made."""

from __future__ import annotations

import contextlib
import warnings

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import eoaug
from eoaug.cube.read import read_cube
from eoaug.errors import EoaugWarning, GridError, ParameterError
from eoaug.generators.classical import Classical
from eoaug.raster.sensor import Sensor
from eoaug.testing import CountingGenerator, TinyDenoiser, datasets, decode, scene

TINY = TinyDenoiser()
CLASSICAL = Classical()


def clouds(ds, *, time=True, share=0.3, seed=0):
    """A mask of blocks, with or without a time dimension."""
    dims = ("time", "y", "x") if time else ("y", "x")
    rng = np.random.default_rng(seed)
    coarse = rng.random([ds.sizes[d] if d == "time" else -(-ds.sizes[d] // 12) for d in dims]) < share
    fine = coarse.repeat(12, axis=-2).repeat(12, axis=-1)[..., : ds.sizes["y"], : ds.sizes["x"]]
    return xr.DataArray(fine, dims=dims, coords={d: ds[d] for d in dims}, name="clouds")


def all_verbs(ds, generator, **options):
    return {
        "synthesize": eoaug.synthesize(ds, generator=generator, **options),
        "inpaint": eoaug.inpaint(ds, mask=clouds(ds), generator=generator, **options),
        "extend": eoaug.extend(ds, times="2021-03-06", generator=generator, **options),
        "super_resolve": eoaug.super_resolve(ds, generator=generator, **options),
    }


def test_accessor_function_and_pipe_are_one():
    ds = scene((50, 60), dates=1)
    free = eoaug.super_resolve(ds, generator=CLASSICAL)
    assert ds.eoaug.super_resolve(generator=CLASSICAL).identical(free)
    assert ds.pipe(eoaug.super_resolve, generator=CLASSICAL).identical(free)
    assert ds.eoaug.plan("super_resolve", generator=CLASSICAL).token == free.eoaug.provenance.token


# -- anywhere -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_workers")
def test_building_is_lazy_and_every_scheduler_gives_equal_bytes():
    ds = scene((70, 90), dates=2, bands=("blue", "nir"), content="texture")
    generator = CountingGenerator(TINY)
    lazy = all_verbs(ds.chunk({"time": 1, "y": 40, "x": 50}), generator)
    assert generator.calls == 0
    expected = all_verbs(ds, TINY)
    for scheduler, workers in (("threads", 2), ("processes", 1), ("synchronous", 1)):
        with dask.config.set(scheduler=scheduler, num_workers=workers):
            for verb, result in zip(lazy, dask.compute(*lazy.values()), strict=True):
                xr.testing.assert_equal(result, expected[verb])
    assert generator.calls > 0


@pytest.fixture(scope="module")
def cluster(quick_workers):
    """Two processes of dask."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", protocol="tcp://"
    ) as cluster:
        yield cluster


def test_a_cluster_gives_equal_bytes_and_loads_no_weights_into_the_graph(cluster):
    distributed = pytest.importorskip("distributed")
    ds = scene((70, 90), dates=2, bands=("blue", "nir"), content="texture")
    lazy = all_verbs(ds.chunk({"time": 1, "y": 40, "x": 50}), TINY)
    expected = all_verbs(ds, TINY)
    with distributed.Client(cluster):
        for verb, result in zip(lazy, dask.compute(*lazy.values()), strict=True):
            xr.testing.assert_equal(result, expected[verb])


def test_a_part_is_computed_while_a_cluster_holds_the_whole(cluster):
    """Tasks of one name that differed by what was asked ended in a KeyError."""
    distributed = pytest.importorskip("distributed")
    ds = scene((100, 120), dates=2, bands=("blue", "nir"), content="texture")
    options = {"times": ["2021-03-05", "2021-03-15", "2021-02-01"], "generator": TINY}
    with distributed.Client(cluster):
        for own in ({"sequence": True}, {"sequence": False}, {"members": 2}):
            expected = eoaug.extend(ds, **options, **own)
            lazy = eoaug.extend(ds.chunk({"time": 1, "y": 50}), chunks=64, **options, **own)
            held = lazy.persist()
            xr.testing.assert_equal(lazy.nir.compute(), expected.nir)
            xr.testing.assert_equal(lazy.isel(time=[1, 2]).compute(), expected.isel(time=[1, 2]))
            xr.testing.assert_equal(held.compute(), expected)


class Whereabouts:
    """A generator that leaves the name of every dask worker it runs on in a folder."""

    def __init__(self, folder):
        self.folder, self.card = folder, TINY.card

    def generate(self, requests):
        import distributed

        (self.folder / str(distributed.get_worker().name)).touch()
        return TINY.generate(requests)


@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
@pytest.mark.parametrize(
    ("dates", "fill", "left"), [(0, None, 0), (1, None, 0), (1, "gaps", 400), (2, None, 800), (2, "all", 0)]
)
def test_missing_pixels_are_filled_without_a_mask(dates, fill, left):
    """On one date all of them; of several those that another date measured, and none that no date did."""
    ds = scene((64, 64), dates=dates, bands=("blue", "nir"), content="texture")
    for band in ds.data_vars:
        ds[band].values[..., 10:30, 20:40] = 0
    if dates == 2:
        ds.blue.values[0, 40:50, :] = ds.nir.values[0, 40:50, :] = 0
    options = {} if fill is None else {"fill": fill}
    filled = eoaug.inpaint(ds, generator=TINY, **options)
    assert int((filled.blue.values == 0).sum()) == left
    assert int((filled.synthetic.values == 255).sum()) == left


@pytest.mark.parametrize(
    "wanted", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["annotated", "not annotated"]
)
def test_a_worker_resource_decides_where_the_model_runs(tmp_path, wanted):
    """Under dask.annotate(resources=...) only workers that have the resource run it, with equal bytes.

    Low-level fusion of dask drops annotations, so it is switched off, as dask's documentation says.
    """
    distributed = pytest.importorskip("distributed")
    ds = scene((150, 150), dates=1, bands=("blue", "nir"), content="texture")
    expected = eoaug.inpaint(ds, mask=clouds(ds), generator=TINY, joint_steps=0)
    with (
        distributed.SpecCluster(
            scheduler={
                "cls": distributed.Scheduler,
                "options": {"dashboard": False, "dashboard_address": ":0", "host": "127.0.0.1", "port": 0},
            },
            workers={
                "plain": {"cls": distributed.Worker, "options": {"nthreads": 1}},
                "accelerated": {
                    "cls": distributed.Worker,
                    "options": {"nthreads": 1, "resources": {"GPU": 1}},
                },
            },
            silence_logs=50,
        ) as cluster,
        distributed.Client(cluster),
    ):
        options = {"mask": clouds(ds), "generator": Whereabouts(tmp_path), "joint_steps": 0}
        with dask.annotate(resources={"GPU": 1}) if wanted else contextlib.nullcontext():
            lazy = eoaug.inpaint(ds, chunks={"y": 30, "x": 30}, **options)
        with dask.config.set({"optimization.fuse.active": False}):
            xr.testing.assert_equal(lazy.compute(), expected)
    where = {path.name for path in tmp_path.iterdir()}
    assert where == ({"accelerated"} if wanted else {"accelerated", "plain"})


# -- measurements are kept ----------------------------------------------------------------------------


@settings(max_examples=max(settings().max_examples // 2, 8))
@given(ds=datasets(max_px=30), seed=st.integers(0, 1000), with_time=st.booleans(), stored=st.booleans())
def test_clear_pixels_are_identical_after_inpaint(ds, seed, with_time, stored):
    cube = read_cube(ds)
    y, x = cube.names_yx
    dims = ("time", y, x) if with_time and cube.name_time else (y, x)
    rng = np.random.default_rng(seed)
    mask = xr.DataArray(rng.random([ds.sizes[d] for d in dims]) < 0.3, dims=dims)
    if stored:
        ds = ds.assign(clouds_mask=mask.astype("uint8"))
    result = eoaug.inpaint(ds, mask="clouds_mask" if stored else mask, mask_buffer=0, generator=TINY, steps=2)
    for band in cube.bands:
        before, after = ds[band.name], result[band.name]
        assert after.dtype == before.dtype
        wide = mask.broadcast_like(before).transpose(*before.dims)
        np.testing.assert_array_equal(before.values[~wide.values], after.values[~wide.values])
        if band.nodata is not None:
            missing = np.isnan(after) if np.isnan(band.nodata) else after == band.nodata
            assert not missing.values[wide.values].any(), "what is to be filled is filled"
    marks = result.synthetic
    np.testing.assert_array_equal(marks == 1, mask.broadcast_like(marks).transpose(*marks.dims))


def test_measured_pixels_under_no_mask_are_the_scenes_own():
    ds = scene((60, 70), dates=2)
    result = eoaug.inpaint(ds, mask=clouds(ds), generator=TINY)
    place = decode(result.nir.values)
    cols = np.arange(70)
    clear = ~clouds(ds).values
    np.testing.assert_array_equal(place.index[clear], np.broadcast_to(cols, place.index.shape)[clear])
    assert (place.pair[clear] == 1).all()
    assert (place.date[1][clear[1]] == 1).all()


def test_new_dates_keep_their_last_digit_and_may_have_zones():
    ds = scene((20, 24), dates=1)
    asked = ["2021-03-05T01:02:03.750", "2021-03-06T02:00+02:00", np.datetime64("2021-03-07")]
    for options in ({}, {"chunks": 10}):
        result = eoaug.extend(ds, times=asked, generator=CLASSICAL, **options)
        expected = np.array(["2021-03-05T01:02:03.750", "2021-03-06T00:00", "2021-03-07"], "datetime64[ns]")
        np.testing.assert_array_equal(result.time.values[1:], expected)
        assert result.time.values[0] == ds.time.values[0]
    zero_dimensional = np.array("2021-03-05", "datetime64[D]")
    assert eoaug.extend(ds, times=zero_dimensional, generator=CLASSICAL).sizes["time"] == 2


def test_an_eager_result_is_eager_whatever_the_marks_were():
    ds = scene((40, 44), dates=2, content="texture")
    filled = eoaug.inpaint(ds, mask=clouds(ds), generator=CLASSICAL)
    lazy_marks = filled.assign(synthetic=filled.synthetic.chunk())
    again = eoaug.inpaint(lazy_marks, mask=clouds(ds, seed=1), generator=CLASSICAL)
    assert again.synthetic.chunks is None
    xr.testing.assert_equal(again, eoaug.inpaint(filled, mask=clouds(ds, seed=1), generator=CLASSICAL))


def test_a_mask_that_runs_the_other_way_is_refused_with_what_turns_it():
    ds = scene((40, 44), dates=1, content="texture").drop_vars("spatial_ref")
    mask = clouds(ds)
    with pytest.raises(GridError, match=r"mask\.sel\(y=ds\.y"):
        eoaug.inpaint(ds, mask=mask.isel(y=slice(None, None, -1)), generator=CLASSICAL)
    turned = mask.isel(y=slice(None, None, -1)).sel(y=ds.y, x=ds.x)
    xr.testing.assert_equal(
        eoaug.inpaint(ds, mask=turned, generator=CLASSICAL), eoaug.inpaint(ds, mask=mask, generator=CLASSICAL)
    )


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_given_dates_are_untouched_by_extend(dtype):
    bands = ("blue", "green", "red") if dtype == "int16" else ("blue", "nir")
    ds = scene((40, 50), dates=3, bands=bands, dtype=dtype)
    result = eoaug.extend(ds, times=["2021-03-15", "2021-02-01", "2022-01-01"], generator=TINY)
    assert result.sizes["time"] == 6
    assert (np.diff(result.time.values) > np.timedelta64(0, "s")).all()
    xr.testing.assert_equal(result.sel(time=ds.time)[list(bands)], ds[list(bands)])
    marks = result.synthetic
    assert (marks.sel(time=ds.time) == 0).all()
    assert (marks.drop_sel(time=ds.time) == 1).all()


ONE_BY_ONE = ["2022-01-01", "2022-03-01", "2020-12-01", "2020-06-01"]
"""Onward from the first given date, then back from it."""


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_sequence_is_extended_date_by_date(dtype):
    ds = scene((70, 50), dates=2, bands=("blue", "nir"), content="texture", dtype=dtype)
    by_hand = ds
    for date in ONE_BY_ONE:
        by_hand = by_hand.eoaug.extend(times=date, generator=TINY)
    result = ds.eoaug.extend(times=sorted(ONE_BY_ONE), sequence=True, generator=TINY)
    xr.testing.assert_equal(result, by_hand)
    apart = ds.eoaug.extend(times=sorted(ONE_BY_ONE), generator=TINY)
    # The first of each direction has the given dates nearest; those after it were told of it.
    for first in ONE_BY_ONE[::2]:
        xr.testing.assert_equal(result.sel(time=first), apart.sel(time=first))
    for later in ONE_BY_ONE[1::2]:
        assert not result.sel(time=later).equals(apart.sel(time=later))
    record = result.eoaug.provenance
    assert record.operation == "extend"
    assert record.parameters["sequence"] is True
    assert len(record.parameters["times"]) == 4
    assert record.token not in (apart.eoaug.provenance.token, by_hand.eoaug.provenance.token)
    assert (result.synthetic.sel(time=ds.time) == 0).all()
    assert (result.synthetic.drop_sel(time=ds.time) == 1).all()


def test_a_lazy_sequence_has_the_same_bytes_and_calls_nothing_before():
    ds = scene((70, 90), dates=2, bands=("blue", "nir"), content="texture")
    expected = eoaug.extend(ds, times=ONE_BY_ONE, sequence=True, generator=TINY)
    generator = CountingGenerator(TINY)
    lazy = [
        eoaug.extend(ds.chunk({"time": time, "y": 40, "x": 50}), times=ONE_BY_ONE, sequence=True,
                     generator=generator, chunks=chunks)
        for time, chunks in ((1, 32), (2, 64))
    ]  # fmt: skip
    plan = eoaug.plan("extend", ds, times=ONE_BY_ONE, sequence=True, generator=TINY)
    single = eoaug.plan("extend", ds, times=ONE_BY_ONE[0], generator=TINY)
    assert plan.explain().tiles == 4 * single.explain().tiles
    assert plan.token == expected.eoaug.provenance.token
    assert generator.calls == 0
    for result in lazy:
        xr.testing.assert_equal(result.compute(scheduler="synchronous"), expected)
    # One date, alone, needs those before it and none after.
    first = lazy[0].sel(time="2022-01-01").compute(scheduler="synchronous")
    xr.testing.assert_equal(first, expected.sel(time="2022-01-01"))


def test_a_crop_of_a_sequence_agrees_beyond_its_margin():
    ds = scene((90, 420), dates=1, bands=("blue", "nir"), content="texture")
    arguments = {"times": ONE_BY_ONE[:2], "sequence": True, "generator": TINY}
    margin = eoaug.plan("extend", ds, **arguments).margin_px
    assert margin == 2 * eoaug.plan("extend", ds, times=ONE_BY_ONE[:1], generator=TINY).margin_px
    whole = eoaug.extend(ds, **arguments)
    crop = eoaug.extend(ds.isel(x=slice(100, None)), **arguments)
    inner = whole.isel(x=slice(100 + margin, None))
    xr.testing.assert_equal(inner, crop.isel(x=slice(margin, None)))


def test_every_member_of_a_sequence_goes_its_own_way():
    ds = scene((40, 70), dates=1, bands=("blue", "nir"), content="texture")
    arguments = {"times": ONE_BY_ONE[:2], "sequence": True, "generator": TINY}
    single = eoaug.extend(ds, **arguments)
    several = eoaug.extend(ds, members=3, **arguments)
    assert several.sizes["member"] == 3
    xr.testing.assert_equal(several.sel(member=0, drop=True), single)
    # On the second new date members differ by more than their own noise: each saw its own first one.
    apart = eoaug.extend(ds, members=3, **{**arguments, "sequence": False})
    for member in (1, 2):
        one, other = several.sel(member=member), apart.sel(member=member)
        assert one.sel(time=ONE_BY_ONE[0]).equals(other.sel(time=ONE_BY_ONE[0]))
        assert not one.sel(time=ONE_BY_ONE[1]).equals(other.sel(time=ONE_BY_ONE[1]))
        assert not one.sel(time=ONE_BY_ONE[1]).equals(several.sel(member=0, time=ONE_BY_ONE[1]))
    lazy = eoaug.extend(ds.chunk({"y": 32, "x": 32}), members=3, chunks=40, **arguments)
    xr.testing.assert_equal(lazy.compute(scheduler="synchronous"), several)


def test_a_sequence_is_refused_where_it_cannot_be():
    ds = scene((40, 50), dates=2, bands=("blue", "nir"))
    with pytest.raises(ParameterError, match="reduce='mean' does not go with a sequence of 2 dates"):
        eoaug.extend(ds, times=ONE_BY_ONE[:2], sequence=True, members=3, reduce="mean", generator=TINY)
    with pytest.raises(ParameterError, match="sequence='yes'"):
        eoaug.extend(ds, times=ONE_BY_ONE[:2], sequence="yes", generator=TINY)
    # A single date is its own sequence.
    single = eoaug.extend(ds, times=ONE_BY_ONE[0], sequence=True, members=2, generator=TINY)
    assert single.sizes["member"] == 2


def degraded(fine, ds, sensor, factor):
    model = Sensor.of(sensor, factor, len(ds.data_vars))
    stack = np.stack([fine[name].values for name in ds.data_vars], axis=1).astype(np.float64)
    return model.degrade(stack)


@pytest.mark.sweep
@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("sensor", ["box", "gaussian", 0.2])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_the_sensor_sees_the_measurement_again(dtype, sensor, factor):
    ds = scene((24, 26), dates=2, bands=("blue", "nir"), content="texture", dtype=dtype)
    result = eoaug.super_resolve(ds, factor=factor, sensor=sensor, sensor_noise=0, generator=CLASSICAL)
    stored = np.stack([ds[name].values for name in ds.data_vars], axis=1)
    quantum = 1.0 if dtype == "uint16" else 1e-4
    np.testing.assert_allclose(degraded(result, ds, sensor, factor), stored, rtol=0, atol=quantum)


@pytest.mark.parametrize(("sensor", "left"), [("box", 0.0), ("gaussian", 0.001), (0.1, 0.05)])
def test_the_projection_corrects_a_generator_that_ignores_the_measurement(sensor, left):
    """What is left is the documented share of the residual, which is the whole image here."""
    ds = scene((24, 26), dates=1, bands=("blue", "nir"), content="texture", dtype="float32")
    result = eoaug.super_resolve(ds, sensor=sensor, sensor_noise=0, generator=TINY)
    stored = np.stack([ds[name].values for name in ds.data_vars], axis=1)
    worst = np.abs(degraded(result, ds, sensor, 2) - stored).max()
    assert worst <= left * np.ptp(stored) + 1e-5


@pytest.mark.parametrize("factor", [2, 4])
def test_a_box_measurement_is_kept_even_near_the_ends_of_the_type(factor):
    """Dark, noisy reflectance near 0 in an unsigned type, coarse-grained by a box mean."""
    rng = np.random.default_rng(3)
    fine = rng.integers(1, 60, (1, 48, 48)).astype(np.float64)
    coarse = np.rint(fine.reshape(1, 48 // factor, factor, -1, factor).mean(axis=(2, 4)))
    shape = coarse.shape[1:]
    ds = scene(shape, dates=1, bands=("blue",)).assign()
    ds = ds.assign(blue=ds.blue.copy(data=np.maximum(coarse, 1).astype("uint16")))
    result = eoaug.super_resolve(ds, factor=factor, sensor="box", sensor_noise=0, generator=TINY)
    seen = degraded(result, ds, "box", factor)
    np.testing.assert_allclose(seen[:, 0], ds.blue.values, rtol=0, atol=1.0)


def seen_land(mtf, size=72, bands=("blue", "nir")):
    """A cube that a sensor of this MTF measured of land twice as fine."""
    rng = np.random.default_rng(5)
    frequency = np.fft.fftfreq(2 * size)
    radius = np.maximum(np.hypot.outer(frequency, frequency), 1e-3)
    fine = np.fft.ifft2(np.fft.fft2(rng.normal(size=(len(bands), 2 * size, 2 * size))) * radius**-1.3).real
    coarse = 0.2 + 0.04 * Sensor.of(mtf, 2, len(bands)).degrade(fine / fine.std())
    ds = scene((size, size), dates=1, bands=bands, dtype="float32")
    return ds.assign(
        {name: ds[name].copy(data=plane[None]) for name, plane in zip(bands, coarse, strict=True)}
    )


def test_the_sensor_is_estimated_recorded_and_the_same_for_lazy_cubes():
    ds = seen_land(0.2)
    eager = eoaug.super_resolve(ds, generator=CLASSICAL)
    told = eager.eoaug.provenance.parameters
    assert all(0.1 <= value <= 0.35 for value in told["sensor"])
    assert set(told["sensor_estimate"]) == {"blue", "nir"}
    assert set(told["sensor_estimate"]["blue"]) == {"blocks", "mtf", "noise", "std"}
    lazy = eoaug.super_resolve(ds.chunk(y=20, x=30), generator=CLASSICAL)
    assert lazy.eoaug.provenance.parameters == told
    xr.testing.assert_equal(lazy.compute(), eager)
    # A crop is made equal by naming what was recorded.
    recorded = {name: told[name] for name in ("sensor", "sensor_noise")}
    xr.testing.assert_equal(eoaug.super_resolve(ds, generator=CLASSICAL, **recorded), eager)
    shown = str(eoaug.plan("super_resolve", ds, generator=CLASSICAL).explain())
    assert f"{told['sensor'][0]}, noise" in shown
    # Detail below the noise stays as interpolated, and the residual lies within it.
    rough = eoaug.super_resolve(ds, sensor_noise=0.02, generator=CLASSICAL)
    assert max(rough.eoaug.provenance.residual.values()) < 5 * 0.02
    assert eager.eoaug.provenance.residual["blue"] < rough.eoaug.provenance.residual["blue"]


def test_a_named_sensor_that_the_image_contradicts_warns():
    averaged = seen_land("box")
    with pytest.warns(EoaugWarning, match="sensor=0.2 contradicts the image, which shows: blue MTF"):
        eoaug.super_resolve(averaged, sensor=0.2, generator=CLASSICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eoaug.super_resolve(averaged, sensor="box", generator=CLASSICAL)
        # Nothing is read where both are named.
        eoaug.super_resolve(averaged, sensor=0.2, sensor_noise=0, generator=CLASSICAL)


def test_clouds_of_a_quality_band_do_not_count():
    ds = seen_land(0.25)
    hidden = np.zeros((1, 72, 72), "uint8")
    hidden[:, :, 40:] = 9
    attrs = {"flag_values": [0, 9], "flag_meanings": "clear cloud_high_probability"}
    cloudy = ds.where(hidden == 0, 0.9).assign(scl=(ds.blue.dims, hidden, attrs))
    half = ds.where(hidden == 0)
    found = [eoaug.plan("super_resolve", each, generator=CLASSICAL).notes for each in (cloudy, half)]
    assert found[0] == found[1]


@pytest.mark.parametrize("noise", [-1.0, "little", [0.1, 0.1, 0.1], float("nan")])
def test_a_noise_that_cannot_be_is_refused(noise):
    with pytest.raises(ParameterError, match="sensor_noise="):
        eoaug.super_resolve(scene((20, 20), bands=("blue", "nir")), sensor_noise=noise, generator=CLASSICAL)


def test_super_resolution_keeps_bounds_and_refines_the_grid():
    ds = scene((20, 30), dates=1)
    for factor in (2, 3):
        before = read_cube(ds).geobox
        after = read_cube(eoaug.super_resolve(ds, factor=factor, generator=CLASSICAL)).geobox
        np.testing.assert_allclose(after.boundingbox.bbox, before.boundingbox.bbox, rtol=0, atol=1e-9)
        assert after.shape == (20 * factor, 30 * factor)


# -- what is missing stays missing ----------------------------------------------------------------------


@settings(max_examples=max(settings().max_examples // 2, 8))
@given(ds=datasets(max_px=24), verb=st.sampled_from(["synthesize", "super_resolve", "extend"]))
def test_missing_pixels_never_spread_and_are_never_made_up(ds, verb):
    cube = read_cube(ds)
    extra = {"mask": "none"} | ({"times": "2030-01-01"} if verb == "extend" else {})
    if verb == "extend" and cube.times is None:
        return
    result = getattr(eoaug, verb)(ds, generator=TINY, steps=2, **extra)
    f = 2 if verb == "super_resolve" else 1
    for band in cube.bands:
        if band.nodata is None:
            continue
        y, x = cube.names_yx
        names = (cube.name_time, y, x) if cube.name_time else (y, x)

        def missing(array, names=names, band=band):
            values = array.transpose(*names).values
            return np.isnan(values) if np.isnan(band.nodata) else values == band.nodata

        before = missing(ds[band.name]).repeat(f, axis=-1).repeat(f, axis=-2)
        after = missing(result[band.name])
        np.testing.assert_array_equal(after[: len(before)] if verb == "extend" else after, before)


def test_gaps_are_filled_where_another_date_measured():
    ds = scene((40, 50), dates=2, content="texture")
    for name in ds.data_vars:
        ds[name].values[0, :10] = 0  # measured on the other date
        ds[name].values[:, 30:] = 0  # beyond the swath on both
    gaps = eoaug.inpaint(ds, generator=TINY)
    assert (gaps.blue.values[0, :10] > 0).all()
    assert (gaps.blue.values[:, 30:] == 0).all()
    assert (gaps.synthetic.values[0, :10] == 1).all()
    assert (gaps.synthetic.values[:, 10:30] == 0).all()
    assert (gaps.synthetic.values[:, 30:] == 255).all()
    everything = eoaug.inpaint(ds, fill="all", generator=TINY)
    assert (everything.blue.values > 0).all()
    assert (everything.synthetic.values[:, 30:] == 1).all()


def test_what_was_generated_before_stays_marked():
    """Nothing synthetic leaves unmarked: a second verb must not call a generated pixel measured."""
    ds = scene((40, 50), dates=2, content="texture")
    first = eoaug.inpaint(ds, mask=clouds(ds, seed=1), generator=TINY)
    second = eoaug.inpaint(first, mask=clouds(ds, seed=2), generator=TINY)
    either = clouds(ds, seed=1) | clouds(ds, seed=2)
    np.testing.assert_array_equal(second.synthetic == 1, either)
    lazy = eoaug.inpaint(first.chunk({"y": 20}), mask=clouds(ds, seed=2), generator=TINY)
    np.testing.assert_array_equal(lazy.synthetic == 1, either)
    later = eoaug.extend(first, times="2021-03-06", generator=TINY)
    np.testing.assert_array_equal(later.synthetic.sel(time=ds.time) == 1, clouds(ds, seed=1))
    array = eoaug.inpaint(first.blue.assign_coords(synthetic=first.synthetic), mask=clouds(ds, seed=2),
                          generator=TINY)  # fmt: skip
    np.testing.assert_array_equal(array.synthetic == 1, either)


# -- masks --------------------------------------------------------------------------------------------


def with_scl(ds):
    classes = np.full((ds.sizes["time"], ds.sizes["y"], ds.sizes["x"]), 4, np.uint8)
    classes[0, 5:20, 5:20] = 9  # cloud, high probability
    classes[0, 25:30, 5:20] = 3  # cloud shadow
    classes[1, :, 30:35] = 11  # snow
    return ds.assign(scl=(("time", "y", "x"), classes))


def test_masks_by_quality_band_and_class_names():
    ds = with_scl(scene((40, 50), dates=2))
    default = eoaug.inpaint(ds, mask="scl", mask_buffer=0, generator=CLASSICAL)
    expected = np.isin(ds.scl, (3, 9))
    np.testing.assert_array_equal(default.synthetic == 1, expected)
    assert default.scl.identical(ds.scl)
    shadows = eoaug.inpaint(ds, mask=["cloud_shadow"], mask_buffer=0, generator=CLASSICAL)
    np.testing.assert_array_equal(shadows.synthetic == 1, ds.scl == 3)
    upper = eoaug.inpaint(ds.rename(scl="SCL"), mask="scl", mask_buffer=0, generator=CLASSICAL)
    np.testing.assert_array_equal(upper.synthetic, default.synthetic)
    decoded = eoaug.inpaint(
        ds.assign(scl=ds.scl.astype("float32")), mask="scl", mask_buffer=0, generator=CLASSICAL
    )
    np.testing.assert_array_equal(decoded.synthetic, default.synthetic)


def with_another_date(mask):
    early = mask.isel(time=[0]).assign_coords(time=[np.datetime64("2020-01-01", "ns")])
    return xr.concat([early, mask], "time")


@pytest.mark.parametrize(
    "form",
    [
        lambda mask: mask,
        lambda mask: mask.astype("uint8"),
        lambda mask: mask.astype("float32").where(mask).fillna(0),
        lambda mask: mask.chunk({"y": 13}),
        lambda mask: mask.drop_vars(list(mask.coords)),
        lambda mask: mask.transpose("x", "time", "y"),
        with_another_date,
    ],
    ids=["bool", "uint8", "float", "lazy", "bare", "any order", "more dates"],
)
def test_masks_in_any_form(form):
    ds = scene((40, 50), dates=2)
    given = form(clouds(ds))
    result = eoaug.inpaint(ds, mask=given, generator=CLASSICAL)
    np.testing.assert_array_equal(result.synthetic == 1, clouds(ds))
    assert (result.synthetic.chunks is None) == (given.chunks is None)


def test_a_mask_without_time_holds_for_every_date():
    ds = scene((40, 50), dates=2)
    mask = clouds(ds, time=False)
    for still in (mask, mask.chunk({"x": 20})):
        result = eoaug.inpaint(ds, mask=still, generator=CLASSICAL)
        assert all(np.array_equal(result.synthetic.sel(time=t) == 1, mask) for t in ds.time)


def test_a_mask_variable_is_no_band():
    ds = scene((40, 50), dates=2).assign(clouds=clouds(scene((40, 50), dates=2)).astype("uint8"))
    result = eoaug.inpaint(ds, mask="clouds", mask_buffer=0, generator=CLASSICAL)
    assert result.clouds.identical(ds.clouds)
    np.testing.assert_array_equal(result.synthetic == 1, ds.clouds == 1)


# -- members ------------------------------------------------------------------------------------------


def test_members_are_different_and_each_is_what_it_is_alone():
    ds = scene((40, 50), dates=1, content="texture")
    four = eoaug.synthesize(ds, members=4, generator=TINY)
    assert four.blue.dims == ("member", *ds.blue.dims)
    assert four.member.values.tolist() == [0, 1, 2, 3]
    assert all(not np.array_equal(four.blue[0], four.blue[i]) for i in (1, 2, 3))
    xr.testing.assert_equal(four.isel(member=[0, 1]), eoaug.synthesize(ds, members=2, generator=TINY))
    alone = eoaug.synthesize(ds, generator=TINY)
    np.testing.assert_array_equal(four.blue[0], alone.blue)
    lazy = eoaug.synthesize(ds, members=4, generator=TINY, chunks=30)
    assert lazy.blue.data.chunks[0] == (1, 1, 1, 1)
    xr.testing.assert_equal(lazy, four)


@pytest.fixture(scope="module", params=["synthesize", "super_resolve", "extend"])
def five_members(request):
    """A verb, its scene and options, and five members of it."""
    verb = request.param
    ds = scene((18, 20), dates=1, bands=("blue", "nir"), content="texture", dtype="float32")
    extra = {"times": "2021-04-01"} if verb == "extend" else {}
    options = {"generator": TINY, "members": 5, "seed": 7} | extra
    return verb, ds, options, getattr(eoaug, verb)(ds, **options)


@pytest.mark.sweep
@pytest.mark.parametrize("reduce", ["mean", "std", "median", 0.0, 0.25, 1.0])
def test_reductions_equal_those_of_explicit_members(five_members, reduce):
    verb, ds, options, every = five_members
    found = getattr(eoaug, verb)(ds, reduce=reduce, **options)
    assert "member" not in found.dims
    for band in ("blue", "nir"):
        members = every[band].values.astype(np.float64)
        if reduce == "mean":
            expected = members.mean(axis=0)
        elif reduce == "std":
            expected = members.std(axis=0, ddof=1)
        else:
            expected = np.quantile(members, 0.5 if reduce == "median" else reduce, axis=0)
        np.testing.assert_allclose(found[band], expected, rtol=0, atol=2e-6)
    lazy = getattr(eoaug, verb)(ds, reduce=reduce, chunks=16, **options)
    xr.testing.assert_equal(lazy, found)


def test_a_spread_is_in_physical_units_whatever_the_storage():
    physical = scene((30, 40), dates=1, bands=("blue",), content="texture", dtype="float32")
    stored = scene((30, 40), dates=1, bands=("blue",), content="texture", dtype="uint16")
    options = {"generator": TINY, "members": 4, "reduce": "std"}
    a, b = (eoaug.synthesize(ds, **options).blue for ds in (physical, stored))
    assert b.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert not {"scale_factor", "_FillValue"} & set(b.attrs)


# -- conditions ---------------------------------------------------------------------------------------


def test_conditions_reach_the_generator():
    ds = scene((40, 50), dates=1, content="texture")
    plain = eoaug.synthesize(ds, generator=TINY)
    layout = xr.DataArray(np.ones((2, 40, 50), np.float32), dims=("layer", "y", "x"))
    for change in (
        {"prompt": "a harbour"},
        {"layout": layout},
        {"metadata": {"cloud_fraction": 0.7}},
        {"guidance": 3.0},
        {"steps": 6},
        {"strength": 0.9},
        {"seed": 1},
    ):
        changed = eoaug.synthesize(ds, generator=TINY, **change)
        assert not np.array_equal(changed.blue, plain.blue), change
        lazy = eoaug.synthesize(ds, generator=TINY, chunks=30, **change)
        np.testing.assert_array_equal(lazy.blue, changed.blue)


def test_a_guide_tells_what_lies_in_a_gap():
    """Another sensor's image of the ground, in units of its own: less error, and the same bytes in chunks."""
    ds = scene((90, 100), dates=1, bands=("red", "nir"), content="texture")
    cloudy = clouds(ds)
    radar = ds.isel(time=0, drop=True)[["nir"]].rename(nir="VV").astype("float32") * -3.0 + 7.0
    noisy = radar + np.random.default_rng(0).normal(0, float(radar.VV.std()) / 3, radar.VV.shape)
    plain = eoaug.inpaint(ds, mask=cloudy, generator="embedded")
    guided = eoaug.inpaint(ds, mask=cloudy, generator="embedded", layout=noisy)
    errors = [
        float(np.sqrt(((made.nir.astype(float) - ds.nir) ** 2).where(cloudy).mean()))
        for made in (plain, guided)
    ]
    assert errors[1] < 0.8 * errors[0]
    assert guided.eoaug.provenance.parameters["layout"] == 1
    assert "layout" not in plain.eoaug.provenance.parameters
    itemised = noisy.assign_coords(item_id="radar-1", item_href="radar-1.json")
    told = eoaug.inpaint(ds, mask=cloudy, generator="embedded", layout=itemised).eoaug.provenance
    assert told.sources == ({"id": "radar-1", "href": "radar-1.json"},), "what guided is a source"
    lazy = eoaug.inpaint(
        ds.chunk(y=40, x=64), mask=cloudy, generator="embedded", layout=noisy.chunk(y=30), chunks=56
    )
    xr.testing.assert_equal(lazy.compute(), guided)
    plan = ds.eoaug.plan("inpaint", mask=cloudy, generator="embedded", layout=noisy.VV)
    assert plan.token == ds.eoaug.plan("inpaint", mask=cloudy, generator="embedded", layout=noisy).token
    assert plan.token != ds.eoaug.plan("inpaint", mask=cloudy, generator="embedded", layout=radar).token


@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
def test_the_record_tells_what_was_made():
    ds = scene((40, 50), dates=2)
    result = eoaug.inpaint(ds, mask=clouds(ds), generator=CLASSICAL, seed=5)
    record = result.eoaug.provenance
    assert (record.operation, record.generator, record.seed) == ("inpaint", "classical", 5)
    np.testing.assert_allclose(record.synthetic_fraction, clouds(ds).mean())
    assert record.residual == 0.0
    assert ds.eoaug.provenance is None
    textured = scene((20, 20), dates=1, content="texture")
    sharp = eoaug.super_resolve(textured, sensor_noise=0, generator=CLASSICAL)
    assert max(sharp.eoaug.provenance.residual.values()) <= 1e-4
    hidden = scene((20, 24), dates=1, bands=("blue", "nir"), dtype="float32")
    hidden.blue.values[:] = np.nan
    assert list(eoaug.super_resolve(hidden, generator=CLASSICAL).eoaug.provenance.residual) == ["nir"]
    hidden.nir.values[:] = np.nan
    assert eoaug.super_resolve(hidden, generator=CLASSICAL).eoaug.provenance.residual is None
