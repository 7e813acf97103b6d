"""The embedded generator keeps the promises of `SteppedGenerator`, byte by byte."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import ndimage

from eoaug.errors import GeneratorError
from eoaug.generators.base import Request, SteppedGenerator
from eoaug.generators.embedded.generator import Embedded
from eoaug.generators.embedded.land import Land
from eoaug.raster.sensor import Sensor

PX = 64
DAY = 86_400


@cache
def generator():
    """The weights of the package in forwards of three requests: of eight, most of which are padding here, each takes long."""
    made = Embedded()
    made._config = replace(made._config, card=replace(made.card, batch=3))
    return made


def scene(seed, dates=1):
    """Smooth fields in all six slots, model units, (T, C, H, W)."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:PX, :PX] / PX
    wave = [np.sin(6 * (a * rows + b * cols) + c) for a, b, c in rng.uniform(0, 3, (dates * 6, 3))]
    return np.reshape(wave, (dates, 6, PX, PX)).astype(np.float32)


def request(verb, number=0, **changes):
    """A request of a verb; number tells it from others of the verb."""
    dates = 3 if verb == "extend" else 1
    truth = scene(number, dates)
    known = np.ones(truth.shape, bool)
    fill = np.zeros(truth.shape, bool)
    target = 1 if verb == "extend" else 0
    coarse = sensor = None
    factor = 1
    if verb == "inpaint":
        fill[:, :, 10 : 30 + number, 20:50] = True
    else:
        fill[target] = True
    if verb == "super_resolve":
        factor, sensor = 4, Sensor(factor=4, mtf=(0.3,))
        coarse = sensor.degrade(truth)
    known &= ~fill
    made = {
        "values": np.where(known, truth, 0).astype(np.float32),
        "known": known,
        "fill": fill,
        "times": np.arange(dates, dtype=np.int64) * 10 * DAY + 1_500_000_000,
        "metadata": np.tile([11.3, 46.5, 10.0, np.nan, 2022, 6, 12], (dates, 1)),
        "origin": (64 * number, -128),
        "coarse": coarse,
        "factor": factor,
        "sensor": sensor,
    }
    return Request(**(made | changes))


VERBS = ("synthesize", "inpaint", "extend", "super_resolve")


def without_band(asked, band):
    """The request of a cube that lacks a band."""
    known, fill, values = asked.known.copy(), asked.fill.copy(), asked.values.copy()
    known[:, band] = fill[:, band] = False
    coarse = asked.coarse
    if coarse is not None:
        coarse = coarse.copy()
        coarse[:, band] = np.nan
    return replace(asked, known=known, fill=fill, values=np.where(known, values, 0), coarse=coarse)


def test_it_is_a_stepped_generator_with_a_card():
    assert isinstance(generator(), SteppedGenerator)
    card = generator().card
    assert card.bands == ("blue", "green", "red", "nir", "swir16", "swir22")
    assert len(card.mean) == len(card.std) == len(card.bands)
    assert set(card.steps) == set(VERBS)
    assert len(card.sha256) == 64


@pytest.mark.parametrize("verb", VERBS)
def test_each_request_has_the_verb_it_is_named_for(verb):
    assert request(verb).verb == verb


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("verb", VERBS)
def test_known_pixels_stay_and_nothing_is_nan(verb, steps):
    asked = request(verb, steps=steps)
    out = generator().generate([asked])[0]
    assert out.shape == asked.values.shape
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    kept = asked.known & ~asked.fill
    assert out[kept].tobytes() == asked.values[kept].tobytes()
    assert out[asked.fill].std() > 0


@pytest.mark.sweep
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("verb", VERBS)
def test_bytes_do_not_depend_on_batch_mates_or_slot(verb, steps):
    asked = [request(verb, n, steps=steps) for n in range(5)]
    alone = generator().generate(asked[:1])[0].tobytes()
    assert generator().generate(asked[:2])[0].tobytes() == alone
    assert generator().generate(asked[::-1])[4].tobytes() == alone


