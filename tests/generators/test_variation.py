"""Variations: smooth fields stay smooth, edges stay, and tones change with the parcels and by how much was asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import eoaug
from eoaug.generators.base import CONTEXT_PX
from eoaug.generators.embedded.variation import moved_texture, redrawn, tones

RNG = np.random.default_rng(4)


def test_a_detail_gets_the_roughness_of_the_scene():
    old = RNG.normal(size=(2, 96, 96)).astype(np.float32)
    old[:, :, :48] *= 0.05
    new = RNG.normal(size=(2, 96, 96)).astype(np.float32)
    made = redrawn(new, old, kept=0.0)
    smooth, rough = made[:, :, 8:40].std(), made[:, :, 60:].std()
    assert 0.03 < smooth < 0.06
    assert 0.6 < rough < 1.0
    assert np.corrcoef(made[:, :, 60:].ravel(), new[:, :, 60:].ravel())[0, 1] > 0.9


def test_without_new_texture_a_detail_stays():
    old, new = RNG.normal(size=(2, 1, 64, 64)).astype(np.float32)
    np.testing.assert_allclose(redrawn(new, old, kept=1.0, share=0.0), old, atol=1e-6)


def test_moved_texture_is_as_rough_and_as_fine_as_that_of_the_scene_and_has_no_edge():
    white = RNG.normal(size=(1, 96, 96))
    scene = ndimage.gaussian_filter(white, (0, 0.8, 0.8)) * np.where(np.arange(96) < 48, 0.1, 1.0)
    scene[:, 47:49] += 30.0
    moved = [moved_texture(scene.astype(np.float32), seed=seed, member=0)[0] for seed in (1, 2)]
    size = moved[0].shape[0]
    assert size == 96 - 2 * 7
    own = (scene - ndimage.gaussian_filter(scene, (0, 2, 2)))[0, 7:-7, 7:-7]
    for one in moved:
        for part in (np.s_[:, 4:24], np.s_[:, -24:-4]):
            assert one[part].std() == pytest.approx(own[part].std(), rel=0.2)
            # Differences of neighbours tell how fine a texture is.
            ratio = np.diff(one[part], axis=0).std() / np.diff(own[part], axis=0).std()
            assert ratio == pytest.approx(1, abs=0.2)
            assert abs(np.corrcoef(one[part][:28].ravel(), own[part][:28].ravel())[0, 1]) < 0.3
        assert np.abs(one).max() < 15
    assert np.corrcoef(moved[0][:, -24:].ravel(), moved[1][:, -24:].ravel())[0, 1] < 0.5


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_edges_stay_as_far_as_they_are_kept(kept):
    old = 0.02 * RNG.normal(size=(1, 64, 64)).astype(np.float32)
    old[:, 31:33] += 1.0
    new = 0.5 * RNG.normal(size=(1, 64, 64)).astype(np.float32)
    made = redrawn(new, old, kept=kept)
    assert abs(made[:, 31:33].mean() - kept) < 0.1
    assert made[:, :20].std() < 0.05


def field_of(brightness, **changes):
    given = {"origin": (0, 0), "seed": 1, "member": 0, "strength": 0.6} | changes
    return tones(brightness, ["red", "nir", "other"], **given)


def test_tones_are_even_within_parcels_and_differ_between_them():
    edge = 64 + 2 * CONTEXT_PX
    brightness = np.full((edge, edge), 0.05)
    brightness[:, edge // 2 :] = 0.2
    ratios = []
    for seed in range(12):
        factors = field_of(brightness, seed=seed)
        left, right = np.log(factors[2][:, 20:29]), np.log(factors[2][:, 35:44])
        ratios.append([left.mean() - right.mean(), left.std(axis=1).mean()])
        assert factors.min() > 0.5
        assert factors.max() < 2
    between, within = np.abs(ratios).mean(axis=0)
    assert between > 2 * within


def test_tones_grow_with_the_strength_and_are_those_of_the_place():
    brightness = RNG.uniform(0.02, 0.2, (64 + 2 * CONTEXT_PX, 96 + 2 * CONTEXT_PX))
    weak, strong = (np.log(field_of(brightness, strength=s)) for s in (0.3, 0.6))
    np.testing.assert_allclose(strong, 2 * weak, rtol=1e-9)
    assert 0.03 < strong.std() < 0.2
    moved = field_of(brightness[8:, 16:], origin=(8, 16))
    inner = (slice(None), slice(16, 40), slice(16, 64))
    np.testing.assert_allclose(moved[inner], field_of(brightness)[:, 8:, 16:][inner], rtol=1e-6)
    assert (field_of(brightness, member=1) != field_of(brightness)).mean() > 0.99


def test_a_variation_of_a_real_scene_varies_without_speckle():
    """Differences to the start: above what is seen, and no rougher than the scene in its smooth half."""
    cube = eoaug.open_cube(
        eoaug.sample(), ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B02", "B03", "B04", "B08"]
    )
    cube = cube.isel(x=slice(0, 96), y=slice(0, 96)).load()
    varied = cube.eoaug.synthesize(strength=0.6)
    away = [np.sqrt(((varied[b] - cube[b]) ** 2).mean().item()) for b in ("B02", "B03", "B04", "B08")]
    assert np.sqrt(np.mean(np.square(away))) > 0.015

    def roughness(ds):
        red = ds["B04"].values[0].astype(float)
        return np.abs(red[:, :-2] - 2 * red[:, 1:-1] + red[:, 2:])

    before, after = roughness(cube), roughness(varied)
    smooth = before < np.median(before)
    assert after[smooth].mean() < 2.5 * before[smooth].mean()
    outlines = [np.log(ds["B04"].coarsen(x=8, y=8).mean().values.ravel()) for ds in (cube, varied)]
    assert np.corrcoef(*outlines)[0, 1] > 0.95


def test_land_under_a_cloud_has_texture_although_nothing_was_seen_there():
    cube = eoaug.open_cube(
        eoaug.sample(), ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B02", "B03", "B04", "B08"]
    )
    cube = cube.isel(x=slice(0, 64), y=slice(0, 64)).load()
    hidden = cube["B04"].isel(time=0, drop=True) < -1
    hidden[8:56, 34:60] = True
    red = cube.eoaug.synthesize(strength=0.6, mask=hidden, mask_buffer=0)["B04"].values[0].astype(float)
    roughness = np.abs(red[:, :-2] - 2 * red[:, 1:-1] + red[:, 2:])
    assert roughness[16:48, 40:54].mean() > 0.3 * roughness[:, :28].mean()
