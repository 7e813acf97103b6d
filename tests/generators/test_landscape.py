"""Planes of land from nothing: paved without gap, the same however they are asked for, each cell drawn once."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eoaug.errors import GeneratorError
from eoaug.generators.embedded.features import from_log
from eoaug.generators.embedded.landscape import Landscape, Palettes, Plane, facts
from eoaug.generators.embedded.plane_windows import KINDS, known
from eoaug.generators.embedded.spectral_gaussian import Gaussian
from eoaug.generators.embedded.weights_config import landscape_for, load_config

WINDOW, CONTEXT = 16, 4
PLANE = Plane(seed=3, member=0, time=0, gsd_m=20.0)
PIECES = np.linspace(-1, 1, 3 * 5 * 3).reshape(3, 5, 3)


class Network:
    """Answers with what it is told around, smoothed, plus the point: any change of its inputs shows."""

    def __init__(self) -> None:
        self.windows = 0

    def __call__(self, x, t, images, told, linear):
        self.windows += len(x)
        return np.stack(
            [
                0.5 * point + 0.25 * closed + image[: len(point)].mean() + told_here[0]
                for point, image, told_here, closed in zip(x, images, told, linear, strict=True)
            ]
        ).astype(np.float32)


def landscape(batch=4, steps=2):
    field = Gaussian(np.zeros(2, np.float32), np.broadcast_to(np.eye(2), (8, 8, 2, 2)).astype(np.float32))
    return Landscape(
        window=WINDOW,
        context=CONTEXT,
        palettes=Palettes(scenes=np.arange(12.0).reshape(3, 4) / 12, root=np.eye(4) / 4, pieces=PIECES),
        field=field,
        sigma=1.0,
        steps=steps,
        batch=batch,
    )


@settings(max_examples=max(settings().max_examples // 2, 10), deadline=None)
@given(
    row=st.integers(-100_000, 100_000),
    col=st.integers(-100_000, 100_000),
    down=st.integers(0, 30),
    right=st.integers(0, 30),
    batch=st.sampled_from([1, 3, 8]),
    kept=st.booleans(),
)
def test_a_part_is_cut_from_the_whole_plane(row, col, down, right, batch, kept):
    land = landscape()
    (whole,) = land.cells([(PLANE, (row, col), (40, 44))], Network())
    other = land if kept else landscape(batch)
    (part,) = other.cells([(PLANE, (row + down, col + right), (10, 14))], Network())
    assert part.tobytes() == whole[:, down : down + 10, right : right + 14].tobytes()


def test_parts_asked_together_are_those_asked_alone():
    asked = [(PLANE, (-7, 5), (9, 9)), (Plane(4, 0, 0, 20.0), (-7, 5), (9, 9)), (PLANE, (30, 2), (9, 9))]
    together = landscape().cells(asked, Network())
    alone = [landscape().cells([part], Network())[0] for part in asked]
    assert [one.tobytes() for one in together] == [one.tobytes() for one in alone]
    assert not np.allclose(together[0], together[1])


@settings(deadline=None)
@given(row=st.integers(-200, 200), col=st.integers(-200, 200))
def test_every_cell_has_one_owner_that_holds_it(row, col):
    land = landscape()
    (spot,) = land.windows.spots((row, col), (1, 1))
    (top, left) = land.windows.origin(spot)
    assert 0 <= row - top < WINDOW
    assert 0 <= col - left < WINDOW
    told = land.windows.mask(spot)
    assert not told[row - top, col - left], "a window draws what it keeps"


@pytest.mark.parametrize(("at", "windows"), [((0, 0), 1), ((17, 2), 3), ((2, 17), 3), ((17, 17), 9)])
def test_a_window_hangs_on_at_most_eight_others(at, windows):
    network = Network()
    land = landscape(steps=3)
    land.cells([(PLANE, at, (1, 1))], network)
    assert network.windows == 3 * windows
    land.cells([(PLANE, at, (2, 1))], network)
    assert network.windows == 3 * windows, "what is drawn is kept"


def test_what_is_told_is_what_the_neighbours_drew():
    """The last kind of window lies among eight others; all of its surroundings come from them, unchanged."""
    land, seen = landscape(steps=1), []

    class Watching(Network):
        def __call__(self, x, t, images, told, linear):
            seen.extend(images)
            return super().__call__(x, t, images, told, linear)

    land.cells([(PLANE, (17, 17), (1, 1))], Watching())
    image = seen[-1]
    (around,) = landscape(steps=1).cells([(PLANE, (12, 12), (WINDOW, WINDOW))], Network())
    palette = land.palette(PLANE)[:, None, None]
    layout = land.layout(PLANE, (12, 12), (WINDOW, WINDOW))
    units = (around - palette[:2]) / np.exp(palette[2:])
    texture = (units - layout[:2]) / np.exp(layout[2])
    mask = image[2] > 0
    np.testing.assert_array_equal(image[3:], layout)
    assert mask.sum() == WINDOW**2 - (WINDOW - 2 * CONTEXT) ** 2
    np.testing.assert_allclose(image[:2][:, mask], texture[:, mask], atol=1e-4)
    assert not image[:2][:, ~mask].any()


def test_kinds_are_those_that_the_network_is_trained_for():
    """Trained masks, turned by the square's symmetries, are those of use."""
    used = {
        land_mask.tobytes()
        for land_mask in map(landscape().windows.mask, itertools.product((0,), (0,), (0, 1), (0, 1)))
    }
    trained = {
        turned.tobytes() for kind in KINDS for turned in (known(kind, 16, 4), known(kind, 16, 4).T.copy())
    }
    assert used == trained
    assert abs(sum(KINDS.values()) - 1) < 1e-9


