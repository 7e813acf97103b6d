"""The engine's promise: a pixel is a function of its place, whatever the chunks, batches and crops."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace
from typing import ClassVar

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

import eoaug
from eoaug.cube.read import read_cube
from eoaug.engine.explain import Times
from eoaug.engine.layout import lattice_for
from eoaug.engine.tile_requests import tile_centres
from eoaug.errors import GeneratorError, ParameterError
from eoaug.generators.base import Card, Request
from eoaug.generators.classical import Classical
from eoaug.generators.embedded import generator as embedded
from eoaug.generators.embedded import trajectory
from eoaug.generators.embedded.generator import Embedded
from eoaug.metrics import seam_ratio
from eoaug.raster.tiles import Window
from eoaug.testing import CountingGenerator, TinyDenoiser, grid, scene

TINY = TinyDenoiser()


def holes(ds):
    """Clouds on two of three dates, one of them crossing many tiles."""
    mask = xr.zeros_like(ds.blue, dtype=bool).compute()
    mask.attrs = {}
    mask.values[0, 20:90, 30:120] = True
    mask.values[1, 80:, 90:] = True
    return mask


def gappy(ds):
    """The same cube with nodata, or NaN, on a block and on single pixels of its first date."""
    out = ds.copy(deep=True)
    for name in ds.data_vars:
        missing = np.nan if out[name].dtype.kind == "f" else 0
        out[name].values[0, 30:55, 40:70] = missing
        out[name].values[0, 10, 11] = missing
    return out


def synthesize(ds, **options):
    return eoaug.synthesize(ds, **{"generator": TINY} | options)


def from_nothing(ds, **options):
    like = read_cube(ds).geobox
    two = TinyDenoiser(bands=("blue", "nir"))
    return eoaug.synthesize(like=like, **{"generator": two, "times": ds.time.values} | options)


def inpaint(ds, **options):
    return eoaug.inpaint(ds, mask=holes(ds), **{"generator": TINY} | options)


def fill_gaps(ds, **options):
    return eoaug.inpaint(ds, **{"generator": TINY} | options)


def extend(ds, **options):
    return eoaug.extend(ds, times=["2021-03-05", "2021-03-15"], **{"generator": TINY} | options)


def super_resolve(ds, **options):
    # Named: an estimate is one for the whole cube, and a crop would have another.
    named = {"sensor": 0.3, "sensor_noise": 0.002}
    return eoaug.super_resolve(ds, **{"generator": TINY, "factor": 2} | named | options)


def super_resolve_3(ds, **options):
    return eoaug.super_resolve(
        ds, **{"generator": TINY, "factor": 3, "sensor": "box", "sensor_noise": 0.002} | options
    )


VERBS = [synthesize, from_nothing, inpaint, fill_gaps, extend, super_resolve, super_resolve_3]


def small(verb):
    """A scene of several tiles for a verb; fewer dates where they are independent."""
    dates = 3 if verb in (inpaint, fill_gaps, extend) else 1
    shape = (48, 60) if verb in (super_resolve, super_resolve_3) else (76, 92)
    ds = scene(shape, dates=dates, bands=("blue", "nir"), content="texture")
    return ds if verb is inpaint else gappy(ds)


def digest(ds):
    """The sha256 of all pixels of a result."""
    text = hashlib.sha256()
    for name in sorted(map(str, ds.data_vars)):
        values = ds[name].transpose(..., "y", "x").values
        text.update(f"{name}{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return text.hexdigest()


@pytest.fixture(scope="module", params=VERBS, ids=lambda verb: verb.__name__)
def reference(request):
    """A verb, its scene and the sha256 of its eager result."""
    verb = request.param
    ds = small(verb)
    return verb, ds, digest(verb(ds))


@pytest.mark.sweep
@pytest.mark.parametrize("size", [32, 48, 80, 128])
def test_spatial_chunks_change_no_byte(reference, size):
    verb, ds, expected = reference
    assert digest(verb(ds, chunks={"y": size, "x": size})) == expected


@pytest.mark.sweep
@pytest.mark.parametrize("dates", [1, 2, -1])
def test_time_chunks_change_no_byte(reference, dates):
    verb, ds, expected = reference
    if ds.sizes["time"] == 1:
        pytest.skip("dates are independent for this verb, and the scene has one")
    assert digest(verb(ds, chunks={"time": dates, "y": 60, "x": 70})) == expected


@pytest.mark.sweep
@pytest.mark.parametrize("tiles", [1, 5, 8])
def test_batches_change_no_byte(reference, tiles):
    verb, ds, expected = reference
    assert digest(verb(ds, batch_tiles=tiles)) == expected


@pytest.mark.parametrize("joint", [0, 1])
def test_batches_are_of_the_size_that_was_asked_for(joint, monkeypatch):
    sizes = []
    for name in ("generate", "begin"):
        original = getattr(TinyDenoiser, name)

        def seen(self, requests, original=original):
            sizes.append(len(requests))
            return original(self, requests)

        monkeypatch.setattr(TinyDenoiser, name, seen)
    extend(small(extend), batch_tiles=3, joint_steps=joint)
    assert max(sizes) == 3


def test_the_inputs_own_chunks_change_no_byte(reference):
    verb, ds, expected = reference
    assert digest(verb(ds.chunk({"time": 1, "y": 45, "x": 70}))) == expected


def test_chunks_in_any_order_change_no_byte(reference):
    verb, ds, _ = reference
    lazy = verb(ds, chunks={"time": 1, "y": 80, "x": 80}).nir
    whole = lazy.values
    blocks = list(np.ndindex(*lazy.data.numblocks))
    edges = [np.cumsum((0, *sizes)) for sizes in lazy.data.chunks]
    for i in np.random.default_rng(0).permutation(len(blocks))[:4]:
        at = tuple(slice(e[k], e[k + 1]) for e, k in zip(edges, blocks[i], strict=True))
        np.testing.assert_array_equal(lazy.data.blocks[blocks[i]].compute(), whole[at])


@pytest.mark.sweep
@pytest.mark.parametrize("joint", [0, 1, 2, 3])
@pytest.mark.parametrize("verb", [from_nothing, extend], ids=lambda v: v.__name__)
def test_joint_denoising_needs_only_its_rings(verb, joint):
    ds = small(verb)
    eager = verb(ds, joint_steps=joint, chunks=1000)
    assert digest(verb(ds, joint_steps=joint, chunks=64)) == digest(eager)


def test_joint_steps_are_part_of_the_result():
    ds = small(extend)
    assert digest(extend(ds, joint_steps=0)) != digest(extend(ds, joint_steps=2))


@pytest.mark.parametrize("joint", [0, 2])
def test_a_canvas_coarser_than_the_pixels(joint):
    ds = small(extend)
    generator = TinyDenoiser(latent_factor=4)
    options = {"generator": generator, "joint_steps": joint}
    assert digest(extend(ds, **options)) == digest(extend(ds, chunks=50, **options))


@pytest.mark.parametrize("verb", [inpaint, super_resolve, synthesize], ids=lambda v: v.__name__)
def test_a_generator_that_does_not_step(verb):
    ds = small(verb)
    options = {"generator": Classical()}
    assert digest(verb(ds, **options)) == digest(verb(ds, chunks=70, batch_tiles=3, **options))


@settings(max_examples=max(settings().max_examples // 2, 10))
@given(
    verb=st.sampled_from(VERBS),
    chunks=st.tuples(st.integers(1, 3), st.integers(40, 150), st.integers(40, 150)),
    tiles=st.integers(1, 9),
    joint=st.integers(0, 2),
    members=st.sampled_from([None, 2]),
    seed=st.integers(0, 2**63 - 1),
    own=st.none() | st.tuples(st.integers(1, 3), st.integers(20, 90), st.integers(20, 90)),
)
def test_any_combination_changes_no_byte(verb, chunks, tiles, joint, members, seed, own):
    ds = small(verb)
    options = {"joint_steps": joint, "members": members, "seed": seed}
    given = ds if own is None else ds.chunk(dict(zip(("time", "y", "x"), own, strict=True)))
    lazy = verb(
        given, chunks=dict(zip(("time", "y", "x"), chunks, strict=True)), batch_tiles=tiles, **options
    )
    assert digest(lazy) == digest(verb(ds, **options))


@pytest.mark.sweep
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
@pytest.mark.parametrize("verb", [synthesize, inpaint, extend, super_resolve], ids=lambda v: v.__name__)
def test_the_byte_order_of_the_input_changes_no_pixel(verb, dtype):
    ds = scene((40, 50), dates=2, bands=("blue", "nir"), content="texture", dtype=dtype)
    swapped = ds.map(lambda band: band.astype(band.dtype.newbyteorder(">"), keep_attrs=True), keep_attrs=True)
    if verb is inpaint:
        ds, swapped = gappy(ds), gappy(swapped)
    run = fill_gaps if verb is inpaint else verb
    eager, lazy = run(swapped), run(swapped, chunks=30)
    assert eager.blue.dtype == lazy.blue.dtype == lazy.blue.compute().dtype == np.dtype(dtype)
    assert digest(eager) == digest(lazy) == digest(run(ds))


# -- crops --------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize(
    "kind", [{}, {"crs": "EPSG:4326"}, {"rotation_deg": 30.0}], ids=["utm", "4326", "rotated"]
)
@pytest.mark.parametrize("verb", [synthesize, extend, super_resolve], ids=lambda v: v.__name__)
def test_a_crop_equals_the_whole_beyond_the_margin(verb, kind):
    factor = 2 if verb is super_resolve else 1
    whole = scene((230 // factor, 250 // factor), dates=2, bands=("blue", "nir"), content="texture", **kind)
    y, x = whole.blue.dims[1:]
    top, left = 13, 22
    crop = whole.isel({y: slice(top, None), x: slice(left, None)})
    if verb is not extend:
        whole, crop = whole.isel(time=[0]), crop.isel(time=[0])
    expected, found = verb(whole), verb(crop)
    name = verb.__name__
    extra = {"times": "2021-03-05"} if verb is extend else {}
    margin = eoaug.plan(name, crop, generator=TINY, **extra).margin_px
    assert margin < 130
    inner = {y: slice(factor * top + margin, None), x: slice(factor * left + margin, None)}
    for band in found.data_vars:
        a = expected[band].isel(inner)
        b = found[band].isel({y: slice(margin, None), x: slice(margin, None)})
        assert a.size
        np.testing.assert_array_equal(a, b)


def test_a_window_from_nothing_equals_the_whole_to_its_edge():
    two = TinyDenoiser(bands=("blue", "nir"))
    large = grid((1000, 2000))
    window = large[490:560, 1003:1080]
    lazy = eoaug.synthesize(like=large, generator=two, times=["2021-06-01"], chunks=64)
    alone = eoaug.synthesize(like=window, generator=two, times=["2021-06-01"])
    part = lazy.isel(y=slice(490, 560), x=slice(1003, 1080))
    assert digest(part) == digest(alone)
    np.testing.assert_array_equal(part.x, alone.x)


def test_a_window_from_nothing_costs_its_own_tiles():
    generator = CountingGenerator(TinyDenoiser(joint_steps=1))
    window = grid((100_000, 100_000))[70_000:70_100, 30_000:30_100]
    lazy = eoaug.synthesize(like=window, generator=generator, times=["2021-06-01"])
    assert generator.calls == 0
    lazy.compute()
    made = eoaug.plan("synthesize", like=window, generator=generator, times=["2021-06-01"])
    rings = made.lattice.rings(made.grid.scene, 1)
    tiles = {(w.top, w.left) for ring in rings for w in map(made.lattice.window, ring)}
    assert sorted(generator.origins) == sorted(tiles)


def test_slicing_a_huge_cube_costs_the_tiles_of_the_window():
    generator = CountingGenerator(TinyDenoiser(joint_steps=1))
    large = grid((100_000, 100_000))
    kwargs = {"generator": generator, "times": ["2021-06-01"]}
    lazy = eoaug.synthesize(like=large, chunks=8192, **kwargs)
    # As users do: one date, then a window of it, then a smaller one.
    part = (
        lazy.isel(time=0)
        .isel(y=slice(70_000, 70_400), x=slice(30_000, 30_400))
        .isel(y=slice(0, 100), x=slice(0, 100))
    )
    assert generator.calls == 0
    found = part.compute(scheduler="synchronous")
    window = large[70_000:70_100, 30_000:30_100]
    made = eoaug.plan("synthesize", like=window, **kwargs)
    rings = made.lattice.rings(made.grid.scene, 1)
    assert sorted(generator.origins) == sorted(
        {(w.top, w.left) for ring in rings for w in map(made.lattice.window, ring)}
    )
    assert digest(found.drop_vars("time")) == digest(
        eoaug.synthesize(like=window, **kwargs).isel(time=0).compute().drop_vars("time")
    )


@pytest.mark.parametrize(
    "index",
    [
        {"y": slice(5, 70), "x": slice(3, None)},
        {"time": 1, "y": slice(64, 128)},
        {"y": slice(None, None, 2)},
        {"x": -1},
        {"x": [3, 1]},
        {"y": slice(90, 60), "x": slice(-200, 7)},
    ],
    ids=str,
)
def test_a_window_of_a_lazy_result_is_that_of_its_pixels(index):
    ds = gappy(scene((130, 140), dates=2, bands=("blue", "nir"), content="texture")).chunk({"y": 64, "x": 64})
    lazy = eoaug.inpaint(ds, generator="classical", chunks={"time": 1, "y": 64, "x": 64})
    # Together with the whole and with aligned windows, whose chunks share names, and with arrays of dask.
    parts = [lazy, lazy.isel(index), lazy.isel(y=slice(64, 128)), lazy.isel(index) + ds.isel(index)]
    whole, part, aligned, both = dask.compute(*parts, scheduler="synchronous")
    xr.testing.assert_identical(part, whole.isel(index))
    xr.testing.assert_identical(aligned, whole.isel(y=slice(64, 128)))
    xr.testing.assert_equal(both.nir, whole.nir.isel(index) + ds.nir.isel(index))


# -- what leaks and what does not ---------------------------------------------------------------------


@pytest.mark.parametrize("verb", [synthesize, extend, super_resolve], ids=lambda v: v.__name__)
def test_a_missing_pixel_changes_nothing_beyond_the_margin(verb):
    ds = scene((200, 200), dates=2, bands=("blue", "nir"), content="texture", dtype="float32")
    hurt = ds.copy(deep=True)
    hurt.blue.values[0, 100, 100] = np.nan
    before, after = verb(ds), verb(hurt)
    name = verb.__name__
    extra = {"times": "2021-03-05"} if verb is extend else {}
    made = eoaug.plan(name, ds, generator=TINY, **extra)
    f = made.grid.factor
    rows, cols = np.meshgrid(*(np.arange(n) for n in after.nir.shape[1:]), indexing="ij")
    away = np.maximum(abs(rows - 100 * f), abs(cols - 100 * f)) > made.margin_px
    hole = (rows // f == 100) & (cols // f == 100)
    given = np.isnan(hurt.blue.values).repeat(f, axis=1).repeat(f, axis=2)
    for band in ("blue", "nir"):
        np.testing.assert_array_equal(before[band].values[:, away], after[band].values[:, away])
    assert not np.isnan(after.nir).any()
    kept = after.blue.sel(time=ds.time).values
    np.testing.assert_array_equal(np.isnan(kept), given)
    assert np.isnan(kept)[0][hole].all()


@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
def test_a_tile_with_nothing_to_fill_calls_no_model():
    ds = scene((300, 300), dates=2, content="texture")
    generator = CountingGenerator(TINY)
    eoaug.inpaint(ds, generator=generator)
    assert generator.calls == 0
    mask = xr.zeros_like(ds.blue, dtype=bool)
    mask.attrs = {}
    mask.values[0, 150, 150] = True
    made = eoaug.plan("inpaint", ds, mask=mask, generator=generator, joint_steps=0)
    pixel = Window(150, 150, 151, 151).shift(*made.grid.origin)
    (touched,) = made.lattice.rings(pixel, 0)
    origins = sorted((made.lattice.window(t).top, made.lattice.window(t).left) for t in touched)
    eoaug.inpaint(ds, mask=mask, generator=generator, joint_steps=0)
    assert sorted(generator.origins) == origins


@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
def test_a_cube_of_nodata_calls_no_model():
    ds = scene((80, 80), dates=2) * 0
    for band in ds.data_vars.values():
        band.attrs = {"scale_factor": 1e-4, "nodata": 0}
    generator = CountingGenerator(TINY)
    for result in (
        eoaug.synthesize(ds.astype("uint16"), generator=generator),
        eoaug.super_resolve(ds.astype("uint16"), generator=generator),
        eoaug.extend(ds.astype("uint16"), times="2022-01-01", generator=generator),
    ):
        assert (result.blue == 0).all()
        assert (result.synthetic == 255).all()
    with pytest.raises(ParameterError, match="not one pixel of"):
        eoaug.inpaint(ds.astype("uint16"), generator=generator)
    assert generator.calls == 0


# -- graphs -------------------------------------------------------------------------------------------


class Untouchable:
    """An array that nobody may read: reading it is the failure."""

    def __init__(self, shape, dtype):
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)

    def __getitem__(self, key):
        raise AssertionError(f"pixels {key} were read while the graph was built")


def untouchable(ds):
    import dask.array as da

    def lazy(array):
        source = Untouchable(array.shape, array.dtype)
        data = da.from_array(source, chunks=64, name=False, meta=np.empty((0,) * array.ndim, array.dtype))
        return array.copy(data=data)

    return ds.assign({name: lazy(ds[name]) for name in ds.data_vars})


@pytest.mark.parametrize("verb", [synthesize, fill_gaps, extend, super_resolve], ids=lambda v: v.__name__)
def test_building_reads_no_pixel_and_calls_no_model(verb):
    generator = CountingGenerator(TINY)
    ds = untouchable(small(verb))
    result = verb(ds, generator=generator)
    assert result.blue.chunks is not None
    assert generator.calls == 0
    with pytest.raises(AssertionError, match="were read"):
        result.blue.compute(scheduler="synchronous")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_at_most_two_tasks_per_variable_chunk(verb):
    ds = small(verb)
    result = verb(ds.chunk({"y": 40, "x": 40, "time": 1}), chunks={"y": 64, "x": 64, "time": 1})
    (collections, _) = dask.base.unpack_collections(*(v.data for v in result.data_vars.values()))
    graph = dask.base.collections_to_expr(collections, optimize_graph=False).__dask_graph__()
    own = [key for key in graph if str(key[0] if isinstance(key, tuple) else key).startswith("eoaug-")]
    chunks = sum(v.data.npartitions for v in result.data_vars.values())
    assert len(own) - 1 <= 2 * chunks


def optimized(*arrays):
    """The tasks of ours that a scheduler would get to compute some arrays together."""
    expression = dask.base.collections_to_expr(arrays, optimize_graph=True).optimize()
    graph = expression.__dask_graph__()
    return {
        key: task for key, task in graph.items() if isinstance(key, tuple) and key[0].startswith("eoaug-")
    }


def in_turn(ds, **options):
    return extend(ds, sequence=True, **options)


@pytest.mark.parametrize("verb", [*VERBS, in_turn], ids=lambda verb: verb.__name__)
def test_a_task_is_the_same_whatever_is_computed_with_it(verb):
    """A cluster that holds a task by this name must not be given another; dask fuses by what is asked."""
    result = verb(small(verb).chunk({"y": 40, "x": 40, "time": 1}), chunks={"y": 64, "x": 64, "time": 1})
    everything = optimized(*(band.data for band in result.data_vars.values()))
    parts = [result.nir.data, result.synthetic.data[..., :1, -1:], result.blue.data.blocks[..., :1]]
    for part in parts:
        own = optimized(part)
        shared = own.keys() & everything.keys()
        assert len(shared) > 1
        for key in shared:
            assert type(own[key]) is type(everything[key])
            assert own[key].dependencies == everything[key].dependencies


def test_a_huge_cube_costs_integers_only():
    generator = CountingGenerator(TINY)
    like = grid((100_000, 100_000))
    result = eoaug.synthesize(like=like, generator=generator, times=["2021-06-01"], chunks=2048)
    assert result.red.shape == (1, 100_000, 100_000)
    made = eoaug.plan("synthesize", like=like, generator=generator, times=["2021-06-01"], chunks=2048)
    assert made.explain().tiles > (100_000 / 32) ** 2
    assert generator.calls == 0


def test_equal_requests_have_equal_tokens_and_others_other_ones():
    ds = small(extend)
    token = eoaug.plan("extend", ds, times="2021-03-05", generator=TINY).token

    def other(ds=ds, times="2021-03-05", generator=TINY, **options):
        return eoaug.plan("extend", ds, times=times, generator=generator, **options).token

    assert other() == token
    assert other(chunks=64, batch_tiles=3) == token
    assert other(generator=CountingGenerator(TINY)) != "", "a wrapper is another generator"
    changed = ds.copy(deep=True)
    changed.blue.values[0, 0, 0] += 1
    different = [
        other(ds=changed),
        other(times="2021-03-06"),
        other(seed=1),
        other(steps=5),
        other(joint_steps=1),
        other(members=2),
        other(guidance=2.0),
        other(metadata={"cloud_fraction": 0.5}),
        other(generator=Classical()),
        other(generator=TinyDenoiser(tile_px=64)),
        other(generator=TinyDenoiser(latent_factor=2)),
    ]
    assert len({token, *different}) == 1 + len(different)


def test_tokens_follow_the_numbers_in_either_byte_order():
    ds = scene((40, 40), dates=1, bands=("blue", "nir"))
    other = ds.map(
        lambda band: band.copy(data=band.values.view(band.dtype.newbyteorder(">"))), keep_attrs=True
    )
    same = ds.map(lambda band: band.astype(band.dtype.newbyteorder(">"), keep_attrs=True), keep_attrs=True)
    tokens = [eoaug.plan("synthesize", cube, generator=TINY).token for cube in (ds, other, same)]
    assert tokens[0] == tokens[2] != tokens[1]


def test_two_settings_of_a_generator_in_one_compute():
    ds = small(synthesize)
    lazy = [eoaug.synthesize(ds, generator=TinyDenoiser(tile_px=px), chunks=64).blue for px in (32, 40)]
    one, other = dask.compute(*lazy)
    assert not np.array_equal(one, other)


# -- what explain says --------------------------------------------------------------------------------


class Called(TinyDenoiser):
    """Counts its steps, and the requests that it begins."""

    steps_taken: ClassVar[int] = 0
    begun: ClassVar[int] = 0

    def begin(self, requests):
        Called.begun += len(requests)
        return super().begin(requests)

    def step(self, state, index):
        Called.steps_taken += 1
        return super().step(state, index)


@pytest.mark.sweep
@pytest.mark.parametrize("chunk", [64, 100, 1000])
@pytest.mark.parametrize("joint", [0, 1, 2])
@pytest.mark.parametrize("tiles", [1, 3, 4, 6])
@pytest.mark.parametrize("bounded", [True, False])
def test_explain_counts_the_forwards_that_run(chunk, joint, tiles, bounded):
    ds = scene((110, 130), dates=1, bands=("blue", "nir"), content="texture")
    like = read_cube(ds).geobox
    kind = Called(bands=("blue", "nir"))
    arguments = {"ds": ds} if bounded else {"like": like, "times": ["2021-06-01"]}
    arguments |= {"generator": kind, "joint_steps": joint, "chunks": chunk, "batch_tiles": tiles}
    explained = eoaug.plan("synthesize", **arguments).explain()
    Called.steps_taken = Called.begun = 0
    eoaug.synthesize(**arguments).compute(scheduler="synchronous")
    assert Called.begun == explained.tiles
    assert Called.steps_taken == explained.model_calls
    assert str(explained.chunks) in str(explained)


@pytest.mark.parametrize("reduce", [None, "mean", "std", 0.5])
def test_explain_knows_the_size_of_the_result(reduce):
    ds = scene((70, 80), dates=2, content="texture")
    arguments = {"generator": TINY, "members": 3, "reduce": reduce}
    made = eoaug.synthesize(ds, **arguments)
    assert eoaug.plan("synthesize", ds, **arguments).explain().output_bytes == sum(
        band.nbytes for band in made.data_vars.values()
    )


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        pytest.param(synthesize, {}, marks=pytest.mark.slow),
        pytest.param(synthesize, {"members": 3, "reduce": "mean"}, marks=pytest.mark.slow),
        pytest.param(synthesize, {"members": 3, "reduce": "std"}, marks=pytest.mark.slow),
        (synthesize, {"members": 3, "reduce": 0.9}),
        (extend, {}),
        (super_resolve, {}),
        (fill_gaps, {}),
    ],
)
def test_the_memory_of_a_chunk_is_the_estimated_one(verb, options):
    """What NumPy holds at most while one chunk is made in one thread, by tracemalloc."""
    dates = {extend: 3, fill_gaps: 20}.get(verb, 1)
    # New dates and quantiles hold several tiles beside one chunk: only a large chunk outweighs them.
    edge = {extend: 600, synthesize: 480}.get(verb, 320)
    ds = scene((edge, edge), dates=dates, bands=("blue", "nir"), content="texture")
    ds = (gappy(ds) if verb is fill_gaps else ds).chunk({"y": edge // 4, "x": edge // 4, "time": 1})
    chunks = {"time": 1 if verb is fill_gaps else -1, "y": -1, "x": -1}
    options = {"generator": "classical", "chunks": chunks} | options
    lazy = verb(ds, **options)
    if verb is fill_gaps:
        lazy = lazy.isel(time=[10])
    extra = {"times": ["2021-03-05", "2021-03-15"]} if verb is extend else {}
    extra |= {"factor": 2} if verb is super_resolve else {}
    name = "inpaint" if verb is fill_gaps else verb.__name__
    made = eoaug.plan(name, ds, **extra, **options)
    dask.compute(lazy.isel(x=slice(0, 1)), scheduler="synchronous")
    tracemalloc.start()
    try:
        dask.compute(lazy, scheduler="synchronous")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.75 < peak / made.explain().peak_bytes < 1.25


def test_each_measurement_is_of_land_that_nobody_drew(monkeypatch):
    seeds = []

    def timed(generator, requests, steps):
        seeds.append({request.seed for request in requests})
        return Times(1.0, 1.0)

    monkeypatch.setattr(Times, "of", timed)
    made = eoaug.plan("synthesize", like=grid((200, 200)), times=["2021-06-01"], steps=2)
    first, second = (made.explain(measure=True) for _ in range(2))
    assert first.seconds == second.seconds > 0
    assert seeds[0] == seeds[3]
    assert not seeds[0] & seeds[4]


@pytest.mark.slow
def test_calibration_adds_a_time_and_times_land_that_nobody_drew(monkeypatch):
    """Land is remembered by a process: timed twice at one place, the second time was free."""
    drawn = []
    original = Embedded._forward

    def seen(self, name, *inputs, **settings):
        drawn.append(name)
        return original(self, name, *inputs, **settings)

    monkeypatch.setattr(Embedded, "_forward", seen)
    made = eoaug.plan("synthesize", like=grid((200, 200)), times=["2021-06-01"], steps=2)
    for _ in range(2):
        drawn.clear()
        explained = made.explain(measure=True)
        assert drawn.count("landscape") > 4
    assert explained.seconds > 0
    assert "one thread" in str(explained)
    assert made.explain().seconds is None


def test_a_former_name_of_measure_is_accepted():
    made = eoaug.plan("synthesize", like=grid((40, 40)), generator=TINY, times=["2021-06-01"])
    with pytest.deprecated_call(match="is now measure"):
        assert made.explain(calibrate=True).seconds > 0
    with pytest.deprecated_call(match="is now measure"):
        assert made.explain(calibrate=False).seconds is None


@pytest.mark.sweep
@pytest.mark.parametrize("verb", [synthesize, inpaint, fill_gaps, extend, super_resolve])
@pytest.mark.parametrize("generator", ["classical", "embedded", TINY])
def test_made_up_tiles_are_like_those_of_the_run(verb, generator):
    """Equal shapes, dates, and what is told beside: else another thing is timed."""
    ds = small(verb)
    noted, given = [], []

    class Seen:
        settings: ClassVar = {}

        def __init__(self, kept):
            self.kept, self.inner = kept, eoaug.load(generator)
            self.card = replace(self.inner.card, batch=2)  # of eight, each case would take seconds

        def generate(self, requests):
            self.kept.extend(requests)
            return self.inner.generate(requests)

        def __reduce__(self):
            return str, ()

    def kinds(requests):
        arrays = ("values", "coarse", "context_cells", "context_pixels", "layout")
        return {
            (
                asked.verb,
                asked.coarse_halo,
                asked.factor,
                asked.steps,
                *(np.shape(getattr(asked, n)) for n in arrays),
            )
            for asked in requests
        }

    verb(ds, generator=Seen(noted), joint_steps=0)
    extra = {extend: {"times": "2021-03-05"}, inpaint: {"mask": holes(ds) if verb is inpaint else None}}
    factor = {"factor": 2} if verb is super_resolve else {}
    name = "inpaint" if verb is fill_gaps else verb.__name__
    made = eoaug.plan(name, ds, generator=Seen(given), joint_steps=0, **extra.get(verb, {}), **factor)
    made.explain(measure=True)
    assert kinds(given) <= kinds(noted)
    assert len(given) == 4 * made.card.batch


def test_a_crop_differs_at_its_edge():
    """Without this, the tests of the margin would show nothing."""
    whole = scene((110, 130), dates=1, bands=("blue",), content="texture")
    expected, found = synthesize(whole), synthesize(whole.isel(y=slice(13, None), x=slice(22, None)))
    assert not np.array_equal(expected.blue.values[:, 13:, 22:], found.blue.values)


# -- seams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 200], ids=["eager", "chunked"])
def test_no_seams(chunk):
    asked = {"like": grid((400, 400)), "generator": TinyDenoiser(bands=("red", "nir")), "times": "2021-06-01"}
    made = eoaug.plan("synthesize", **asked)
    result = eoaug.synthesize(chunks=chunk, **asked)
    image = result[["red", "nir"]].to_array().values[:, 0]
    seams = seam_ratio(image, stride=made.lattice.stride, origin=made.grid.origin)
    spread = seams.elsewhere.max() - seams.elsewhere.min()
    assert seams.elsewhere.min() - spread / 2 <= seams.ratio <= seams.elsewhere.max() + spread / 2


def step_across_overlaps(image, made, origin):
    """Mean step from one side of the tiles' overlaps to the other, and of lines as far apart elsewhere."""
    overlap, stride = made.lattice.size - made.lattice.stride, made.lattice.stride
    total, count = np.zeros(stride), np.zeros(stride)
    for lines, first in zip((image, image.T), origin, strict=True):
        steps = np.abs(lines[overlap:] - lines[:-overlap]).mean(axis=1)
        offset = (first + np.arange(len(steps))) % stride
        total += np.bincount(offset, steps, stride)
        count += np.bincount(offset, minlength=stride)
    return total[0] / count[0], np.delete(total / count, 0)


