"""The contract of generators: they take `Request` values, return pixels, and describe themselves in a `Card`.

Imports numpy and `eoaug.raster` only; no tensor library, no xarray, no CRS. Convention of the whole package: `known`
is True where a value was measured.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eoaug.errors import GeneratorError
from eoaug.raster.products import Product
from eoaug.raster.sensor import Sensor

__all__ = [
    "COARSE_HALO",
    "CONTEXT_CELLS",
    "CONTEXT_CELL_PX",
    "CONTEXT_PX",
    "GUIDE_PX",
    "METADATA_FIELDS",
    "TRANSLATE_CONTEXT",
    "Card",
    "ClassMapGenerator",
    "Generator",
    "Request",
    "SteppedGenerator",
    "UncertaintyGenerator",
    "Verb",
    "check_batch",
    "metadata_rows",
    "present_bands",
]


Verb = Literal["synthesize", "inpaint", "extend", "super_resolve", "translate"]

METADATA_FIELDS = ("lon_deg", "lat_deg", "gsd_m", "cloud_fraction", "year", "month", "day")
"""The columns of `Request.metadata`, in DiffusionSat's order and in real-world units."""


def metadata_rows(times: ArrayLike, *, dated: ArrayLike = True, **columns: ArrayLike) -> NDArray[np.float64]:
    """Return `Request.metadata` of some dates, shape (T, 7).

    Parameters
    ----------
    times
        Shape (T,), seconds since 1970-01-01; they set year, month and day.
    dated
        Shape (T,) or one for all: False where the time is unknown.
    **columns
        Other columns by their names in `METADATA_FIELDS`, shape (T,) or one number for all dates. Columns that are
        not given are NaN, which means unknown.
    """
    seconds = np.asarray(times, np.int64)
    rows = np.full((len(seconds), len(METADATA_FIELDS)), np.nan)
    days = seconds.astype("datetime64[s]").astype("datetime64[D]").tolist()
    calendar = [(day.year, day.month, day.day) for day in days]
    known = np.broadcast_to(dated, seconds.shape)
    rows[known, METADATA_FIELDS.index("year") :] = np.reshape(calendar, (-1, 3))[known]
    for name, values in columns.items():
        rows[:, METADATA_FIELDS.index(name)] = values
    return rows


CONTEXT_CELL_PX = 8
"""Edge of a cell of `Request.context_cells` in pixels of the output grid."""
CONTEXT_CELLS = 16
"""Cells of `Request.context_cells` beyond the tile on every side."""
CONTEXT_PX = 16
"""Pixels of `Request.context_pixels` beyond the tile on every side."""
GUIDE_PX = 48
"""Pixels of `Request.context_pixels` beyond the tile on every side in a request with ``guided``."""
TRANSLATE_CONTEXT = 8
"""Most context dates of a request of the verb translate, whatever the card says: regressions are fitted to them."""
COARSE_HALO = 4
"""`Request.coarse_halo` of the engine's requests. A measurement depends on fine pixels up to three coarse pixels away;
the fourth is for generators that draw a margin beyond the tile."""


def _renamed_fields[T](**names: str) -> Callable[[type[T]], type[T]]:
    """Return a class decorator that accepts former names of a dataclass's fields, with a `DeprecationWarning`.

    A former name works as a keyword of the constructor (and so of `dataclasses.replace`) and as an attribute
    to read. Given both names the former one wins: `dataclasses.replace` passes every field by its present name.

    Parameters
    ----------
    **names
        Present name by former name.
    """

    def decorate(cls: type[T]) -> type[T]:
        def warn(former: str) -> None:
            warnings.warn(
                f"{cls.__name__}.{former} is now {cls.__name__}.{names[former]}; "
                "the former name will be removed in eoaug 0.3",
                DeprecationWarning,
                # Without the suffix: Python 3.12.1 does not match a prefix that is the whole name.
                skip_file_prefixes=(__file__.removesuffix(".py"), dataclasses.__file__.removesuffix(".py")),
            )

        def alias(former: str) -> property:
            def read(self: T) -> Any:
                warn(former)
                return getattr(self, names[former])

            return property(read, doc=f"Former name of ``{names[former]}``.")

        init: Any = cls.__init__

        @functools.wraps(init)
        def init_by_any_name(self: T, **values: Any) -> None:
            for former in names.keys() & values.keys():
                warn(former)
                values[names[former]] = values.pop(former)
            init(self, **values)

        cls.__init__ = init_by_any_name  # type: ignore[method-assign,assignment]
        for former in names:
            setattr(cls, former, alias(former))
        return cls

    return decorate


