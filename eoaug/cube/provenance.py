"""How a cube was made: the provenance record of every result, file and STAC item.

A record holds neither time nor host name, so that the same request gives the same bytes. Only a STAC item holds the
time of writing.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import Any, cast

import xarray as xr

from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.synthetic import SYNTHETIC, note_grid
from eoaug.errors import GridError, ParameterError, SourceError
from eoaug.raster.variables import holds_classes
from eoaug.storage.names import clean_href

__all__ = [
    "ALGORITHMIC",
    "ALTERED",
    "ATTRIBUTE",
    "COMPOSITE",
    "RECORD_ATTRS",
    "TRAINED",
    "Provenance",
    "capability",
    "digital_source_type",
    "foreign_bands",
    "marked_synthetic",
    "of",
    "renamed",
    "software",
    "stamp",
]

ATTRIBUTE = "eoaug_provenance"
"""The dataset attribute that holds the record as JSON text."""

_FLAG = "eoaug_synthetic"
"""Attribute of a cube with generated pixels (``true``), and of each of its bands (the record's token), so that a band that is
taken out of the cube is still recognised."""
RECORD_ATTRS = (ATTRIBUTE, _FLAG)
"""Attributes of a whole result, not of one of its bands."""

_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = _IPTC + "trainedAlgorithmicMedia"
"""IPTC digital source type of data that a trained model made, with no measured pixel."""
COMPOSITE = _IPTC + "compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source type of such data with measured pixels in them, or made from them ("such as with inpainting or outpainting")."""
ALGORITHMIC = _IPTC + "algorithmicMedia"
"""IPTC digital source type of data that a method without training made, with no measured pixel."""
ALTERED = _IPTC + "algorithmicallyEnhanced"
"""IPTC digital source type of such data with measured pixels in them, or made from them."""


def digital_source_type(trained: bool, measured: bool) -> str:
    """Return the IPTC term, as a URI, for data with synthetic pixels.

    The terms are those of the vocabulary of 2024-10-23. There, ``compositeSynthetic`` means a composite "at
    least one of which is Generative AI", so it would be wrong for a classical method.

    Parameters
    ----------
    trained
        The generator was trained on data.
    measured
        The result holds measured pixels, or was made from them.
    """
    if trained:
        return COMPOSITE if measured else TRAINED
    return ALTERED if measured else ALGORITHMIC


def software(*, torch: bool) -> dict[str, str]:
    """Return the versions of eoaug, of numpy, and of torch if it took part.

    Whether torch happens to be imported does not matter: two processes must record the same for the same work.
    """
    return {name: _version(name) for name in ["eoaug", "numpy"] + (["torch"] if torch else [])}


@cache  # parsing a package's metadata takes milliseconds, and every small image has a record
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(name), "__version__", "unknown"))


