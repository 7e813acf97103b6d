"""The windows that a fine-tuning sees: of cubes in memory, or of the images of a training set, opened one at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import xarray as xr

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.captions.facts import facts_of
from eoaug.captions.facts_captioner import facts_caption
from eoaug.cube.dimensions import spatial_dims
from eoaug.datasets.training_cubes import TrainingCube, from_dataset
from eoaug.errors import ParameterError, SourceError
from eoaug.raster.arrays import Float32Array

__all__ = ["CaptionedWindow", "CubeWindows", "ItemWindows", "Windows"]

_CLEAR = 0.95
"""Smallest share of clear pixels in a window."""
_DRAWS = 1000
"""Random windows to try before giving up."""
_SEVERAL = 3
"""Captions of a window from its facts, of which a step takes one."""
_LISTED = 20
"""Images whose captions the card of a training set lists."""

Captions = Mapping[str, Sequence[str]]
"""Captions by name of the cube or id of the item."""


@dataclass(frozen=True)
class CaptionedWindow:
    """A window of a step."""

    image: Float32Array
    """(3, edge, edge) in [-1, 1]."""
    captions: Sequence[str]
    """Of which the step takes one; at least one."""
    time: int
    """Seconds since 1970; 0 if the date is unknown."""
    lonlat_deg: tuple[float, float]
    gsd_m: float


class Windows(Protocol):
    """Where windows come from."""

    def draw(self, rng: np.random.Generator) -> CaptionedWindow:
        """Return a random clear window, rotated and mirrored at random."""

    def identity(self) -> Any:
        """Return JSON values that change with pixels and captions."""

    def captions(self) -> dict[str, Any]:
        """Return what the card of the result says about captions."""

    def captions_by_name(self) -> Captions:
        """Return all captions that are known before a window is drawn."""


class CubeWindows:
    """Windows of cubes in memory.

    Parameters
    ----------
    cubes
        Cubes; those with all bands and edges of at least ``edge`` are used.
    edge
        Of a window, in pixels.
    stretch
        Values of the bands that are mapped to -1 and 1.
    captions
        By name.
    default
        Caption of cubes without one.
    """

    def __init__(
        self,
        cubes: Sequence[TrainingCube],
        edge: int,
        stretch: tuple[float, float],
        captions: Captions,
        default: str,
    ) -> None:
        self.cubes = [cube for cube in cubes if _is_usable(cube, edge)]
        if not self.cubes:
            raise SourceError(
                f"none of {len(cubes)} cubes has all three bands and {edge} pixels or more",
                "give larger cubes, a smaller tile_px, or other bands",
            )
        self._edge, self._stretch = edge, stretch
        self._captions = {cube.name: list(captions.get(cube.name) or [default]) for cube in self.cubes}

    def draw(self, rng: np.random.Generator) -> CaptionedWindow:
        """Return a random clear window, rotated and mirrored at random."""
        for _ in range(_DRAWS):
            cube = self.cubes[int(rng.integers(len(self.cubes)))]
            found = _window(cube, self._edge, self._stretch, rng)
            if found is not None:
                return _described(cube, found, self._captions[cube.name])
        raise _clouded(self._edge)

    def identity(self) -> Any:
        """Return JSON values that change with pixels and captions."""
        pixels = [np.ascontiguousarray(cube.values).view(np.uint8).reshape(-1) for cube in self.cubes]
        hashes = [[cube.name, sha256(own).hexdigest()] for cube, own in zip(self.cubes, pixels, strict=True)]
        return [hashes, self._captions]

    def captions(self) -> dict[str, Any]:
        """Return the captions by name: a text, or several."""
        return {name: own[0] if len(own) == 1 else own for name, own in self._captions.items()}

    def captions_by_name(self) -> Captions:
        """Return all captions."""
        return self._captions


class ItemWindows:
    """Windows of the images of a training set, of which one at a time is in memory.

    Parameters
    ----------
    train
        Its split ``train``, or all images where none has a split.
    bands
        Of the three channels.
    edge, stretch
        As for `CubeWindows`.
    captions
        By id; ``"facts"``: of every window from what is known of it, such as the shares of its label map.
    default
        Caption of images without one.
    """

    def __init__(
        self,
        train: TrainingSet,
        bands: Sequence[str],
        edge: int,
        stretch: tuple[float, float],
        captions: Captions | str,
        default: str,
    ) -> None:
        if isinstance(captions, str) and captions != "facts":
            raise ParameterError(
                f"captions={captions!r} is unknown",
                "give 'facts', a file of `eoaug caption`, or captions by id",
            )
        self.train = train.split("train") if any(train.splits) else train
        self._bands, self._edge, self._stretch = tuple(bands), edge, stretch
        self._given, self._default = captions, default
        first = self.train.first_readable()
        cube = from_dataset(first.open(), first.id, self._bands)
        if not _is_usable(cube, edge):
            raise SourceError(
                f"image {first.id!r} has {cube.values.shape[2]} x {cube.values.shape[3]} pixels, a window {edge}",
                f"set tile_px to {min(cube.values.shape[2:])} or less",
            )

    def draw(self, rng: np.random.Generator) -> CaptionedWindow:
        """Return a random clear window, rotated and mirrored at random."""
        for _ in range(_DRAWS):
            item = self.train[int(rng.integers(len(self.train)))]
            ds = item.open()
            cube = from_dataset(ds, item.id, self._bands)
            found = _window(cube, self._edge, self._stretch, rng) if _is_usable(cube, self._edge) else None
            if found is not None:
                return _described(cube, found, self._own_captions(item, ds, found))
        raise _clouded(self._edge)

    def _own_captions(self, item: TrainingItem, ds: xr.Dataset, found: _Found) -> Sequence[str]:
        if not isinstance(self._given, str):
            return self._given.get(item.id) or [self._default]
        rows, cols = (slice(begin, begin + self._edge) for begin in (found.row, found.col))
        y, x = spatial_dims(ds)
        part = ds.isel({y: rows, x: cols})
        if "time" in part.dims:
            part = part.isel(time=[found.date])
        facts = facts_of(replace(item, source=_Opened(part, item)), self.train)
        return [facts_caption(facts, item.id, number) for number in range(_SEVERAL)]

    def identity(self) -> Any:
        """Return JSON values that change with pixels and captions."""
        digest = sha256()
        for item in self.train:
            digest.update(item.identity.encode())
        given = self._given if isinstance(self._given, str) else {k: list(v) for k, v in self._given.items()}
        return [digest.hexdigest(), given, self._default]

    def captions(self) -> dict[str, Any]:
        """Return the captions of the first images."""
        if isinstance(self._given, str):
            return {"of every window": "its facts"}
        return {item.id: list(self._given.get(item.id) or [self._default]) for item in self.train[:_LISTED]}

    def captions_by_name(self) -> Captions:
        """Return all captions; none of windows."""
        if isinstance(self._given, str):
            return {}
        own = {item.id for item in self.train}
        return {**{name: some for name, some in self._given.items() if name in own}, "": [self._default]}


@dataclass(frozen=True)
class _Opened:
    """A part of an item that is in memory."""

    part: xr.Dataset
    whole: TrainingItem

    def open(self) -> xr.Dataset:
        return self.part

    def place(self) -> tuple[float, float] | None:
        return self.whole.place

    def identity(self) -> str:
        return self.whole.identity


@dataclass(frozen=True)
class _Found:
    """Where a window lies in a cube, and its picture."""

    date: int
    row: int
    col: int
    image: Float32Array


def _is_usable(cube: TrainingCube, edge: int) -> bool:
    return bool(cube.bands.all()) and min(cube.values.shape[2:]) >= edge


def _window(
    cube: TrainingCube, edge: int, stretch: tuple[float, float], rng: np.random.Generator
) -> _Found | None:
    """Return a random window, rotated and mirrored at random; None for one with clouds or gaps."""
    low, high = stretch
    T, _, H, W = cube.values.shape
    date = int(rng.integers(T))
    row, col = int(rng.integers(H - edge + 1)), int(rng.integers(W - edge + 1))
    here = (slice(row, row + edge), slice(col, col + edge))
    values = cube.values[date, :, *here]
    turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
    if cube.clear[date][here].mean() < _CLEAR or not np.isfinite(values).all():
        return None
    image = np.clip(2 * (values - low) / (high - low) - 1, -1, 1)
    image = np.rot90(image[:, :, ::-1] if mirror else image, turns, axes=(1, 2))
    return _Found(date, row, col, np.ascontiguousarray(image, np.float32))


def _described(cube: TrainingCube, found: _Found, captions: Sequence[str]) -> CaptionedWindow:
    return CaptionedWindow(found.image, captions, int(cube.times[found.date]), cube.lonlat_deg, cube.gsd_m)


def _clouded(edge: int) -> SourceError:
    return SourceError(
        f"{_DRAWS} random windows of {edge} pixels held clouds or gaps",
        "give clearer images, or a smaller tile_px",
    )