def test_facts_say_what_is_unknown():
    palette = np.array([0.5, np.nan, -1.0, np.nan])
    told = facts(palette, 40.0, np.array([90.0, 45.0, 10.0, np.nan, 2020.0, 7.0, 1.0]))
    assert told.shape == (1 + 4 + 8 + 2,)
    assert told[-2:].tolist() == [1.0, 0.0], "which bands there are"
    np.testing.assert_allclose(told[5:9], [1, 1, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(told[9:12], [1, np.sin(np.pi), np.cos(np.pi)], atol=1e-6)
    nowhere = facts(palette, 40.0)
    assert not nowhere[5:13].any()
    np.testing.assert_array_equal(nowhere[:5], told[:5])


def test_threads_draw_every_window_once():
    network, land = Network(), landscape(steps=1)
    asked = [(PLANE, (row, col), (20, 20)) for row in (0, 10, 20) for col in (0, 10, 20)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda part: land.cells([part], network)[0], asked))
    (whole,) = landscape(steps=1).cells([(PLANE, (0, 0), (40, 40))], alone := Network())
    assert network.windows == alone.windows
    for (_, (row, col), _), part in zip(asked, made, strict=True):
        assert part.tobytes() == whole[:, row : row + 20, col : col + 20].tobytes()


def test_what_fails_is_told_and_drawn_anew():
    land = landscape()

    def broken(*_):
        raise GeneratorError("no network today")

    for _ in range(2):
        with pytest.raises(GeneratorError, match="no network today"):
            land.cells([(PLANE, (17, 17), (1, 1))], broken)
    (found,) = land.cells([(PLANE, (17, 17), (1, 1))], Network())
    assert np.isfinite(found).all()


def test_a_layout_has_the_colours_of_one_real_scene_each_as_often_as_there():
    land, counts = landscape(), []
    for member in range(12):
        plane = Plane(seed=3, member=member, time=0, gsd_m=20.0)
        found = land.layout(plane, (0, 0), (128, 128))
        near = np.abs(found[2, None] - PIECES[..., 2].reshape(-1, 1, 1)).argmin(axis=0)
        assert len(set((near // 5).ravel().tolist())) == 1, "of one scene"
        counts.append(np.bincount(near.ravel() % 5, minlength=5) / near.size)
        off = found[:2] - PIECES.reshape(15, 3)[near, :2].transpose(2, 0, 1)
        assert off.std() < 0.3, "a little moved"
    np.testing.assert_allclose(np.mean(counts, axis=0), 0.2, atol=0.12)


def test_shipped_palettes_are_not_blue():
    """Land is brighter in green than in blue, but for haze and water."""
    config = load_config(None)
    drawer = landscape_for(None, "cpu", "fast")
    blue = 0
    for seed in range(300):
        level = drawer.palette(Plane(seed, 0, 1_700_000_000, 10.0))[:6, None, None]
        reflectance = (
            from_log(level, config.card.mean, config.card.std)[:, 0, 0] * config.card.std + config.card.mean
        )
        blue += reflectance[0] > reflectance[1]
    assert blue <= 15
