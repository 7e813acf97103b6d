"""Pictures: fixed colours, sheets, and pages that hold everything they show."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eoaug.errors import BandError, EoaugError, ParameterError, TimeError
from eoaug.quicklook import HIDDEN, MISSING, Picture, Section, enlarge, page, rgb, shade, sheet


def cube(values: float | np.ndarray = 0.1, names: tuple[str, ...] = ("red", "green", "blue")) -> xr.Dataset:
    data = np.broadcast_to(np.asarray(values, np.float32), (2, 6, 8)).copy()
    times = np.array(["2018-05-04", "2018-06-04"], "datetime64[ns]")
    return xr.Dataset({name: (("time", "y", "x"), data.copy()) for name in names}, {"time": times})


def picture(edge: int = 8, caption: str = "a caption") -> Picture:
    return Picture(np.full((edge, edge, 3), 90, np.uint8), caption, "a note")


@given(st.floats(0.0, 0.3), st.floats(0.0, 0.3))
def test_a_pixel_s_colour_depends_on_nothing_but_the_pixel(a: float, b: float) -> None:
    dark, mixed = cube(a), cube(a)
    for name in mixed.data_vars:
        mixed[name][0, 3:] = b
    assert np.array_equal(rgb(dark)[:3], rgb(mixed)[:3])
    if a < b:
        assert (rgb(dark) <= rgb(cube(b))).all()


def test_black_white_and_missing() -> None:
    assert (rgb(cube(-0.1)) == 0).all()
    assert (rgb(cube(0.0)) == 0).all()
    assert (rgb(cube(0.3)) == 255).all()
    assert (rgb(cube(1.7)) == 255).all()
    ds = cube()
    ds["blue"][0, 2, 2] = np.nan
    image = rgb(ds)
    assert tuple(image[2, 2]) == MISSING
    assert (image != MISSING).any(axis=-1).sum() == 6 * 8 - 1


def test_stored_integers_show_as_their_reflectance() -> None:
    stored = (cube(0.12) * 10000).round().astype(np.uint16)
    for name in stored.data_vars:
        stored[name].attrs = {"scale_factor": 1e-4, "add_offset": 0.0, "_FillValue": 0}
    stored["red"][0, 0, 0] = 0
    assert np.array_equal(rgb(stored, 1), rgb(cube(0.12), 1))
    assert tuple(rgb(stored)[0, 0]) == MISSING


def test_date_member_and_look() -> None:
    ds = cube(names=("red", "green", "blue", "nir"))
    ds["red"][1] = 0.2
    assert np.array_equal(rgb(ds, "2018-06-04"), rgb(ds, 1))
    assert np.array_equal(rgb(ds, -1), rgb(ds, 1))
    assert not np.array_equal(rgb(ds), rgb(ds, 1))
    assert not np.array_equal(rgb(ds, look="nir"), rgb(ds, look="true"))
    drawn = xr.concat([ds, ds * 2], "member").assign(synthetic=(("y", "x"), np.ones((6, 8), np.uint8)))
    assert np.array_equal(rgb(drawn, member=1), rgb(ds * 2))


def test_radar_and_single_bands_have_a_picture_too() -> None:
    radar = cube(-12.0, ("vv", "vh"))
    assert rgb(radar).shape == (6, 8, 3)
    assert not np.array_equal(rgb(radar), rgb(radar - 5))
    grey = rgb(cube(0.1, ("nir",)))
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda ds: rgb(ds, "2030-01-01"), TimeError),
        (lambda ds: rgb(ds, "spring"), TimeError),
        (lambda ds: rgb(ds, 7), TimeError),
        (lambda ds: rgb(ds, look="nir"), BandError),
        (lambda ds: rgb(ds, look="sepia"), ParameterError),
        (lambda ds: shade(rgb(ds), np.zeros((3, 3), bool)), ParameterError),
        (lambda ds: sheet([], "nowhere.png"), ParameterError),
    ],
)
def test_wrong_use_is_told(call: object, kind: type[EoaugError]) -> None:
    with pytest.raises(kind) as caught:
        call(cube())  # type: ignore[operator]
    assert caught.value.remedy


def test_shade_covers_the_mask_and_copies() -> None:
    image = rgb(cube())
    mask = np.zeros((6, 8), bool)
    mask[1, 2] = True
    covered = shade(image, mask)
    assert tuple(covered[1, 2]) == HIDDEN
    assert np.array_equal(covered[~mask], image[~mask])
    assert tuple(image[1, 2]) != HIDDEN


def test_enlarge_repeats_pixels() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    big = enlarge(image, 9)
    assert big.shape == (8, 12, 3)
    assert np.array_equal(big[::4, ::4], image)
    assert enlarge(big, 4) is not None
    assert np.array_equal(enlarge(big, 4), big)


def test_a_sheet_is_a_png_with_all_pictures(tmp_path: Path) -> None:
    sections = [
        Section("one", rows=[[picture(), picture(300)], [picture()]]),
        Section("two", rows=[[picture(caption="w" * 200)]]),
    ]
    target = sheet(sections, tmp_path / "sheet.png")
    with Image.open(target) as opened:
        pixels = np.asarray(opened.convert("RGB"))
        assert opened.format == "PNG"
    assert pixels.shape[1] >= 240 + 300
    assert (pixels == 90).all(axis=-1).sum() == 3 * 240 * 240 + 300 * 300


class _Reader(HTMLParser):
    """Collects what a browser would fetch, run, or give an id."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.handlers: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.add(f"{tag}.{name}")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


HOSTILE = "</title><script>alert(1)</script><img src=x onerror='alert(2)'>\" onload=\"alert(3)"


def test_a_page_holds_everything_and_runs_no_script(tmp_path: Path) -> None:
    section = Section(
        HOSTILE,
        rows=[[Picture(picture().pixels, HOSTILE, HOSTILE)]],
        text=f"{HOSTILE}\n\nanother paragraph",
        compare=(picture(caption=HOSTILE), picture()),
        table=[[HOSTILE, "b"], ["1", HOSTILE]],
    )
    text = page(HOSTILE, [section], tmp_path / "page.html", lead=HOSTILE, foot=HOSTILE).read_text("utf-8")
    reader = _Reader()
    reader.feed(text)
    assert reader.open == []
    assert len(reader.addresses) == 3
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert reader.handlers == {"input.oninput"}
    assert not {"script", "link", "iframe", "a", "object"} & set(reader.tags)
    assert not re.search(r"https?://|url\(|@import|//[a-z]", text)
    image = Image.open(io.BytesIO(base64.b64decode(reader.addresses[-1].partition(",")[2])))
    assert np.array_equal(np.asarray(image), picture().pixels)


def test_equal_sections_give_equal_pages(tmp_path: Path) -> None:
    sections = [Section("one", rows=[[picture()]])]
    first = page("t", sections, tmp_path / "a.html").read_bytes()
    assert first == page("t", sections, tmp_path / "b.html").read_bytes()


@pytest.mark.slow
def test_a_browser_shows_the_pictures(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium here")
    colours = [(200, 30, 40), (30, 160, 60)]
    pictures = [
        Picture(np.full((8, 8, 3), colour, np.uint8), f"picture {i}") for i, colour in enumerate(colours)
    ]
    path = page(HOSTILE, [Section(HOSTILE, rows=[pictures])], tmp_path / "page.html")
    shot = tmp_path / "shot.png"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1000,900",
         f"--screenshot={shot}", path.as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    for colour in colours:
        assert (np.abs(seen - colour).max(axis=-1) <= 2).sum() > 1000