@_renamed_fields(
    drawn_px="canvas_px",
    sequence="autoregressive",
    surroundings="uses_context",
    transferred="derived_bands",
    kept="passthrough_bands",
    guided="layout_verbs",
)
@dataclass(frozen=True, kw_only=True)
class Card:
    """What a generator can do, and how it is to be called."""

    name: str
    """Identifier, as given to ``load``."""
    bands: tuple[str, ...] = ()
    """Common names of the band slots in channel order; empty: any bands, each on its own."""
    verbs: frozenset[str] = frozenset({"synthesize", "inpaint", "extend", "super_resolve"})
    """The verbs that the generator serves."""
    gsd_m: tuple[float, float] = (0.0, float("inf"))
    """Range of ground sampling distances that it is made for, in metres (smallest, largest)."""
    tile_px: int = 64
    """Edge of the square tile of a request, in pixels of the output grid. In super-resolution it is rounded down to whole
    coarse pixels; with ``canvas_px`` it is the canvas without its margin."""
    overlap_px: int = 8
    """Overlap of neighbouring tiles in pixels. Halved (and rounded up to whole coarse pixels) where a coarse measurement or
    a margin makes neighbours agree."""
    canvas_px: int = 0
    """Edge of the square that it draws for a tile in synthesis and super-resolution, in pixels. The margin around the
    tile (`margin_px`) is cut off. 0: it draws no margin."""
    multiple_of: int = 1
    """Every tile edge and origin is a multiple of this many pixels."""
    latent_factor: int = 1
    """Edge of a cell, in pixels, of the grid on which joint denoising averages tiles."""
    batch: int = 1
    """Largest number of requests in a batch; the generator pads shorter batches."""
    context: int = 0
    """Largest number of context dates of a request, in addition to its target date."""
    autoregressive: bool = False
    """True if new dates are generated one after the other by default, each with those before it as context dates."""
    steps: Mapping[str, int] = field(default_factory=dict)
    """Default number of denoising steps by verb; 0 for the deterministic best estimate."""
    member_steps: Mapping[str, int] = field(default_factory=dict)
    """Default number of denoising steps by verb for ensemble members."""
    joint_steps: Mapping[str, int] = field(default_factory=dict)
    """Number of joint steps by verb: the first denoising steps, averaged over overlapping tiles. Super-resolution needs
    none, for the coarse measurement constrains every pixel."""
    mean: tuple[float, ...] = ()
    """Physical value (reflectance) that model unit 0 stands for, per band slot; empty: the engine's
    constants for the kind of band."""
    std: tuple[float, ...] = ()
    """Physical value (reflectance) of one model unit, per band slot; empty: as for ``mean``."""
    uses_context: bool = False
    """True if it uses `Request.context_cells` and `Request.context_pixels`. Tile and stride must then be multiples of
    `CONTEXT_CELL_PX`."""
    factors: tuple[int, ...] = ()
    """Refinements that super-resolution serves; empty: any."""
    derived_bands: frozenset[str] = frozenset()
    """Band slots that it derives from the generated ones (option ``lift`` of checkpoints)."""
    passthrough_bands: frozenset[str] = frozenset()
    """Band slots that it returns unchanged."""
    extra_bands: bool = False
    """True if it also takes bands without a slot, as further channels after those of ``bands``, and makes them by
    methods that need no training."""
    sharpens_bands: bool = False
    """True if it serves requests with `Request.guided`."""
    extra_strength: float = 1.0
    """Largest denoising strength at which it varies such bands."""
    conditions: frozenset[str] = frozenset()
    """Optional conditioning that it uses, of ``prompt``, ``layout``, ``metadata``, ``guidance``."""
    prompt_words: frozenset[str] = frozenset()
    """Words or phrases in lower case, words apart by a space, of which a prompt must hold one; empty: it takes any text."""
    prompt_strength: float | None = None
    """Denoising strength of `synthesize` above which it uses a prompt; other requests do not. None: all of them do."""
    layout_verbs: frozenset[Verb] = frozenset()
    """The verbs that use a ``layout``, for cards with that condition; empty: all of ``verbs``."""
    sha256: str = ""
    """Hash of the weights; empty when there are none."""
    by_place: bool = False
    """True if it draws unconditional images as a function of the place alone: without denoising steps, and tiles agree
    where they overlap."""
    files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of every file that it was loaded from, by file name."""
    licence: str = "Apache-2.0"
    """SPDX identifier of the weights' licence."""
    classes: tuple[str, ...] = ()
    """Classes of the ground that it lays out in unconditional synthesis, by their code from 1; a generator that names some
    is a `ClassMapGenerator`. (): it lays out none."""
    land_bands: frozenset[str] = frozenset()
    """Common names of bands that it draws in unconditional synthesis, with or without a slot; empty: those of its slots."""
    description: str = ""
    """One sentence for users."""

    def __post_init__(self) -> None:
        for name in ("steps", "member_steps", "joint_steps"):
            if not isinstance(value := getattr(self, name), Mapping):
                raise GeneratorError(
                    f"the card of {self.name!r} has {name}={value!r}",
                    f"give numbers by verb: {name}={{'synthesize': {value!r}}}",
                )

    def margin_px(self, verb: Verb, factor: int = 1) -> int:
        """Return the margin in pixels that it draws beyond each edge of a tile, given the refinement ``factor``."""
        if not self.canvas_px or verb not in ("synthesize", "super_resolve"):
            return 0
        return factor if factor > 1 else (self.canvas_px - self.tile_px) // 2