@pytest.mark.sweep
@pytest.mark.parametrize("generator", ["classical", "embedded"])
@pytest.mark.parametrize("dates", [1, 2])
def test_tiles_agree_within_a_wide_gap(dates, generator):
    """A gap of four tiles; with another date, what counts is how the correction of that date steps."""
    ds = scene((420, 420), dates=dates, bands=("red", "nir"), content="texture")
    mask = xr.zeros_like(ds.red, dtype=bool).compute()
    mask.attrs = {}
    mask.values[0, 90:320, 95:325] = True
    asked = {"mask": mask, "generator": generator}
    made = eoaug.plan("inpaint", ds, **asked)
    found = eoaug.inpaint(ds, **asked)
    for name in ("red", "nir"):
        image = found[name].values[0].astype(float)
        if dates > 1:
            image -= ds[name].values[1]
        inside, first = image[110:300, 115:305], (made.grid.origin[0] + 110, made.grid.origin[1] + 115)
        step, elsewhere = step_across_overlaps(inside, made, first)
        low, high = np.percentile(elsewhere, [2.5, 97.5])
        assert low <= step <= high, name


# -- generators that break the contract ---------------------------------------------------------------


class Broken:
    """A generator whose answers have a wrong shape or are not finite."""

    card = replace(Classical().card, name="broken")

    def __init__(self, fault):
        self.fault = fault

    def generate(self, requests):
        made = np.stack([request.values for request in requests])
        return made[:, 0] if self.fault == "shape" else made * np.float32(np.nan)