def test_a_batch_of_several_verbs_gives_each_its_own_bytes():
    asked = [
        request(verb, steps=steps)
        for verb in ("synthesize", "inpaint", "super_resolve")
        for steps in (0, 2, 3)
    ]
    asked = [asked[4 * i % 9] for i in range(8)]  # so that every forward has several verbs and steps
    together = generator().generate(asked)
    for one, found in zip(asked, together, strict=True):
        assert generator().generate([one])[0].tobytes() == found.tobytes()


def test_bytes_do_not_depend_on_the_number_of_threads():
    mine, made = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made[threads] = [generator().generate([request(verb, steps=2)]).tobytes() for verb in VERBS]
            assert torch.get_num_threads() == threads, "a generator leaves the setting as it was"
    finally:
        torch.set_num_threads(mine)
    assert made[1] == made[2]


def test_python_threads_give_the_bytes_of_one():
    asked = [request("inpaint", n, steps=1) for n in range(4)]
    serial = [generator().generate([one]).tobytes() for one in asked]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: generator().generate([one]).tobytes(), asked)) == serial


@pytest.mark.sweep
@pytest.mark.parametrize("verb", VERBS)
def test_walking_the_steps_gives_what_generate_gives(verb):
    asked = [request(verb, n, steps=3) for n in range(2)]
    state = generator().begin(asked)
    for index in range(3):
        estimate = generator().step(state, index)
        assert estimate.shape == (2, 6, PX, PX)
        generator().replace(state, estimate)
    assert generator().finish(state).tobytes() == generator().generate(asked).tobytes()


def test_a_replaced_estimate_moves_the_result():
    state = generator().begin([request("synthesize", steps=3)])
    estimate = generator().step(state, 0)
    generator().replace(state, estimate + 1)
    moved = generator().finish(state)
    assert not np.array_equal(moved, generator().generate([request("synthesize", steps=3)]))


def test_steps_out_of_order_are_refused():
    state = generator().begin([request("inpaint", steps=2)])
    with pytest.raises(GeneratorError, match="step 1"):
        generator().step(state, 1)


@pytest.mark.parametrize("verb", VERBS)
def test_values_of_missing_bands_change_nothing(verb):
    asked = without_band(request(verb, steps=1), 4)
    values = asked.values.copy()
    values[:, 4] = 1e6
    values[:, 5][~asked.known[:, 5]] = np.nan
    found = generator().generate([replace(asked, values=values)])[0]
    expected = generator().generate([asked])[0]
    assert found.tobytes() == expected.tobytes()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("steps", [0, 2])
def test_a_super_resolved_image_measures_as_the_coarse_one(steps):
    asked = without_band(request("super_resolve", steps=steps), 2)
    out = generator().generate([asked])[0, 0]
    left = asked.sensor.degrade(out) - asked.coarse[0]
    assert np.nanmax(np.abs(left)) < 1e-3
    assert np.isnan(left).any(axis=(1, 2)).tolist() == [False, False, True, False, False, False]


def test_overlapping_tiles_start_from_the_same_noise():
    truth = np.zeros_like(scene(3))
    everywhere = np.ones(truth.shape, bool)
    given = {"values": truth, "known": everywhere, "fill": everywhere, "strength": 0.7}
    left, right = (request("synthesize", origin=(0, col), **given) for col in (0, 32))
    state = generator().begin([left, right])
    first, second = (item.drawn_noise() for item in state.trajectories)
    np.testing.assert_array_equal(first[:, :, 32:], second[:, :, :-32])
    assert (state.trajectories[0].x != state.trajectories[1].x).any()


def test_member_and_seed_change_a_sample_but_not_the_mean():
    asked = request("inpaint", steps=2)
    sample = generator().generate([asked]).tobytes()
    assert generator().generate([replace(asked, member=1)]).tobytes() != sample
    assert generator().generate([replace(asked, seed=1)]).tobytes() != sample
    mean = replace(asked, steps=0)
    assert generator().generate([replace(mean, member=1)]).tobytes() == generator().generate([mean]).tobytes()


def test_a_weak_variation_stays_near_its_start_and_a_strong_one_leaves():
    truth = scene(3)
    everywhere = np.ones(truth.shape, bool)
    base = replace(request("synthesize"), values=truth, known=everywhere, fill=everywhere, steps=4)
    away = [
        np.abs(generator().generate([replace(base, strength=strength)])[0] - truth).mean()
        for strength in (0.0, 0.1, 0.5, 0.9)
    ]
    assert away[0] == 0
    assert away == sorted(away)
    assert away[1] < 0.4


