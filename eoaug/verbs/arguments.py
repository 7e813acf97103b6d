"""Arguments of the verbs: each is checked, and converted to the form that a plan holds.

Every function takes a user's value and returns a value for `Plan` or `Inputs`, or raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.model import Cube
from eoaug.engine.values import Reduce
from eoaug.errors import GeneratorError, ParameterError, TimeError
from eoaug.generators.base import METADATA_FIELDS, Card, Generator, SteppedGenerator, Verb
from eoaug.generators.registry import load
from eoaug.progress import Progress
from eoaug.verbs.checks import integer, number, supported, unknown
from eoaug.verbs.options import Options

__all__ = [
    "chunks_of",
    "cloud_of",
    "dates_of",
    "generator_for",
    "guidance_for",
    "joint_steps_for",
    "members_of",
    "metadata_for",
    "progress_for",
    "prompt_for",
    "seconds_of",
    "steps_for",
    "tiling_for",
]


_RANGES = {
    "lon_deg": (-180.0, 360.0),
    "lat_deg": (-90.0, 90.0),
    "gsd_m": (1e-3, 1e5),
    "cloud_fraction": (0.0, 1.0),
    "year": (1, 9999),
    "month": (1, 12),
    "day": (1, 31),
}
"""Least and largest value of each metadata field."""

_DEFAULT_CHUNK_PX = 1024

_MOST_CHUNKS = 10_000_000
"""A graph of more chunks would not fit into memory."""


def generator_for(options: Options, verb: Verb) -> Generator:
    """Return the generator that the options name; refuse one that cannot do the verb."""
    device = options.get("device")
    given = options.get("generator", "embedded")
    if device is not None and not isinstance(given, str | Path):
        raise ParameterError(
            f"device={device!r} does not go with a loaded generator", "eoaug.load(name, device=...) instead"
        )
    generator = load(given) if device is None else load(given, device=device)
    if not isinstance(generator.card, Card):
        raise GeneratorError(
            f"generator={generator!r} has a card of type {type(generator.card).__name__}",
            "give an object, not its class; its card is an eoaug.Card",
        )
    if verb not in generator.card.verbs:
        raise GeneratorError(
            f"generator {generator.card.name!r} cannot {verb.replace('_', '-')}",
            f"it can: {', '.join(sorted(generator.card.verbs))}; or use generator='embedded'",
        )
    return generator


def steps_for(options: Options, card: Card, verb: Verb) -> int:
    """Return the denoising steps: the option, else the generator's default for the verb."""
    # Members of a best estimate would be equal: an ensemble needs samples.
    default = {**card.steps, **card.member_steps} if options.get("members") is not None else card.steps
    steps = options.get("steps", default.get(verb, 0))
    return integer("steps", steps, 0, 1000)


def joint_steps_for(options: Options, generator: Generator, verb: Verb, steps: int) -> int:
    """Return the number of joint steps."""
    asked = options.get("joint_steps")
    able = isinstance(generator, SteppedGenerator) and steps > 0
    if asked is None:
        default = generator.card.joint_steps.get(verb, 0) if able else 0
        return min(default, max(steps - 1, 0))
    joint = integer("joint_steps", asked, 0, 1000)
    if joint and not able:
        raise ParameterError(
            f"joint_steps={joint} needs denoising steps; generator {generator.card.name!r} with steps={steps} "
            "has none",
            "leave joint_steps out, or raise steps",
        )
    if joint and joint >= steps:
        raise ParameterError(
            f"joint_steps={joint} leaves no single step of steps={steps}",
            "use joint_steps below steps, e.g. joint_steps=2, steps=4",
        )
    return joint


def members_of(options: Options) -> tuple[int | None, Reduce | None]:
    """Return the number of ensemble members and how they are reduced."""
    members, reduce = options.get("members"), options.get("reduce")
    if members is not None:
        members = integer("members", members, 1, 10_000)
    if reduce is None:
        return members, None
    if members is None:
        raise ParameterError(f"reduce={reduce!r} needs members to reduce", "add members=8")
    if isinstance(reduce, str) and reduce in ("mean", "std", "median"):
        return members, 0.5 if reduce == "median" else reduce
    if not isinstance(reduce, float | np.floating):
        raise unknown("reduce", reduce, ["mean", "std", "median", "a quantile such as 0.9"])
    return members, number("reduce", reduce, 0.0, 1.0)


