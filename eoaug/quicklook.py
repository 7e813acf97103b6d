"""Pictures of cubes: `rgb` makes one, `sheet` a PNG of many, `page` an HTML page that works offline.

Colours are a fixed function of reflectance or backscatter, never of a scene's statistics: two pictures
can be compared, and a result looks brighter only when it is brighter.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eoaug.cube.model import CubeBand
from eoaug.cube.read import read_cube
from eoaug.cube.synthetic import SYNTHETIC
from eoaug.errors import BandError, ParameterError, TimeError, error_context, printable

__all__ = ["LOOKS", "Look", "Picture", "Section", "Thumbnail", "enlarge", "page", "rgb", "shade", "sheet"]

Look = Literal["true", "nir", "swir", "radar"]
"""Which bands are shown as red, green and blue; see `LOOKS`."""

LOOKS: Mapping[str, tuple[str, str, str]] = {
    "true": ("red", "green", "blue"),
    "nir": ("nir", "red", "green"),
    "swir": ("swir16", "nir", "red"),
    "radar": ("vv", "vh", "vv"),
}
"""Common names of the bands shown as (red, green, blue)."""

MISSING = (128, 128, 134)
"""Colour of pixels without data."""

HIDDEN = (236, 238, 242)
"""Colour that `shade` lays over pixels."""

_Image = NDArray[np.uint8]

_GAMMA = 1.7
_TOP = {"nir": 0.5, "nir08": 0.5, "nir09": 0.5, "rededge078": 0.5, "rededge075": 0.5, "swir16": 0.45}
"""Reflectance shown as white, where it is not `_DEFAULT_TOP`."""
_DEFAULT_TOP = 0.3
_DECIBEL = {"vv": (-25.0, 0.0), "hh": (-25.0, 0.0), "vh": (-32.0, -5.0), "hv": (-32.0, -5.0)}
"""Backscatter in dB shown as black and as white."""
_KELVIN = (250.0, 330.0)


# -- one picture ------------------------------------------------------------------------------------


def rgb(
    ds: xr.Dataset | xr.DataArray,
    time: int | str | np.datetime64 | None = None,
    *,
    look: Look | None = None,
    member: int = 0,
) -> _Image:
    """Return a cube's picture at one date; a pixel's colour depends on that pixel alone.

    Reflectance 0 to 0.3 (near infrared 0 to 0.5) becomes black to white with a gamma of 1.7; radar
    backscatter is shown in dB over a fixed range.

    Parameters
    ----------
    ds
        Bands with common names, a known sensor's names, or a common name as name.
    time
        Index or date; None: the first.
    look
        ``"true"`` colour, ``"nir"`` or ``"swir"`` false colour, ``"radar"`` (red VV, green VH, blue
        their difference). Default: the first of these that the bands allow, else the first band in grey.
    member
        Index along ``member``, where there is one.

    Returns
    -------
    Shape (H, W, 3), uint8; `MISSING` where a band has no data.

    Raises
    ------
    EoaugError
        A band, date or grid that the picture needs is not there.

    Examples
    --------
    >>> image = rgb(cube, "2018-05-04", look="nir")  # doctest: +SKIP
    """
    if "member" in ds.dims:
        ds = ds.isel(member=member)
    ds = ds.drop_vars(SYNTHETIC, errors="ignore")
    with error_context("a picture"):
        cube = read_cube(ds)
    bands = {str(band.common_name or band.name): band for band in cube.bands}
    index = _date_index(cube.times, time)
    names = _bands_of_look(look, bands)
    if names is None:
        grey = _shown(*_physical(cube.bands[0], index))
        return np.repeat(grey[..., None], 3, axis=-1)
    return _picture(names, bands, index)


def _picture(names: tuple[str, str, str], bands: Mapping[str, CubeBand], index: int) -> _Image:
    if names == LOOKS["radar"]:
        return _radar(bands["vv"], bands["vh"], index)
    channels = [_physical(bands[name], index) for name in names]
    image = np.stack([_shown(*channel) for channel in channels], axis=-1)
    image[~np.all([np.isfinite(values) for values, _ in channels], axis=0)] = MISSING
    return image


def _date_index(times: NDArray[np.datetime64] | None, time: Any) -> int:
    count = 1 if times is None else len(times)
    if time is None:
        return 0
    if isinstance(time, int | np.integer):
        if not -count <= time < count:
            raise TimeError(f"time={time} is outside the cube's {count} dates", "count from 0")
        return int(time) % count
    if times is None:
        raise TimeError(f"time={time!r} does not go with a cube without dates", "leave time out")
    try:
        wanted = np.datetime64(time)
    except ValueError as error:
        raise TimeError(f"time={time!r} is not a date", "write it like 2018-05-04") from error
    hits = np.flatnonzero(times.astype(wanted.dtype) == wanted)
    if len(hits) == 0:
        shown = ", ".join(str(t.astype("datetime64[D]")) for t in times[:5])
        raise TimeError(f"the cube has no date {time}", f"its dates begin with {shown}")
    return int(hits[0])


def _bands_of_look(look: str | None, bands: Mapping[str, CubeBand]) -> tuple[str, str, str] | None:
    if look is None:
        return next((names for names in LOOKS.values() if set(names) <= set(bands)), None)
    if look not in LOOKS:
        raise ParameterError(f"there is no look {look!r}", f"use one of {', '.join(LOOKS)}")
    names = LOOKS[look]
    if missing := [name for name in names if name not in bands]:
        raise BandError(
            f"look={look!r} needs band {missing[0]!r}; the cube has {', '.join(bands)}",
            "load that band, or choose another look",
        )
    return names


def _physical(band: CubeBand, index: int) -> tuple[NDArray[np.float64], str]:
    stored = np.asarray(band.data[index])
    values = band.scaling(stored)
    if band.nodata is not None and not math.isnan(band.nodata):
        values[stored == band.nodata] = np.nan
    return values, str(band.common_name or band.name)


def _shown(values: NDArray[np.float64], common: str) -> _Image:
    if common in _DECIBEL:
        low, high = _DECIBEL[common]
        unit = (values - low) / (high - low)
    elif common.startswith("lwir"):
        unit = (values - _KELVIN[0]) / (_KELVIN[1] - _KELVIN[0])
    else:
        unit = np.clip(values / _TOP.get(common, _DEFAULT_TOP), 0.0, 1.0) ** (1 / _GAMMA)
    return _bytes(np.where(np.isfinite(unit), unit, 0.5))


def _radar(vv: CubeBand, vh: CubeBand, index: int) -> _Image:
    (first, _), (second, _) = _physical(vv, index), _physical(vh, index)
    # 0 to 15 dB: bare soil and water on top, forest below.
    image = np.stack(
        [_shown(first, "vv"), _shown(second, "vh"), _bytes(np.nan_to_num((first - second) / 15.0))], axis=-1
    )
    image[~(np.isfinite(first) & np.isfinite(second))] = MISSING
    return image


def _bytes(unit: NDArray[np.floating[Any]]) -> _Image:
    return np.asarray(np.rint(np.clip(unit, 0.0, 1.0) * 255), dtype=np.uint8)


def shade(image: _Image, mask: NDArray[np.bool_], *, colour: tuple[int, int, int] = HIDDEN) -> _Image:
    """Return ``image`` with the pixels under ``mask`` in one colour, as a cloud hides them.

    Parameters
    ----------
    image
        Shape (H, W, 3).
    mask
        Shape (H, W), True = covered.
    colour
        Red, green, blue.
    """
    if image.shape[:2] != mask.shape:
        raise ParameterError(
            f"the mask has {mask.shape[0]} x {mask.shape[1]} pixels, the picture {image.shape[0]} x "
            f"{image.shape[1]}",
            "give a mask of the picture's shape",
        )
    covered = image.copy()
    covered[mask] = colour
    return covered


def enlarge(image: _Image, edge_px: int) -> _Image:
    """Return ``image`` enlarged a whole number of times, so that its short edge has ``edge_px`` or less.

    Pixels stay sharp squares; a larger picture is returned unchanged.
    """
    times = max(edge_px // min(image.shape[:2]), 1)
    return np.asarray(image.repeat(times, axis=0).repeat(times, axis=1))


# -- many pictures ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and what it shows."""

    pixels: _Image
    """Shape (H, W, 3)."""
    caption: str
    """A few words."""
    note: str = ""
    """A second line: a figure, a date."""


