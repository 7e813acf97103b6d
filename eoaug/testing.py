"""What tests of eoaug, and of generators that plug into it, are made of.

A scene whose pixels say where they are, a generator that counts, a denoiser that is cheap and depends on
everything, strategies for hypothesis, and the contract suite. hypothesis is imported by the functions
that need it; nothing here needs pytest.
"""

from __future__ import annotations

import math
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import xarray as xr
from affine import Affine
from numpy.typing import DTypeLike, NDArray

from eoaug import noise
from eoaug.cube.plan import lattice_for
from eoaug.errors import GeneratorError
from eoaug.generators.base import (
    METADATA_FIELDS,
    Card,
    Generator,
    Request,
    SteppedGenerator,
    Verb,
    identity_of,
    settings_of,
)
from eoaug.generators.classical import texture
from eoaug.sensor import Sensor

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from odc.geo.geobox import GeoBox

__all__ = [
    "CountingGenerator",
    "Place",
    "TinyDenoiser",
    "check_generator",
    "datasets",
    "decode",
    "grid",
    "requests",
    "scene",
]

_Float = NDArray[np.float32]

# -- a scene whose pixels say where they are ----------------------------------------------------------

_INDEX, _DATE = 1024, 8
"""A stored number is 1 + index + 1024 (date + 8 pair): 16 bits, and never 0, which is nodata."""

_SCALE = 1e-4


@dataclass(frozen=True)
class Place:
    """Where a pixel of `scene` came from; arrays of one shape."""

    index: NDArray[np.int64]
    """Row in bands with an even number, column in bands with an odd one, modulo 1023."""
    date: NDArray[np.int64]
    """Number of the date, modulo 8."""
    pair: NDArray[np.int64]
    """Number of the band divided by 2, rounded down."""