def prompt_for(prompt: Any, card: Card, verb: Verb, strength: float) -> str | None:
    """Return the prompt; refuse one that the generator cannot use, or not with this verb and denoising strength."""
    supported("prompt", prompt, card)
    if prompt is None:
        return None
    if not isinstance(prompt, str):
        raise ParameterError(
            f"prompt={prompt!r} is a {type(prompt).__name__}, not text", "e.g. prompt='a harbour in winter'"
        )
    if prompt and card.prompt_words:
        said = f" {' '.join(re.findall(r'[^\W_]+', prompt.lower()))} "
        if not any(f" {phrase} " in said for phrase in card.prompt_words):
            raise ParameterError(
                f"prompt={prompt!r} holds no word that generator {card.name!r} knows",
                f"use some of {', '.join(sorted(card.prompt_words))}",
            )
    least = card.prompt_strength
    if prompt and least is not None and (verb != "synthesize" or strength <= least):
        used = f"synthesize with strength={strength:g}" if verb == "synthesize" else verb
        raise ParameterError(
            f"prompt={prompt!r} names new land, and {used} by generator {card.name!r} draws none",
            f"leave it out, or use synthesize with like= or a strength above {least:g}",
        )
    return prompt


def guidance_for(guidance: Any, card: Card) -> float | None:
    """Return the guidance scale; refuse one that the generator cannot use."""
    supported("guidance", guidance, card)
    return None if guidance is None else number("guidance", guidance, 0.0, 100.0)


def metadata_for(values: Any, card: Card) -> dict[str, float]:
    """Return overrides of metadata fields; refuse unknown fields."""
    supported("metadata", values, card)
    if values is not None and not isinstance(values, Mapping):
        raise ParameterError(
            f"metadata={values!r} is a {type(values).__name__}",
            "give numbers by field: metadata={'month': 7}",
        )
    out = {}
    for name, value in (values or {}).items():
        if name not in METADATA_FIELDS:
            raise unknown("metadata field", name, METADATA_FIELDS)
        out[name] = number(f"metadata[{name!r}]", value, *_RANGES[name])
    return out


def tiling_for(tiling: Any, cube: Cube) -> Literal["plane", "image"]:
    """Return where tiles lie: at absolute pixels, of which a cube without coordinates has none."""
    if tiling is None:
        return "plane" if cube.georeferenced else "image"
    if tiling not in ("plane", "image"):
        raise unknown("tiling", tiling, ("plane", "image"))
    return tiling  # type: ignore[no-any-return]


def progress_for(progress: Any) -> Progress:
    """Return the mode of the progress bar; refuse an unknown one."""
    if isinstance(progress, np.bool_):
        progress = bool(progress)
    if progress is None or isinstance(progress, bool) or (isinstance(progress, str) and progress == "steps"):
        return progress  # type: ignore[return-value]
    raise ParameterError(f"progress={progress!r} is unknown", "use True, False or 'steps', or leave it out")


def dates_of(times: Any) -> NDArray[np.datetime64]:
    """Return the dates that a user listed, ascending; refuse values that are not dates."""
    import pandas as pd

    if isinstance(times, xr.DataArray | xr.Variable | np.ndarray):
        times = np.ravel(np.asarray(times))
    listed = [times] if isinstance(times, str) or not isinstance(times, Iterable) else list(times)
    shown = str(times)[:200]
    try:
        # A number is not a date, though pandas reads it as nanoseconds.
        if any(isinstance(t, int | float | np.number) for t in listed):
            raise TypeError
        stamps = [pd.Timestamp(t) for t in listed]
        # Dates without a time zone are UTC.
        dates = pd.DatetimeIndex(
            [t if t.tz is None else t.tz_convert("UTC").tz_localize(None) for t in stamps]
        )
    except (ValueError, TypeError) as error:
        raise TimeError(
            f"times={shown} holds a value that is not a date", "e.g. times=['2024-06-01']"
        ) from error
    if not len(dates) or dates.isna().any():
        raise TimeError(f"times={shown} is empty or holds a missing date", "e.g. times=['2024-06-01']")
    outside = (dates < pd.Timestamp.min.ceil("s")) | (dates > pd.Timestamp.max)
    if outside.any():
        raise TimeError(f"times holds {dates[outside][0]}", "give dates of the years 1678 to 2261")
    ascending: NDArray[np.datetime64] = np.sort(dates.values.astype("datetime64[ns]"))
    close = np.flatnonzero(np.diff(seconds_of(ascending)) == 0)
    if len(close):
        raise TimeError(
            f"times holds {ascending[close[0]]} and {ascending[close[0] + 1]}, not a second apart",
            "give every date once",
        )
    return ascending


