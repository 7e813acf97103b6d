"""Sets of images: features see what they should, copies are found, statistics are ratios."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from eoaug import metrics
from eoaug.evaluate.synthesis import RealImage, features, synthesise
from eoaug.generators.base import Card
from eoaug.progress import ProgressCounter

SLOTS = ("red", "nir")
QUIET = ProgressCounter(lambda count: None)


def land(seed, smooth=3.0, level=0.15):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, 64, 64)), (0, smooth, smooth))
    return (level + 0.03 * field / field.std()).astype(np.float32)


def window(seed, place="here", **kwargs):
    return RealImage(place=place, values=land(seed, **kwargs), time=0, metadata=np.full(7, np.nan))


class Remembering:
    """Hands out images that it was given, turned."""

    def __init__(self, images, card=None):
        self.images = images
        self.card = card or Card(name="remembering", bands=SLOTS, mean=(0.1, 0.1), std=(0.05, 0.05))

    def generate(self, requests):
        made = [self.images[request.member % len(self.images)] for request in requests]
        return np.stack([np.rot90((one - 0.1) / 0.05, axes=(1, 2))[None] for one in made]).astype(np.float32)


def test_features_are_many_finite_and_blind_to_shifts():
    image = land(0)
    found = features(image)
    assert found.shape == (25 * 2 + 5,)
    assert np.isfinite(found).all()
    assert np.isfinite(features(np.zeros((1, 64, 64)))).all()
    moved = features(np.roll(image, (20, 30), axis=(1, 2)))
    others = np.stack([features(land(seed)) for seed in range(1, 6)])
    assert np.abs(moved - found).mean() < np.abs(others - found).mean()


def test_features_tell_directions_and_edges():
    """Stripes along rows have their energy at 90 degrees; a lone edge is more uneven than noise."""
    stripes = np.broadcast_to(0.2 + 0.05 * np.sin(np.arange(64) / 2)[:, None], (1, 64, 64))
    at_0, _, at_90, _, _ = features(stripes)[:5]
    assert at_90 > at_0 + 3
    edge = np.where(np.arange(64) < 32, 0.1, 0.2) * np.ones((1, 64, 1))
    noise = 0.15 + 0.05 * np.random.default_rng(0).normal(size=(1, 64, 64))
    assert features(edge)[4] > features(noise)[4] + 1


def test_kernel_distance_grows_with_the_difference():
    sets = {smooth: np.stack([features(land(s, smooth)) for s in range(20)]) for smooth in (2.0, 3.0, 6.0)}
    centre, unit = sets[3.0].mean(axis=0), sets[3.0].std(axis=0)
    scaled = {smooth: (one - centre) / unit for smooth, one in sets.items()}
    other = (np.stack([features(land(s, 3.0)) for s in range(100, 120)]) - centre) / unit
    same = metrics.kernel_distance(other, scaled[3.0])
    assert abs(same) < metrics.kernel_distance(scaled[2.0], scaled[3.0]) / 10
    assert same < metrics.kernel_distance(scaled[2.0], scaled[3.0])


def test_a_generator_that_remembers_is_found():
    train = [window(seed) for seed in range(30)]
    real = [window(seed, place) for seed, place in zip(range(100, 110), "aabbccddee", strict=True)]
    generators = {
        "copy": Remembering([w.values for w in train]),
        "new": Remembering([land(s) for s in range(200, 230)]),
    }
    nearest = {}
    for name, generator in generators.items():
        found = synthesise(generator, SLOTS, real, train, seed=0, progress=QUIET, samples=12)
        of = {(f.task, f.method, f.metric): f.value for f in found.figures}
        nearest[name] = of["synthesis", "remembering", "closest_pixel"]
        assert of["synthesis", "real windows, against training", "closest_pixel"] > 0.01
        assert 0.97 < of["synthesis, bands", "remembering, red", "mean"] < 1.03
        assert 0.9 < of["synthesis, bands", "remembering, nir", "std_trained"] < 1.1
        assert of["synthesis", "remembering", "kid"] < of["synthesis", "classical texture", "kid"]
        assert {sheet.title for sheet in found.sheets} == {"synthesis", "variations"}
    assert nearest["copy"] < 1e-4 < 0.01 < nearest["new"]


def test_training_files_of_some_bands_tell_how_those_are_spread():
    """Two places of equal weight, one with the second band alone and twice as bright there."""
    whole = [window(seed, "whole") for seed in range(4)]
    part = [
        replace(
            one, place="part", values=np.stack([np.full((64, 64), np.nan, np.float32), 2 * one.values[1]])
        )
        for one in whole
    ]
    images = [one.values for one in whole]
    result = synthesise(Remembering(images), SLOTS, whole, whole + part, seed=0, progress=QUIET, samples=4)
    of = {(f.task, f.method, f.metric): f.value for f in result.figures}
    assert of["synthesis, bands", f"remembering, {SLOTS[0]}", "mean_trained"] == pytest.approx(1.0, rel=1e-3)
    assert of["synthesis, bands", f"remembering, {SLOTS[1]}", "mean_trained"] == pytest.approx(
        2 / 3, rel=1e-3
    )


def test_bands_that_a_place_lacks_are_not_judged():
    lacking = replace(window(0), values=np.stack([land(0)[0], np.full((64, 64), np.nan, np.float32)]))
    found = synthesise(
        Remembering([land(1)]), SLOTS, [lacking, window(1, "there")], [], seed=0, progress=QUIET, samples=4
    )
    assert not any(f.metric.startswith("nearest") for f in found.figures)
    result = {f.method for f in found.figures if f.metric == "mean"}
    assert result == {f"{name}, {slot}" for name in ("remembering", "classical texture") for slot in SLOTS}
    nothing = replace(lacking, values=lacking.values[::-1])
    skipped = synthesise(Remembering([land(1)]), SLOTS, [lacking, nothing], [], seed=0, progress=QUIET)
    assert skipped.skipped == {"synthesis": "the files have no band in common"}
    assert not skipped.figures


def test_a_texture_is_its_own_null():
    """The classical generator, judged, is the classical texture."""
    from eoaug.generators.classical import Classical

    class Named(Classical):
        @property
        def card(self):
            return replace(super().card, bands=SLOTS, mean=(0.15, 0.15), std=(0.03, 0.03))

    found = synthesise(Named(), SLOTS, [window(s) for s in range(4)], [], seed=0, progress=QUIET, samples=6)
    of = {(f.task, f.method, f.metric): f.value for f in found.figures}
    for task in ("synthesis", "variations"):
        assert of[task, "classical", "kid"] == pytest.approx(of[task, "classical texture", "kid"])
