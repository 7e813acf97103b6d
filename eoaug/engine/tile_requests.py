"""What a tile knows: input pixels of a chunk in model units, what is to be filled, and the `Request`.

Reads stored numbers, applies validity and scaling, chooses context dates; knows no generator's insides
and merges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.layout import Layer
from eoaug.engine.plan import Plan
from eoaug.generators.base import (
    COARSE_HALO,
    CONTEXT_CELL_PX,
    CONTEXT_CELLS,
    CONTEXT_PX,
    METADATA_FIELDS,
    Request,
    metadata_rows,
)
from eoaug.raster.grid import lonlat
from eoaug.raster.tiles import Tile, Window

__all__ = ["ChunkInputs", "fill_mask", "places", "read_chunk_inputs", "tile_request", "valid"]


@dataclass
class ChunkInputs:
    """Input pixels of one chunk, in model units, over the window `reach` of the result's grid."""

    reach: Window
    dates: range
    values: NDArray[np.float32]
    """Shape (n, C, h, w) on the input's grid; 0 where not known."""
    known: NDArray[np.bool_]
    """Shape (n, C, h, w)."""
    mask: NDArray[np.bool_] | None
    layout: NDArray[np.float32] | None

    @cached_property
    def cells(self) -> NDArray[np.float32]:
        """Shape (n, C, rows, columns): means of the known pixels of each cell that touches `reach`.

        Cells of `CONTEXT_CELL_PX` pixels, counted from absolute pixel 0; NaN where nothing is known.
        """
        cells = self.reach.coarsen(CONTEXT_CELL_PX)
        whole = cells.scale(CONTEXT_CELL_PX)
        rows, cols = self.reach.within(whole)
        out = np.empty((*self.values.shape[:2], *cells.shape), np.float32)
        for date, (values, known) in enumerate(zip(self.values, self.known, strict=True)):
            sums = []
            for image in (values, known):
                framed = np.zeros((len(image), *whole.shape), np.float32)
                framed[:, rows, cols] = image
                sums.append(_cell_sums(framed))
            total, count = sums
            out[date] = np.divide(total, count, out=np.full(total.shape, np.float32(np.nan)), where=count > 0)
        return out


