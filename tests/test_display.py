"""What objects show of themselves: the accessor on odd cubes, and HTML that loads nothing and escapes what it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import xarray as xr

import eoaug
from eoaug.display import Shown, html_table, text_table
from eoaug.jobs.report import Report
from eoaug.testing import scene

SCL = {
    "flag_values": np.array([4, 9], np.uint8),
    "flag_meanings": "vegetation cloud_high_probability",
}


def clouded() -> xr.Dataset:
    """Three dates, of which the second is cloud in a quarter of its pixels."""
    ds = scene((40, 40), dates=3, bands=("B03", "B04"))
    scl = np.full((3, 40, 40), 4, np.uint8)
    scl[1, :20, :20] = 9
    return ds.assign(SCL=(("time", "y", "x"), scl, SCL), landcover=(("y", "x"), scl[0]))


def odd() -> dict[str, Any]:
    ds = clouded()
    band = ds.B03.attrs
    return {
        "lazy": ds.chunk(),
        "one band": ds[["B03"]],
        "array": ds[["B03", "B04"]].to_dataarray("band"),
        "no time": ds.isel(time=0, drop=True),
        "no coordinates": ds.drop_vars(["x", "y", "spatial_ref"]),
        "no band": ds[["SCL"]],
        "no grid": xr.Dataset({"a": ("q", [1, 2])}),
        "empty": xr.Dataset(),
        "empty dimension": ds.isel(x=slice(0, 0)),
        "one pixel": ds.isel(x=slice(0, 1), y=slice(0, 1)),
        "uneven": ds.isel(x=[0, 1, 3, 9]),
        "all missing": ds.assign(B03=xr.full_like(ds.B03, 0).assign_attrs(band)),
        "text": ds.assign(note="hello"),
        "other dimension": ds.expand_dims(height=[2, 10]),
        "many dates": xr.concat([ds.assign_coords(time=ds.time + np.timedelta64(40 * k, "D")) for k in range(9)], "time", data_vars="all"),
        "repeated dates": xr.concat([ds, ds], "time", data_vars="all"),
        "classes without flags": ds.assign(SCL=ds.SCL.assign_attrs(flag_values=[1, 2])),
        "tree": xr.DataTree.from_dict({"/a": ds, "/b": ds[["SCL"]]}),
        "hostile": ds.rename(B03="<script>alert(1)</script>"),
        "kelvin": ds.assign(lwir11=ds.B03.astype("float32").assign_attrs(units="K")),
    }  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)


@pytest.mark.parametrize("name", odd())
def test_the_accessor_shows_any_object(name: str) -> None:
    obj = odd()[name]
    text, html = repr(obj.eoaug), obj.eoaug._repr_html_()
    assert text.startswith(f"eoaug on a {type(obj).__name__}")
    assert "\n" in text
    tags = Tags()
    tags.feed(html)
    assert tags.seen <= {"div", "strong", "table", "tr", "th", "td"}
    assert not re.search(r"https?://|src=|href=", html)


def test_names_move_no_cursor_and_turn_no_text() -> None:
    name = "B03\x1b[2J\u202egreen"
    ds = clouded().rename(B03=name)
    for text in (repr(ds.eoaug), ds.eoaug._repr_html_()):
        assert "B03" in text
        assert not {"\x1b", "\u202e"} & set(text)


def test_the_accessor_says_what_it_found() -> None:
    text = repr(clouded().eoaug)
    assert "40 x 40 pixels of 10 m, EPSG:32633" in text
    assert "B03 (green), B04 (red): uint16, value = 0.0001 x stored, from the attributes, missing: 0" in text
    assert re.search(r"quality band +SCL", text)
    assert re.search(r"labels +landcover", text)
    shares = re.search(r"clear +(.*)", text)
    assert shares is not None
    assert re.findall(r"(\d+)%", shares[1]) == ["100", "75", "100"]
    assert ".inpaint(mask='SCL')" in text


def test_what_was_generated_is_shown() -> None:
    ds = clouded()
    ds["B03"][0, :10] = ds["B04"][0, :10] = 0
    made = ds[["B03", "B04"]].eoaug.inpaint(generator="classical")
    text = repr(made.eoaug)
    assert "inpaint with classical, seed 0" in text
    assert f"{(made.synthetic == 1).mean().item():.1%} of the pixels" in text


def test_a_lazy_cube_is_not_computed() -> None:
    import dask.array as da

    def fail(block: Any) -> Any:
        raise AssertionError("computed")

    ds = clouded()
    lazy = ds.assign(B03=(ds.B03.dims, da.from_array(ds.B03.values).map_blocks(fail, dtype="uint16", meta=np.empty(0)), ds.B03.attrs))  # fmt: skip
    assert "dask" in repr(lazy.eoaug)


def test_tables_escape_and_align() -> None:
    rows = [("a", "1\n2"), ("<b>", "x & y")]
    assert text_table("t", rows).split("\n") == ["t", "  a    1", "       2", "  <b>  x & y"]
    assert "&lt;b&gt;" in html_table("t", rows)
    assert "<b>" not in html_table("t", rows)


def test_objects_show_their_text() -> None:
    report = Report(job="1", published=3)
    assert isinstance(report, Shown)
    assert repr(report) == str(report)
    assert report._repr_html_().startswith("<pre>")
    assert (
        eoaug.plan("inpaint", clouded()[["B03", "B04"]], generator="classical")
        .explain()
        ._repr_html_()
        .startswith("<div>")
    )
