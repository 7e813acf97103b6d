"""From the input pixels of a chunk to the `Request` of each of its tiles.

Reads stored numbers, applies validity and scaling, chooses context dates. Knows nothing of how generators
work, and merges nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.engine.plan import Plan
from eoaug.engine.values import Layer
from eoaug.generators.base import (
    COARSE_HALO,
    CONTEXT_CELL_PX,
    CONTEXT_CELLS,
    METADATA_FIELDS,
    Request,
    metadata_rows,
)
from eoaug.raster.grid import lonlat
from eoaug.raster.plausible import check_units, sample
from eoaug.raster.products import UNKNOWN_PRODUCT
from eoaug.raster.tiles import Tile, Window

__all__ = ["ChunkDate", "ChunkInputs", "read_chunk_inputs", "tile_centres", "tile_request", "valid"]


@dataclass
class ChunkInputs:
    """Input pixels of one chunk, in model units, over the window `reach` of the result's grid."""

    reach: Window
    dates: range
    """Indices of the n given dates that were read."""
    values: NDArray[np.float32]
    """Shape (n, C, h, w) on the input's grid; 0 where not known."""
    known: NDArray[np.bool_]
    """Shape (n, C, h, w)."""
    measured: NDArray[np.bool_]
    """Shape (n, C, h, w): what is known, and what a mask hides."""
    mask: NDArray[np.bool_] | None
    """Shape (n, h, w), what is no measurement of the ground; None without a mask."""
    layout: NDArray[np.float32] | None
    """Shape (K, h, w), the conditioning raster on the result's grid."""

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
    """Return the input pixels around ``core`` on ``dates``, from arrays in `Inputs.arrays` order."""
    reach = plan.reach(core)
    shape = plan.grid.source_window(reach).shape
    values = np.zeros((len(dates), plan.bands.channels, *shape), np.float32)
    known = np.zeros(values.shape, bool)
    has_input, layers = plan.calendar.has_input, plan.bands.layers
    rest = list(arrays[len(layers) if has_input else 0 :])
    masked = len(rest) > (plan.bands.layout_planes > 0)
    mask = _mask_of_dates(plan, dates, np.asarray(rest.pop(0), bool)) if masked else None
    layout = np.asarray(rest.pop(0), np.float32) if rest else None
    if has_input:
        for layer, stored in zip(layers, arrays, strict=False):
            # Date by date: conversion through float64 takes ten times the memory of the numbers.
            for date, image in enumerate(stored):
                good = valid(layer, image)
                known[date, layer.slot] = good
                if layer.unchecked is not None and good.any():
                    looked_at = np.where(sample(good), sample(image), np.nan).astype(np.float64)
                    check_units(layer.name, layer.unchecked, looked_at)
                values[date, layer.slot] = np.where(good, layer.to_model(np.where(good, image, 0)), 0.0)
    measured = known
    if mask is not None:
        hidden = np.broadcast_to(mask[:, None], measured.shape)
        if plan.verb == "translate":
            hidden = hidden.copy()
            hidden[:, plan.bands.seen_through] = False
        known = measured & ~hidden
        values[~known] = 0.0
    return ChunkInputs(reach, dates, values, known, measured, mask, layout)


