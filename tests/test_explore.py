"""The page to look around in a cube: its tiles are the cube, lazy cubes are computed by the tile, and nobody else can ask."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import dask.array as da
import numpy as np
import pytest
import requests
import xarray as xr
from PIL import Image

from eoaug import quicklook
from eoaug.errors import EoaugError
from eoaug.explore import TILE_PX, explore
from eoaug.testing import scene
from tests.test_display import odd

BANDS = ("B02", "B03", "B04")


def marked(edge: int = 300) -> xr.Dataset:
    ds = scene((edge, edge), dates=2, bands=BANDS)
    marks = np.zeros((2, edge, edge), np.uint8)
    marks[1, 10:20] = 1
    return ds.assign(synthetic=(("time", "y", "x"), marks))


def picture(answer: requests.Response) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def asked(view: Any, **numbers: int) -> requests.Response:
    query = {"z": 0, "y": 0, "x": 0, "t": 0, "m": 0, "marks": 0} | numbers
    return requests.get(f"{view.url}tile", params=query, timeout=10)


def test_tiles_are_the_pictures_of_the_cube() -> None:
    ds = marked()
    whole = quicklook.rgb(ds, 1)
    with explore(ds) as view:
        np.testing.assert_array_equal(picture(asked(view, t=1))[..., :3], whole[:TILE_PX, :TILE_PX])
        corner = picture(asked(view, t=1, y=1, x=1))
        np.testing.assert_array_equal(corner[:44, :44, :3], whole[TILE_PX:, TILE_PX:])
        assert corner[44:, :, 3].max() == corner[:, 44:, 3].max() == 0, (
            "beyond the cube a tile is transparent"
        )
        np.testing.assert_array_equal(picture(asked(view, t=1, z=1))[:150, :150, :3], whole[::2, ::2])
        assert asked(view, y=9).status_code == 204


def test_generated_pixels_and_no_others_are_tinted() -> None:
    with explore(marked()) as view:
        plain, tinted = picture(asked(view, t=1)), picture(asked(view, t=1, marks=1))
    changed = (plain != tinted).any(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(10, 20))


def test_a_tile_of_a_lazy_cube_computes_its_chunks_alone() -> None:
    computed = []

    def block(block_info: Any = None) -> np.ndarray[Any, Any]:
        computed.append(block_info[None]["chunk-location"][1:])
        return np.full((1, 256, 256), 0.1, np.float32)

    chunks = ((1,), (256,) * 40, (256,) * 40)
    ds = xr.Dataset(
        {
            "B04": (
                ("time", "y", "x"),
                da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.zeros((0, 0, 0), np.float32)),
            )
        }
    )
    with explore(ds.assign_coords(time=np.array(["2024-06-01"], "datetime64[ns]"))) as view:
        assert computed == []
        picture(asked(view, y=7, x=11))
        block = {(y, x) for y in range(4, 8) for x in range(8, 12)}
        assert set(computed) == block
        assert len(computed) == 16
        picture(asked(view, y=4, x=8))
        picture(asked(view, z=2, y=1, x=2))
        assert len(computed) == 16, "a block is computed once for all its tiles"
        assert asked(view, z=8).status_code == 204, "the whole would be computed"
        assert len(computed) == 16


def test_the_page_loads_nothing_from_elsewhere_and_says_what_the_cube_is() -> None:
    with explore(marked()) as view:
        answer = requests.get(view.url, timeout=10)
        assert not re.findall(r"(?:src|href)=", answer.text)
        assert "://" not in answer.text
        facts = json.loads(re.search(r"const facts = (\{.*?\}), at", answer.text)[1])  # type: ignore[index]
        assert facts["dates"] == ["2021-03-01", "2021-03-11"]
        assert facts["marked"] is True
        assert view.url in view._repr_html_()


def test_only_who_knows_the_secret_is_answered_and_only_on_this_machine() -> None:
    view = explore(marked(40))
    base = view.url.rpartition("/")[0].rpartition("/")[0]
    assert base.startswith("http://127.0.0.1:")
    assert requests.get(f"{base}/", timeout=10).status_code == 404
    assert requests.get(f"{base}/guess/tile", timeout=10).status_code == 404
    # A page of another site whose name was made to lead here.
    assert requests.get(view.url, headers={"Host": "evil.example"}, timeout=10).status_code == 403
    for bad in (
        "tile",
        "tile?z=x",
        "tile?z=-1&y=0&x=0&t=0&m=0&marks=0",
        "tile?z=99&y=0&x=0&t=0&m=0&marks=0",
        "tile?z=0&y=0&x=0&t=9&m=0&marks=0",
    ):
        assert requests.get(view.url + bad, timeout=10).status_code == 400, bad
    view.close()
    with pytest.raises(requests.ConnectionError):
        requests.get(view.url, timeout=2)


@pytest.mark.parametrize("name", sorted(odd()))
def test_odd_cubes_are_served_or_refused(name: str) -> None:
    refused = None
    try:
        with explore(odd()[name]) as view:
            assert asked(view).status_code in (200, 400)
            assert requests.get(view.url, timeout=10).status_code == 200
    except EoaugError as error:
        refused = error
    assert refused is None or refused.remedy