class Unpicklable(Broken):
    """A generator with a lambda in its state."""

    def __init__(self):
        self.fault = lambda: None


class Noted(TinyDenoiser):
    """Looks around, and keeps the requests that it is given."""

    asked: ClassVar[list[Request]] = []

    @property
    def card(self):
        return replace(super().card, uses_context=True)

    def generate(self, requests):
        self.asked.extend(requests)
        return super().generate(requests)


def test_a_variation_is_told_of_its_start_beyond_the_tile():
    """Measured numbers of the cube where it lies, also of neighbouring chunks; NaN outside and at nodata."""
    ds = gappy(scene((90, 100), bands=("blue", "nir"), dates=1, content="texture"))
    kind = Noted(bands=("blue", "nir"))
    Noted.asked.clear()
    eoaug.synthesize(ds, generator=kind, strength=0.5, joint_steps=0, chunks=40).compute(
        scheduler="synchronous"
    )
    assert len(Noted.asked) > 20
    top, left = eoaug.plan("synthesize", ds, generator=kind, strength=0.5).grid.origin
    stored = np.stack([ds[name].values[0] for name in ("blue", "nir")])
    everything = np.pad(
        np.where(stored == 0, np.nan, stored), ((0, 0), (100, 100), (100, 100)), constant_values=np.nan
    )
    for asked in Noted.asked:
        row, col = asked.origin[0] - top + 100 - 16, asked.origin[1] - left + 100 - 16
        expected = everything[:, row : row + 64, col : col + 64]
        np.testing.assert_array_equal(np.isnan(asked.context_pixels[0]), np.isnan(expected))
        assert np.isfinite(asked.context_pixels[0]).any()
        for band in range(2):
            found, there = asked.context_pixels[0, band], np.isfinite(expected[band])
            assert np.corrcoef(found[there], expected[band][there])[0, 1] > 0.999999, "a scale and an offset"
        inner = asked.context_pixels[:, :, 16:-16, 16:-16]
        np.testing.assert_array_equal(np.nan_to_num(inner), asked.values)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        (Broken("shape"), "'broken' returned shape"),
        (Broken("nan"), "'broken' returned .* not finite"),
        (Unpicklable(), "'broken' has the setting fault=<function"),
    ],
    ids=["shape", "nan", "setting"],
)
def test_a_broken_generator_is_named(generator, message):
    ds = scene((64, 64), dates=1, content="texture")
    with pytest.raises(GeneratorError, match=message):
        eoaug.super_resolve(ds, generator=generator)


