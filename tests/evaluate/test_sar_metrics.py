"""SAR metrics: samples of known parameters are recovered, nulls are null, scikit-image agrees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from skimage.feature import graycomatrix, graycoprops

from eoaug.errors import GeneratorError, ParameterError
from eoaug.evaluate.sar_distributions import MODELS, distribution_distances, enl, fit_speckle
from eoaug.evaluate.sar_texture import DISTANCES_PX, glcm_descriptors, texture_distances
from eoaug.raster.backscatter import convert_backscatter
from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")
clip = Later("eoaug.captions.clip")
N = 100_000


def sample(model: str, looks: float, shape: float) -> np.ndarray:
    """Return intensities of mean 0.1."""
    rng = np.random.default_rng(3)
    speckle = rng.gamma(looks, 1 / looks, N)
    if model == "k":
        return 0.1 * speckle * rng.gamma(shape, 1 / shape, N)
    if model == "g0":
        return 0.1 * (shape - 1) * speckle / rng.gamma(shape, 1, N)
    return 0.1 * speckle


@pytest.mark.parametrize(("model", "looks", "shape"), [("k", 4, 3), ("k", 1, 2), ("g0", 4, 3), ("g0", 1, 3)])
def test_textures_of_known_parameters_are_recovered(model, looks, shape):
    values = sample(model, looks, shape)
    fit = fit_speckle(values, model, looks=looks)
    assert fit.parameters["shape"] == pytest.approx(shape, rel=0.05)
    assert fit.parameters["mean"] == pytest.approx(0.1, rel=0.05)
    assert fit.ks < 0.01 < fit_speckle(values, "gamma").ks
    free = fit_speckle(values, "g0") if model == "g0" else None
    assert free is None or free.parameters["looks"] == pytest.approx(looks, rel=0.05)


@pytest.mark.parametrize("looks", [1, 4.4])
def test_speckle_alone_is_recovered_and_has_no_texture(looks):
    values = sample("gamma", looks, 0)
    fit = fit_speckle(values, "gamma")
    assert fit.parameters["looks"] == pytest.approx(looks, rel=0.05)
    assert fit.ks < 0.01
    assert fit_speckle(values, "rayleigh").ks == pytest.approx(0.0, abs=0.01) if looks == 1 else True
    assert fit_speckle(values, "k", looks=looks).parameters["shape"] > 20
    logs = fit_speckle(np.exp(np.random.default_rng(0).normal(-2, 0.4, N)), "lognormal")
    assert logs.parameters["sigma"] == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("looks", [1, 3, 10])
def test_looks_are_counted_within_fields_of_different_backscatter(looks):
    rng = np.random.default_rng(5)
    fields = np.kron(rng.uniform(0.02, 0.5, (20, 20)), np.ones((27, 27)))[:512, :512]
    image = fields * rng.gamma(looks, 1 / looks, fields.shape)
    assert enl(image) == pytest.approx(looks, rel=0.05)
    assert image.mean() ** 2 / image.var() < 0.8 * looks, "else the rule would do nothing"
    image[::16, ::16] = np.nan
    assert np.isnan(enl(image))


def test_a_distribution_is_not_far_from_itself_and_distances_are_scipys():
    rng = np.random.default_rng(1)
    first, second = rng.beta(2, 5, 20_000), rng.beta(3, 5, 20_000)
    same = distribution_distances(first, first, limits=(0, 1))
    assert (same.kl, same.js, same.wasserstein, same.ks) == (0, 0, 0, 0)
    found = distribution_distances(first, second, limits=(0, 1))
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(first, second), rel=0.01)
    assert found.ks == pytest.approx(stats.ks_2samp(first, second).statistic, abs=0.005)
    assert 0 < found.js < found.kl
    # The divergence of two Beta distributions in closed form is about 0.14.
    grid = (np.arange(2000) + 0.5) / 2000
    p, q = stats.beta(2, 5).pdf(grid), stats.beta(3, 5).pdf(grid)
    assert found.kl == pytest.approx(float((p * np.log(p / q)).mean()), rel=0.1)


def test_texture_is_scikit_images():
    rng = np.random.default_rng(2)
    patches = rng.random((3, 24, 24))
    found = glcm_descriptors(patches, limits=(0, 1), levels=16)
    grey = np.floor(patches[1] * 16).astype(np.uint8)
    matrix = graycomatrix(grey, [4], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], 16, True, True)
    for name, values in found.items():
        assert values.shape == (3, len(DISTANCES_PX))
        assert values[1, 2] == pytest.approx(graycoprops(matrix, name).mean())
    assert all((d == 0).all() for d in texture_distances(found, found).values())
    smooth = glcm_descriptors(patches * 0.3 + 0.35, limits=(0, 1), levels=16)
    assert (texture_distances(found, smooth)["contrast"] > 1).all()


def test_real_sentinel_1_is_nearer_to_another_place_than_to_noise(eoaug_data: Path):
    places = []
    for name in ("be_bruges_2019", "be_westflanders_2018"):
        path = eoaug_data / f"cubes/train/worldcereal_{name}_s1grd_20m.nc"
        with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
            stored = ds.VV[::10].values
        decibels = np.where(stored == 0, np.nan, stored * 1e-4)
        places.append(decibels[np.isfinite(decibels).all(axis=(1, 2))])
    null = distribution_distances(*places, limits=(-30, 5))
    noise = np.random.default_rng(0).uniform(-30, 5, places[0].shape)
    far = distribution_distances(places[0], noise, limits=(-30, 5))
    assert 0 < null.wasserstein < 0.5 * far.wasserstein
    power = convert_backscatter(places[0], "decibel", "intensity")
    ks = {model: fit_speckle(power, model).ks for model in MODELS}
    assert max(ks, key=ks.get) == "rayleigh", ks  # multi-looked: one look is the worst model
    assert 1 < enl(power, patch_px=8) < 40


def test_clip_scores_captions_and_a_shuffled_null(tmp_path: Path):
    model = clip.ClipModel(tiny_checkpoints.clip(tmp_path / "clip"))
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (4, 40, 40, 3), np.uint8))
    captions = ["a field", "the sea", "a town", "a field"]
    cosines = model.cosines(images, captions)
    assert cosines.shape == (4, 4)
    assert (np.abs(cosines) <= 1).all()
    np.testing.assert_array_equal(cosines[:, 0], cosines[:, 3])
    # What a caption is worth does not depend on what else is scored.
    np.testing.assert_array_equal(model.cosines(images[1:2], captions[:2]), cosines[1:2, :2])
    found = model.alignment(images, captions)
    assert found.cosine == pytest.approx(cosines.diagonal().mean())
    assert found.gain == pytest.approx(found.cosine - found.shuffled)
    assert np.isnan(model.alignment(images, ["same"] * 4).shuffled)
    with pytest.raises(ParameterError, match="3 captions"):
        model.alignment(images, captions[:3])
    (tmp_path / "clip/model.bin").write_bytes(b"")
    with pytest.raises(GeneratorError, match="pickle"):
        clip.ClipModel(tmp_path / "clip")
