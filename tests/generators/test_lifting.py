"""The rules from colours to other bands, against bands whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from eoaug.generators.base import Card, Request
from eoaug.generators.checkpoints.band_lifting import RULES, lift
from eoaug.generators.interpolation.texture import texture
from eoaug.raster.sensor import Sensor
from eoaug.testing import requests

CARD = Card(name="colours", bands=("red", "green", "blue", "nir", "swir16"), tile_px=64)
SLOPES, OFFSET = np.array([0.5, -1.0, 2.0]), 0.3


def linear(colours: np.ndarray) -> np.ndarray:
    return (OFFSET + np.einsum("c,chw->hw", SLOPES, colours)).astype(np.float32)


def request(hole: np.ndarray, *, strength: float = 1.0) -> tuple[Request, np.ndarray]:
    """Return a tile whose first further band is linear in the colours, and whose second is not, with a hole."""
    (one,) = requests(CARD, "inpaint")
    colours = texture((0, 0), (3, 64, 64), seed=1)
    bands = np.stack([*colours, linear(colours), texture((0, 0), (1, 64, 64), seed=2)[0]])[None].astype(
        np.float32
    )
    known = np.broadcast_to(~hole, bands.shape)
    values = np.where(known, bands, np.float32(0))
    return Request(
        values=values,
        known=known,
        fill=~known,
        times=one.times[:1],
        metadata=one.metadata[:1],
        strength=strength,
    ), bands[0]


def test_regression_finds_a_linear_band() -> None:
    hole = np.zeros((64, 64), bool)
    hole[20:40, 20:50] = True
    asked, truth = request(hole)
    made = lift("regress", asked, 0, truth[:3])
    # One pixel's worth of prior against 3,500 pixels.
    np.testing.assert_allclose(made[0][hole], truth[3][hole], atol=0.02)


def test_regression_carries_changes_over() -> None:
    asked, truth = request(np.zeros((64, 64), bool), strength=0.5)
    unchanged = lift("regress", asked, 0, truth[:3])
    np.testing.assert_allclose(unchanged, truth[3:], atol=1e-5)
    brighter = truth[:3].copy()
    brighter[0] += 0.2
    np.testing.assert_allclose(lift("regress", asked, 0, brighter)[0] - truth[3], 0.2 * SLOPES[0], atol=0.01)


def test_injection_adds_detail_and_keeps_the_level() -> None:
    asked, truth = request(np.zeros((64, 64), bool), strength=0.5)
    np.testing.assert_allclose(lift("inject", asked, 0, truth[:3]), truth[3:], atol=1e-4)
    # A change of level alone has no detail: nothing is injected.
    np.testing.assert_allclose(lift("inject", asked, 0, truth[:3] + np.float32(0.3)), truth[3:], atol=1e-4)
    speckled = truth[:3] + np.random.default_rng(0).normal(0, 0.5, (1, 64, 64)).astype(np.float32)
    made = lift("inject", asked, 0, speckled)
    assert np.abs(made[0] - truth[3]).mean() > 0.05
    assert abs(float((made - truth[3:]).mean())) < 0.02


@pytest.mark.parametrize("rule", ["regress", "inject"])
def test_super_resolution_finds_the_detail_of_a_linear_band(rule: str) -> None:
    truth = texture((0, 0), (3, 64, 64), seed=3)
    grey = np.repeat(truth.mean(axis=0, keepdims=True), 3, 0)
    band = (2 * grey[0] + np.float32(0.4))[None]
    sensor = Sensor(factor=4, mtf=(0.3,))
    coarse = sensor.degrade(np.concatenate([grey, band, band]))[None]
    (one,) = requests(CARD, "super_resolve", factor=4)
    asked = Request(
        values=one.values, known=one.known, fill=one.fill, times=one.times, metadata=one.metadata,
        coarse=coarse, factor=4, sensor=sensor,
    )  # fmt: skip
    made = lift(rule, asked, 0, grey)  # type: ignore[arg-type]
    smooth = sensor.upsample(sensor.degrade(band))
    inner = np.s_[:, 8:-8, 8:-8]
    assert np.abs(made[:1] - band)[inner].mean() < 0.4 * np.abs(smooth - band)[inner].mean()


@pytest.mark.parametrize("rule", RULES)
def test_nothing_known_is_finite_and_grey(rule: str) -> None:
    asked, truth = request(np.ones((64, 64), bool))
    made = lift(rule, asked, 0, truth[:3])  # type: ignore[arg-type]
    assert made.shape == (2, 64, 64)
    assert np.isfinite(made).all()
    if rule == "regress":
        np.testing.assert_allclose(made[0], truth[:3].mean(axis=0), atol=1e-5)
    if rule == "keep":
        assert not made.any()


def test_keeping_keeps() -> None:
    asked, truth = request(np.zeros((64, 64), bool))
    assert lift("keep", asked, 0, truth[:3]).tobytes() == truth[3:].tobytes()
