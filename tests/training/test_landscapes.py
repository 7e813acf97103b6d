"""Training data of landscape synthesis: windows around the level of their image, and palettes of real scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eoaug.datasets.training_cubes import TrainingCube
from eoaug.errors import SourceError
from eoaug.generators.embedded import plane_windows
from eoaug.generators.embedded.features import from_log
from eoaug.training import landscapes

BANDS = ("blue", "green", "nir")
MEAN, STD = (0.08, 0.09, 0.25), (0.05, 0.05, 0.1)


def cube(seed: int, *, bands=(True, True, True), px: int = 64, dates: int = 2, **changes) -> TrainingCube:
    """Lognormal reflectance, each cube and band with its own level and spread."""
    rng = np.random.default_rng(seed)
    level = np.log([0.02, 0.08, 0.25]) + 0.3 * rng.standard_normal(3)
    spread = 0.15 + 0.2 * rng.random(3)
    logs = level[:, None, None] + spread[:, None, None] * rng.standard_normal((dates, 3, px, px))
    values = np.where(np.asarray(bands)[:, None, None], np.exp(logs), np.nan).astype(np.float32)
    fields = {"calibrated": True, "sharp": True, "lonlat_deg": (10.0, 50.0), "gsd_m": 10.0} | changes
    return TrainingCube(
        name=f"place{seed}", values=values, clear=np.ones((dates, px, px), bool),
        cloud_fraction=np.full(dates, np.nan), times=np.full(dates, 1_700_000_000), **fields,
    )  # fmt: skip


def scenes(*cubes: TrainingCube, window: int = 16):
    return landscapes.image_groups(cubes, mean=MEAN, std=STD, window=window)


def test_a_cube_serves_at_every_scale_that_holds_a_window():
    groups = scenes(cube(0, px=64))
    assert [(group[0].values.shape[1], group[0].gsd_m) for group in groups] == [(32, 20.0), (16, 40.0)]
    native = scenes(cube(0, px=30))
    assert [(group[0].values.shape[1], group[0].gsd_m) for group in native] == [(30, 10.0)], (
        "too small to halve"
    )
    with pytest.raises(SourceError):
        scenes(cube(0, px=30, sharp=False))  # too soft to serve as it is


def test_a_window_is_taken_apart_into_pieces_and_their_texture():
    (group, _) = scenes(cube(1, bands=(True, False, True), px=64))
    drawn = [landscapes.draw(np.random.default_rng(i), [group], window=16, context=4) for i in range(60)]
    texture = np.stack([one.texture for one in drawn])
    layout = np.stack([one.layout for one in drawn])
    measured = np.stack([one.measured for one in drawn])
    assert not texture[:, 1].any()
    assert not layout[:, 1].any()
    assert not measured[:, 1].any()
    units = layout[:, :3] + np.exp(layout[:, 3:]) * texture
    for band in (0, 2):
        seen = measured[:, band]
        assert abs(units[:, band][seen].mean()) < 0.1
        assert 0.6 < units[:, band][seen].std() < 1.1, "a little is added to the spread"
        assert 0.8 < texture[:, band][seen].std() < 1.2, "in units of the roughness"
    assert {one.kind for one in drawn} == set(plane_windows.KINDS)
    for one in drawn:
        assert one.facts.shape == (1 + 6 + 8 + 3,)
        np.testing.assert_array_equal(one.known, plane_windows.known(one.kind, 16, 4))
        np.testing.assert_array_equal(one.facts[-3:] > 0, one.measured.any(axis=(1, 2)))
    placed = np.mean([one.facts[7] for one in drawn])
    assert 0.3 < placed < 0.7, "half the samples do not know where they are"
    assert len({one.measured.any(axis=(1, 2)).sum() for one in drawn}) == 2, "some lack a band"


def test_pieces_end_where_the_ground_does():
    """Two fields, one plain and one rough: two pieces, each with its own colour and roughness."""
    field = cube(3, dates=1, px=96)
    values = field.values.copy()
    rng = np.random.default_rng(0)
    values[..., :48] = 0.05 * np.exp(0.01 * rng.standard_normal(values[..., :48].shape))
    values[..., 48:] = 0.3 * np.exp(0.3 * rng.standard_normal(values[..., 48:].shape))
    groups = scenes(replace(field, values=values), window=48)
    one = landscapes.draw(np.random.default_rng(1), groups, window=48, context=4)
    left, right = one.layout[:, 24, 4], one.layout[:, 24, -5]
    assert (right[:3] - left[:3] > 1).all()
    assert right[3] > left[3]
    assert (one.layout[0, :, :20] == left[0]).all()


def test_cloudy_windows_are_not_drawn():
    cloudy = cube(2, dates=1)
    cloudy.clear[:] = False
    cloudy.clear[:, :, :24] = True
    with pytest.raises(SourceError, match="no clear window of 16"):
        landscapes.draw(np.random.default_rng(0), scenes(cloudy), window=16, context=4)


def test_palettes_have_the_reflectance_of_the_places():
    """Monte Carlo of what is drawn from them, against the pixels of the cubes, every place counting alike."""
    seeds = [seed for seed in range(10) if seed != 3]  # a place that counts as hazy
    cubes = [cube(seed, bands=(True, True, seed % 3 > 0)) for seed in seeds]
    found = landscapes.palettes(cubes, BANDS, mean=MEAN, std=STD)
    assert found["scenes"].shape == (9, 6)
    places, pieces, _ = found["pieces"].shape
    assert places == 9
    assert found["pieces"].shape[2] == 4
    assert np.isfinite(found["pieces"]).all()
    rng = np.random.default_rng(0)
    which = np.repeat(np.arange(9), 400)
    drawn = found["scenes"][which]
    drawn = drawn + np.einsum("ij,nj->ni", found["root"], rng.standard_normal(drawn.shape))
    ground = found["pieces"][which[:, None], rng.integers(pieces, size=(len(which), 50))]
    units = ground[..., :3] + np.exp(ground[..., 3:]) * rng.standard_normal((*ground.shape[:2], 3))
    logs = drawn[:, :3, None] + np.exp(drawn[:, 3:, None]) * np.moveaxis(units, 2, 1)
    units = from_log(np.moveaxis(logs, 1, 0), MEAN, STD)
    ours = units * np.array(STD)[:, None, None] + np.array(MEAN)[:, None, None]
    for band in range(3):
        # Cells are means of 2 x 2 pixels.
        cells = [one.values[:, band].reshape(2, 32, 2, 32, 2).mean(axis=(2, 4)) for one in cubes]
        cells = [one for one in cells if np.isfinite(one).all()]
        mean, square = np.mean([[one.mean(), (one**2).mean()] for one in cells], axis=0)
        assert ours[band].mean() == pytest.approx(mean, rel=0.04)
        assert ours[band].std() == pytest.approx(np.sqrt(square - mean**2), rel=0.08)


def test_places_without_calibration_have_no_palette():
    cubes = [cube(0), cube(1), cube(2, calibrated=False)]
    assert len(landscapes.palettes(cubes, BANDS, mean=MEAN, std=STD)["scenes"]) == 2


def test_places_under_haze_have_no_palette_if_there_are_others():
    hazy = cube(2)
    hazy.values[:, 0] = hazy.values[:, 1] * np.float32(1.5)  # blue above green
    found = landscapes.palettes([cube(0), cube(1), hazy], BANDS, mean=MEAN, std=STD)
    np.testing.assert_array_equal(
        found["scenes"], landscapes.palettes([cube(0), cube(1)], BANDS, mean=MEAN, std=STD)["scenes"]
    )
    assert len(landscapes.palettes([hazy], BANDS, mean=MEAN, std=STD)["scenes"]) == 1


def test_what_cannot_be_learned_from_is_refused():
    overcast = cube(0)
    overcast.clear[:] = False
    with pytest.raises(SourceError, match="none of 1 cubes holds a clear window of 16"):
        scenes(overcast)
    with pytest.raises(SourceError, match="none of 1 cubes is calibrated"):
        landscapes.palettes([cube(1, calibrated=False)], BANDS, mean=MEAN, std=STD)


def test_one_place_without_a_band_is_enough():
    found = landscapes.palettes([cube(0, bands=(True, False, True))], BANDS, mean=MEAN, std=STD)
    assert np.isfinite(found["scenes"]).all()
    assert found["scenes"][0, 1] == 0, "as bright as the card's unit"
    np.testing.assert_allclose(found["root"], 0, atol=1e-6)
