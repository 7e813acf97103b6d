"""DiffusionSat (arXiv:2312.03606) as a generator: Stable Diffusion conditioned on location, pixel size and date.

Metadata come in real-world units, as in `Request`. `metadata_vector` alone knows the order and normalisation of
the published code, which differ from the paper's table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eoaug.errors import GeneratorError
from eoaug.generators.base import METADATA_FIELDS, Request, Verb
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.generators.checkpoints.generator import Diffusion
from eoaug.generators.checkpoints.images import RGB, filled
from eoaug.generators.checkpoints.settings import Settings

__all__ = ["DiffusionSat", "caption", "metadata_vector", "multispectral_image", "open_generator"]


_SHIFT = np.array([180.0, 90.0, 0.0, 0.0, -1980.0, 0.0, 0.0])
_SPAN = np.array([360.0, 180.0, 1.0, 1.0, 120.0, 12.0, 31.0])
"""Largest shifted values. The pixel size is divided by 1 m, so that 10 m becomes 10 000: the published code and
its samples use 1 m, the paper's table says 10 m."""
_THOUSAND = 1000.0

_MULTISPECTRAL = (*RGB, "rededge071", "rededge075", "rededge078", "nir", "nir08", "swir16", "swir22")
"""Bands of the multispectral conditioning image, in its order: Sentinel-2's B4, B3, B2, B5, B6, B7, B8, B8A, B11, B12."""
_MEAN = np.array(
    [1136.26026392, 1120.77120066, 1184.3824625, 1263.73947144, 1645.40315151, 1846.87040806, 1762.59530783,
     1972.62420416, 1732.16362238, 1247.91870117]
)  # fmt: skip
_STD = np.array(
    [965.23119807, 712.12507725, 650.2842772, 948.9819932, 1108.06650639, 1258.36394548, 1233.1492281,
     1364.38688993, 1310.36996126, 1087.6020813]
)  # fmt: skip
"""Mean and standard deviation of fMoW-Sentinel's digital numbers (SatMAE, arXiv:2207.08051)."""
_DIGITAL = 10_000.0
"""Digital numbers per reflectance."""

_FRAMES = 3
"""Images that the 3D ControlNet was trained on."""