@dataclass(frozen=True, eq=False)
class Section:
    """Pictures that belong together, under a heading."""

    title: str
    rows: Sequence[Sequence[Picture]] = ()
    """Pictures side by side, row by row."""
    text: str = ""
    """A paragraph of plain text; a blank line begins a new one."""
    compare: tuple[Picture, Picture] | None = None
    """Two pictures of one shape laid over each other, with a handle to slide between them (pages only)."""
    table: Sequence[Sequence[str]] = ()
    """Rows of cells, the first row as heading (pages only)."""


_EDGE_PX = 240
_GAP_PX = 16
_INK, _FAINT, _PAPER = (28, 31, 36), (96, 102, 112), (255, 255, 255)


def sheet(sections: Sequence[Section], path: str | os.PathLike[str], *, edge_px: int = _EDGE_PX) -> Path:
    """Write all pictures on one PNG sheet with titles and captions.

    Parameters
    ----------
    sections
        What to show; texts and tables are left out.
    path
        The file; it is replaced.
    edge_px
        Small pictures are enlarged a whole number of times up to this edge.

    Returns
    -------
    pathlib.Path
        ``path``.
    """
    title_font, font = ImageFont.load_default(19), ImageFont.load_default(14)
    drawn = [_Row.of(section.title if k == 0 else "", row, edge_px)
             for section in sections for k, row in enumerate(section.rows)]  # fmt: skip
    if not drawn:
        raise ParameterError("the sheet has no picture", "give sections with rows of pictures")
    width = max(row.width for row in drawn) + 2 * _GAP_PX
    canvas = Image.new("RGB", (width, sum(row.height for row in drawn) + _GAP_PX), _PAPER)
    pen = ImageDraw.Draw(canvas)
    top = _GAP_PX
    for row in drawn:
        if row.title:
            pen.text((_GAP_PX, top), row.title, _INK, title_font)
        left, below = _GAP_PX, top + row.head
        for picture, pixels in zip(row.pictures, row.images, strict=True):
            canvas.paste(Image.fromarray(pixels), (left, below))
            under = below + pixels.shape[0] + 4
            room = max(pixels.shape[1], edge_px)
            pen.text((left, under), _fitted(picture.caption, font, room), _INK, font)
            pen.text((left, under + 18), _fitted(picture.note, font, room), _FAINT, font)
            left += room + _GAP_PX
        top += row.height
    target = Path(path)
    canvas.save(target, format="PNG", optimize=True)
    return target


