"""The classes that unconditional synthesis lays out, as a label."""

from __future__ import annotations

import numpy as np
import pytest

import eoaug
from eoaug.errors import EoaugError
from eoaug.generators.embedded import parcels
from eoaug.generators.embedded.landscape import CLASSES, Plane
from eoaug.generators.embedded.weights_config import landscape_for, load_config

WHERE = {"crs": "EPSG:32633", "resolution": 10, "times": ["2024-06-01"], "steps": 1}
BOX = (500_000, 5_000_000, 500_640, 5_000_640)


@pytest.mark.slow
def test_labels_of_unconditional_synthesis(tmp_path):
    plain = eoaug.synthesize(like=BOX, seed=5, **WHERE).compute()
    lazy = eoaug.synthesize(like=BOX, seed=5, labels="landcover", chunks=40, **WHERE)
    assert lazy.landcover.chunks is not None
    result = lazy.compute()
    for name in plain.data_vars:
        assert np.array_equal(plain[name].values, result[name].values)
    codes = result.landcover.values
    assert codes.dtype == np.uint8
    assert codes.min() >= 1
    assert codes.max() <= len(CLASSES)
    assert result.landcover.attrs["flag_meanings"].split() == list(CLASSES)
    (item,) = eoaug.write(result, tmp_path / "c")
    asset = item.assets["landcover"]
    assert {"labels", "synthetic"} <= set(asset.roles)
    assert [one["name"] for one in asset.extra_fields["classification:classes"]] == list(CLASSES)


def test_any_window_of_the_layout_is_part_of_the_whole():
    land = landscape_for(None, "cpu", "exact")
    card = load_config(None).card
    plane = Plane(seed=1, member=0, time=1_700_000_000, gsd_m=20.0)

    def reflectance(logs):
        return np.exp(logs)

    whole = land.classes(plane, (-20, 7), (128, 128), reflectance)
    assert len(np.unique(whole)) > 2
    assert np.array_equal(land.classes(plane, (11, 40), (33, 50), reflectance), whole[31:64, 33:83])
    kinds = parcels.kinds((-20, 7), (128, 128), gsd_m=20.0, seed=1, time=1_700_000_000)
    assert (kinds == parcels.ROAD).any()
    assert np.array_equal(kinds == parcels.ROAD, whole == CLASSES.index("road") + 1)
    assert card.classes == CLASSES


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"generator": "classical", "labels": "landcover"}, "lays out none"),
        ({"labels": ["a", "b"]}, "one free name"),
        ({"labels": "red"}, "one free name"),
        ({"labels": "landcover", "members": 2, "reduce": "mean"}, "reduce"),
    ],
)
def test_what_cannot_be_given_is_refused(how, word):
    with pytest.raises(EoaugError, match=word):
        eoaug.synthesize(like=BOX, **{**WHERE, **how})