@pytest.mark.parametrize("factor", range(1, 9))
@pytest.mark.parametrize("unit", [1, 8])
@pytest.mark.parametrize("drawn", [0, 72])
def test_tiles_hold_whole_coarse_pixels_and_whole_cells(factor, unit, drawn):
    card = Card(name="x", tile_px=64, overlap_px=8, multiple_of=unit, canvas_px=drawn)
    lattice = lattice_for(card, factor, "super_resolve" if factor > 1 else "synthesize")
    for number in (lattice.size, lattice.stride):
        assert number % factor == 0
        assert number % unit == 0


def test_cubes_that_differ_in_clouds_or_dates_alone_have_tokens_of_their_own():
    """A generator may look at both; equal tokens would let dask take one's pixels for the other's."""
    clear = scene((40, 40), dates=1, bands=("blue", "nir"))
    cloudy = clear.assign_coords(cloud_cover=("time", [90.0]))
    undated = clear.isel(time=0, drop=True)
    first = undated.expand_dims(time=np.array(["1970-01-01"], "datetime64[ns]"))
    tokens = {
        eoaug.plan("synthesize", ds, generator=TinyDenoiser()).token for ds in (clear, cloudy, undated, first)
    }
    assert len(tokens) == 4


@pytest.mark.parametrize("left", [12.3, 12.30001])
def test_a_window_of_a_grid_in_decimal_degrees_is_told_the_same_places(left):
    """Centres of tiles lie on halves of the fifth decimal there, and windows' affines round differently."""
    box = GeoBox((270, 270), Affine(0.000075, 0, left, 0, -0.000075, 48.25), "EPSG:4326")
    kind, told = TinyDenoiser(tile_px=30, overlap_px=6, bands=("blue",)), {}
    for start in range(0, 90, 3):
        made = eoaug.plan("synthesize", like=box[start:, start:], generator=kind)
        (tiles,) = made.lattice.rings(made.grid.scene, 0)
        for tile, place in zip(tiles, tile_centres(made, tiles).tolist(), strict=True):
            assert told.setdefault(tile, place) == place
    assert len(told) > 100


