"""The judge of land sees edges and lines where texture of the same colours has none."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy import ndimage

from eoaug.datasets.eurosat import CLASSES
from eoaug.errors import GeneratorError, SourceError
from eoaug.evaluate.land import LandEvaluation, LandJudge, described, evaluate_land
from eoaug.evaluate.structure import structure
from eoaug.generators.classical import Classical

NAMES = ("fields", "woods")


def fields(rng, px=32):
    """Straight stripes of random direction, width and brightness."""
    angle, width = rng.uniform(0, np.pi), rng.uniform(6, 9)
    rows, cols = np.mgrid[:px, :px]
    stripe = np.floor((np.cos(angle) * rows + np.sin(angle) * cols) / width).astype(int)
    bright = rng.uniform(0.05, 0.25, 40)[stripe % 40]
    return np.stack([bright, 1.1 * bright, 1.2 * bright]) + 0.0005 * rng.normal(size=(3, px, px))


def woods(rng, px=32):
    """Fine texture without a line."""
    field = ndimage.gaussian_filter(rng.normal(size=(px, px)), 0.7)
    return 0.06 + 0.006 * field / field.std() + 0.0005 * rng.normal(size=(3, px, px))


def images(seed, count=12):
    rng = np.random.default_rng(seed)
    drawn = [make(rng) for make in (fields, woods) for _ in range(count)]
    return described(np.stack(drawn), [number for number in (0, 1) for _ in range(count)])


@pytest.fixture(scope="module")
def judge():
    return LandJudge(NAMES, images(1, 16), images(2, 16), seed=0)


def by_name(judge, made):
    return {(f.task, f.method, f.metric): f.value for f in judge.figures("made", made)}


def test_structure_sees_lines_regions_and_slopes():
    rng = np.random.default_rng(0)
    field, wood = structure(fields(rng, 64)), structure(woods(rng, 64))
    assert field.line_length > 3 * wood.line_length
    assert field.straightness > 0.9
    assert field.contrast > wood.contrast + 1
    assert field.slope < wood.slope - 0.5
    flat = structure(np.full((3, 64, 64), 0.1))
    assert flat.edge_density == flat.line_length == flat.straightness == 0
    assert flat.region_size == pytest.approx(12)
    assert np.isfinite(astuple(flat)).all()


def test_structure_does_not_depend_on_brightness_and_turns():
    one = fields(np.random.default_rng(3), 64)
    turned = structure(np.rot90(one, axes=(1, 2)))
    np.testing.assert_allclose(astuple(turned), astuple(structure(one)), rtol=0.1, atol=0.02)


def test_another_real_draw_is_in_range_and_texture_is_not(judge):
    good = by_name(judge, images(7))
    assert good["land, fields", "made", "structures_in_range"] >= 0.75
    assert good["land", "made", "named"] >= 0.9
    assert good["land", "made", "precision"] >= 0.7
    made = images(8)
    # The same colours in any order: every histogram is kept, every line is lost.
    rng = np.random.default_rng(0)
    mixed = np.stack([rng.permutation(one.reshape(3, -1), axis=1).reshape(one.shape) for one in made.images])
    bad = by_name(judge, described(mixed, made.classes))
    assert bad["land, fields", "made", "structures_in_range"] <= 0.3
    assert bad["land, fields", "made", "line_length_distance"] > 2
    assert bad["land", "made", "precision"] < good["land", "made", "precision"] - 0.3
    assert bad["land", "real, another draw", "named"] == good["land", "real, another draw", "named"]


def test_copies_of_the_training_data_are_found(judge):
    copied = by_name(judge, judge.train)
    assert copied["land", "made", "nearest_feature"] == pytest.approx(0, abs=1e-6)
    assert copied["land", "real, another draw", "nearest_feature"] > 0.5


def test_too_few_real_images_are_refused():
    with pytest.raises(SourceError, match="ponds"):
        LandJudge((*NAMES, "ponds"), images(1, 3), images(2, 3), seed=0)


def test_a_generator_without_prompts_is_refused(tmp_path):
    with pytest.raises(GeneratorError, match="prompt"):
        evaluate_land(Classical(), tmp_path)


def test_the_report_has_tables_and_sheets(judge, tmp_path):
    made = images(7, 3)
    LandEvaluation(tuple(judge.figures("made", made)), made, judge.real).write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"land.json", "land.md", "land.png", "real.png"}
    text = (tmp_path / "land.md").read_text()
    assert "line_length_distance" in text
    assert "| real, another draw |" in text
    assert len(CLASSES) == 10