def _cell_sums(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums over cells, one line of pixels after the other: the order must not depend on the size."""
    for axis in (1, 2):
        lines = np.moveaxis(image, axis, 0)
        total = lines[0::CONTEXT_CELL_PX].copy()
        for first in range(1, CONTEXT_CELL_PX):
            total += lines[first::CONTEXT_CELL_PX]
        image = np.moveaxis(total, 0, axis)
    return image


def read_chunk_inputs(plan: Plan, core: Window, dates: range, arrays: Sequence[NDArray[Any]]) -> ChunkInputs:
    """Return what is known around ``core`` on ``dates``, from arrays in `Inputs.arrays` order."""
    reach = plan.reach(core)
    shape = plan.source_window(reach).shape
    values = np.zeros((len(dates), plan.channels, *shape), np.float32)
    known = np.zeros(values.shape, bool)
    rest = list(arrays[len(plan.layers) if plan.has_input else 0 :])
    mask = np.asarray(rest.pop(0), bool) if plan.fill == "mask" else None
    layout = np.asarray(rest.pop(0), np.float32) if rest else None
    if plan.has_input:
        for layer, stored in zip(plan.layers, arrays, strict=False):
            # Date by date: on their way through float64 numbers take ten times their place.
            for date, image in enumerate(stored):
                good = valid(layer, image)
                known[date, layer.slot] = good
                values[date, layer.slot] = np.where(good, layer.to_model(np.where(good, image, 0)), 0.0)
    if mask is not None:
        known &= ~mask[:, None]
        values[~known] = 0.0
    return ChunkInputs(reach, dates, values, known, mask, layout)


def valid(layer: Layer, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True where a stored number is a measurement: finite, and not nodata."""
    good = np.isfinite(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, bool)
    if layer.nodata is not None and not np.isnan(layer.nodata):
        good &= stored != layer.nodata
    return good


def fill_mask(plan: Plan, k: int, scene: ChunkInputs) -> NDArray[np.bool_]:
    """Return shape (C, h, w) on the result's grid over ``scene.reach``: what to generate on date ``k``."""
    height, width = scene.reach.shape
    slots = [layer.slot for layer in plan.layers if plan.origin_of(layer) != "observed"]
    fill = np.zeros((plan.channels, height, width), bool)
    given = plan.given(k)
    if plan.fill == "scene":
        fill[slots] = True
        return fill
    if plan.verb == "extend" and given is not None:
        return fill
    local = None if given is None else given - scene.dates.start
    near = [d - scene.dates.start for d in plan.neighbours(k)]
    if plan.fill == "footprint":
        fill[slots] = scene.known[near].any(axis=(0, 1))
    elif plan.fill == "measured":
        fill[slots] = scene.known[local][slots].repeat(plan.factor, axis=1).repeat(plan.factor, axis=2)
    elif plan.fill == "mask":
        assert scene.mask is not None
        fill[slots] = scene.mask[local]
    elif plan.fill == "everything":
        fill[slots] = ~scene.known[local][slots]
    else:
        others = [d for d in near if d != local]
        fill[slots] = ~scene.known[local][slots] & scene.known[others].any(axis=0)[slots]
    return fill


def places(plan: Plan, tiles: list[Tile]) -> NDArray[np.float64]:
    """Return shape (n, 2), longitude and latitude of the tiles' centres in degrees."""
    half, stride = plan.lattice.size / 2, plan.lattice.stride
    rows = [tile.row * stride + half - plan.origin[0] for tile in tiles]
    cols = [tile.col * stride + half - plan.origin[1] for tile in tiles]
    # Five decimals are about a metre: two crops, whose affines round differently, must agree. Centres of grids in decimal
    # degrees lie on halves of the last one, where rounding would flip; nothing lies on the golden section.
    return np.floor(lonlat(plan.geobox, rows, cols) * 1e5 + 0.381966) / 1e5


def tile_request(
    plan: Plan,
    k: int,
    member: int,
    tile: Tile,
    place: NDArray[np.float64],
    scene: ChunkInputs,
    fill: NDArray[np.bool_],
) -> Request | None:
    """Return what a tile knows and is to fill on result date ``k``; None if there is nothing to fill.

    Parameters
    ----------
    plan, k, member, tile
        Which tile of which date and member.
    place
        Longitude and latitude of its centre in degrees.
    scene
        Input pixels around it.
    fill
        Shape (C, h, w) over ``scene.reach``, from `to_fill`.
    """
    window = plan.lattice.window(tile)
    inside = window & scene.reach
    if inside.empty:
        return None
    size, channels = plan.lattice.size, plan.channels
    to, at = inside.within(window), inside.within(scene.reach)
    here = fill[:, at[0], at[1]]
    given = plan.given(k)
    local = None if given is None else given - scene.dates.start
    common: dict[str, Any] = {
        "origin": (window.top, window.left),
        "grid_m": plan.grid_m,
        "prompt": plan.prompt,
        "member": member,
        "seed": plan.seed,
        "steps": plan.steps,
        "guidance": plan.guidance,
        "strength": plan.strength,
    }
    if scene.layout is not None:
        layout = np.zeros((len(scene.layout), size, size), np.float32)
        layout[:, to[0], to[1]] = scene.layout[:, at[0], at[1]]
        common["layout"] = layout
    if plan.sensor is not None:
        assert local is not None
        f = plan.factor
        # The sensor mixes neighbours: the tile sees the coarse pixels around it too.
        wide = window.pad(COARSE_HALO * f)
        near = wide & scene.reach
        rows, cols = plan.source_window(near).within(plan.source_window(scene.reach))
        good = scene.known[local][:, rows, cols]
        if not good.any():
            return None
        cells = size // f + 2 * COARSE_HALO
        coarse = np.full((1, channels, cells, cells), np.nan, np.float32)
        put = near.coarsen(f).within(wide.coarsen(f))
        coarse[0][:, *put] = np.where(good, scene.values[local][:, rows, cols], np.nan)
        whole = np.zeros((1, channels, size, size), bool)
        slots = [layer.slot for layer in plan.layers]
        for slot in slots:
            # Pixels under a coarse gap are made too: the sensor mixes them into its neighbours.
            whole[0, slot, to[0], to[1]] = True
        return Request(
            # Views of one number: nothing is known at this resolution.
            values=np.broadcast_to(np.float32(0), whole.shape),
            known=np.broadcast_to(False, whole.shape),
            fill=whole,
            times=plan.out_times[k : k + 1],
            metadata=_metadata(plan, k, [int(plan.out_times[k])], place),
            coarse=coarse,
            coarse_halo=COARSE_HALO,
            factor=f,
            sensor=plan.sensor,
            **common,
        )
    if not here.any():
        return None
    frames = _frames(plan, k, scene, at)
    slot_of_target = frames.index(None) if None in frames else frames.index(local)
    values = np.zeros((len(frames), channels, size, size), np.float32)
    known = np.zeros(values.shape, bool)
    filled = np.zeros(values.shape, bool)
    for i, frame in enumerate(frames):
        if frame is None or (frame == local and plan.fill in ("measured", "scene") and plan.strength >= 1):
            continue
        values[i][:, to[0], to[1]] = scene.values[frame][:, at[0], at[1]]
        known[i][:, to[0], to[1]] = scene.known[frame][:, at[0], at[1]]
    filled[slot_of_target][:, to[0], to[1]] = here
    if plan.looks_around:
        common["context_cells"] = _wide(window, scene, frames)
    if plan.looks_near:
        common["context_pixels"] = _near(window, scene, frames)
    times = [
        int(plan.out_times[k]) if i == slot_of_target else int(plan.in_times[scene.dates[frame]])  # type: ignore[index]
        for i, frame in enumerate(frames)
    ]
    return Request(
        values=values,
        known=known,
        fill=filled,
        times=np.asarray(times, np.int64),
        metadata=_metadata(plan, k, times, place, slot_of_target),
        **common,
    )


def _wide(window: Window, scene: ChunkInputs, frames: Sequence[int | None]) -> NDArray[np.float32]:
    """Return `Request.context_cells`: the cells around a tile on its dates."""
    wanted = window.pad(CONTEXT_CELLS * CONTEXT_CELL_PX).coarsen(CONTEXT_CELL_PX)
    there = scene.reach.coarsen(CONTEXT_CELL_PX)
    common = wanted & there
    to, at = common.within(wanted), common.within(there)
    out = np.full((len(frames), scene.values.shape[1], *wanted.shape), np.nan, np.float32)
    for i, frame in enumerate(frames):
        if frame is not None:
            out[i][:, *to] = scene.cells[frame][:, *at]
    return out


def _near(window: Window, scene: ChunkInputs, frames: Sequence[int | None]) -> NDArray[np.float32]:
    """Return `Request.context_pixels`: what was measured in a tile and around it."""
    wanted = window.pad(CONTEXT_PX)
    common = wanted & scene.reach
    to, at = common.within(wanted), common.within(scene.reach)
    out = np.full((len(frames), scene.values.shape[1], *wanted.shape), np.nan, np.float32)
    for i, frame in enumerate(frames):
        if frame is not None:
            known = scene.known[frame][:, *at]
            out[i][:, *to] = np.where(known, scene.values[frame][:, *at], np.float32(np.nan))
    return out


def _frames(plan: Plan, k: int, scene: ChunkInputs, at: tuple[slice, slice]) -> list[int | None]:
    """Return the dates of a tile's request, ascending, as indices into the scene; None is a new date.

    The context: first the nearest date on either side that shows at least half of the tile, then by
    distance in time; dates that show less than a twentieth never.
    """
    given = plan.given(k)
    local = None if given is None else given - scene.dates.start
    if not plan.card.context or plan.verb not in ("inpaint", "extend"):
        return [local]
    now = int(plan.out_times[k])
    slots = [layer.slot for layer in plan.layers]
    candidates = []
    for date in plan.neighbours(k):
        i = date - scene.dates.start
        if i == local:
            continue
        share = float(scene.known[i][:, at[0], at[1]][slots].mean())
        if share >= 0.05:
            gap = int(plan.in_times[date]) - now
            candidates.append((share < 0.5, abs(gap), gap, i))
    candidates.sort()
    before = [c for c in candidates if c[2] < 0][:1]
    after = [c for c in candidates if c[2] > 0][:1]
    chosen = sorted(before + after)[: plan.card.context]
    chosen += [c for c in candidates if c not in chosen][: plan.card.context - len(chosen)]
    frames: list[tuple[int, int | None]] = [(c[2], c[3]) for c in chosen]
    return [i for _, i in sorted([*frames, (0, local)], key=lambda f: f[0])]


def _metadata(
    plan: Plan, k: int, times: Sequence[int], place: NDArray[np.float64], target: int = 0
) -> NDArray[np.float64]:
    """Return `Request.metadata` of dates in seconds since 1970, of which ``target`` is result date ``k``."""
    cloud_fraction = np.full(len(times), np.nan)
    cloud_fraction[target] = plan.cloud[k]
    rows = metadata_rows(
        times,
        dated=plan.dated,
        lon_deg=place[0],
        lat_deg=place[1],
        gsd_m=plan.gsd_at(float(place[1])),
        cloud_fraction=cloud_fraction,
    )
    for name, value in plan.overrides.items():
        rows[target, METADATA_FIELDS.index(name)] = value
    return rows