def capability(*, torch: bool) -> str:
    """Return the machine, and the instruction set of torch if it took part."""
    if not torch:
        return platform.machine()
    return f"{platform.machine()} {sys.modules['torch'].backends.cpu.get_cpu_capability()}"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a cube was made: enough to make it again, and to distinguish it from a measurement."""

    operation: str
    """The verb: ``synthesize``, ``inpaint``, ``extend``, ``super_resolve``; or ``corrupt``, ``change``."""
    generator: str
    """Name of the generator, as given to ``load``; of ``corrupt``, the kind of corruption."""
    model_sha256: str = ""
    """Hash of its weights; empty when it has none."""
    licence: str = ""
    """SPDX identifier of its weights' licence."""
    model_files: Mapping[str, str] = field(default_factory=dict)
    """sha256 of every file that it was loaded from, by name; empty for what ships with a package."""
    model_units: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By band the physical value of model unit 0 and the physical size of one model unit: an affine, invertible
    stretch."""
    prior_bands: tuple[str, ...] = ()
    """Bands that no network of the generator knows: its methods without training made them alone."""
    bands: Mapping[str, str] = field(default_factory=dict)
    """By band the origin of its new pixels: ``generated``, ``transferred`` (derived from generated bands), or
    ``observed`` (it has none)."""
    seed: int = 0
    """Seed of the whole request."""
    members: int | None = None
    """Ensemble members; None without a ``member`` dimension."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The verb's other arguments; JSON values only."""
    token: str = ""
    """Hash of inputs, parameters and model in hex: the token of the plan."""
    software: Mapping[str, str] = field(default_factory=lambda: software(torch=False))
    """Versions of eoaug, numpy and (when it took part) torch."""
    sources: tuple[Mapping[str, str], ...] = ()
    """The items that the cube was made from, each with ``id`` and ``href``; hrefs lose user names,
    passwords and query strings, where access tokens live."""
    digital_source_type: str = COMPOSITE
    """IPTC term as a URI, as `digital_source_type` returns it."""
    synthetic_fraction: float | None = None
    """Share of pixels inside the scene that were not measured, 0 to 1; None when not counted."""
    residual: Any = None
    """Largest disagreement with the measurement, as a number or by band, in physical units."""
    cpu_capability: str = field(default_factory=lambda: capability(torch=False))
    """Instruction set on which the same request gives the same bytes."""

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
            A parameter is not a JSON value (NaN is not one).
        """
        try:
            return json.dumps(asdict(self), sort_keys=True, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"the provenance of {self.operation!r} holds a value that JSON cannot hold: {error}",
                "give Provenance(parameters=...) only numbers, strings, lists and dicts",
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """Read what `to_json` wrote; fields that this version does not know are dropped.

        Raises
        ------
        SourceError
            The text is not a record.
        """
        try:
            values = json.loads(text)
            known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            lists = {name: tuple(known.get(name, ())) for name in ("sources", "prior_bands")}
            return cls(**{**known, **lists})
        except (TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"attribute {ATTRIBUTE!r} is not a provenance record: {error} in {text[:80]!r}",
                f"delete ds.attrs[{ATTRIBUTE!r}], only if you know that nothing in the cube is synthetic",
            ) from error

    def to_properties(
        self, *, written: str, member: int | None = None, share: float | None = None, mask: str | None = None
    ) -> dict[str, Any]:
        """Return the ``processing:`` and ``eoaug:`` properties of a STAC item with pixels of this cube.

        ``sources`` are links of an item and ``members`` are items of their own, so neither is a property.

        Parameters
        ----------
        written
            Time of writing, RFC 3339.
        member
            Number of the ensemble member in the item.
        share
            Share of the item's pixels inside the scene that were not measured, 0 to 1; None: not counted, and
            the record's own is written.
        mask
            Name of the asset with the synthetic mask.
        """
        synthetic = share is None or share > 0
        version = self.software.get("eoaug", "")
        lineage = f"{self.operation} by eoaug {version} with {self.method}, seed {self.seed}"
        optional = {
            "eoaug:member": member,
            "eoaug:model_sha256": self.model_sha256 or None,
            "eoaug:model_licence": self.licence or None,
            "eoaug:model_files": dict(self.model_files) or None,
            "eoaug:model_units": {name: list(pair) for name, pair in self.model_units.items()} or None,
            "eoaug:bands": dict(self.bands) or None,
            "eoaug:prior_bands": list(self.prior_bands) or None,
            "eoaug:config_hash": self.token or None,
            "eoaug:digital_source_type": self.digital_source_type if synthetic else None,
            "eoaug:synthetic_fraction": self.synthetic_fraction if share is None else share,
            "eoaug:residual": self._residuals(),
            "eoaug:parameters": {name: _text(v) for name, v in self.parameters.items()} or None,
            "eoaug:mask": mask,
        }
        return {
            "processing:level": "L4",
            "processing:software": dict(self.software),
            "processing:version": version,
            "processing:lineage": lineage
            + ("" if synthetic else "; every pixel of this item is a measurement"),
            "processing:datetime": written,
            "eoaug:synthetic": synthetic,
            "eoaug:operation": self.operation,
            "eoaug:generator": self.generator,
            "eoaug:seed": self.seed,
            "eoaug:cpu_capability": self.cpu_capability,
            **{name: value for name, value in optional.items() if value is not None},
        }

    @property
    def method(self) -> str:
        """What made the pixels, in words."""
        return f"{'kind' if self.operation == 'corrupt' else 'generator'} {self.generator}"

    def _residuals(self) -> dict[str, float] | None:
        """Return the residual by band: a property has one type in all items, or tables of items cannot be made."""
        if self.residual is None or isinstance(self.residual, Mapping):
            return dict(self.residual) if self.residual else None
        return {name: float(self.residual) for name in self.bands} or None

    @classmethod
    def from_properties(cls, properties: Mapping[str, Any]) -> Provenance:
        """Read what `to_properties` wrote.

        Returns
        -------
        Provenance
            Without ``sources`` and ``members``. What an item of another writer lacks is empty.
        """
        units: Mapping[str, Sequence[float]] = properties.get("eoaug:model_units") or {}
        return cls(
            operation=str(properties.get("eoaug:operation", "")),
            generator=str(properties.get("eoaug:generator", "")),
            model_sha256=str(properties.get("eoaug:model_sha256", "")),
            licence=str(properties.get("eoaug:model_licence", "")),
            model_files=dict(properties.get("eoaug:model_files") or {}),
            model_units={name: (pair[0], pair[1]) for name, pair in units.items()},
            bands=dict(properties.get("eoaug:bands") or {}),
            prior_bands=tuple(properties.get("eoaug:prior_bands") or ()),
            seed=int(properties.get("eoaug:seed", 0)),
            parameters={name: _value(v) for name, v in properties.get("eoaug:parameters", {}).items()},
            token=str(properties.get("eoaug:config_hash", "")),
            software=dict(properties.get("processing:software", {})),
            digital_source_type=str(properties.get("eoaug:digital_source_type", COMPOSITE)),
            synthetic_fraction=properties.get("eoaug:synthetic_fraction"),
            residual=properties.get("eoaug:residual"),
            cpu_capability=str(properties.get("eoaug:cpu_capability", "")),
        )

    def portable(self) -> Provenance:
        """Return the record without hrefs of local files, for files that travel."""
        kept = tuple(
            source if "://" in source.get("href", "") else {k: v for k, v in source.items() if k != "href"}
            for source in self.sources
        )
        return replace(self, sources=kept)


def _text(value: Any) -> str:
    """Return a parameter as JSON text, words as they are: ``mask`` is a name or true, and a field has one type."""
    return value if isinstance(value, str) and _value(value) == value else json.dumps(value, allow_nan=False)


def _value(text: Any) -> Any:
    """Return what `_text` wrote; items of 0.1.0 hold the values themselves."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def renamed[T: xr.Dataset | xr.DataArray](ds: T, token: str) -> T:
    """Return ``ds`` with another token in its record and history.

    The token of a lazy cube hashes the names of its dask graph; a caller that knows the content of the inputs
    replaces it by one that hashes that.
    """
    prov = of(ds)
    if prov is None or not prov.token:
        return ds
    attrs = {name: str(ds.attrs[name]).replace(prov.token, token) for name in (ATTRIBUTE, "history")}
    return _flagged(cast("T", ds.assign_attrs(attrs)), replace(prov, token=token))


