"""The classes that unconditional synthesis lays out, as a label."""

from __future__ import annotations

import numpy as np
import pytest

import eoaug
from eoaug.errors import EoaugError
from eoaug.generators.embedded.ground_cover import CLASSES
from eoaug.generators.embedded.weights_config import load_config

WHERE = {"crs": "EPSG:32633", "resolution": 10, "times": ["2024-06-01"]}
BOX = (500_000, 5_000_000, 500_640, 5_000_640)


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
    assert load_config(None).card.classes == CLASSES
    assert result.landcover.attrs["flag_meanings"].split() == list(CLASSES)
    (item,) = eoaug.write(result, tmp_path / "c")
    asset = item.assets["landcover"]
    assert {"labels", "synthetic"} <= set(asset.roles)
    assert [one["name"] for one in asset.extra_fields["classification:classes"]] == list(CLASSES)


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