@_renamed_fields(halo="coarse_halo", wide="context_cells", near="context_pixels")
@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a generator is given for one tile: known pixels, pixels to fill, and conditioning.

    T dates, C bands, H x W pixels. Bands have the card's order (for a card without bands: the cube's); bands that the
    cube lacks are unknown on every date.
    """

    values: NDArray[np.float32]
    """Shape (T, C, H, W), model units; 0 where unknown."""
    known: NDArray[np.bool_]
    """Shape (T, C, H, W), True where measured."""
    fill: NDArray[np.bool_]
    """Shape (T, C, H, W), True where to be generated. A pixel that is neither known nor to be filled is outside; one that
    is both (only with ``strength`` < 1) is the start of a variation."""
    times: NDArray[np.int64]
    """Shape (T,), seconds since 1970-01-01, ascending; 0 for a cube without dates."""
    metadata: NDArray[np.float64]
    """Shape (T, 7), `METADATA_FIELDS`; NaN where unknown."""
    origin: tuple[int, int] = (0, 0)
    """Absolute pixel index (row, column) of the first pixel on the output grid."""
    grid_m: float = math.nan
    """Pixel size of the grid in metres, the same for all its tiles; of a grid in degrees that at the equator, whereas
    ``gsd_m`` in the metadata is that of the tile. NaN: that of the metadata."""
    coarse: NDArray[np.float32] | None = None
    """Shape (T, C, H // factor + 2 coarse_halo, W // factor + 2 coarse_halo), model units, NaN where not measured; only
    in super-resolution."""
    coarse_halo: int = 0
    """Coarse pixels of ``coarse`` beyond the tile on every side; a sensor mixes neighbouring pixels."""
    factor: int = 1
    """Pixels of the output grid per coarse pixel along one axis."""
    sensor: Sensor | None = None
    """Sensor model of ``coarse``; given whenever ``coarse`` is."""
    guided: tuple[Sensor | None, ...] = ()
    """To sharpen the coarse bands of a cube with its fine ones: by channel how it was measured, None for a fine band. Then
    ``context_pixels`` holds all bands, of coarse ones each measured value in all its pixels, and tiles begin and end with
    a coarse pixel. (): any other request. Only for generators with ``Card.sharpens_bands``."""
    context_cells: NDArray[np.float32] | None = None
    """Shape (T, C, H // 8 + 32, W // 8 + 32), model units: the tile and its surroundings in cells of `CONTEXT_CELL_PX`
    pixels, `CONTEXT_CELLS` of them beyond the tile on every side. A cell is the mean of its known pixels, NaN without
    any. Only for inpainting and translating by generators with ``Card.uses_context``, since a gap may be wider than a tile."""
    context_pixels: NDArray[np.float32] | None = None
    """Shape (T, C, H + 2 CONTEXT_PX, W + 2 CONTEXT_PX), model units: the start of a variation and the pixels around the
    tile, NaN where not measured. Only with ``strength`` < 1, for generators with ``Card.uses_context``; and with
    ``guided``, `GUIDE_PX` pixels on every side."""
    prompt: str | None = None
    """Text prompt."""
    translated: bool = False
    """True if the bands to fill are to be estimated from the other bands of their date: the verb translate."""
    channel_names: tuple[str, ...] = ()
    """Common name of the band in each channel, "" where unknown or absent; only in the verbs translate and
    synthesize."""
    channel_units: tuple[tuple[float, float], ...] = ()
    """By channel the physical value at model unit 0, and the size of one model unit; given with ``channel_names``."""
    channel_products: tuple[Product, ...] = ()
    """By channel the sensor and the processing level of the band, as far as they are known; given with
    ``channel_names``. (): none is known."""
    extra_kinds: tuple[str, ...] = ()
    """What each channel beyond the slots of the card holds (``Card.extra_bands``), e.g. ``reflectance``: bands of one
    kind may be estimated from each other. (): each on its own."""
    layout: NDArray[np.float32] | None = None
    """Shape (K, H, W): conditioning raster, such as a semantic map, a DEM, or another sensor."""
    member: int = 0
    """Index of the ensemble member."""
    seed: int = 0
    """Random seed; noise is a function of seed, member, date and location."""
    steps: int | None = None
    """Denoising steps; None: the default of the card."""
    guidance: float | None = None
    """Scale of classifier-free guidance; None: the generator's default."""
    strength: float = 1.0
    """Denoising strength: 0 keeps the start, 1 ignores it."""

    @property
    def verb(self) -> Verb:
        """The verb of this request, inferred from what is known on its target dates."""
        if self.translated:
            return "translate"
        if self.coarse is not None or self.guided:
            return "super_resolve"
        target = self.target
        around = self.context_cells is not None and bool(np.isfinite(self.context_cells[target]).any())
        if self.strength < 1.0 or not (around or self.known.any()):
            return "synthesize"
        return "inpaint" if around or self.known[target].any() else "extend"

    def of_channels(self, channels: Sequence[int]) -> Request:
        """Return the request with some of its channels only, in the order of ``channels``; not for ``translated``."""
        chosen = list(channels)
        held = ("coarse", "context_cells", "context_pixels")
        parts = {name: image[:, chosen] for name in held if (image := getattr(self, name)) is not None}
        sensor = self.sensor
        if sensor is not None:
            parts["sensor"] = sensor.of_bands(chosen)
        pixels = {name: getattr(self, name)[:, chosen] for name in ("values", "known", "fill")}
        return dataclasses.replace(self, **pixels, **parts, extra_kinds=())

    @property
    def coarse_tile(self) -> NDArray[np.float32]:
        """``coarse`` without its halo, shape (T, C, H // factor, W // factor)."""
        assert self.coarse is not None
        rows, cols = self.coarse.shape[2:]
        return self.coarse[
            :, :, self.coarse_halo : rows - self.coarse_halo, self.coarse_halo : cols - self.coarse_halo
        ]

    @property
    def target(self) -> NDArray[np.bool_]:
        """Shape (T,), True for the dates with something to fill."""
        return np.asarray(self.fill.any(axis=(1, 2, 3)))


def check_batch(card: Card, requests: Sequence[Request]) -> None:
    """Check that a batch can be processed in one forward: its size, and one shape, bands and dates for all requests.

    Raises
    ------
    GeneratorError
        The batch is empty or too large, or its requests differ in shape, lack bands or have too many dates.
    """
    if not 0 < len(requests) <= card.batch:
        raise GeneratorError(
            f"{card.name}: begin got {len(requests)} requests",
            f"give 1 to {card.batch}, or use generate",
        )
    shapes = {request.values.shape for request in requests}
    if len(shapes) > 1:
        raise GeneratorError(
            f"{card.name}: requests of different shapes {sorted(shapes)} in one batch",
            "give requests of one shape; generate one group after the other",
        )
    T, C = shapes.pop()[:2]
    if len(card.bands) > C or (len(card.bands) < C and not card.extra_bands):
        raise GeneratorError(
            f"{card.name}: a request has {C} bands", f"give the bands {', '.join(card.bands)}"
        )
    for request in requests:
        targets = int(request.target.sum())
        if targets != 1 or 1 + card.context < T:
            raise GeneratorError(
                f"{card.name}: a request has {targets} dates to fill and {T - targets} others",
                f"give exactly one date to fill and at most {card.context} others",
            )


@runtime_checkable
class Generator(Protocol):
    """Fills the pixels of requests.

    Implementations are thread-safe, and pickle as name, path and settings, never with their weights. The result of a
    request must not depend on the other requests of the call.

    A generator with options that change pixels declares them in a property ``settings``: a mapping from names to plain
    values (numbers, strings, booleans, None, and lists or mappings of them). See
    `eoaug.generators.identity`.
    """

    @property
    def card(self) -> Card:
        """What this generator can do."""
        ...

    def generate(self, requests: Sequence[Request]) -> NDArray[np.float32]:
        """Return shape (B, T, C, H, W) in model units; only pixels under ``fill`` are used."""
        ...


@runtime_checkable
class UncertaintyGenerator(Generator, Protocol):
    """A generator that knows the expected error of its estimates without drawing an ensemble."""

    def generate_with_error(
        self, requests: Sequence[Request]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the result of `generate`, and the expected error of every pixel under ``fill`` of the same shape.

        The error is one standard deviation in model units.
        """
        ...


@runtime_checkable
class ClassMapGenerator(Generator, Protocol):
    """A generator that knows which class of the ground it lays out where, in unconditional synthesis."""

    def class_map(self, request: Request) -> NDArray[np.uint8]:
        """Return the codes of ``card.classes`` under the tile of a request, shape (H, W); a function of the absolute pixel."""
        ...


@runtime_checkable
class SteppedGenerator(Generator, Protocol):
    """A generator whose denoising steps the engine takes one by one, to average overlapping tiles between steps."""

    def begin(self, requests: Sequence[Request]) -> Any:
        """Return the state of at most ``card.batch`` requests before the first step."""
        ...

    def step(self, state: Any, index: int) -> NDArray[np.float32]:
        """Advance ``state`` to step ``index`` and return its clean estimate.

        Shape (B, C, H, W) in model units, of the target date alone, on the canvas grid
        (``card.latent_factor`` pixels per cell).
        """
        ...

    def replace(self, state: Any, estimate: NDArray[np.float32]) -> None:
        """Replace the estimate that `step` returned last; the next step uses ``estimate`` instead."""
        ...

    def finish(self, state: Any) -> NDArray[np.float32]:
        """Return the result, shape (B, T, C, H, W) in model units."""
        ...


def present_bands(request: Request) -> NDArray[np.bool_]:
    """Return shape (C,), True for the bands that the cube of the request has."""
    present = (request.known | request.fill).any(axis=(0, 2, 3))
    if request.coarse is not None:
        present = present | np.isfinite(request.coarse).any(axis=(0, 2, 3))
    return np.asarray(present)