def metadata_vector(metadata: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return metadata in the normalisation that the networks were trained with.

    Parameters
    ----------
    metadata
        Shape (..., 7), `METADATA_FIELDS` in real-world units; NaN where unknown.

    Returns
    -------
    Shape (..., 7), float32: longitude + 180, latitude + 90, pixel size in m, cloud fraction, year - 1980,
    month and day, each divided by its span and times 1000. An unknown field is 0, before the sinusoid; without a
    year, month and day are unknown too.

    Examples
    --------
    >>> metadata_vector(np.array([153.317, -27.862, 0.411, 0.0, 2017, 2, 11])).round(1).tolist()
    [925.9000244140625, 345.20001220703125, 411.0, 0.0, 308.29998779296875, 166.6999969482422, 354.79998779296875]
    """
    shifted = (np.asarray(metadata, np.float64) + _SHIFT) / _SPAN * _THOUSAND
    undated = np.isnan(shifted[..., 4:5])
    shifted[..., 4:] = np.where(undated, np.nan, shifted[..., 4:])
    return np.asarray(np.nan_to_num(shifted, nan=0.0), np.float32)


def caption(
    dataset: Literal["fmow", "spacenet", "satlas"] | None = "fmow",
    subject: str | None = None,
    place: str | None = None,
) -> str:
    """Return a prompt in the form of the training captions.

    Parameters
    ----------
    dataset
        Data set whose form to use: ``"fmow"``, ``"spacenet"`` or ``"satlas"`` (also for NAIP); None: none.
    subject
        A class or counts, e.g. ``"airport"`` (fmow), ``"12 buildings"``.
    place
        A country (fmow) or a city (spacenet).

    Examples
    --------
    >>> caption("fmow", "airport", "France")
    'a fmow satellite image of a airport in France'
    """
    article = "a " if dataset == "fmow" else ""
    parts = [f"a{f' {dataset}' if dataset else ''} satellite image"]
    parts += [f"of {article}{subject.replace('_', ' ')}"] if subject else []
    return " ".join(parts + ([f"in {place}"] if place else []))


def multispectral_image(reflectance: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return Sentinel-2 bands as a conditioning image of the 2D ControlNet.

    Parameters
    ----------
    reflectance
        Shape (10, H, W), bands red, green, blue, red edge 1 to 3, nir, narrow nir, swir 1 and 2; NaN where
        not measured.

    Returns
    -------
    Shape (10, H, W) in [0, 1]: two standard deviations around the mean, truncated to the 256 levels of training;
    0 where not measured.
    """
    low = (_MEAN - 2 * _STD)[:, None, None]
    level = (reflectance * _DIGITAL - low) / (4 * _STD)[:, None, None] * 255
    return np.asarray(np.floor(np.clip(np.nan_to_num(level, nan=0.0), 0, 255)) / 255, np.float32)


class DiffusionSat(Diffusion):
    """A generator from a checkpoint of DiffusionSat.

    The single-image model serves ``synthesize`` and ``inpaint``, and with its 2D ControlNet ``super_resolve``.
    With its 3D ControlNet, which takes other dates in ascending order, it serves ``extend``, ``inpaint`` and
    ``super_resolve``; several new dates are generated autoregressively (appendix A.3.1 of the paper).

    Parameters
    ----------
    base, settings
        As for `Diffusion`.
    """

    @property
    def _control(self) -> Literal["none", "2D", "3D"]:
        if not self._controls:
            return "none"
        return "3D" if self._controls[0].kind == "ControlNetModel3D" else "2D"

    @property
    def _channels(self) -> int:
        return int(self._controls[0].config["conditioning_in_channels"])

    def _verbs(self) -> frozenset[Verb]:
        by_control: dict[str, tuple[Verb, ...]] = {
            "none": ("synthesize", "inpaint"),
            "2D": ("super_resolve",),
            "3D": ("inpaint", "extend", "super_resolve"),
        }
        return frozenset(by_control[self._control])

    def _conditions(self) -> frozenset[str]:
        return frozenset({"prompt", "guidance", "metadata"})

    def _bands(self) -> tuple[str, ...]:
        return _MULTISPECTRAL if self._multispectral else super()._bands()

    @property
    def _multispectral(self) -> bool:
        return self._control == "2D" and self._channels == len(_MULTISPECTRAL)

    def _published(self) -> dict[str, Any]:
        # The paper's figures: DDIM, 100 steps, no guidance. The bands of the multispectral conditioning image that
        # are not generated are derived by detail injection.
        return {"steps": 100, "guidance": 1.0, "lift": "inject" if self._multispectral else None}

    def _context(self) -> int:
        return _FRAMES if self._control == "3D" else 0

    def _check_controls(self) -> None:
        super()._check_controls()
        if len(self._controls) > 1 or any(
            not component.config.get("use_metadata") for component in self._controls
        ):
            raise GeneratorError(
                f"{self._checkpoint.root} is a DiffusionSat model, which takes one ControlNet of its own kind, not "
                f"{', '.join(component.folder.name for component in self._controls)}",
                "give one folder with use_metadata in its config.json",
            )
        if self._controls and self._channels not in (3, len(_MULTISPECTRAL)):
            raise GeneratorError(
                f"the ControlNet {self._controls[0].folder} takes {self._channels} channels",
                f"eoaug supports 3 (colours) and {len(_MULTISPECTRAL)} (Sentinel-2)",
            )

    def _prompt(self, request: Request, target: int) -> str:
        given = request.prompt if request.prompt is not None else self._option("prompt", None)
        if given is not None:
            return str(given)
        # In training, NAIP and Sentinel-2 had the captions of Satlas, finer images those of fMoW.
        gsd = request.metadata[target, METADATA_FIELDS.index("gsd_m")]
        return caption("satlas" if gsd >= 1 else "fmow")

    def _given(self, request: Request, target: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        positive, negative = super()._given(request, target)
        positive["metadata"] = self._embedding_input(request.metadata[target])
        if self._controls:
            image, metadata = self._condition(request, target)
            nets = self._networks
            control = torch.from_numpy(np.ascontiguousarray(image)).to(nets.device, nets.dtype)
            positive |= {"control0": control, "control_metadata": self._embedding_input(metadata)}
            negative["control0"] = control
        for name in ("metadata", "control_metadata"):
            if name in positive:
                # Unconditional training used the value 0, for the metadata of the conditioning image too.
                negative[name] = torch.zeros_like(positive[name])
        return positive, negative

    def _layouts(self, request: Request) -> dict[str, Tensor]:
        del request
        return {}

    def _embedding_input(self, metadata: NDArray[np.float64]) -> Tensor:
        """Return normalised metadata, shape (7,), or (7, F) for F images; always in float32."""
        vector = metadata_vector(metadata)
        if self._settings.legacy_fp16:
            vector = np.asarray(vector.astype(np.float16), np.float32)
        return torch.from_numpy(np.ascontiguousarray(vector.T)).to(self._networks.device)

    def _condition(self, request: Request, target: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the conditioning image, (C, h, w) or (C, F, h, w), and its metadata, (7,) or (F, 7)."""
        if request.coarse is not None:
            metadata = request.metadata[target].copy()
            metadata[METADATA_FIELDS.index("gsd_m")] *= request.factor
            image = self._coarse_image(request, target)
            if self._control == "2D":
                return image, metadata
            return np.repeat(image[:, None], _FRAMES, axis=1), np.repeat(metadata[None], _FRAMES, axis=0)
        others = [date for date in range(len(request.times)) if date != target]
        if not others:
            # There is no other date: use the known pixels of this one, if any.
            others = [target]
        frames = [(filled(_measured(request, date)) + 1) / 2 for date in others[:_FRAMES]]
        rows = [request.metadata[date] for date in others[:_FRAMES]]
        short = _FRAMES - len(frames)
        frames, rows = frames + frames[-1:] * short, rows + rows[-1:] * short
        return np.stack(frames, axis=1), np.stack(rows)

    def _coarse_image(self, request: Request, target: int) -> NDArray[np.float32]:
        coarse = request.coarse_tile[target]
        if self._channels == 3:
            image = (filled(coarse) + np.float32(1)) / np.float32(2)
        else:
            zero, unit = (np.array(values)[:, None, None] for values in (self.card.mean, self.card.std))
            image = multispectral_image(coarse * unit + zero)
        scale = int(self._controls[0].config.get("conditioning_scale", 1))
        size = [n // scale for n in request.values.shape[2:]]
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(image)[None], size=size, mode="bicubic", align_corners=False
        )
        return resized[0].clamp(0, 1).numpy()


def _measured(request: Request, date: int) -> NDArray[np.float32]:
    """Return the pixels of a date, NaN where unknown or to be generated."""
    known = request.known[date] & ~request.fill[date]
    return np.where(known, request.values[date], np.float32(np.nan))


def open_generator(source: str | Path, options: Mapping[str, Any]) -> Diffusion:
    """Return the generator of a checkpoint: `DiffusionSat` if its UNet takes metadata, else `Diffusion`.

    Parameters
    ----------
    source
        Folder or pinned hub id.
    options
        Fields of `Settings`.
    """
    settings = Settings.of(options)
    unet = open_checkpoint(source if settings.unet is None else settings.unet, settings.variant).component(
        "unet"
    )
    takes_metadata = unet.kind == "SatUNet" or bool(unet.config.get("use_metadata"))
    return (DiffusionSat if takes_metadata else Diffusion)(source, settings)
