"""Cards and requests as values: former field names, copies, pickles."""

from __future__ import annotations

import copy
import pickle
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest

from eoaug.generators import Card, Request
from eoaug.generators.base import METADATA_FIELDS, metadata_rows
from eoaug.generators.classical import Classical
from eoaug.testing import check_generator

RENAMED = {
    Card: {
        "drawn_px": ("canvas_px", 96),
        "sequence": ("autoregressive", True),
        "surroundings": ("uses_context", True),
        "transferred": ("derived_bands", frozenset({"nir"})),
        "kept": ("passthrough_bands", frozenset({"nir"})),
        "guided": ("layout_verbs", frozenset({"inpaint"})),
    },
    Request: {
        "halo": ("coarse_halo", 4),
        "wide": ("context_cells", np.zeros((1, 2, 40, 40), np.float32)),
        "near": ("context_pixels", np.zeros((1, 2, 96, 96), np.float32)),
    },
}
CASES = [(kind, former, *case) for kind, names in RENAMED.items() for former, case in names.items()]


def made(kind, **values):
    if kind is Card:
        return Card(name="a card", **values)
    empty = np.zeros((1, 2, 64, 64), np.float32)
    needed = {"values": empty, "known": empty > 0, "fill": empty == 0}
    return Request(**needed, times=np.zeros(1, np.int64), metadata=np.zeros((1, 7)), **values)


@pytest.mark.parametrize(("kind", "former", "name", "value"), CASES)
def test_former_names_work_and_warn(kind, former, name, value):
    message = f"{kind.__name__}.{former} is now {kind.__name__}.{name}"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        item = made(kind, **{former: value})
    assert [warning.filename for warning in caught] == [__file__], "the caller's line is shown"
    assert getattr(item, name) is value
    with pytest.warns(DeprecationWarning, match=message):
        assert getattr(item, former) is value
    with pytest.warns(DeprecationWarning, match=message) as caught:
        item = replace(made(kind), **{former: value})
    assert [warning.filename for warning in caught] == [__file__]
    assert getattr(item, name) is value


@pytest.mark.parametrize("kind", RENAMED)
def test_present_names_do_not_warn(kind):
    values = dict(RENAMED[kind].values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        item = made(kind, **values)
        for same in (item, replace(item), copy.copy(item), pickle.loads(pickle.dumps(item))):
            for name, value in values.items():
                np.testing.assert_array_equal(getattr(same, name), value)
        repr(item)
    assert not {field.name for field in fields(kind)} & RENAMED[kind].keys(), "former names are no fields"


@pytest.mark.parametrize("kind", RENAMED)
def test_unknown_names_are_refused(kind):
    with pytest.raises(TypeError, match="nearly"):
        made(kind, nearly=1)
    with pytest.raises(AttributeError, match="nearly"):
        made(kind).nearly  # noqa: B018
    with pytest.raises(AttributeError):
        made(kind).name = "another"


class FormerNames(Classical):
    """A third party's generator, written for the former names."""

    @property
    def card(self):
        return Card(name="former", surroundings=True, guided=frozenset({"inpaint"}), batch=8, context=3)

    def generate(self, requests):
        assert all(request.halo == 0 and request.near is None for request in requests if request.wide is None)
        return super().generate(requests)


def test_the_contract_holds_with_former_and_present_names():
    check_generator(Classical())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_generator(FormerNames())
    names = {str(warning.message).split()[0] for warning in caught}
    assert names == {"Card.surroundings", "Card.guided", "Request.halo", "Request.wide", "Request.near"}


def test_metadata_rows_name_their_columns():
    times = np.array([0, 1_582_934_400], np.int64)
    rows = metadata_rows(times, dated=times != 0, lon_deg=12.5, gsd_m=10, cloud_fraction=[0.25, np.nan])
    expected = [[12.5, np.nan, 10, 0.25, *[np.nan] * 3], [12.5, np.nan, 10, np.nan, 2020, 2, 29]]
    np.testing.assert_array_equal(rows, expected)
    assert metadata_rows([0])[0, METADATA_FIELDS.index("year") :].tolist() == [1970, 1, 1]
    assert np.isnan(metadata_rows([0], dated=False)).all()
    assert metadata_rows([], lat_deg=1).shape == (0, len(METADATA_FIELDS))
    with pytest.raises(ValueError, match="not in tuple"):
        metadata_rows(times, latitude=48.0)
