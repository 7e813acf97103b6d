"""The provenance record as properties of a STAC item."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoaug.cube.provenance import ALGORITHMIC, ALTERED, COMPOSITE, TRAINED, Provenance

TEXTS = st.text(max_size=8)
NAMES = st.text(min_size=1, max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SHARES = st.floats(0, 1)

RECORDS = st.builds(
    Provenance,
    operation=st.sampled_from(["synthesize", "inpaint", "extend", "super_resolve"]),
    generator=NAMES,
    model_sha256=TEXTS,
    licence=TEXTS,
    model_files=st.dictionaries(NAMES, TEXTS, max_size=2),
    model_units=st.dictionaries(NAMES, st.tuples(NUMBERS, NUMBERS), max_size=2),
    bands=st.dictionaries(NAMES, st.sampled_from(["generated", "transferred", "observed"]), max_size=2),
    prior_bands=st.lists(NAMES, max_size=2).map(tuple),
    seed=st.integers(0, 2**63),
    members=st.none() | st.integers(1, 9),
    parameters=st.dictionaries(
        NAMES, st.none() | NUMBERS | TEXTS | st.lists(NUMBERS, max_size=2), max_size=3
    ),
    token=TEXTS,
    software=st.dictionaries(NAMES, TEXTS, max_size=2),
    sources=st.just(({"id": "a", "href": "s3://b/a.json"},)),
    digital_source_type=st.sampled_from([TRAINED, COMPOSITE, ALGORITHMIC, ALTERED]),
    synthetic_fraction=st.none() | SHARES,
    residual=st.none() | st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=2),
    cpu_capability=TEXTS,
)


@given(RECORDS, st.none() | st.integers(0, 9))
def test_properties_round_trip(record, member):
    properties = record.to_properties(written="2026-01-01T00:00:00Z", member=member)
    read = Provenance.from_properties(json.loads(json.dumps(properties)))
    assert read == replace(record, sources=(), members=None)
    assert properties.get("eoaug:member") == member


@given(RECORDS, SHARES)
def test_the_share_of_an_item_replaces_that_of_the_cube(record, share):
    properties = record.to_properties(written="2026-01-01T00:00:00Z", share=share, mask="synthetic")
    assert properties["eoaug:synthetic"] == (share > 0)
    assert properties["eoaug:mask"] == "synthetic"
    read = Provenance.from_properties(properties)
    assert read.synthetic_fraction == share
    if share > 0:
        assert read.digital_source_type == record.digital_source_type
    else:
        assert "eoaug:digital_source_type" not in properties
        assert "every pixel of this item is a measurement" in properties["processing:lineage"]


@pytest.mark.parametrize("field", Provenance.__dataclass_fields__)
def test_every_field_is_written_or_named_as_left_out(field):
    changed = {
        "operation": "x", "generator": "x", "model_sha256": "x", "licence": "x", "model_files": {"a": "x"},
        "model_units": {"a": (1.0, 2.0)}, "bands": {"a": "generated"}, "prior_bands": ("a",), "seed": 7, "parameters": {"a": 1},
        "token": "x", "software": {"a": "1"}, "digital_source_type": TRAINED, "synthetic_fraction": 0.5,
        "residual": {"a": 1.5}, "cpu_capability": "x",
    }  # fmt: skip
    if field in ("sources", "members"):
        return
    plain = Provenance(operation="o", generator="g")
    other = replace(plain, **{field: changed[field]})
    assert other.to_properties(written="") != plain.to_properties(written="")


def test_a_residual_is_written_by_band_and_read_in_its_former_form():
    record = Provenance(operation="inpaint", generator="g", bands={"B02": "generated"}, residual=0.0)
    assert record.to_properties(written="")["eoaug:residual"] == {"B02": 0.0}
    assert Provenance.from_properties({"eoaug:residual": 0.5}).residual == 0.5


def test_properties_of_another_writer_are_read():
    read = Provenance.from_properties({"eoaug:operation": "inpaint"})
    assert (read.operation, read.generator, read.software, read.residual) == ("inpaint", "", {}, None)