def test_land_on_a_grid_in_degrees_is_one_plane(monkeypatch):
    """Its pixels shrink towards the pole; a plane by each tile's own size broke off along a parallel."""
    planes, sizes = set(), set()
    original = trajectory.land_plane

    def seen(request, *more):
        planes.add(original(request, *more))
        sizes.add(float(request.metadata[0, 2]))
        return original(request, *more)

    monkeypatch.setattr(embedded, "land_plane", seen)
    tall = GeoBox((130, 40), Affine(0.5, 0, 10, 0, -0.5, 75), "EPSG:4326")
    for like in (tall, tall[:40, 5:25]):
        eoaug.synthesize(like=like, times=["2021-06-01"]).compute()
    assert max(sizes) > 1.5 * min(sizes)
    assert len(planes) == 1


# -- what overlap costs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "options", "most", "drawn"),
    [
        ("inpaint", {"mask": "holes"}, 1.6, 1.6),
        ("super_resolve", {"factor": 2, "sensor": "box", "sensor_noise": 0.0}, 1.6, 1.6),
        ("super_resolve", {"factor": 4, "sensor": "box", "sensor_noise": 0.0}, 1.6, 1.95),
        ("inpaint", {"mask": "holes", "steps": 4}, 1.9, 1.9),
        ("extend", {"times": ["2021-09-01"], "steps": 4}, 1.9, 1.9),
        ("synthesize", {}, 1.9, 1.9),
    ],
)
def test_the_embedded_generators_overlap_stays_cheap(verb, options, most, drawn):
    """Tiles blended below 1.6 of tiles side by side at chunks of 1024, joint below 1.9; pixels drawn likewise, but at
    x4, where margins of a coarse pixel are dearer, and noise is judged over five of them.
    """
    size = 8192 // options.get("factor", 1)
    box = grid((size, size))
    ds = eoaug.synthesize(like=box, generator="classical", times=["2021-06-01"], chunks=1024)
    if "mask" in options:
        options = options | {"mask": ds.red < 0}
    plan = eoaug.plan(verb, ds, chunks=1024, **options)
    explained = plan.explain()
    assert 1 < explained.overlap_factor < drawn
    assert 1 < explained.overlap_factor * (plan.lattice.size / plan.canvas_px) ** 2 < most
    assert not explained.warnings