@dataclass(frozen=True)
class _Row:
    title: str
    pictures: Sequence[Picture]
    images: Sequence[_Image]
    head: int
    """Pixels that the title takes."""
    height: int
    width: int

    @classmethod
    def of(cls, title: str, pictures: Sequence[Picture], edge_px: int) -> _Row:
        images = [enlarge(picture.pixels, edge_px) for picture in pictures]
        head = 30 if title else 0
        height = head + max((image.shape[0] for image in images), default=0) + 44 + _GAP_PX
        width = sum(max(image.shape[1], edge_px) + _GAP_PX for image in images) - _GAP_PX
        return cls(title, pictures, images, head, height, max(width, 9 * len(title)))


def _fitted(text: str, font: Any, room: int) -> str:
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."


def page(
    title: str, sections: Sequence[Section], path: str | os.PathLike[str], *, lead: str = "", foot: str = ""
) -> Path:
    """Write one HTML file that holds everything it shows: no link to another file or host.

    Parameters
    ----------
    title
        Heading of the page.
    sections
        What to show. All text is escaped.
    path
        The file; it is replaced.
    lead, foot
        Plain text before and after the sections.

    Returns
    -------
    pathlib.Path
        ``path``.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["png"] = _data_url
    environment.filters["paragraphs"] = lambda text: [
        paragraph for paragraph in text.split("\n\n") if paragraph.strip()
    ]
    source = resources.files("eoaug").joinpath("quicklook.html").read_text(encoding="utf-8")
    text = environment.from_string(source).render(title=title, sections=sections, lead=lead, foot=foot)
    target = Path(path)
    target.write_text(text, encoding="utf-8")
    return target


# -- thumbnails, block by block ----------------------------------------------------------------------


THUMBNAIL_PX = 192
"""Longest edge of a thumbnail."""


class Thumbnail:
    """A small picture of one date, from blocks of a cube that is never in memory as a whole.

    It shows every n-th pixel, so that its bytes do not depend on the blocks.

    Parameters
    ----------
    ds
        The cube, lazy or not; over (time, y, x).
    """

    def __init__(self, ds: xr.Dataset) -> None:
        cube = read_cube(ds.drop_vars(SYNTHETIC, errors="ignore"))
        bands = {str(band.common_name or band.name): band for band in cube.bands}
        names = _bands_of_look(None, bands) or (next(iter(bands)),) * 3
        self._names = names
        self._bands = {name: replace(bands[name], data=None) for name in names}
        height, width = cube.shape_yx
        self._step = -(-max(height, width) // THUMBNAIL_PX)
        self._pixels: _Image = np.full(
            (-(-height // self._step), -(-width // self._step), 3), MISSING, np.uint8
        )

    def put(self, rows: slice, cols: slice, values: Mapping[str, NDArray[Any]]) -> None:
        """Show a block.

        Parameters
        ----------
        rows, cols
            Its place in the cube.
        values
            By variable, shape (rows, cols): numbers as in the cube.
        """
        top, left = -(-rows.start // self._step), -(-cols.start // self._step)
        inner = (
            slice(top * self._step - rows.start, None, self._step),
            slice(left * self._step - cols.start, None, self._step),
        )
        bands = {
            name: replace(band, data=values[band.name][inner][None]) for name, band in self._bands.items()
        }
        image = _picture(self._names, bands, 0)
        self._pixels[top : top + image.shape[0], left : left + image.shape[1]] = image

    def png(self) -> bytes:
        """Return the picture as a PNG file."""
        buffer = io.BytesIO()
        Image.fromarray(self._pixels).save(buffer, format="PNG")
        return buffer.getvalue()


def _data_url(pixels: _Image) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
