"""extend: new dates."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.read import read_cube
from eoaug.errors import ParameterError, TimeError
from eoaug.verbs.options import Options, dates_of, generator_for, seconds_of
from eoaug.verbs.prepare import PreparedVerb, prepare, run_verb

__all__ = ["extend", "prepare_extend"]


def extend[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T, *, times: Any, sequence: bool | None = None, **options: Unpack[Options]
) -> T:
    """Add dates before, between or after the given ones; the given dates come back bit for bit.

    Parameters
    ----------
    ds
        The cube, with dates.
    times
        A date or a list of dates to add, as text or datetimes, at least a second apart; without a zone UTC's.
    sequence
        True makes several new dates one after the other, each told of those before it: onward in time from
        the first given date, then back from it; every member of an ensemble sees its own. False makes each
        from the given dates alone. Default: as the generator's card says.
    **options
        See `eoaug.verbs.options.Options`.

    Returns
    -------
    The kind of object that came in with given and new dates in order, and the marks ``synthetic``.
    Variables along time that are no bands (masks) stay behind: nothing is known of them on a new date.

    Raises
    ------
    EoaugError
        With the argument, its value and the remedy.
    """
    result: T = run_verb("extend", prepare_extend, ds, options, times=times, sequence=sequence)
    return result


def prepare_extend(ds: Any, options: Options, *, times: Any, sequence: Any = None) -> PreparedVerb:
    """Check the arguments of `extend` and return its plan and inputs."""
    generator = generator_for(options, "extend")
    cube = read_cube(ds)
    if cube.times is None or cube.name_time is None:
        raise TimeError(
            "the cube has no time dimension with a coordinate, so no dates to extend",
            "add it: ds.expand_dims(time=[pandas.Timestamp('2024-06-01')])",
        )
    new = dates_of(times)
    both = np.intersect1d(seconds_of(new), seconds_of(cube.times))
    if len(both):
        raise TimeError(f"the cube has {np.datetime64(int(both[0]), 's')} already", "leave it out of times=")
    dates = np.sort(np.concatenate([cube.times.astype("datetime64[ns]"), new]))
    unit = cube.times.dtype
    if not (sequence is None or isinstance(sequence, bool | np.bool_)):
        raise ParameterError(f"sequence={sequence!r} is not True or False", "e.g. sequence=True")
    in_turn = len(new) > 1 and bool(generator.card.autoregressive if sequence is None else sequence)
    if in_turn and options.get("reduce") is not None:
        raise ParameterError(
            f"reduce={options['reduce']!r} does not go with a sequence of {len(new)} dates, whose members part",
            "reduce the result over its dimension member, or make the dates apart: sequence=False",
        )
    own: dict[str, Any] = {"times": [str(t) for t in new.astype("datetime64[s]")]}
    return prepare(
        "extend", cube, generator, options, fill="footprint", dates=dates.astype(unit), sequence=in_turn,
        own={**own, "sequence": True} if in_turn else own,
    )  # fmt: skip
