"""Where a cube comes from: the record that every result carries and every file repeats.

A record holds no clock and no machine: the same request gives the same bytes. The time of writing goes
into the STAC item alone.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any, cast

import xarray as xr

from eoaug.errors import ParameterError, SourceError
from eoaug.storage.names import clean_href

__all__ = [
    "ALGORITHMIC",
    "ALTERED",
    "ATTRIBUTE",
    "COMPOSITE",
    "TRAINED",
    "Provenance",
    "capability",
    "digital_source_type",
    "marked_synthetic",
    "of",
    "renamed",
    "software",
    "stamp",
]

ATTRIBUTE = "eoaug_provenance"
"""The dataset attribute that holds the record as JSON text."""

_FLAG = "eoaug_synthetic"

_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = _IPTC + "trainedAlgorithmicMedia"
"""IPTC digital source type of what a trained model made, with no measured pixel in it."""
COMPOSITE = _IPTC + "compositeWithTrainedAlgorithmicMedia"
"""The same with measured pixels in it, or made from them ("such as with inpainting or outpainting")."""
ALGORITHMIC = _IPTC + "algorithmicMedia"
"""IPTC digital source type of what a method made that learned from no data, with no measured pixel in it."""
ALTERED = _IPTC + "algorithmicallyEnhanced"
"""The same with measured pixels in it, or made from them."""


def digital_source_type(trained: bool, measured: bool) -> str:
    """Return the IPTC term, as a URI, for data that are synthetic at least in part.

    The terms are those of the vocabulary of 2024-10-23. There, ``compositeSynthetic`` means a composite "at
    least one of which is Generative AI", so it would be wrong for a classical method.

    Parameters
    ----------
    trained
        The generator has learned from data.
    measured
        Measured pixels are in the result, or it was made from them.
    """
    if trained:
        return COMPOSITE if measured else TRAINED
    return ALTERED if measured else ALGORITHMIC


def software(*, torch: bool) -> dict[str, str]:
    """Return the versions of eoaug, of numpy, and of torch if it took part.

    Whether torch happens to be imported says nothing: two processes must tell the same of the same work.
    """
    found = {}
    for name in ["eoaug", "numpy"] + (["torch"] if torch else []):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = str(getattr(sys.modules.get(name), "__version__", "unknown"))
    return found


def capability(*, torch: bool) -> str:
    """Return the machine, and the instruction set of torch if it took part."""
    if not torch:
        return platform.machine()
    return f"{platform.machine()} {sys.modules['torch'].backends.cpu.get_cpu_capability()}"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a cube was made: enough to make it again, and to tell it from a measurement."""

    operation: str
    """The verb: ``synthesize``, ``inpaint``, ``extend``, ``super_resolve``."""
    generator: str
    """Name of the generator, as given to ``load``."""
    model_sha256: str = ""
    """Hash of its weights; empty when it has none."""
    licence: str = ""
    """SPDX identifier of its weights' licence."""
    model_files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of every file that it was loaded from, by name; empty for what ships with a package."""
    model_units: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By band the physical value of model unit 0 and the size of one unit: the stretch, affine and invertible."""
    bands: Mapping[str, str] = field(default_factory=dict)
    """By band where its new pixels come from: ``generated``, ``transferred`` by a rule from generated bands,
    or ``observed``, which are none."""
    seed: int = 0
    """Seed of the whole request."""
    members: int | None = None
    """Ensemble members; None without a ``member`` dimension."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The verb's other arguments; JSON values only."""
    token: str = ""
    """Hash of inputs, parameters and model, in hex: the plan's token."""
    software: Mapping[str, str] = field(default_factory=lambda: software(torch=False))
    """Versions of eoaug, numpy and (when it took part) torch."""
    sources: tuple[Mapping[str, str], ...] = ()
    """The items that the cube was made from, each with ``id`` and ``href``; hrefs lose user names,
    passwords and query strings, where access tokens live."""
    digital_source_type: str = COMPOSITE
    """IPTC term as a URI, as `digital_source_type` tells it."""
    synthetic_fraction: float | None = None
    """Share of pixels inside the scene that were not measured, 0 to 1; None when not counted."""
    residual: Any = None
    """Largest disagreement with the measurement, as a number or by band, in physical units."""
    cpu_capability: str = field(default_factory=lambda: capability(torch=False))
    """Instruction set that the bytes are promised for."""

    def __post_init__(self) -> None:
        clean = tuple(
            {key: clean_href(value) if key == "href" else str(value) for key, value in source.items()}
            for source in self.sources
        )
        object.__setattr__(self, "sources", clean)

    def to_json(self) -> str:
        """Return the record as one line of JSON with sorted keys.

        Raises
        ------
        ParameterError
            When a parameter is not a JSON value (NaN is none).
        """
        try:
            return json.dumps(asdict(self), sort_keys=True, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"the provenance of {self.operation!r} holds a value that JSON cannot: {error}",
                "Give Provenance(parameters=...) only numbers, strings, lists and dicts.",
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote; fields that this version does not know are dropped.

        Raises
        ------
        SourceError
            When the text is no record.
        """
        try:
            values = json.loads(text)
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            return cls(**{**known, "sources": tuple(known.get("sources", ()))})
        except (TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"attribute {ATTRIBUTE!r} is no provenance record: {error} in {text[:80]!r}",
                f"Delete ds.attrs[{ATTRIBUTE!r}] only if you know that nothing in the cube is synthetic.",
            ) from error

    def portable(self) -> Provenance:
        """Return the record without hrefs of local files, for files that travel."""
        kept = tuple(
            source if "://" in source.get("href", "") else {k: v for k, v in source.items() if k != "href"}
            for source in self.sources
        )
        return replace(self, sources=kept)


def renamed[T: xr.Dataset | xr.DataArray](ds: T, token: str) -> T:
    """Return ``ds`` with another token in its record and history.

    A lazy cube's own token holds names of its graph; who knows what its inputs contain can say it better.
    """
    prov = of(ds)
    if prov is None or not prov.token:
        return ds
    told = {name: str(ds.attrs[name]).replace(prov.token, token) for name in (ATTRIBUTE, "history")}
    return cast("T", ds.assign_attrs(told))


def stamp[T: xr.Dataset | xr.DataArray](ds: T, prov: Provenance) -> T:
    """Return ``ds`` with the record, the synthetic flag and a line of history in its attributes.

    All values are strings, so netCDF and Zarr can hold them. The data are not copied.
    """
    made = f"eoaug {prov.software.get('eoaug', '')}: {prov.operation} with generator {prov.generator}"
    line = f"{made}, seed {prov.seed}" + (f", token {prov.token}" if prov.token else "")
    before = str(ds.attrs.get("history", "")).rstrip("\n")
    history = f"{before}\n{line}" if before else line
    return cast("T", ds.assign_attrs({ATTRIBUTE: prov.to_json(), _FLAG: "true", "history": history}))


def of(ds: xr.Dataset | xr.DataArray) -> Provenance | None:
    """Return the record that a cube carries, or None.

    Raises
    ------
    SourceError
        When there is one, but it cannot be read.
    """
    text = ds.attrs.get(ATTRIBUTE)
    return None if text is None else Provenance.from_json(str(text))


def marked_synthetic(ds: xr.Dataset | xr.DataArray) -> bool:
    """Tell whether a cube says of itself that some of its pixels were generated."""
    return ATTRIBUTE in ds.attrs or str(ds.attrs.get(_FLAG, "")).lower() == "true"