class Heard(Embedded):
    """Counts the forwards of each network."""

    def _forward(self, name, *inputs, **options):
        self.calls[name] = self.calls.get(name, 0) + 1
        return super()._forward(name, *inputs, **options)


@pytest.mark.parametrize(("strength", "land"), [(0.6, False), (0.61, True)])
def test_up_to_a_strength_a_variation_keeps_its_outline_and_draws_no_land(strength, land, monkeypatch):
    truth = scene(3)
    everywhere = np.ones(truth.shape, bool)
    heard = Heard()
    heard.calls = {}
    drawn, original = [], Land.pixels
    monkeypatch.setattr(
        Land, "pixels", lambda self, *args, **more: drawn.append(args) or original(self, *args, **more)
    )
    changes = {"values": truth, "known": everywhere, "fill": everywhere}
    made = heard.generate([request("synthesize", steps=2, strength=strength, **changes)])
    assert bool(drawn) == land
    # Up to that strength texture comes from the start, and nothing is sampled where it was measured.
    assert (heard.calls.get("residual", 0) > 0) == land
    outline = Sensor(factor=4, mtf=(0.6,))
    # At its edges a tile is not told here what lies beyond them; tones differ.
    shown, start = (outline.degrade(image)[:, 1:-1, 1:-1].ravel() for image in (made[0, 0], truth[0]))
    assert np.corrcoef(shown, start)[0, 1] > 0.9


def test_a_variations_tile_is_told_what_lies_beyond_it():
    """Where nothing was measured nothing matters, and what was measured beyond the edge does."""
    truth = scene(3)
    everywhere = np.ones(truth.shape, bool)
    near = np.pad(truth, ((0, 0), (0, 0), (16, 16), (16, 16)), mode="symmetric")
    changes = {"values": truth, "known": everywhere, "fill": everywhere, "strength": 0.5, "steps": 2}
    asked = request("synthesize", **changes)
    expected = generator().generate([asked])[0]
    mirrored = generator().generate([replace(asked, context_pixels=near)])[0]
    np.testing.assert_array_equal(mirrored, expected)
    moved = near.copy()
    moved[:, :, :, :16] += 1
    assert not np.array_equal(generator().generate([replace(asked, context_pixels=moved)])[0], expected)
    still = generator().generate([replace(asked, context_pixels=moved, strength=0.0)])[0]
    np.testing.assert_array_equal(still, truth)


def test_a_super_resolved_tile_is_drawn_beyond_its_edges():
    """Neighbours agree on what they share if they are told enough to draw a margin, and less if not."""
    rng = np.random.default_rng(5)
    coarse = ndimage.gaussian_filter(rng.normal(0, 2, (6, 30, 60)), (0, 1, 1)).astype(np.float32)
    sensor = Sensor(factor=4, mtf=(0.3,))

    def drawn(col, halo):
        """The tile 16 x 16 cells from cell (7, col)."""
        part = coarse[None, :, 7 - halo : 23 + halo, col - halo : col + 16 + halo]
        return generator().generate(
            [request("super_resolve", coarse=part, coarse_halo=halo, steps=0, sensor=sensor)]
        )[0, 0]

    apart = {}
    for halo in (1, 4):
        left, right = drawn(10, halo)[..., -8:], drawn(24, halo)[..., :8]
        apart[halo] = float(((left - right) ** 2).mean())
    assert apart[4] < 0.5 * apart[1], apart


def test_land_from_nothing_is_one_land_on_every_date():
    asked = request("synthesize", steps=2)
    now, later, elsewhere = generator().generate(
        [asked, replace(asked, times=asked.times + 90 * DAY), replace(asked, seed=1)]
    )[:, -1]
    alike, apart = (
        np.corrcoef(
            (now - now.mean((1, 2), keepdims=True)).ravel(), (one - one.mean((1, 2), keepdims=True)).ravel()
        )
        for one in (later, elsewhere)
    )
    assert 0.5 < alike[0, 1] < 0.999, "some of its ground has changed"
    assert abs(apart[0, 1]) < 0.5