def stamp[T: xr.Dataset | xr.DataArray](ds: T, prov: Provenance) -> T:
    """Return ``ds`` with the record, the synthetic flag and a line of history in its attributes.

    All values are strings, so netCDF and Zarr can hold them. The data are not copied. The grid of the mask is noted; see
    `eoaug.cube.synthetic.why_untrusted`.
    """
    made = f"eoaug {prov.software.get('eoaug', '')}: {prov.operation} with {prov.method}"
    line = f"{made}, seed {prov.seed}" + (f", token {prov.token}" if prov.token else "")
    before = str(ds.attrs.get("history", "")).rstrip("\n")
    history = f"{before}\n{line}" if before else line
    out = _flagged(ds.assign_attrs({ATTRIBUTE: prov.to_json(), _FLAG: "true", "history": history}), prov)
    if SYNTHETIC in out.variables if isinstance(out, xr.Dataset) else SYNTHETIC in out.coords:
        with suppress(GridError):
            note_grid(out[SYNTHETIC], geobox_from_coords(out, *spatial_dims(out))[0])
    return cast("T", out)


def _flagged[T: xr.Dataset | xr.DataArray](ds: T, prov: Provenance) -> T:
    """Flag the bands of a Dataset that may hold generated pixels; an array has the flag of its own."""
    if isinstance(ds, xr.Dataset):
        for name, var in ds.data_vars.items():
            made = prov.bands.get(str(name), "generated") != "observed" and var.ndim >= 2
            if _FLAG in var.attrs or (made and not holds_classes(str(name), var.attrs)):
                var.attrs = {**var.attrs, _FLAG: prov.token or "true"}
    return ds


def of(ds: xr.Dataset | xr.DataArray) -> Provenance | None:
    """Return the record that a cube carries, or None.

    Raises
    ------
    SourceError
        There is one that cannot be read.
    """
    text = ds.attrs.get(ATTRIBUTE)
    return None if text is None else Provenance.from_json(str(text))


def marked_synthetic(ds: xr.Dataset | xr.DataArray) -> bool:
    """Return whether a cube, or one of its bands, is marked as holding generated pixels."""
    if ATTRIBUTE in ds.attrs or _flag(ds):
        return True
    return isinstance(ds, xr.Dataset) and any(map(_flag, ds.data_vars.values()))


def foreign_bands(ds: xr.Dataset, prov: Provenance) -> list[str]:
    """Return the bands that were generated by another request than the record's, whose marks are not those of ``ds``."""
    known = {"", "true", prov.token}
    return [str(name) for name, var in ds.data_vars.items() if _flag(var) not in known]


def _flag(obj: xr.Dataset | xr.DataArray) -> str:
    text = str(obj.attrs.get(_FLAG, ""))
    return "" if text.lower() == "false" else text
