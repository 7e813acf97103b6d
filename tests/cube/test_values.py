"""The five values of a plan, each alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eoaug.engine.values import NEIGHBOUR_DATES, Bands, Calendar, Chunking, Grid, Layer, Sampling
from eoaug.raster.radiometry import Scaling
from eoaug.raster.sensor import Sensor
from eoaug.raster.tiles import Window
from eoaug.testing import grid


def layer(name, slot, origin="generated", nodata=None):
    return Layer(name, slot, Scaling(), Scaling(), "uint16", nodata, origin)


def calendar(given, dates, **options):
    times = np.asarray(dates, np.int64)
    return Calendar(
        in_times=np.asarray(given, np.int64), out_times=times, cloud=np.arange(len(times)) / 10, **options
    )


def test_bands_know_their_channels_by_origin():
    bands = Bands((layer("red", 2), layer("nir", 0, "transferred"), layer("vv", 5, "observed")), 6)
    assert bands.slots == [2, 0, 5]
    assert bands.slots_from("generated") == [2]
    assert bands.slots_from("generated", "transferred") == [2, 0]
    assert math.isnan(layer("red", 0).missing)
    assert layer("red", 0, nodata=7.0).missing == 7.0


def test_a_refined_grid_finds_the_input_under_a_window():
    fine = Grid(geobox=grid((40, 60)), origin=(-8, 12), factor=4)
    assert fine.scene == Window(-8, 12, 32, 72)
    assert fine.source_window(fine.scene) == Window(0, 0, 10, 15)
    assert fine.source_window(Window(-8, 16, -4, 20)) == Window(0, 1, 1, 2)
    assert fine.clip(Window(-100, 0, 0, 20)) == Window(-8, 12, 0, 20)
    assert fine.region(Window(0, 13, 4, 14)) == Window(0, 12, 4, 16)
    assert fine.sensor_px == 0


def test_the_reach_of_the_projection_is_whole_input_pixels_and_bounded():
    sensor = Sensor.of("gaussian", 4, 1)
    fine = Grid(geobox=grid((400, 400)), origin=(0, 0), factor=4, sensor=sensor)
    assert fine.sensor_px % 4 == 0
    assert sensor.radius_px <= fine.sensor_px < sensor.radius_px + 4
    core = Window(0, 200, 8, 208)
    assert fine.region(core) == Window(0, 200 - fine.sensor_px, 8 + fine.sensor_px, 208 + fine.sensor_px)


def test_an_unbounded_plane_is_not_clipped():
    plane = Grid(geobox=grid((10, 10)), origin=(0, 0), bounded=False)
    assert plane.clip(Window(-5, -5, 50, 50)) == Window(-5, -5, 50, 50)


def test_a_geographic_grids_pixels_shrink_with_the_latitude():
    projected = Grid(geobox=grid((10, 10)), origin=(0, 0), gsd_m=10.0)
    assert projected.gsd_at(0.0) == projected.gsd_at(60.0) == 10.0
    geographic = Grid(geobox=grid((10, 10), crs="EPSG:4326"), origin=(0, 0), gsd_m=1.0)
    assert geographic.gsd_at(60.0) == pytest.approx(geographic.gsd_at(0.0) * math.sqrt(0.5), rel=0.01)


def test_given_and_new_dates_and_their_order():
    dates = calendar([10, 20], [0, 5, 10, 15, 20, 30])
    assert [dates.given(k) for k in range(6)] == [None, None, 0, None, 1, None]
    assert dates.new_dates == [15, 30, 5, 0]
    step = dates.for_dates([10, 15, 20], [30])
    assert (step.in_times.tolist(), step.out_times.tolist()) == ([10, 15, 20], [30])
    assert step.cloud.tolist() == [0.5]
    unconditional = calendar([10], [10], has_input=False)
    assert unconditional.given(0) is None
    assert unconditional.nearby(0) == range(0)


def test_nearby_dates_are_limited_on_either_side():
    dates = calendar(range(100), range(100))
    assert dates.nearby(50) == range(50 - NEIGHBOUR_DATES, 50 + NEIGHBOUR_DATES + 1)
    assert dates.nearby(0) == range(NEIGHBOUR_DATES + 1)
    assert dates.nearby(99) == range(99 - NEIGHBOUR_DATES, 100)


@pytest.mark.parametrize(
    ("members", "reduce", "length", "drawn"),
    [
        (None, None, None, [3]),
        (4, None, 4, [3]),
        (4, "mean", None, [0, 1, 2, 3]),
        (4, 0.5, None, [0, 1, 2, 3]),
    ],
)
def test_members_of_a_chunk(members, reduce, length, drawn):
    sampling = Sampling(members=members, reduce=reduce)
    assert sampling.result_members == length
    assert list(sampling.members_of(3)) == drawn


def test_a_standard_deviation_is_stored_as_float32():
    assert Sampling(members=2, reduce="mean").dtype_of(layer("red", 0)) == np.uint16
    assert Sampling(members=2, reduce="std").dtype_of(layer("red", 0)) == np.float32


def test_outer_rings_take_the_joint_steps_alone():
    assert [Sampling(steps=5, joint_steps=2).steps_of_ring(ring) for ring in range(3)] == [5, 2, 1]
    assert Sampling().steps_of_ring(0) == 1, "a best estimate counts as one"


def test_chunks_tile_the_result_and_time_chunks_keep_their_size():
    chunking = Chunking(lengths=((2, 1), (10, 5), (7, 7, 1)), batch_tiles=8)
    assert chunking.window(1, 2) == Window(10, 14, 15, 15)
    assert [chunking.dates(t) for t in range(2)] == [range(2), range(2, 3)]
    indices = list(chunking.indices(2))
    assert len(indices) == len(set(indices)) == 2 * 2 * 2 * 3
    assert indices == sorted(indices)
    assert chunking.for_dates(5).lengths == ((2, 2, 1), (10, 5), (7, 7, 1))
