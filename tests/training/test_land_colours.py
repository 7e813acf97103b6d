"""Land by class: chips are read as the reflectance they stand for, and their colours are what is learned."""

import numpy as np
import pytest
import yaml

from eoaug.datasets.eurosat import BANDS, CLASSES, SPECTRUM, read_eurosat, read_eurosat_spectra, surface
from eoaug.errors import ParameterError, SourceError
from eoaug.generators.embedded.land import FLOOR, LandStatistics, infrared_terms
from eoaug.generators.weights import load_weights
from eoaug.training.land import INFRARED, land_statistics
from eoaug.training.pretrain import pretrain


@pytest.fixture(scope="module")
def statistics(chips_folder):
    chips = read_eurosat(chips_folder / "eurosat_rgb_train.zip")
    return land_statistics(chips, *read_eurosat_spectra(chips_folder / "eurosat_ms_train.zip"), seed=1)


def test_grey_levels_are_reflectance_in_the_order_blue_green_red(tmp_path, rgb_archive):
    levels = [(255, 255, 255), (1, 1, 1), (0, 0, 0), (101, 51, 26)]
    chips = read_eurosat(rgb_archive(tmp_path / "a.zip", [("River", level) for level in levels]))
    found = chips.reflectance()[:, :, 32, 32]
    np.testing.assert_allclose(found[0], 0.275, atol=1e-6)
    np.testing.assert_allclose(found[1:3], 0, atol=0.0011)
    np.testing.assert_allclose(found[3], np.array([25, 50, 100]) * 2750 / 254 / 1e4, atol=0.0022)
    assert (chips.classes == CLASSES.index("River")).all()


def test_spectra_are_reflectance_in_the_order_of_their_files(tmp_path, spectra_archive):
    bands = np.linspace(0.02, 0.5, 13)[:, None, None]
    spectra, classes = read_eurosat_spectra(spectra_archive(tmp_path / "a.zip", [("Forest", bands)]))
    assert spectra.shape == (1, len(SPECTRUM), 64, 64)
    np.testing.assert_allclose(spectra[0, :, 3, 5], bands[:, 0, 0], atol=6e-5)
    assert classes.tolist() == [CLASSES.index("Forest")]


def test_the_limit_is_per_class(chips_folder):
    assert len(read_eurosat(chips_folder / "eurosat_rgb_train.zip", limit=1)) == len(CLASSES)


@pytest.mark.parametrize(("chips", "px", "words"), [([], 64, "no JPEG"), ([("River", 9)], 32, "32 x 32")])
def test_another_archive_is_refused(tmp_path, rgb_archive, chips, px, words):
    path = rgb_archive(tmp_path / "a.zip", chips, px=px)
    with pytest.raises(SourceError, match=words):
        read_eurosat(path)
    with pytest.raises(SourceError, match="no GeoTIFF"):
        read_eurosat_spectra(path)


@pytest.mark.parametrize("read", [read_eurosat, read_eurosat_spectra])
def test_a_file_that_is_no_archive_is_refused(tmp_path, read):
    (tmp_path / "a.zip").write_text("no")
    with pytest.raises(SourceError, match="zip"):
        read(tmp_path / "a.zip")


def test_the_surface_is_darker_than_the_top_of_the_atmosphere_where_it_is_dark_most_in_blue():
    woods = surface(np.array([0.081, 0.067, 0.042]).reshape(3, 1, 1))[:, 0, 0]
    np.testing.assert_allclose(woods, [0.022, 0.034, 0.026], atol=0.001)
    bright = surface(np.full((len(INFRARED), 1, 1), 0.3), INFRARED)
    assert (bright >= 0.29 - 0.05).all()


def test_colours_are_those_of_the_chips_from_dark_to_bright(statistics, chips_folder):
    chips = read_eurosat(chips_folder / "eurosat_rgb_train.zip")
    for k in range(len(CLASSES)):
        own = np.log(
            np.maximum(surface(chips.reflectance(np.flatnonzero(chips.classes == k))), 0.002) + FLOOR
        )
        np.testing.assert_allclose(
            statistics.levels[k].mean(axis=(0, 1)), own.mean(axis=(0, 2, 3)), atol=0.02
        )
        bright = statistics.levels[k].mean(axis=2)
        assert (np.diff(bright, axis=1) >= -1e-9).all()
        assert (np.diff(bright.mean(axis=1)) >= -1e-9).all()
        # A chip has two halves of one colour each.
        first, last = statistics.pieces[k, :, 0, :3], statistics.pieces[k, :, -1, :3]
        halves = [own[..., part].mean(axis=(0, 2, 3)) for part in (slice(0, 31), slice(33, 64))]
        halves.sort(key=np.mean)
        np.testing.assert_allclose(first.mean(axis=0), halves[0], atol=0.03)
        np.testing.assert_allclose(last.mean(axis=0), halves[1], atol=0.03)


def test_further_bands_follow_the_visible_ones(statistics, chips_folder):
    spectra, classes = read_eurosat_spectra(chips_folder / "eurosat_ms_train.zip")
    k = CLASSES.index("Pasture")
    chip = surface(spectra[classes == k][1][[SPECTRUM.index(band) for band in BANDS]])
    terms = infrared_terms(np.log(chip.reshape(3, -1) + FLOOR))
    nir = INFRARED.index("nir")
    found = np.exp(statistics.infrared[k, nir] @ terms) - FLOOR
    truth = surface(spectra[classes == k][1][[SPECTRUM.index("nir")]], ["nir"]).ravel()
    assert np.corrcoef(found, truth)[0, 1] > 0.9
    np.testing.assert_allclose(found.mean(), truth.mean(), rtol=0.05)
    assert np.linalg.norm(statistics.infrared_root[k, nir]) > 0


def test_statistics_survive_their_file_and_depend_on_the_seed_alone(statistics, chips_folder):
    again = LandStatistics.of_tensors(statistics.tensors(), INFRARED)
    np.testing.assert_allclose(again.levels, statistics.levels, rtol=1e-6)
    chips = read_eurosat(chips_folder / "eurosat_rgb_train.zip")
    same = land_statistics(chips, *read_eurosat_spectra(chips_folder / "eurosat_ms_train.zip"), seed=1)
    for name, tensor in statistics.tensors().items():
        np.testing.assert_array_equal(same.tensors()[name], tensor)


def test_the_stage_needs_chips_of_all_classes(tmp_path, chips_folder, rgb_archive):
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"seed": 1, "stages": {"land": {}}}))
    with pytest.raises(ParameterError, match="EuroSAT"):
        pretrain(tmp_path / "train.yaml", None, tmp_path / "out")
    hashes = pretrain(tmp_path / "train.yaml", None, tmp_path / "out", chips_dir=chips_folder)
    assert set(hashes) == {"land"}
    assert load_weights(tmp_path / "out" / "land.safetensors")["levels"].shape == (10, 96, 16, 3)
    rgb_archive(tmp_path / "eurosat_rgb_train.zip", [("River", 90)])
    (tmp_path / "eurosat_ms_train.zip").write_bytes((chips_folder / "eurosat_ms_train.zip").read_bytes())
    with pytest.raises(SourceError, match="no chip of class AnnualCrop"):
        pretrain(tmp_path / "train.yaml", None, tmp_path / "out", chips_dir=tmp_path)
