"""What plots show: the pixels of the cube, an outline around what was generated, and the expected error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib import pyplot

import eoaug
from eoaug import quicklook
from eoaug.errors import EoaugError
from eoaug.testing import scene
from tests.test_display import clouded, odd

BANDS = ("B02", "B03", "B04")


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    mpl.use("Agg")
    yield
    pyplot.close("all")


def filled(dates: int = 3) -> tuple[xr.Dataset, xr.Dataset]:
    """A cube, and the same with marks in a quarter of its second date."""
    before = scene((40, 48), dates=dates, bands=BANDS)
    marks = np.zeros((dates, 40, 48), np.uint8)
    marks[1, :20, :24] = 1
    return before, before.assign(synthetic=(("time", "y", "x"), marks))


def images(figure: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(ax.images[0].get_array())[..., :3] for ax in figure.axes if ax.images]


def outlines(figure: Any) -> list[int]:
    """Indices of panels with an outline."""
    return [n for n, ax in enumerate(figure.axes) if ax.collections]


def test_show_draws_every_date_as_the_picture_of_the_cube() -> None:
    _, ds = filled()
    figure = eoaug.show(ds)
    assert [ax.get_title().split("\n")[-1] for ax in figure.axes] == [
        "0% generated",
        "25% generated",
        "0% generated",
    ]
    assert outlines(figure) == [1]
    for index, image in enumerate(images(figure)):
        np.testing.assert_array_equal(image, quicklook.rgb(ds, index))


def test_north_is_up() -> None:
    ds = filled()[1]
    for one in (ds, ds.isel(y=slice(None, None, -1))):
        ax = eoaug.show(one, times=1).axes[0]
        assert ax.get_ylim()[0] < ax.get_ylim()[1]
    ax = eoaug.show(ds.drop_vars(["x", "y", "spatial_ref"])).axes[0]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "rows count downwards"


def test_compare_shows_dates_with_generated_pixels_under_their_measurement() -> None:
    before, after = filled()
    figure = after.eoaug.compare(before)
    assert [ax.get_title().split("\n")[1] for ax in figure.axes] == ["before", "25% generated"]
    np.testing.assert_array_equal(images(figure)[0], quicklook.rgb(before, 1))


def test_compare_leaves_the_panel_of_an_added_date_empty() -> None:
    before, after = filled()
    figure = after.eoaug.compare(before.isel(time=[0, 2]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no measurement"]


def test_compare_draws_grids_of_two_sizes() -> None:
    before, after = filled(dates=2)
    coarse = before.coarsen(x=2, y=2).mean().assign_coords(spatial_ref=before.spatial_ref)
    figure = after.eoaug.compare(coarse)
    assert [image.shape for image in images(figure)] == [(20, 24, 3), (40, 48, 3)]


def test_dimensions_may_have_other_names() -> None:
    before, after = (ds.rename(time="t", y="latitude", x="longitude") for ds in filled())
    after["B03_std"] = xr.where(after.synthetic == 1, 0.02, 0.0)
    assert len(images(after.eoaug.compare(before))) == 2
    assert len(images(after.eoaug.show())) == 3
    assert len(images(after.eoaug.plot_uncertainty(times=[0, 1]))) == 2


def test_members_stand_side_by_side() -> None:
    _, ds = filled()
    drawn = ds.isel(time=[1]).expand_dims(member=3)
    assert [ax.get_title().split("\n")[1] for ax in drawn.eoaug.show().axes] == [
        "member 0",
        "member 1",
        "member 2",
    ]
    assert len(drawn.eoaug.show(member=2).axes) == 1
    assert "3; the first" in str(drawn.eoaug)


def test_the_expected_error_is_that_of_the_cube_where_it_was_generated() -> None:
    _, ds = filled()
    errors = xr.where(ds.synthetic == 1, 0.02, 0.0)
    figure = ds.assign(B03_std=errors).eoaug.plot_uncertainty(times=1)
    (shown,) = (ax.images[0].get_array() for ax in figure.axes if ax.images)
    assert float(shown.max()) == 0.02
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), ds.synthetic[1].values == 0)
    assert "reflectance" not in figure.axes[-1].get_ylabel()
    assert "expected error of B03" in figure.axes[-1].get_ylabel()


def test_the_spread_of_members_is_in_physical_units() -> None:
    _, ds = filled()
    drawn = ds[["B03"]].isel(time=[1]).expand_dims(member=2).copy(deep=True)
    drawn["B03"][1] += 100
    figure = drawn.eoaug.plot_uncertainty()
    assert float(figure.axes[0].images[0].get_array().max()) == pytest.approx(50 * 1e-4)


def test_one_lazy_date_is_computed_for_one_panel() -> None:
    _, ds = filled()
    computed = []

    def note(block: np.ndarray[Any, Any], block_info: Any = None) -> np.ndarray[Any, Any]:
        computed.append(block_info[0]["chunk-location"][0] if block_info else None)
        return block

    lazy = ds.chunk(time=1)
    lazy["B03"] = lazy.B03.copy(
        data=lazy.B03.data.map_blocks(note, dtype=lazy.B03.dtype, meta=np.zeros((0, 0, 0), lazy.B03.dtype))
    )
    eoaug.show(lazy, times=2)
    assert computed == [2]


def test_a_large_lazy_scene_is_refused_before_anything_is_computed() -> None:
    data = da.from_delayed(dask.delayed(pytest.fail)("computed"), (1, 100_000, 100_000), np.float32)
    vast = xr.Dataset(
        {"B04": (("time", "y", "x"), data)}, {"time": np.array(["2024-06-01"], "datetime64[ns]")}
    )
    with pytest.raises(EoaugError, match="100000 x 100000") as caught:
        vast.eoaug.show()
    assert "isel(y=slice(0, 512)" in caught.value.remedy


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EoaugError, match="a plot needs the package matplotlib") as caught:
        eoaug.show(filled()[1])
    assert "eoaug[plot]" in caught.value.remedy


def test_a_notebook_shows_a_figure_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyplot, "get_backend", lambda: "module://matplotlib_inline.backend_inline")
    eoaug.show(filled()[1], times=0)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("name", sorted(odd()))
def test_odd_cubes_are_drawn_or_refused(name: str) -> None:
    ds = odd()[name]
    refused = None
    try:
        assert eoaug.show(ds, times=0).axes
    except EoaugError as error:
        refused = error
    assert refused is None or refused.remedy


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda ds: ds.eoaug.show(times=9), "times=9"),
        (lambda ds: ds.eoaug.show(times="1999-01-01"), "1999-01-01"),
        (lambda ds: ds.eoaug.show(times="soon"), "not a date"),
        (lambda ds: ds.eoaug.show(member=1), "member=1"),
        (lambda ds: ds.eoaug.show(look="infra"), "infra"),
        (lambda ds: ds.eoaug.plot_uncertainty(), "neither expected errors nor members"),
        (lambda ds: xr.DataTree(clouded()).eoaug.show(), "DataTree"),
    ],
)
def test_wrong_arguments_are_named(call: Any, problem: str) -> None:
    with pytest.raises(EoaugError, match=problem) as caught:
        call(filled()[1])
    assert caught.value.remedy