def test_the_embedded_model_draws_squares_of_the_size_that_is_counted(monkeypatch):
    """The square that `Plan.canvas_px` counts is the one that reaches the networks."""
    edges = set()
    original = Embedded._forward

    def seen(self, name, *inputs, **settings):
        if name in ("detail", "residual"):
            edges.update(array.shape[-1] for array in inputs[0])
        return original(self, name, *inputs, **settings)

    monkeypatch.setattr(Embedded, "_forward", seen)
    coarse = scene((24, 24), dates=1, content="texture")
    cases = [("synthesize", coarse, {"strength": 0.5})]
    cases += [("super_resolve", coarse, {"factor": factor}) for factor in (2, 3, 4)]
    for verb, ds, options in cases:
        plan = eoaug.plan(verb, ds, **options, steps=2)
        getattr(eoaug, verb)(ds, **options, steps=2, progress=False).compute()
        assert edges == {plan.canvas_px}, (verb, options)
        edges.clear()


def test_a_plan_warns_of_chunks_that_are_mostly_overlap():
    explained = eoaug.plan("synthesize", like=grid((512, 512)), times=["2021-06-01"], chunks=64).explain()
    assert explained.overlap_factor > 1.9
    assert "use chunks of" in explained.warnings[0]
    assert explained.warnings[0] in explained._repr_html_().replace("&#x27;", "'")