def test_outside_stays_empty():
    asked = request("inpaint")
    known, fill = asked.known.copy(), asked.fill.copy()
    known[..., :8] = fill[..., :8] = False
    out = generator().generate([replace(asked, known=known, fill=fill)])[0]
    assert not out[..., :8].any()


def test_it_pickles_by_name_and_hash():
    asked = request("inpaint")
    generator().generate([asked])
    text = pickle.dumps(generator())
    assert len(text) < 10_000
    assert pickle.loads(text).generate([asked]).tobytes() == generator().generate([asked]).tobytes()


def test_a_pickle_of_other_weights_is_refused():
    rebuild, (kind, folder, device, precision, _) = generator().__reduce__()
    with pytest.raises(GeneratorError, match="sha256"):
        rebuild(kind, folder, device, precision, "0" * 64)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(GeneratorError, match=r"config\.json"):
        Embedded(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"card": {}}))
    with pytest.raises(GeneratorError, match=r"config\.json"):
        Embedded(tmp_path / ".")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fill": np.zeros((3, 6, PX, PX), bool)}, "0 dates to fill"),
        ({"fill": np.ones((3, 6, PX, PX), bool)}, "3 dates to fill"),
    ],
)
def test_requests_it_cannot_answer_are_refused(changes, told):
    with pytest.raises(GeneratorError, match=told):
        generator().generate([request("extend", **changes)])


def test_importing_does_not_import_torch():
    code = "import sys, eoaug.generators.embedded.generator as e; e.Embedded().card; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_free_tiles_agree_where_they_overlap():
    """Land belongs to the place: two tiles drawn apart show the same landscape in their overlap."""
    generator = Embedded()
    C = len(generator.card.bands)
    shape = (1, C, 64, 64)
    tiles = [
        Request(
            values=np.zeros(shape, np.float32),
            known=np.zeros(shape, bool),
            fill=np.ones(shape, bool),
            times=np.zeros(1, np.int64),
            metadata=np.full((1, 7), np.nan),
            origin=(0, column),
        )
        for column in (0, 32)
    ]
    one, other = generator.generate(tiles)[:, 0]
    shared = one[:, :, 32:] - other[:, :, :32]
    blurred = [np.abs(part.reshape(C, 16, 4, 8, 4).mean(axis=(2, 4))) for part in (shared, one[:, :, 32:])]
    assert blurred[0].mean() < 0.15 * blurred[1].mean()


def test_fast_is_near_to_exact():
    """bfloat16 where autocast allows it: the best estimate stays within hundredths of a model unit."""
    fast = Embedded(precision="fast")
    for verb in ("inpaint", "super_resolve", "extend"):
        asked = [request(verb, steps=0)]
        exact, near = generator().generate(asked), fast.generate(asked)
        assert near.dtype == np.float32
        error = np.abs(near - exact)
        assert error.max() < 0.05, verb
        assert np.sqrt(np.mean(error**2)) < 0.005, verb


def test_an_unknown_precision_is_refused():
    with pytest.raises(GeneratorError, match="precision='half' is not known"):
        Embedded(precision="half")


@pytest.mark.parametrize("verb", ["inpaint", "extend"])
def test_no_best_estimate_and_no_sample_leaves_what_the_dates_show(verb):
    truth = 0.2 * scene(7, 3)
    fill = np.zeros(truth.shape, bool)
    fill[1, :, 10:50, 12:60] = True
    if verb == "extend":
        fill[1] = True
    asked = replace(request("extend"), values=np.where(fill, 0, truth), known=~fill, fill=fill)
    low, high = (
        f(np.where(fill, other, truth), axis=(0, 2, 3)) for f, other in ((np.min, np.inf), (np.max, -np.inf))
    )
    for steps in (0, 2):
        made = generator().generate([replace(asked, steps=steps)])[0, 1]
        assert (made >= low[:, None, None]).all()
        assert (made <= high[:, None, None]).all()
        assert steps == 0 or (made == low[:, None, None]).any()  # a sample reaches the limit
