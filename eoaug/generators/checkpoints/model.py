"""What a checkpoint can do, derived from its configuration, its ``eoaug.json`` and the user's settings."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from eoaug.errors import GeneratorError
from eoaug.generators.base import Card, Verb
from eoaug.generators.checkpoints import networks, schedulers
from eoaug.generators.checkpoints.assembly import assemble
from eoaug.generators.checkpoints.band_lifting import Rule
from eoaug.generators.checkpoints.folder import Checkpoint, Component
from eoaug.generators.checkpoints.hub import SETTINGS
from eoaug.generators.checkpoints.images import RGB
from eoaug.generators.checkpoints.settings import DTYPES, Settings
from eoaug.generators.runtime import checked_device, device_kind
from eoaug.raster.bands import EO_COMMON_NAMES

__all__ = ["CheckpointModel"]


class CheckpointModel:
    """A checked checkpoint of the Stable Diffusion family, with its card and its networks.

    Networks are loaded at first use, once per process. Families override the methods that answer what the
    card says.

    Parameters
    ----------
    base
        Folder or pinned hub id, as for `eoaug.generators.checkpoints.folder.open_checkpoint`.
    settings
        How to use it; None: the defaults of `Settings`.
    """

    def __init__(self, base: str | Path, settings: Settings | None = None) -> None:
        self._base = str(base)
        self._settings = settings or Settings()
        self._assembly = assemble(base, self._settings)
        self._checkpoint = self._assembly.checkpoint
        self._controls = self._assembly.controls
        self._check_controls()
        schedulers.scheduler_of(self._checkpoint.component("scheduler"), self._settings.scheduler)
        self._card = self._make_card()

    @property
    def card(self) -> Card:
        """What the checkpoint can do, derived from its configuration."""
        return self._card

    @property
    def settings(self) -> dict[str, Any]:
        """The options that change pixels, for the generator's identity: paths are replaced by hashes."""
        device = self._settings.device
        options = {**self._settings.values(), **self._assembly.sources}
        return {**options, "device": None if device is None else device_kind(device)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base!r})"

    # -- what families override -----------------------------------------------------------------------

    def _verbs(self) -> frozenset[Verb]:
        by_input: dict[str, tuple[Verb, ...]] = {
            "plain": ("synthesize", "inpaint"),
            "inpaint": ("inpaint",),
            "upscale": ("super_resolve",),
        }
        return frozenset(by_input[self._unet_input])

    def _conditions(self) -> frozenset[str]:
        return frozenset({"prompt", "guidance", *(["layout"] if self._controls else [])})

    def _bands(self) -> tuple[str, ...]:
        if self._lift is None:
            return RGB
        others = (
            name for name in EO_COMMON_NAMES if not name.startswith("lwir") and name not in ("pan", *RGB)
        )
        return (*RGB, *sorted(others))

    def _published(self) -> dict[str, Any]:
        """Return the defaults that the family was published with, where they differ from Stable Diffusion's."""
        return {}

    def _context(self) -> int:
        """Return the number of other dates that the networks take."""
        return 0

    def _check_controls(self) -> None:
        width = self._unet.get("cross_attention_dim")
        for component in self._controls:
            own = component.config.get("cross_attention_dim")
            if own != width:
                raise GeneratorError(
                    f"the ControlNet {component.folder} takes text embeddings of width {own}, the UNet of {width}",
                    "use a ControlNet of the same family as the base",
                )

    # -- options --------------------------------------------------------------------------------------

    @property
    def _unet(self) -> Mapping[str, Any]:
        return self._checkpoint.component("unet").config

    @property
    def _unet_input(self) -> Literal["plain", "inpaint", "upscale"]:
        """The UNet's input by its number of channels: latents alone, with a masked image, or with a coarse image."""
        channels = self._unet["in_channels"]
        inputs: dict[int, Literal["plain", "inpaint", "upscale"]] = {4: "plain", 9: "inpaint", 7: "upscale"}
        if channels not in inputs:
            raise GeneratorError(
                f"the UNet of {self._checkpoint.root} takes {channels} channels",
                "eoaug serves 4 (text to image), 9 (inpaint) and 7 (upscale)",
            )
        return inputs[channels]

    def _option(self, name: str, default: Any) -> Any:
        """Return an option: the user's, else an adapter's, the checkpoint's or the family's."""
        for value in (getattr(self._settings, name), self._assembly.declared(name)):
            if value is not None:
                return value
        published = self._published().get(name)
        return default if published is None else published

    @property
    def _lift(self) -> Rule | None:
        rule: Rule | None = self._option("lift", None)
        return rule

    @property
    def _stretch(self) -> tuple[float, float]:
        low, high = self._option("stretch", (0.0, 0.3))
        return float(low), float(high)

    @property
    def _guidance(self) -> float:
        xl = self._unet.get("addition_embed_type") == "text_time"
        published = {"plain": 5.0 if xl else 7.5, "inpaint": 7.5, "upscale": 9.0}[self._unet_input]
        return float(self._option("guidance", published))

    # -- the card -------------------------------------------------------------------------------------

    def _tile(self) -> tuple[int, int, int]:
        """Return edge and overlap of a tile, and pixels per latent cell."""
        root, settings = self._checkpoint.root, self._settings
        factor = 2 ** (len(self._checkpoint.component("vae").config["block_out_channels"]) - 1)
        size = self._unet.get("sample_size") or 64
        sizes = size if isinstance(size, list) else [size]
        if not all(isinstance(n, int) and n > 0 for n in sizes):
            raise GeneratorError(f"the UNet of {root} has sample_size={size!r}", "get the folder again")
        tile = settings.tile_px or min(sizes) * factor
        unit = factor * 2 ** (len(self._unet["block_out_channels"]) - 1)
        overlap = settings.overlap_px if settings.overlap_px is not None else tile // 8
        overlap = -(-overlap // factor) * factor
        if tile % unit or not 0 <= overlap <= tile // 2:
            raise GeneratorError(
                f"tile_px={tile} with overlap_px={overlap} does not fit the checkpoint",
                f"give a multiple of {unit} pixels, and an overlap of at most half of it",
            )
        return tile, overlap, factor

    def _make_card(self) -> Card:
        checkpoint, settings, verbs = self._checkpoint, self._settings, self._verbs()
        tile, overlap, factor = self._tile()
        low, high = self._stretch
        bands = self._bands()
        steps = int(self._option("steps", 50))
        derived = frozenset(bands) - frozenset(RGB)
        return Card(
            name=str(checkpoint.settings.get("name", checkpoint.root.name)),
            bands=bands,
            verbs=verbs,
            gsd_m=_pixel_sizes(checkpoint.settings.get("gsd_m", (0.0, math.inf)), checkpoint.root),
            tile_px=tile,
            overlap_px=overlap,
            multiple_of=factor,
            latent_factor=factor,
            batch=settings.batch,
            context=self._context(),
            autoregressive=self._context() > 0,
            steps=dict.fromkeys(verbs, steps),
            joint_steps=dict.fromkeys(verbs - {"super_resolve"}, min(settings.joint_steps, steps - 1)),
            mean=(round((low + high) / 2, 12),) * len(bands),
            std=(round((high - low) / 2, 12),) * len(bands),
            conditions=self._conditions(),
            factors=(factor,) if self._unet_input == "upscale" else (),
            derived_bands=derived if self._lift != "keep" else frozenset(),
            passthrough_bands=derived if self._lift == "keep" else frozenset(),
            files=checkpoint.files,
            sha256=checkpoint.identity,
            licence=str(checkpoint.settings.get("licence", "unknown")),
            description=str(checkpoint.settings.get("description", "A diffusion checkpoint.")),
        )

    # -- the networks ---------------------------------------------------------------------------------

    @property
    def _networks(self) -> networks.Networks:
        """The networks of this process, loaded at first use."""
        settings = self._settings
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = settings.dtype or ("float32" if device == "cpu" else "float16")
        low = settings.memory == "low"
        # The order of ControlNets is no part of the files' hash.
        folders = tuple(str(component.folder) for component in self._controls)
        key = (
            *(self.card.sha256, str(self._checkpoint.root), folders),
            *(device, dtype, settings.adapters, settings.merge, low),
        )
        with _loaded_lock:
            if key not in _loaded:
                checked_device(device, self.card.name)
                if settings.memory == "auto" and device.startswith("cuda"):
                    low = _short_of_memory(self._checkpoint, self._controls, device)
                _loaded[key] = networks.Networks(
                    self._checkpoint,
                    controls=self._controls,
                    adapters=self._assembly.adapters,
                    merge=settings.merge,
                    device=device,
                    dtype=DTYPES[dtype],
                    slicing=low,
                    offload=low and device != "cpu",
                )
            return _loaded[key]


_loaded: dict[tuple[Any, ...], networks.Networks] = {}
_loaded_lock = threading.Lock()


def _pixel_sizes(declared: Any, root: Path) -> tuple[float, float]:
    """Return the smallest and largest pixel size in metres that a checkpoint declares."""
    if not (
        isinstance(declared, list | tuple)
        and len(declared) == 2
        and all(isinstance(n, int | float) for n in declared)
    ):
        raise GeneratorError(
            f"{root / SETTINGS} says gsd_m={declared!r}", "write two numbers of metres, such as [0.3, 10]"
        )
    return float(declared[0]), float(declared[1])


def _short_of_memory(checkpoint: Checkpoint, controls: Sequence[Component], device: str) -> bool:
    """Return whether the device has less than one and a half times the size of the weights free."""
    components = (*checkpoint.components.values(), *controls)
    needed = sum(path.stat().st_size for component in components for path in component.weights)
    return torch.cuda.mem_get_info(device)[0] < 1.5 * needed