def seconds_of(times: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Return seconds since 1970."""
    return times.astype("datetime64[s]").astype(np.int64)


def cloud_of(cube: Cube, in_times: NDArray[np.int64], out_times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cloud fraction (0 to 1, NaN unknown) of every result date."""
    out = np.full(len(out_times), np.nan)
    percent = cube.along_time("cloud_cover", "eo:cloud_cover")
    if percent is not None:
        try:
            fraction = np.asarray(percent, np.float64) / 100
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"the cube's coordinate cloud_cover holds {percent[0]!r}, which is not a number",
                "give percent, or drop it: ds.drop_vars('cloud_cover')",
            ) from error
        known = {int(t): v for t, v in zip(in_times, fraction, strict=True)}
        out = np.asarray([known.get(int(t), np.nan) for t in out_times])
    return out


def chunks_of(
    spec: Any, cube: Cube, shape: tuple[int, int, int], *, factor: int, stride: int, copies: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return chunk lengths along (time, y, x).

    Parameters
    ----------
    spec
        The option ``chunks``.
    cube
        The input; the chunks of a lazy one are the default.
    shape
        (dates, rows, columns) of the result.
    factor, stride
        Refinement of the grid, and distance of neighbouring tiles in pixels of the result.
    copies
        Length of the result's ``member`` dimension, or 1.
    """
    y, x = cube.names_yx
    time = cube.name_time or "time"
    default = max(_DEFAULT_CHUNK_PX, 16 * stride)
    sizes: list[int] = [shape[0], default, default]
    if cube.lazy:
        data = next(band.data for band in cube.bands if hasattr(band.data, "dask"))
        own = [max(c) for c in data.chunks]
        sizes = [own[0], *(n * factor if n * factor <= 2 * default else default for n in own[1:])]
    if isinstance(spec, Mapping):
        allowed = {time: 0, y: 1, x: 2, "time": 0, "y": 1, "x": 2}
        for name, value in spec.items():
            if name not in allowed:
                raise unknown("dimension in chunks", name, dict.fromkeys(allowed))
            sizes[allowed[name]] = (
                shape[allowed[name]] if value == -1 else integer(f"chunks[{name!r}]", value, 1, 2**31)
            )
    elif isinstance(spec, int | np.integer):
        sizes[1] = sizes[2] = integer("chunks", spec, 1, 2**31)
    elif spec is not None and not (isinstance(spec, str) and spec == "auto"):
        raise ParameterError(
            f"chunks={spec!r} is neither a number of pixels nor sizes by dimension",
            "e.g. chunks=1024, chunks={'time': 1, 'y': 1024, 'x': 1024} or chunks='auto'",
        )
    cut, counts = [], [copies]
    for length, size in zip(shape, sizes, strict=True):
        size = min(int(size), int(length))
        whole, rest = divmod(int(length), size)
        counts.append(whole + bool(rest))
        cut.append((size, whole, rest))
    if math.prod(counts) > _MOST_CHUNKS:
        raise ParameterError(
            f"the result has {math.prod(counts):,} chunks and members of {' x '.join(str(size) for size, _, _ in cut)}, "
            f"more than {_MOST_CHUNKS:,}",
            "give larger chunks=, or ask for a window of it: like=geobox[rows, columns]",
        )
    lengths = [(size,) * whole + ((rest,) if rest else ()) for size, whole, rest in cut]
    return lengths[0], lengths[1], lengths[2]