def decode(stored: Any) -> Place:
    """Return the place that stored numbers of `scene` tell; reflectances are brought back first."""
    values = np.asarray(stored)
    if values.dtype.kind == "f":
        values = np.rint(values.astype(np.float64) / _SCALE)
    values = values.astype(np.int64)
    return Place((values - 1) % _INDEX, values // _INDEX % _DATE, values // (_INDEX * _DATE))


def grid(
    shape_yx: tuple[int, int] = (96, 80), *, crs: str = "EPSG:32633", rotation_deg: float = 0.0
) -> GeoBox:
    """Return a grid of 10 m pixels, or of 1/8192 degree in a geographic CRS, far from the CRS origin.

    Parameters
    ----------
    shape_yx
        Rows and columns.
    crs
        Any that odc.geo reads.
    rotation_deg
        Counter-clockwise turn around the first corner.
    """
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox

    known = CRS(crs)
    # A power of two keeps degrees exact, so that crops have exactly the affine of the whole.
    pixel, corner = (2.0**-13, (12.5, 48.25)) if known.geographic else (10.0, (500_120.0, 5_300_270.0))
    affine = Affine.translation(*corner) @ Affine.rotation(rotation_deg) @ Affine.scale(pixel, -pixel)
    return GeoBox(shape_yx, affine, known)


def scene(
    shape_yx: tuple[int, int] = (96, 80),
    *,
    dates: int = 3,
    bands: Sequence[str] = ("blue", "green", "red", "nir"),
    crs: str = "EPSG:32633",
    rotation_deg: float = 0.0,
    dtype: DTypeLike = "uint16",
    content: Literal["place", "texture"] = "place",
    chunks: Any = None,
) -> xr.Dataset:
    """Return a cube whose pixels say where they are.

    Parameters
    ----------
    shape_yx
        Rows and columns.
    dates
        Number of dates, ten days apart; 0 for a cube without time.
    bands
        Variable names.
    crs, rotation_deg
        As for `grid`.
    dtype
        Integers are stored numbers with scale 1e-4 and nodata 0 declared; floats are reflectance.
    content
        ``"place"``: see `decode`. ``"texture"``: a random field of reflectance 0.1 to 0.9 with the
        spectrum of a landscape.
    chunks
        As for ``Dataset.chunk``; None: NumPy.
    """
    from odc.geo.xr import xr_coords

    geobox = grid(shape_yx, crs=crs, rotation_deg=rotation_deg)
    kind = np.dtype(dtype)
    y, x = geobox.dimensions
    coords: dict[Any, Any] = dict(xr_coords(geobox))
    dims: tuple[str, ...] = (y, x)
    if dates:
        dims = ("time", *dims)
        times = np.datetime64("2021-03-01T10:20:30", "ns") + np.arange(dates) * np.timedelta64(10, "D")
        coords["time"] = ("time", times)
        coords["cloud_cover"] = ("time", np.linspace(0, 50, dates), {"units": "percent"})
    make = _places if content == "place" else _textures
    stored = make((max(dates, 1), len(bands), *shape_yx))
    if int(stored.max()) > (65_535 if kind.kind == "f" else np.iinfo(kind).max):
        raise ValueError(f"{len(bands)} bands of {content} do not fit {kind}; take fewer bands")
    attrs: dict[str, Any] = {"grid_mapping": "spatial_ref"}
    if kind.kind in "iu":
        attrs |= {"scale_factor": _SCALE, "add_offset": 0.0, "_FillValue": 0}
        values = stored.astype(kind)
    else:
        attrs["units"] = "1"
        values = (stored * _SCALE).astype(kind)
    variables = {
        name: (dims, values[:, i] if dates else values[0, i], {"common_name": name} | attrs)
        for i, name in enumerate(bands)
    }
    ds = xr.Dataset(variables, coords, {"title": "a scene of eoaug.testing"})
    return ds if chunks is None else ds.chunk(chunks)


def _places(shape: tuple[int, ...]) -> NDArray[np.int64]:
    T, C, H, W = shape
    date = np.arange(T)[:, None, None, None] % _DATE
    band = np.arange(C)[:, None, None]
    rows, cols = np.mgrid[:H, :W]
    index = np.where(band % 2 == 0, rows, cols) % (_INDEX - 1)
    stored: NDArray[np.int64] = 1 + index + _INDEX * (date + _DATE * (band // 2))
    return stored


def _textures(shape: tuple[int, ...]) -> NDArray[np.int64]:
    T, C, H, W = shape
    fields = np.stack([texture((0, 0), (C, H, W), seed=11, time=t) for t in range(T)])
    stored: NDArray[np.int64] = np.rint(np.clip(0.5 + 0.1 * fields, 0.1, 0.9) / _SCALE).astype(np.int64)
    return stored


# -- generators ---------------------------------------------------------------------------------------


class CountingGenerator:
    """A generator that counts what is asked of it, within one process.

    It steps if the wrapped generator steps. Pickling keeps the wrapped generator and drops the counts.

    Parameters
    ----------
    generator
        What does the work.
    """

    calls: int
    """Calls of ``generate``, ``begin`` and ``step``."""
    steps: int
    """Calls of ``step`` alone."""
    origins: list[tuple[int, int]]
    """Origins of all requests handed over, in order of arrival."""

    def __new__(cls, generator: Generator) -> CountingGenerator:
        """Return the kind that fits the wrapped generator."""
        return super().__new__(_CountingStepped if isinstance(generator, SteppedGenerator) else cls)

    def __init__(self, generator: Generator) -> None:
        self._generator: Any = generator
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Count from 0 again."""
        self.calls, self.steps, self.origins = 0, 0, []

    @property
    def requests(self) -> int:
        """Number of requests handed over."""
        return len(self.origins)

    @property
    def card(self) -> Card:
        """The wrapped generator's card."""
        card: Card = self._generator.card
        return card

    @property
    def settings(self) -> dict[str, Any]:
        """The wrapped generator's settings."""
        return settings_of(self._generator)

    def _count(self, requests: Sequence[Request] = (), steps: int = 0) -> None:
        with self._lock:
            self.calls += 1
            self.steps += steps
            self.origins += [request.origin for request in requests]

    def generate(self, requests: Sequence[Request]) -> _Float:
        """Count and hand on."""
        self._count(requests)
        made: _Float = self._generator.generate(requests)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return CountingGenerator, (self._generator,)


class _CountingStepped(CountingGenerator):
    """The same for generators whose steps the engine walks."""

    def begin(self, requests: Sequence[Request]) -> Any:
        self._count(requests)
        return self._generator.begin(requests)

    def step(self, state: Any, index: int) -> _Float:
        self._count(steps=1)
        estimate: _Float = self._generator.step(state, index)
        return estimate

    def replace(self, state: Any, estimate: _Float) -> None:
        self._generator.replace(state, estimate)

    def finish(self, state: Any) -> _Float:
        made: _Float = self._generator.finish(state)
        return made


@dataclass(frozen=True, kw_only=True)
class TinyDenoiser:
    """A denoiser of a few 3 x 3 means in numpy: no model, but as sensitive as one.

    Each pixel depends on its neighbours within the tile, the noise of its place, member and date, the
    context dates, the metadata and the optional conditions; so whatever the engine lets slip through
    shows up in the bytes.
    """

    tile_px: int = 32
    """Edge of a tile."""
    overlap_px: int = 8
    """Overlap of neighbouring tiles."""
    joint_steps: int = 2
    """First steps that are averaged over tiles."""
    batch: int = 4
    """Most requests that `begin` takes."""
    latent_factor: int = 1
    """Pixels per cell of the canvas."""
    bands: tuple[str, ...] = ()
    """Band slots; empty: any bands."""

    @property
    def card(self) -> Card:
        """What it can do: everything, badly."""
        return Card(
            name="tiny",
            bands=self.bands,
            tile_px=self.tile_px,
            overlap_px=self.overlap_px,
            multiple_of=self.latent_factor,
            latent_factor=self.latent_factor,
            batch=self.batch,
            context=2,
            steps={"synthesize": 4, "inpaint": 4, "extend": 4, "super_resolve": 4},
            joint_steps=dict.fromkeys(("synthesize", "inpaint", "extend"), self.joint_steps),
            conditions=frozenset({"prompt", "layout", "metadata", "guidance"}),
            description="A few means of 3 x 3 pixels, for tests of the engine.",
        )

    def generate(self, requests: Sequence[Request]) -> _Float:
        """Return shape (B, T, C, H, W) in model units."""
        batches = [requests[i : i + self.batch] for i in range(0, len(requests), self.batch)]
        return np.concatenate([self.finish(self.begin(batch)) for batch in batches])

    def begin(self, requests: Sequence[Request]) -> _Walk:
        """Return the state before the first step."""
        if not 0 < len(requests) <= self.batch:
            raise GeneratorError(
                f"tiny: begin got {len(requests)} requests", f"give 1 to {self.batch}, or use generate"
            )
        if len({request.values.shape for request in requests}) > 1:
            raise GeneratorError("tiny: requests of different shapes in one batch", "give one shape per call")
        return _Walk([_Path.of(request, self.latent_factor) for request in requests])

    def step(self, state: _Walk, index: int) -> _Float:
        """Take step ``index``; return the clean estimate, shape (B, C, H, W) on the canvas."""
        if index != state.index + 1:
            raise GeneratorError(f"tiny: step {index} after step {state.index}", "walk the steps in order")
        state.index = index
        for path in state.paths:
            if index < path.steps:
                path.estimate = path.denoise(1.0 - index / path.steps)
        return np.stack([path.estimate for path in state.paths])

    def replace(self, state: _Walk, estimate: _Float) -> None:
        """Put ``estimate`` in the place of the last one."""
        if estimate.shape != (len(state.paths), *state.paths[0].estimate.shape):
            raise GeneratorError(f"tiny: an estimate of shape {estimate.shape}", "give back step's shape")
        for path, one in zip(state.paths, estimate, strict=True):
            path.estimate = np.array(one, np.float32)

    def finish(self, state: _Walk) -> _Float:
        """Take the steps that are left and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(path.steps for path in state.paths)):
            self.step(state, index)
        return np.stack([path.result() for path in state.paths])


@dataclass(eq=False)
class _Path:
    """One request of `TinyDenoiser` on its way; arrays (C, H, W) on the canvas."""

    request: Request
    cell: int
    date: int
    steps: int
    estimate: _Float
    noise: _Float
    condition: _Float
    """What it is drawn towards, whatever the noise."""
    known: NDArray[np.bool_]
    values: _Float

    @classmethod
    def of(cls, request: Request, cell: int) -> _Path:
        date = int(np.flatnonzero(request.target)[0])
        start = request.known[date] & request.fill[date]
        known = request.known[date] & ~request.fill[date]
        steps = 4 if request.steps is None else request.steps
        place = noise.normal(
            (request.origin[0] // cell, request.origin[1] // cell),
            (request.values.shape[1], request.values.shape[2] // cell, request.values.shape[3] // cell),
            seed=request.seed,
            stream="tiny",
            member=request.member,
            time=int(request.times[date]),
        )
        values = _pooled(request.values[date], cell)
        strength = np.float32(request.strength if start.any() else 1.0)
        path = cls(
            request=request,
            cell=cell,
            date=date,
            steps=steps,
            estimate=values,
            noise=strength * place,
            condition=_condition(request, date, cell),
            known=_pooled(known.astype(np.float32), cell) == 1,
            values=values,
        )
        if not steps:
            path.estimate = path.denoise(0.0)
        return path

    def denoise(self, level: float) -> _Float:
        noisy = self.estimate + np.float32(0.5 * level) * self.noise
        noisy = np.where(self.known, self.values, noisy)
        smooth = np.float32(0.7) * _mean3(_mean3(noisy)) + np.float32(0.2) * self.condition
        # Bands mix, as in any network.
        smooth += np.float32(0.1) * np.roll(smooth, 1, axis=0)
        return np.asarray(np.where(self.known, self.values, smooth), np.float32)

    def result(self) -> _Float:
        request, date = self.request, self.date
        out = np.where(request.known, request.values, np.float32(0)).astype(np.float32)
        fine = self.estimate.repeat(self.cell, axis=1).repeat(self.cell, axis=2)
        out[date] = np.where(request.fill[date], fine, out[date])
        return out


@dataclass(eq=False)
class _Walk:
    """The requests of one batch."""

    paths: list[_Path]
    index: int = -1


def _condition(request: Request, date: int, cell: int) -> _Float:
    C, H, W = request.values.shape[1:]
    out = np.zeros((C, H, W), np.float32)
    for other in range(len(request.times)):
        if other != date:
            near = 1.0 / (1.0 + abs(int(request.times[other] - request.times[date])) / 864_000)
            out += np.float32(near) * _mean3(request.values[other])
    facts = np.nan_to_num(request.metadata[date]) * np.arange(1, len(METADATA_FIELDS) + 1)
    out += np.float32(0.1 * math.sin(float(facts.sum())))
    if request.coarse is not None:
        f = request.factor
        coarse = np.nan_to_num(request.coarse_tile[date])
        # More than the weight 0.2 that conditions have: a measurement sets the level.
        out += np.float32(5) * coarse.repeat(f, axis=1).repeat(f, axis=2)
    if request.layout is not None:
        out += request.layout.mean(axis=0)
    if request.prompt is not None:
        out += np.float32(len(request.prompt) / 100)
    if request.guidance is not None:
        out *= np.float32(1 + request.guidance / 10)
    return _pooled(out, cell)


def _pooled(image: NDArray[np.floating[Any]], cell: int) -> _Float:
    if cell == 1:
        return np.asarray(image, np.float32)
    C, H, W = image.shape
    return image.reshape(C, H // cell, cell, W // cell, cell).mean(axis=(2, 4), dtype=np.float32)


def _mean3(image: _Float) -> _Float:
    """Return means over 3 x 3 pixels; the border goes on with its last pixel."""
    rows, cols = (np.arange(-1, n + 1).clip(0, n - 1) for n in image.shape[-2:])
    tall = image[:, rows]
    tall = tall[:, :-2] + image + tall[:, 2:]
    wide = tall[:, :, cols]
    return np.asarray((wide[..., :-2] + tall + wide[..., 2:]) / np.float32(9))


# -- requests -----------------------------------------------------------------------------------------


def requests(card: Card, verb: Verb, count: int = 1, *, seed: int = 0, factor: int = 2) -> list[Request]:
    """Return requests as the engine would make them for a card: neighbouring tiles of random content.

    Parameters
    ----------
    card
        Whose tile size, bands and context the requests have.
    verb
        What they ask for.
    count
        How many, each with its own origin and content, all of one shape.
    seed
        Of content, masks and of the requests.
    factor
        Refinement of super-resolution, for cards that serve any.
    """
    refinement = (*card.factors, factor)[0] if verb == "super_resolve" else 1
    lattice = lattice_for(card, refinement, verb)
    channels = len(card.bands) or 3
    dates = 1 + (min(card.context, 2) if verb in ("inpaint", "extend") else 0)
    return [
        _request(card, verb, (3 * lattice.stride, (i - 1) * lattice.stride), dates, channels,
                 lattice.size, refinement, np.random.default_rng([seed, i]), seed)
        for i in range(count)
    ]  # fmt: skip


def _request(
    card: Card,
    verb: Verb,
    origin: tuple[int, int],
    dates: int,
    channels: int,
    size: int,
    factor: int,
    rng: np.random.Generator,
    seed: int,
) -> Request:
    target = dates // 2
    shape = (dates, channels, size, size)
    values = np.stack([texture(origin, shape[1:], seed=seed, time=t) for t in range(dates)])
    known = np.ones(shape, bool)
    fill = np.zeros(shape, bool)
    cut = size // 3
    if dates > 1:
        known[0, :, :cut, :cut] = False
    if verb == "inpaint":
        fill[target, :, cut : 2 * cut, cut:] = True
        known[target] &= ~fill[target]
    else:
        fill[target] = True
        known[target] = False
    values[~known] = 0
    coarse = sensor = None
    if verb == "super_resolve":
        coarse = rng.normal(size=(1, channels, size // factor, size // factor)).astype(np.float32)
        sensor = Sensor(factor=factor, mtf=(0.3,))
    day = 18_700 + 10 * np.arange(dates)
    metadata = np.full((dates, len(METADATA_FIELDS)), np.nan)
    metadata[:, :3] = 12.5, 48.25, 10.0 / factor
    metadata[:, 4:] = 2021, 3, 1
    return Request(
        values=values.astype(np.float32),
        known=known,
        fill=fill,
        times=(day * 86_400).astype(np.int64),
        metadata=metadata,
        origin=origin,
        coarse=coarse,
        factor=factor,
        sensor=sensor,
        seed=seed,
        steps=card.steps.get(verb),
    )


# -- the contract -------------------------------------------------------------------------------------

_COUNTS = (1, 2, 5, 8)


def check_generator(generator: Generator, *, verbs: Sequence[Verb] | None = None) -> None:
    """Check everything that the engine relies on; every generator must pass.

    Card; shape, type and finite values; equal bytes run after run, in every composition of a batch, in
    threads and after pickling; pixels that are not to be filled untouched; bands in their slots, and
    absent ones without influence on what comes back finite; steps that add up to the whole.

    Parameters
    ----------
    generator
        What to check.
    verbs
        Only these; default: all that the card names.

    Raises
    ------
    AssertionError
        With what is broken and where.
    """
    assert isinstance(generator, Generator), f"{generator!r} lacks card or generate"
    card = generator.card
    _check_card(card)
    _check_pickle(generator)
    chosen: list[Verb] = [v for v in get_args(Verb) if v in (card.verbs if verbs is None else verbs)]
    for verb in chosen:
        asked = requests(card, verb, max(_COUNTS))
        whole = generator.generate(asked)
        where = f"{card.name}, {verb}"
        _check_answer(whole, asked, where)
        assert _same(whole, generator.generate(asked)), f"{where}: a second call gives other bytes"
        for count in _COUNTS[:-1]:
            part = generator.generate(asked[-count:])
            assert _same(part, whole[-count:]), (
                f"{where}: a request's result changes in a call of {count} instead of {len(asked)}"
            )
        shuffled = generator.generate(asked[::-1])[::-1]
        assert _same(shuffled, whole), f"{where}: the order of the requests changes their results"
        restored = pickle.loads(pickle.dumps(generator))
        assert _same(restored.generate(asked[:2]), whole[:2]), f"{where}: other bytes after pickling"
        with ThreadPoolExecutor(4) as pool:
            alone = list(pool.map(lambda one: generator.generate([one])[0], asked[:4]))
        assert _same(np.stack(alone), whole[:4]), f"{where}: threads give other bytes"
        if isinstance(generator, SteppedGenerator):
            _check_steps(generator, asked[: card.batch], whole[: card.batch], where)
        _check_bands(generator, verb, where)
    if "synthesize" in chosen:
        _check_identity(generator)


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _check_card(card: Card) -> None:
    assert card.name.strip(), f"a card needs a name, found {card.name!r}"
    assert len(set(card.bands)) == len(card.bands), f"{card.name}: bands repeat: {card.bands}"
    known = {"synthesize", "inpaint", "extend", "super_resolve"}
    assert set() < card.verbs <= known, f"{card.name}: verbs {set(card.verbs)} are none or unknown"
    assert 0 <= card.overlap_px <= card.tile_px // 2, (
        f"{card.name}: overlap {card.overlap_px} of tile {card.tile_px}"
    )
    assert card.drawn_px == 0 or card.drawn_px >= card.tile_px, (
        f"{card.name}: draws {card.drawn_px} px for a tile of {card.tile_px}"
    )
    for name, least in (("multiple_of", 1), ("latent_factor", 1), ("batch", 1), ("context", 0)):
        found = getattr(card, name)
        assert found >= least, f"{card.name}: {name} is {found}, at least {least} is needed"
    for name, constants in (("mean", card.mean), ("std", card.std)):
        assert len(constants) in (0, len(card.bands)), (
            f"{card.name}: {len(constants)} values of {name} for {len(card.bands)} bands"
        )
        assert all(math.isfinite(v) for v in constants), f"{card.name}: {name} is not finite"
    assert bool(card.mean) == bool(card.std), f"{card.name}: mean and std belong together"
    assert all(v > 0 for v in card.std), f"{card.name}: std must be positive"
    for kind, counts in (("steps", card.steps), ("joint_steps", card.joint_steps)):
        assert set(counts) <= card.verbs, f"{card.name}: {kind} for verbs that it does not serve"
        assert all(v >= 0 for v in counts.values()), f"{card.name}: negative {kind} {dict(counts)}"
    assert card.conditions <= {"prompt", "layout", "metadata", "guidance"}, f"{card.name}: {card.conditions}"
    assert 0 <= card.gsd_m[0] < card.gsd_m[1], f"{card.name}: gsd_m {card.gsd_m} is no range"
    assert card.sha256 == "" or len(card.sha256) == 64, f"{card.name}: sha256 {card.sha256!r}"


def _check_pickle(generator: Generator) -> None:
    size = len(pickle.dumps(generator))
    assert size < 100_000, f"{generator.card.name} pickles to {size:,} bytes: weights do not belong there"
    restored = pickle.loads(pickle.dumps(generator))
    assert restored.card == generator.card, f"{generator.card.name}: pickling changes the card"
    assert identity_of(restored) == identity_of(generator), (
        f"{generator.card.name}: pickling changes the settings"
    )


def _check_answer(answer: NDArray[Any], asked: Sequence[Request], where: str) -> None:
    expected = (len(asked), *asked[0].values.shape)
    assert answer.shape == expected, f"{where}: shape {answer.shape} instead of {expected}"
    assert answer.dtype == np.float32, f"{where}: {answer.dtype} instead of float32"
    assert np.isfinite(answer).all(), f"{where}: {int((~np.isfinite(answer)).sum())} values are not finite"
    for i, request in enumerate(asked):
        kept = request.known & ~request.fill
        assert _same(answer[i][kept], request.values[kept]), (
            f"{where}: measured pixels of request {i} changed"
        )


def _check_steps(
    generator: SteppedGenerator, asked: Sequence[Request], whole: NDArray[Any], where: str
) -> None:
    cell = generator.card.latent_factor
    H, W = asked[0].values.shape[2:]
    state = generator.begin(asked)
    for index in range(asked[0].steps or 0):
        estimate = generator.step(state, index)
        expected = (len(asked), estimate.shape[1], H // cell, W // cell)
        assert estimate.shape == expected, f"{where}: step returned {estimate.shape} instead of {expected}"
        generator.replace(state, estimate.copy())
    result = generator.finish(state)
    assert _same(result, whole), f"{where}: begin, step and finish give other bytes than generate"


def _check_bands(generator: Generator, verb: Verb, where: str) -> None:
    card = generator.card
    (request,) = requests(card, verb, 1, seed=3)
    absent = request.values.shape[1] - 1
    known, fill = request.known.copy(), request.fill.copy()
    known[:, absent] = fill[:, absent] = False
    values = np.where(known, request.values, np.float32(0))
    coarse = request.coarse
    if coarse is not None:
        coarse = coarse.copy()
        coarse[:, absent] = np.nan
    lacking = replace(request, values=values, known=known, fill=fill, coarse=coarse)
    _check_answer(generator.generate([lacking]), [lacking], f"{where} without its last band")
    if verb != "super_resolve":
        return
    assert request.coarse is not None
    # Flat bands of well separated levels must come back in their own slots.
    levels = np.linspace(-1, 1, request.values.shape[1], dtype=np.float32)
    flat = replace(request, coarse=np.broadcast_to(levels[:, None, None], request.coarse.shape).copy())
    means = generator.generate([flat])[0, 0].mean(axis=(1, 2))
    if len(levels) > 1:
        match = float(np.corrcoef(levels, means)[0, 1])
        assert match > 0.9, f"{where}: bands come back in other slots (correlation {match:.2f})"


def _check_identity(generator: Generator) -> None:
    card = generator.card
    (request,) = requests(card, "synthesize", 1)
    first = generator.generate([request])
    for change in ({"member": 1}, {"seed": request.seed + 1}, {"origin": (1024, 2048)}):
        other = generator.generate([replace(request, **change)])
        assert not _same(first, other), f"{card.name}, synthesize: {change} changes nothing"


# -- strategies ---------------------------------------------------------------------------------------


def datasets(
    *, max_px: int = 40, max_bands: int = 3, max_dates: int = 3, lazy: bool | None = None
) -> SearchStrategy[xr.Dataset]:
    """Return a hypothesis strategy for cubes as they come from xarray, odc-stac and rioxarray.

    Random dimension order and names, types, nodata forms (``_FillValue`` or ``nodata`` in the attributes,
    NaN with an encoding, none), scale and offset, UTM, geographic, rotated or no grid, with and without
    time, NumPy or dask, with variables and coordinates that are no bands, attributes and encodings.

    Parameters
    ----------
    max_px, max_bands, max_dates
        Upper limits; at least 2 pixels along an axis.
    lazy
        True: always dask; False: never; None: either.
    """
    from hypothesis import strategies as st

    @st.composite
    def cubes(draw: Any) -> xr.Dataset:
        shape = draw(st.tuples(st.integers(2, max_px), st.integers(2, max_px)))
        dates = draw(st.integers(0, max_dates))
        kind = draw(st.sampled_from(["utm", "utm", "geographic", "rotated", "none"]))
        names = draw(
            st.lists(
                st.sampled_from(["blue", "green", "red", "nir", "swir16", "B8A"]),
                min_size=1, max_size=max_bands, unique=True,
            )
        )  # fmt: skip
        coords, (y, x) = _drawn_grid(draw, kind, shape)
        if dates:
            start = np.datetime64("2020-01-01T00:00:00", "ns")
            days = np.cumsum(draw(st.lists(st.integers(1, 40), min_size=dates, max_size=dates)))
            coords["time"] = ("time", start + days.astype("timedelta64[D]"), {"long_name": "sensing time"})
            if draw(st.booleans()):
                coords["item_id"] = ("time", [f"item-{d}" for d in days])
        canonical = ("time", y, x) if dates else (y, x)
        dims = tuple(draw(st.permutations(canonical)))
        full = dict(zip(canonical, (dates, *shape) if dates else shape, strict=True))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        form = draw(st.sampled_from(list(_FORMS)))
        ds = xr.Dataset(coords=coords, attrs=draw(st.sampled_from([{}, {"title": "t", "version": 3}])))
        for name in names:
            ds[name] = _drawn_band(rng, form, dims, tuple(full[d] for d in dims))
            if "spatial_ref" in coords:
                ds[name].encoding["grid_mapping"] = "spatial_ref"
        for extra in draw(st.lists(st.sampled_from(["scl", "gain", "angles"]), unique=True)):
            _EXTRAS[extra](ds, y, x, rng)
        if lazy is True or (lazy is None and draw(st.booleans())):
            size = draw(st.integers(5, max_px))
            ds = ds.chunk({d: size if d != "time" else 1 for d in dims})
        return ds

    return cubes()


def _drawn_grid(draw: Any, kind: str, shape: tuple[int, int]) -> tuple[dict[Any, Any], tuple[str, str]]:
    from hypothesis import strategies as st
    from odc.geo.xr import xr_coords

    if kind == "none":
        return {}, ("y", "x")
    geobox = grid(
        shape,
        crs="EPSG:4326" if kind == "geographic" else "EPSG:32733",
        rotation_deg=30.0 if kind == "rotated" else 0.0,
    )
    y, x = geobox.dimensions
    coords: dict[Any, Any] = dict(xr_coords(geobox))
    if draw(st.booleans()):
        coords["orbit"] = ((), 64, {"long_name": "relative orbit"})
    if kind == "utm" and draw(st.booleans()):
        coords["elevation"] = ((y, x), np.zeros(shape, np.float32), {"units": "m"})
    return coords, (y, x)


_SCALED = {"scale_factor": 1e-4, "add_offset": -0.1}
_FORMS: dict[str, tuple[str, dict[str, Any], dict[str, Any], float | None]] = {
    "uint16, nodata": ("uint16", {"nodata": 0, **_SCALED}, {}, 0),
    "uint16, _FillValue": ("uint16", {"_FillValue": 65535, **_SCALED}, {}, 65535),
    "int16, nodata": ("int16", {"nodata": -9999, "scale": 1e-4, "offset": 0.0}, {"zlib": True}, -9999),
    "int16, none": ("int16", {"raster:scale": 1e-4, "raster:offset": 0.0, "long_name": "r"}, {}, None),
    "float32, masked": (
        "float32",
        {"units": "1"},
        {"dtype": "uint16", "_FillValue": 0, "scale_factor": 1e-4, "add_offset": -0.1},
        math.nan,
    ),
    "float32, plain": ("float32", {}, {}, math.nan),
    "float32, _FillValue": ("float32", {"_FillValue": -9999.0}, {}, -9999.0),
}
"""Type in memory, attributes, encoding, and the number that means missing."""


def _drawn_band(
    rng: np.random.Generator, form: str, dims: tuple[str, ...], shape: tuple[int, ...]
) -> xr.DataArray:
    dtype, attrs, encoding, nodata = _FORMS[form]
    values = rng.uniform(0.2, 0.6, shape)
    if np.dtype(dtype).kind in "iu":
        values = np.rint(values * 1e4)
    data = values.astype(dtype)
    if nodata is not None:
        data[rng.random(shape) < 0.1] = nodata
    band = xr.DataArray(data, dims=dims, attrs=dict(attrs))
    band.encoding = dict(encoding)
    return band


def _add_scl(ds: xr.Dataset, y: str, x: str, rng: np.random.Generator) -> None:
    dims = (*(("time",) if "time" in ds.sizes else ()), y, x)
    classes = rng.choice(np.array([4, 5, 8, 9], np.uint8), tuple(ds.sizes[d] for d in dims))
    ds["scl"] = (dims, classes, {"long_name": "scene classification"})


def _add_gain(ds: xr.Dataset, y: str, x: str, rng: np.random.Generator) -> None:
    ds["gain"] = ((), 2.5, {"units": "1"})


def _add_angles(ds: xr.Dataset, y: str, x: str, rng: np.random.Generator) -> None:
    ds["angles"] = (("angle",), rng.uniform(0, 90, 4).astype(np.float32), {"units": "degree"})


_EXTRAS = {"scl": _add_scl, "gain": _add_gain, "angles": _add_angles}
