"""How an image was measured, from the image: right values, and a safe answer where nothing can be seen."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from eoaug.raster.sensor import Sensor
from eoaug.raster.sensor_estimate import FALLBACK, block_spectra, estimate_sensors


@cache
def land(seed=0, size=256):
    """An image whose power falls with the 2.6th power of the frequency, as land's does."""
    rng = np.random.default_rng(seed)
    frequency = np.fft.fftfreq(size)
    radius = np.hypot.outer(frequency, frequency)
    radius[0, 0] = 1.0
    image = np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * radius**-1.3).real
    return (0.2 + 0.05 * image / image.std())[None]


def estimated(image, factor=2):
    return estimate_sensors([[band] for band in image], factor)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_sharper_sensor_is_seen_to_be_sharper(factor):
    told = (0.15, 0.25, 0.4, "box", "nearest")
    found = [estimated(Sensor.of(name, factor, 1).degrade(land()), factor)[0] for name in told]
    transfers = [each.mtf for each in found]
    assert transfers == sorted(transfers)
    np.testing.assert_allclose(transfers[:3], told[:3], atol=0.1)
    assert found[3].sensor in ("box", "nearest", "cubic")
    assert all(0 < each.std < 0.25 and not each.reason for each in found)
    # What loses least is never more than two steps sharper than the truth, which would cost most.
    assert all(
        isinstance(each.sensor, str) or each.sensor > name - 0.11
        for each, name in zip(found, told[:3], strict=False)
    )


def test_bands_differ_and_help_each_other():
    soft, sharp = (Sensor.of(name, 2, 1).degrade(land(1))[0] for name in (0.2, "box"))
    apart = [estimate_sensors([[band]], 2)[0].mtf for band in (soft, sharp)]
    together = [each.mtf for each in estimate_sensors([[soft], [sharp]], 2)]
    assert apart[0] <= together[0] < together[1] <= apart[1]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 64, 64)),
        land()[:, :31, :60],
        np.full((1, 64, 64), np.nan),
        np.where(np.arange(64) % 24 == 0, np.nan, land()[:, :64, :64]),
        np.minimum(land()[:, :64, :64], 0.12),
    ],
    ids=["constant", "tiny", "missing", "striped", "saturated"],
)
def test_what_cannot_be_seen_is_said_and_nothing_is_guessed(image):
    (found,) = estimated(image)
    assert found.sensor == FALLBACK == "box"
    assert found.reason
    assert np.isnan(found.mtf)
    assert found.losses == ()
    assert np.isfinite(found.noise)


def test_repeated_pixels_are_like_no_sensor_or_sharpened_with_care():
    blocks = np.kron(land()[:, :64, :64], np.ones((1, 4, 4)))
    (found,) = estimated(blocks)
    assert found.reason or found.mtf > 0.1


def test_the_noise_is_that_of_the_flat_parts():
    rng = np.random.default_rng(3)
    image = np.where(np.arange(128) < 64, 0.2, land()[:, :128, :128]) + rng.normal(0, 0.004, (1, 128, 128))
    assert estimated(image)[0].noise == pytest.approx(0.004, rel=0.3)


def test_one_gap_or_bright_spot_does_not_decide():
    image = Sensor.of(0.3, 2, 1).degrade(land(2))
    clean = estimated(image)[0]
    dirty = image.copy()
    dirty[:, 40:44, 40:44] = np.nan
    dirty[:, 100, 20] = 5.0
    assert abs(estimated(dirty)[0].mtf - clean.mtf) < 0.05
    assert len(block_spectra([dirty[0]])) < len(block_spectra([image[0]]))