def _mask_of_dates(plan: Plan, dates: range, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask of given dates, some of which may have been generated: those have none."""
    calendar = plan.calendar
    if calendar.mask_times is None:
        return mask
    out = np.zeros((len(dates), *mask.shape[1:]), bool)
    times = calendar.mask_times[slice(calendar.mask_dates(dates).start, calendar.mask_dates(dates).stop)]
    out[np.searchsorted(calendar.in_times[slice(dates.start, dates.stop)], times)] = mask
    return out


def valid(layer: Layer, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True where a stored number is a measurement: finite, and not nodata."""
    good = np.isfinite(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, bool)
    if layer.nodata is not None and not np.isnan(layer.nodata):
        good &= stored != layer.nodata
    if not layer.to_physical.everywhere:
        good &= layer.to_physical.defined(np.where(good, stored, 0))
    return good


@dataclass(frozen=True)
class ChunkDate:
    """One date of a chunk: its input pixels, and which pixels to generate."""

    plan: Plan
    inputs: ChunkInputs
    date: int
    """Index of the result date."""
    given: int | None
    """Index of the date in ``inputs``; None for a new date."""
    fill: NDArray[np.bool_]
    """Shape (C, h, w) over ``inputs.reach``: what to generate."""

    @classmethod
    def of(cls, plan: Plan, inputs: ChunkInputs, date: int) -> ChunkDate:
        """Return a date of a chunk with the pixels that the plan's fill rule generates."""
        given = plan.calendar.given(date)
        local = None if given is None else given - inputs.dates.start
        return cls(plan, inputs, date, local, _fill_mask(plan, inputs, date, local))


def _fill_mask(plan: Plan, inputs: ChunkInputs, date: int, given: int | None) -> NDArray[np.bool_]:
    slots = plan.bands.slots_from("generated", "transferred")
    fill = np.zeros((plan.bands.channels, *inputs.reach.shape), bool)
    if plan.fill == "scene":
        fill[slots] = True
        return fill
    if plan.verb == "extend" and given is not None:
        return fill
    near = [d - inputs.dates.start for d in plan.neighbours(date)]
    factor = plan.grid.factor
    if plan.fill == "footprint":
        fill[slots] = inputs.measured[near].any(axis=(0, 1))
    elif plan.fill == "measured":
        # Under a mask a variation has land in place of cloud, and a finer grid has nothing.
        shown = inputs.measured if plan.verb == "synthesize" else inputs.known
        fill[slots] = shown[given][slots].repeat(factor, axis=1).repeat(factor, axis=2)
    elif plan.fill == "mask":
        assert inputs.mask is not None
        fill[slots] = inputs.mask[given]
    elif plan.fill == "everything":
        fill[slots] = ~inputs.known[given][slots]
    elif plan.fill == "translated":
        evidence = inputs.known[given].any(axis=0) | inputs.known[near][:, slots].any(axis=(0, 1))
        fill[slots] = ~inputs.known[given][slots] & evidence
    else:
        others = [d for d in near if d != given]
        fill[slots] = ~inputs.known[given][slots] & inputs.known[others].any(axis=0)[slots]
    return fill


def tile_centres(plan: Plan, tiles: list[Tile]) -> NDArray[np.float64]:
    """Return shape (n, 2), longitude and latitude of the tiles' centres in degrees."""
    half, stride = plan.lattice.size / 2, plan.lattice.stride
    top, left = plan.grid.origin
    rows = [tile.row * stride + half - top for tile in tiles]
    cols = [tile.col * stride + half - left for tile in tiles]
    # Five decimals are about a metre: two crops, whose affines round differently, must agree. Centres of grids in decimal
    # degrees lie on halves of the last decimal, where rounding would flip; none lies on the golden section.
    return np.floor(lonlat(plan.grid.geobox, rows, cols) * 1e5 + 0.381966) / 1e5


def tile_request(chunk: ChunkDate, member: int, tile: Tile, centre: NDArray[np.float64]) -> Request | None:
    """Return the request of one tile; None if there is nothing to fill.

    Parameters
    ----------
    chunk
        The date of the chunk that the tile belongs to.
    member
        Number of the ensemble member.
    tile
        The tile, by its index on the lattice.
    centre
        Longitude and latitude of its centre in degrees.
    """
    plan, inputs = chunk.plan, chunk.inputs
    window = plan.lattice.window(tile)
    inside = window & inputs.reach
    if inside.empty:
        return None
    conditions: dict[str, Any] = {
        "origin": (window.top, window.left),
        "grid_m": plan.grid_m,
        "prompt": plan.sampling.prompt,
        "member": member,
        "seed": plan.sampling.seed,
        "steps": plan.sampling.steps,
        "guidance": plan.sampling.guidance,
        "strength": plan.sampling.strength,
        "extra_kinds": tuple(layer.extra_kind for layer in plan.bands.extra),
    }
    if plan.verb in ("translate", "synthesize"):
        conditions |= _meaning_of_channels(plan)
    if inputs.layout is not None:
        layout = np.zeros((len(inputs.layout), *window.shape), np.float32)
        layout[:, *inside.within(window)] = inputs.layout[:, *inside.within(inputs.reach)]
        conditions["layout"] = layout
    if plan.grid.guided:
        return _guided_request(chunk, window, centre, conditions)
    if plan.grid.sensor is not None:
        return _coarse_request(chunk, window, centre, conditions)
    return _dated_request(chunk, window, centre, conditions)


def _meaning_of_channels(plan: Plan) -> dict[str, Any]:
    """Return `Request.translated`, `Request.channel_names`, `Request.channel_units` and `Request.channel_products`."""
    names, units = [""] * plan.bands.channels, [(0.0, 1.0)] * plan.bands.channels
    products = [UNKNOWN_PRODUCT] * plan.bands.channels
    for layer in plan.bands.layers:
        back = layer.to_model.inverse.then(layer.to_physical)
        names[layer.slot], units[layer.slot] = layer.common_name, (back.offset, back.scale)
        products[layer.slot] = layer.product
    return {
        "translated": plan.verb == "translate",
        "channel_names": tuple(names),
        "channel_units": tuple(units),
        "channel_products": tuple(products),
    }


def _coarse_request(
    chunk: ChunkDate, window: Window, centre: NDArray[np.float64], conditions: dict[str, Any]
) -> Request | None:
    """Return a request with the coarse measurement under a tile and around it, which the sensor mixes in."""
    plan, inputs, grid = chunk.plan, chunk.inputs, chunk.plan.grid
    assert chunk.given is not None
    wide = window.pad(COARSE_HALO * grid.factor)
    near = wide & inputs.reach
    rows, cols = grid.source_window(near).within(grid.source_window(inputs.reach))
    good = inputs.known[chunk.given][:, rows, cols]
    if not good.any():
        return None
    channels, cells = plan.bands.channels, wide.coarsen(grid.factor)
    coarse = np.full((1, channels, *cells.shape), np.nan, np.float32)
    put = near.coarsen(grid.factor).within(cells)
    coarse[0][:, *put] = np.where(good, inputs.values[chunk.given][:, rows, cols], np.nan)
    fill = np.zeros((1, channels, *window.shape), bool)
    inside = (window & inputs.reach).within(window)
    for slot in plan.bands.slots:
        # Pixels under a coarse gap are generated too: the sensor mixes them into its neighbours.
        fill[0, slot, *inside] = True
    return Request(
        # Views of one number: nothing is known at this resolution.
        values=np.broadcast_to(np.float32(0), fill.shape),
        known=np.broadcast_to(False, fill.shape),
        fill=fill,
        times=plan.calendar.out_times[chunk.date : chunk.date + 1],
        metadata=_metadata(chunk, [int(plan.calendar.out_times[chunk.date])], 0, centre),
        coarse=coarse,
        coarse_halo=COARSE_HALO,
        factor=grid.factor,
        sensor=grid.sensor,
        **conditions,
    )


def _guided_request(
    chunk: ChunkDate, window: Window, centre: NDArray[np.float64], conditions: dict[str, Any]
) -> Request | None:
    """Return a request with the coarse and fine bands of a tile and around it."""
    plan, inputs = chunk.plan, chunk.inputs
    inside = window & inputs.reach
    fill = np.zeros((1, plan.bands.channels, *window.shape), bool)
    fill[0][:, *inside.within(window)] = chunk.fill[:, *inside.within(inputs.reach)]
    if not fill.any():
        return None
    times = [int(plan.calendar.out_times[chunk.date])]
    return Request(
        values=np.broadcast_to(np.float32(0), fill.shape),
        known=np.broadcast_to(False, fill.shape),
        fill=fill,
        times=np.asarray(times, np.int64),
        metadata=_metadata(chunk, times, 0, centre),
        guided=plan.grid.guided,
        context_pixels=_context_pixels(window, inputs, [chunk.given], plan.context_px),
        **conditions,
    )


def _dated_request(
    chunk: ChunkDate, window: Window, centre: NDArray[np.float64], conditions: dict[str, Any]
) -> Request | None:
    """Return a request with the known pixels of a tile on its date and on its context dates."""
    plan, inputs = chunk.plan, chunk.inputs
    inside = window & inputs.reach
    to, at = inside.within(window), inside.within(inputs.reach)
    here = chunk.fill[:, *at]
    if not here.any():
        return None
    frames = _frames(chunk, at)
    target = frames.index(None) if None in frames else frames.index(chunk.given)
    values = np.zeros((len(frames), plan.bands.channels, *window.shape), np.float32)
    known = np.zeros(values.shape, bool)
    fill = np.zeros(values.shape, bool)
    regenerated = plan.fill in ("measured", "scene") and plan.sampling.strength >= 1
    for i, frame in enumerate(frames):
        if frame is None or (frame == chunk.given and regenerated):
            continue
        values[i][:, *to] = inputs.values[frame][:, *at]
        known[i][:, *to] = inputs.known[frame][:, *at]
    fill[target][:, *to] = here
    if plan.uses_context_cells:
        conditions["context_cells"] = _context_cells(window, inputs, frames)
    if plan.uses_context_pixels:
        conditions["context_pixels"] = _context_pixels(window, inputs, frames, plan.context_px)
    times = [
        int(plan.calendar.out_times[chunk.date])
        if i == target
        else int(plan.calendar.in_times[inputs.dates[frame]])  # type: ignore[index]
        for i, frame in enumerate(frames)
    ]
    return Request(
        values=values,
        known=known,
        fill=fill,
        times=np.asarray(times, np.int64),
        metadata=_metadata(chunk, times, target, centre),
        **conditions,
    )


def _context_cells(window: Window, inputs: ChunkInputs, frames: Sequence[int | None]) -> NDArray[np.float32]:
    """Return `Request.context_cells`: the cells around a tile on its dates."""
    wanted = window.pad(CONTEXT_CELLS * CONTEXT_CELL_PX).coarsen(CONTEXT_CELL_PX)
    available = inputs.reach.coarsen(CONTEXT_CELL_PX)
    common = wanted & available
    to, at = common.within(wanted), common.within(available)
    out = np.full((len(frames), inputs.values.shape[1], *wanted.shape), np.nan, np.float32)
    for i, frame in enumerate(frames):
        if frame is not None:
            out[i][:, *to] = inputs.cells[frame][:, *at]
    return out


def _context_pixels(
    window: Window, inputs: ChunkInputs, frames: Sequence[int | None], margin_px: int
) -> NDArray[np.float32]:
    """Return `Request.context_pixels`: what was measured in a tile and ``margin_px`` around it."""
    wanted = window.pad(margin_px)
    common = wanted & inputs.reach
    to, at = common.within(wanted), common.within(inputs.reach)
    out = np.full((len(frames), inputs.values.shape[1], *wanted.shape), np.nan, np.float32)
    for i, frame in enumerate(frames):
        if frame is not None:
            known = inputs.known[frame][:, *at]
            out[i][:, *to] = np.where(known, inputs.values[frame][:, *at], np.float32(np.nan))
    return out


def _frames(chunk: ChunkDate, at: tuple[slice, slice]) -> list[int | None]:
    """Return the dates of a tile's request, ascending, as indices into the inputs; None is a new date.

    The context: first the nearest date on either side that shows at least half of the tile, then by
    distance in time; dates that show less than a twentieth never.
    """
    plan, inputs = chunk.plan, chunk.inputs
    most, counted = plan.card.context, plan.bands.slots
    if plan.verb == "translate":
        # Regressions are fitted where the wanted bands are known.
        most, counted = plan.most_context, plan.bands.slots_from("generated")
    elif not most or plan.verb not in ("inpaint", "extend"):
        return [chunk.given]
    now = int(plan.calendar.out_times[chunk.date])
    candidates = []
    for date in plan.neighbours(chunk.date):
        i = date - inputs.dates.start
        if i == chunk.given:
            continue
        share = float(inputs.known[i][:, *at][counted].mean())
        if share >= 0.05:
            gap = int(plan.calendar.in_times[date]) - now
            candidates.append((share < 0.5, abs(gap), gap, i))
    candidates.sort()
    before = [c for c in candidates if c[2] < 0][:1]
    after = [c for c in candidates if c[2] > 0][:1]
    chosen = sorted(before + after)[:most]
    chosen += [c for c in candidates if c not in chosen][: most - len(chosen)]
    frames: list[tuple[int, int | None]] = [(c[2], c[3]) for c in chosen]
    return [i for _, i in sorted([*frames, (0, chunk.given)], key=lambda f: f[0])]


def _metadata(
    chunk: ChunkDate, times: Sequence[int], target: int, centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return `Request.metadata` of dates in seconds since 1970, of which ``target`` is the chunk's."""
    plan = chunk.plan
    lon, lat = centre
    cloud_fraction = np.full(len(times), np.nan)
    cloud_fraction[target] = plan.calendar.cloud[chunk.date]
    rows = metadata_rows(
        times,
        dated=plan.calendar.dated,
        lon_deg=lon,
        lat_deg=lat,
        gsd_m=plan.grid.gsd_at(float(lat)),
        cloud_fraction=cloud_fraction,
    )
    for name, value in plan.sampling.metadata.items():
        rows[target, METADATA_FIELDS.index(name)] = value
    return rows
