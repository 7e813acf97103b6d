"""Stable Diffusion and its kin as generators: a checkpoint folder becomes a `Generator` with a card.

Imports the ground, this package's numpy modules and ``latent``, hence torch and diffusers. The denoising
loop is walked here, request by request, so that noise belongs to the place and the engine can join tiles
between steps; the networks run in forwards of one shape.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from eoaug.errors import GeneratorError
from eoaug.generators.base import Card, Request, Verb, check_batch, present_bands
from eoaug.generators.checkpoints import loading, networks, schedulers
from eoaug.generators.checkpoints.band_lifting import Rule, lift
from eoaug.generators.checkpoints.folder import Checkpoint, Component, open_checkpoint
from eoaug.generators.checkpoints.hub import ADAPTER_FILES, SETTINGS, find
from eoaug.generators.checkpoints.images import RGB, cells, filled, narrowed, padded
from eoaug.generators.checkpoints.safe_read import read_header, read_json
from eoaug.generators.checkpoints.settings import DTYPES, TOLD, Settings
from eoaug.generators.checkpoints.trajectory import Given, LatentBatch, LatentTrajectory
from eoaug.generators.interpolation.back_projection import consistent, surroundings
from eoaug.generators.runtime import checked_device, device_kind, one_thread
from eoaug.generators.weights import sha256_of
from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array
from eoaug.raster.bands import EO_COMMON_NAMES

__all__ = ["Diffusion"]


class Diffusion:
    """A checkpoint of the Stable Diffusion family.

    Thread-safe; networks are loaded once per process at first use; pickles as path, settings and hash. Every
    forward has the card's batch shape, on one intra-op thread.

    Parameters
    ----------
    base
        Folder or pinned hub id, as for `eoaug.generators.checkpoints.folder.open_checkpoint`.
    settings
        How to use it.
    """

    def __init__(self, base: str | Path, settings: Settings | None = None) -> None:
        self._base = str(base)
        self._settings = settings or Settings()
        variant = self._settings.variant
        checkpoint = open_checkpoint(base, variant)
        extra = dict(checkpoint.files)
        parts = dict(checkpoint.parts)
        # In the generator's identity, what a path leads to stands in the place of the path.
        replaced: dict[str, Any] = {}
        if self._settings.unet is not None:
            other = open_checkpoint(self._settings.unet, variant)
            parts["unet"] = other.part("unet")
            replaced["unet"] = other.identity
            extra |= {f"unet of {other.root.name}/{name}": digest for name, digest in other.files.items()}
        self._controls = (
            [parts["controlnet"]] if "controlnet" in parts and not self._settings.controlnets else []
        )
        replaced["controlnets"] = []
        for folder in self._settings.controlnets:
            other = open_checkpoint(folder, variant)
            self._controls.append(other.part("controlnet"))
            replaced["controlnets"].append(other.identity)
            extra |= {f"controlnet {other.root.name}/{name}": digest for name, digest in other.files.items()}
        self._adapters = [one for path, scale in self._settings.adapters for one in _adapters(path, scale)]
        replaced["adapters"] = [(one.sha256, one.scale, one.settings) for one in self._adapters]
        self._replaced = replaced
        extra |= {f"adapter {a.path.parent.name}/{a.path.name}": a.sha256 for a in self._adapters}
        # What a folder says of itself is as strange as the rest of it.
        for told in (checkpoint.settings, *(adapter.settings for adapter in self._adapters)):
            Settings.of({name: told[name] for name in TOLD if name in told})
        self._checkpoint = Checkpoint(checkpoint.root, parts, checkpoint.settings, checkpoint.pipeline, extra)
        if variant is not None and all(
            part.variant != variant for part in (*parts.values(), *self._controls)
        ):
            raise GeneratorError(
                f"no part of {checkpoint.root} has weights of variant={variant!r}", "leave variant out"
            )
        self._check_bases()
        for part in (*parts.values(), *self._controls):
            loading.check_fit(part)
        self._check_controls()
        schedulers.scheduler_of(self._checkpoint.part("scheduler"), self._settings.scheduler)
        self._card = self._made_card()

    @property
    def card(self) -> Card:
        """What the checkpoint can do, told by its configuration."""
        return self._card

    @property
    def settings(self) -> dict[str, Any]:
        """What changes its pixels beside the base's weights: the options, with hashes in the place of paths."""
        options = {one.name: getattr(self._settings, one.name) for one in fields(self._settings)}
        device = self._settings.device
        return {**options, **self._replaced, "device": None if device is None else device_kind(device)}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._base, self._settings, self.card.sha256)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base!r})"

    # -- the card -----------------------------------------------------------------------------------

    @property
    def _kind(self) -> Literal["plain", "inpaint", "upscale"]:
        """What the UNet is fed, told by its input channels."""
        channels = self._unet["in_channels"]
        kinds: dict[int, Literal["plain", "inpaint", "upscale"]] = {4: "plain", 9: "inpaint", 7: "upscale"}
        if channels not in kinds:
            raise GeneratorError(
                f"the UNet of {self._checkpoint.root} takes {channels} channels",
                "eoaug serves 4 (text to image), 9 (inpaint) and 7 (upscale)",
            )
        return kinds[channels]

    @property
    def _unet(self) -> Mapping[str, Any]:
        return self._checkpoint.part("unet").config

    def _verbs(self) -> frozenset[Verb]:
        by_kind: dict[str, tuple[Verb, ...]] = {
            "plain": ("synthesize", "inpaint"),
            "inpaint": ("inpaint",),
            "upscale": ("super_resolve",),
        }
        return frozenset(by_kind[self._kind])

    def _conditions(self) -> frozenset[str]:
        return frozenset({"prompt", "guidance", *(["layout"] if self._controls else [])})

    def _bands(self) -> tuple[str, ...]:
        if self._lift is None:
            return RGB
        others = (
            name for name in EO_COMMON_NAMES if not name.startswith("lwir") and name not in ("pan", *RGB)
        )
        return (*RGB, *sorted(others))

    def _default(self, name: str, fallback: Any) -> Any:
        """Return a setting: the user's, else an adapter's, the checkpoint's or the family's."""
        own = getattr(self._settings, name)
        if own is not None:
            return own
        adapters = [adapter.settings for adapter in self._adapters]
        told = [*adapters, self._checkpoint.settings, self._published()]
        return next((one[name] for one in told if one.get(name) is not None), fallback)

    def _published(self) -> dict[str, Any]:
        """Return settings that the family was published with, where they differ from Stable Diffusion's."""
        return {}

    @property
    def _lift(self) -> Rule | None:
        rule: Rule | None = self._default("lift", None)
        return rule

    @property
    def _stretch(self) -> tuple[float, float]:
        low, high = self._default("stretch", (0.0, 0.3))
        return float(low), float(high)

    @property
    def _guidance(self) -> float:
        xl = self._unet.get("addition_embed_type") == "text_time"
        family = {"plain": 5.0 if xl else 7.5, "inpaint": 7.5, "upscale": 9.0}[self._kind]
        return float(self._default("guidance", family))

    def _made_card(self) -> Card:
        settings = self._settings
        verbs = self._verbs()
        factor = 2 ** (len(self._checkpoint.part("vae").config["block_out_channels"]) - 1)
        size = self._unet.get("sample_size") or 64
        sizes = size if isinstance(size, list) else [size]
        if not all(isinstance(n, int) and n > 0 for n in sizes):
            raise GeneratorError(
                f"the UNet of {self._checkpoint.root} has sample_size={size!r}", "get the folder again"
            )
        tile = settings.tile_px or min(sizes) * factor
        unit = factor * 2 ** (len(self._unet["block_out_channels"]) - 1)
        overlap = settings.overlap_px if settings.overlap_px is not None else tile // 8
        overlap = -(-overlap // factor) * factor
        if tile % unit or not 0 <= overlap <= tile // 2:
            raise GeneratorError(
                f"tile_px={tile} with overlap_px={overlap} does not fit the checkpoint",
                f"give a multiple of {unit} pixels, and an overlap of at most half of it",
            )
        low, high = self._stretch
        bands = self._bands()
        steps = int(self._default("steps", 50))
        derived = frozenset(bands) - frozenset(RGB)
        return Card(
            name=str(self._checkpoint.settings.get("name", self._checkpoint.root.name)),
            bands=bands,
            verbs=verbs,
            gsd_m=_range(self._checkpoint.settings.get("gsd_m", (0.0, math.inf)), self._checkpoint.root),
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
            factors=(factor,) if self._kind == "upscale" else (),
            derived_bands=derived if self._lift != "keep" else frozenset(),
            passthrough_bands=derived if self._lift == "keep" else frozenset(),
            files=self._checkpoint.files,
            sha256=self._checkpoint.identity,
            licence=str(self._checkpoint.settings.get("licence", "unknown")),
            description=str(self._checkpoint.settings.get("description", "A diffusion checkpoint.")),
        )

    def _context(self) -> int:
        return 0

    def _check_controls(self) -> None:
        for part in self._controls:
            width = part.config.get("cross_attention_dim")
            if width != self._unet.get("cross_attention_dim"):
                raise GeneratorError(
                    f"the ControlNet {part.folder} reads text of width {width}, the UNet of "
                    f"{self._unet.get('cross_attention_dim')}",
                    "use a ControlNet of the same family as the base",
                )

    def _check_bases(self) -> None:
        """Refuse adapters that name other weights than those they would change."""
        for adapter in self._adapters:
            trained_on, base = adapter.settings.get("base"), self._checkpoint.base
            if trained_on is not None and trained_on != base and not self._settings.any_base:
                raise GeneratorError(
                    f"adapter {adapter.path} was trained on weights {str(trained_on)[:16]}, those of "
                    f"{self._checkpoint.root} are {base[:16]}",
                    "load it with the base that it was trained on, or any_base=True if they are kin",
                )

    # -- the contract -------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request]) -> Float32Array:
        """Return shape (B, T, C, H, W) in model units.

        Parameters
        ----------
        requests
            Any number, of one shape; they may come from different verbs.
        """
        if not requests:
            raise GeneratorError(f"{self.card.name}: generate was given no request", "pass one or more")
        size = self.card.batch
        batches = [requests[first : first + size] for first in range(0, len(requests), size)]
        return np.concatenate([self.finish(self.begin(batch)) for batch in batches])

    def begin(self, requests: Sequence[Request]) -> LatentBatch:
        """Return the state of at most ``card.batch`` requests before the first step."""
        self._check(requests)
        with one_thread(), torch.inference_mode():
            return LatentBatch([self._walk(request) for request in requests])

    def step(self, state: LatentBatch, index: int) -> Float32Array:
        """Advance ``state`` to step ``index`` and return its clean estimate, shape (B, c, h, w) of latents."""
        if index != state.index + 1:
            raise GeneratorError(
                f"{self.card.name}: step {index} was asked for after step {state.index}",
                "walk the steps in order, from 0, each once",
            )
        active = [walk for walk in state.walks if index < walk.calls]
        with one_thread(), torch.inference_mode():
            for walk in active:
                walk.advance(index)
            for guided in (False, True):
                group = [walk for walk in active if (walk.negative is not None) == guided]
                if group:
                    self._predict(group, index)
        state.index = index
        return np.stack([walk.estimate[0].float().cpu().numpy() for walk in state.walks])

    def replace(self, state: LatentBatch, estimate: Float32Array) -> None:
        """Put ``estimate`` in the place of the one that `step` returned last."""
        shape = (len(state.walks), *state.walks[0].estimate.shape[1:])
        if estimate.shape != shape:
            raise GeneratorError(
                f"{self.card.name}: an estimate of shape {estimate.shape} cannot replace one of {shape}",
                "give an array of the shape that step returned",
            )
        for walk, one in zip(state.walks, estimate, strict=True):
            walk.replace(torch.from_numpy(np.ascontiguousarray(one))[None].to(walk.estimate))

    def finish(self, state: LatentBatch) -> Float32Array:
        """Take the steps that are left and return the result, shape (B, T, C, H, W)."""
        for index in range(state.index + 1, max(walk.calls for walk in state.walks)):
            self.step(state, index)
        with one_thread(), torch.inference_mode():
            return np.stack([self._result(walk) for walk in state.walks])

    # -- one request --------------------------------------------------------------------------------

    def _check(self, requests: Sequence[Request]) -> None:
        card = self.card
        check_batch(card, requests)
        for request in requests:
            if card.factors and request.factor not in card.factors:
                raise GeneratorError(
                    f"{card.name} was asked to refine by {request.factor}",
                    f"it refines by {card.factors[0]} alone",
                )
            if request.steps is not None and request.steps < 1:
                raise GeneratorError(
                    f"{card.name} was asked for steps={request.steps}: a diffusion model has no estimate without steps",
                    "give steps=1 or more, or use generator='classical'",
                )

    def _walk(self, request: Request) -> LatentTrajectory:
        nets = self._networks
        target = int(np.flatnonzero(request.target)[0])
        steps = request.steps or self.card.steps[next(iter(self.card.steps))]
        scheduler = schedulers.scheduler_of(self._checkpoint.part("scheduler"), self._settings.scheduler)
        scheduler.set_timesteps(steps, device=nets.device)
        C, (H, W) = nets.vae.config.latent_channels, request.values.shape[2:]
        drawn = self._noise(
            request, target, "diffusion latent", (C, H // nets.factor, W // nets.factor), nets.factor
        )
        positive, negative = self._given(request, target)
        walk = LatentTrajectory(request=request, target=target, scheduler=scheduler, positive=positive)
        walk.noise = drawn.to(nets.dtype)
        walk.draw = lambda step: self._noise(
            request, target, f"diffusion step {step}", (C, H // nets.factor, W // nets.factor), nets.factor
        ).to(nets.dtype)
        guidance = self._guidance if request.guidance is None else request.guidance
        if guidance > 1:
            walk.guidance, walk.negative = guidance, negative
        known = request.known[target] & ~request.fill[target]
        if request.strength < 1:
            walk.start_from(nets.encode(self._image(request, target)), request.strength)
        else:
            walk.x = walk.noise * scheduler.init_noise_sigma
            if self._kind == "plain" and known.any():
                walk.clean = nets.encode(self._image(request, target))
                walk.free = cells(~known[:3].all(axis=0), nets.factor).to(walk.noise)
        walk.estimate = torch.zeros_like(walk.noise) if walk.clean is None else walk.clean
        return walk

    def _given(self, request: Request, target: int) -> tuple[Given, Given]:
        """Return the conditions of the forward, and those that guidance leads away from."""
        nets, size = self._networks, request.values.shape[2:]
        text = nets.text(self._prompt(request, target))
        empty = nets.text(self._settings.negative)
        positive, negative = {"text": text.hidden}, {"text": empty.hidden}
        if text.pooled is not None and empty.pooled is not None:
            zero = not self._settings.negative and self._checkpoint.pipeline.get(
                "force_zeros_for_empty_prompt"
            )
            sizes = torch.tensor([*size, 0, 0, *size], dtype=nets.dtype, device=nets.device)
            if zero:
                negative["text"] = torch.zeros_like(empty.hidden)
            pooled = torch.zeros_like(empty.pooled) if zero else empty.pooled
            positive |= {"pooled": text.pooled, "sizes": sizes}
            negative |= {"pooled": pooled, "sizes": sizes}
        both = self._seen(request, target)
        return positive | both, negative | both

    def _prompt(self, request: Request, target: int) -> str:
        del target
        return request.prompt if request.prompt is not None else str(self._default("prompt", ""))

    def _seen(self, request: Request, target: int) -> Given:
        """Return the image conditions, which guidance does not leave out."""
        nets = self._networks
        given: Given = {}
        if self._kind == "inpaint":
            hole = ~(request.known[target] & ~request.fill[target])[:3].all(axis=0)
            image = self._image(request, target) * torch.from_numpy(~hole).to(nets.device)
            shown = nets.encode(image)[0]
            given["concat"] = torch.cat([cells(hole, nets.factor)[0].to(shown), shown])
        if self._kind == "upscale":
            assert request.coarse is not None
            coarse = filled(request.coarse_tile[target])
            drawn = self._noise(request, target, "diffusion coarse", coarse.shape, nets.factor).to(nets.dtype)
            level = torch.tensor([self._settings.noise_level], device=nets.device)
            low = schedulers.scheduler_of(self._checkpoint.part("low_res_scheduler"), None)
            image = torch.from_numpy(coarse)[None].to(drawn)
            given |= {"concat": low.add_noise(image, drawn, level)[0], "noise_level": level[0]}
        return given | self._layouts(request)

    def _layouts(self, request: Request) -> Given:
        """Return the images of the ControlNets."""
        if not self._controls:
            return {}
        counts = [int(part.config.get("conditioning_channels", 3)) for part in self._controls]
        layout = request.layout
        if layout is not None and len(layout) == len(counts):
            layout = np.concatenate(
                [np.repeat(one[None], n, 0) for one, n in zip(layout, counts, strict=True)]
            )
        if layout is None or len(layout) != sum(counts):
            held = "none" if layout is None else f"{len(layout)} layers"
            raise GeneratorError(
                f"{self.card.name} has {len(counts)} ControlNets that see {sum(counts)} channels; layout has {held}",
                f"give layout= with {sum(counts)} layers, or one per ControlNet, with values from 0 to 1",
            )
        nets = self._networks
        cuts = np.split(layout, np.cumsum(counts)[:-1])
        images = (torch.from_numpy(np.ascontiguousarray(cut)).to(nets.device, nets.dtype) for cut in cuts)
        return {f"control{i}": image for i, image in enumerate(images)}

    def _image(self, request: Request, target: int) -> Tensor:
        """Return the colours of a date, shape (1, 3, H, W) in [-1, 1], filled where unknown."""
        image = filled(np.where(request.known[target], request.values[target], np.float32(np.nan)))
        return torch.from_numpy(image)[None].to(self._networks.device)

    def _noise(
        self, request: Request, target: int, stream: str, shape: tuple[int, ...], factor: int
    ) -> Tensor:
        row, col = request.origin
        drawn = noise.normal(
            (row // factor, col // factor),
            (shape[0], shape[1], shape[2]),
            seed=request.seed,
            stream=stream,
            member=request.member,
            time=int(request.times[target]),
        )
        return torch.from_numpy(drawn)[None].to(self._networks.device)

    def _predict(self, walks: Sequence[LatentTrajectory], index: int) -> None:
        """Run the networks for walks that are guided, or for walks that are not."""
        nets, batch = self._networks, self.card.batch
        x = [walk.scaled(index)[0] for walk in walks]
        t = [walk.time(index) for walk in walks]
        given = [[walk.positive for walk in walks]]
        if walks[0].negative is not None:
            given.insert(0, [walk.negative or {} for walk in walks])
        twice = len(given)
        stacked = {
            name: torch.cat([padded([one[name] for one in half], batch) for half in given])
            for name in given[0][0]
        }
        scales = self._settings.control_scales or (1.0,) * len(self._controls)
        out = nets.predict(
            torch.cat([padded(x, batch)] * twice), torch.cat([padded(t, batch)] * twice), stacked, scales
        )
        for i, walk in enumerate(walks):
            mine = out[-batch:][i : i + 1]
            if twice == 2:
                empty = out[:batch][i : i + 1]
                mine = empty + walk.guidance * (mine - empty)
            walk.predicted(mine, index)

    def _result(self, walk: LatentTrajectory) -> Float32Array:
        request, target = walk.request, walk.target
        result = np.where(request.known, request.values, np.float32(0))
        if walk.calls:
            walk.advance(walk.calls)
            colours = self._networks.decode(walk.x)[0].cpu().numpy()
        else:
            colours = self._image(request, target)[0].cpu().numpy()
        # Bands that the cube lacks are not worth their arithmetic.
        present = present_bands(request)
        present[: len(RGB)] = True
        narrow = narrowed(request, present)
        around = None if narrow.coarse is None else surroundings(narrow, target)
        made = colours
        if self._lift is not None:
            made = np.concatenate([colours, lift(self._lift, narrow, target, colours, around)])
        if around is not None:
            made = consistent(narrow, target, made, around, passes=2)
        final = np.zeros_like(result[target])
        final[present] = made
        known = request.known[target] & ~request.fill[target]
        final = np.where(known, request.values[target], final)
        result[target] = np.where(request.fill[target], final, result[target])
        return result.astype(np.float32, copy=False)

    # -- the networks -------------------------------------------------------------------------------

    @property
    def _networks(self) -> networks.Networks:
        """The networks of this process, loaded on first use."""
        settings = self._settings
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = settings.dtype or ("float32" if device == "cpu" else "float16")
        low = settings.memory == "low"
        key = (
            self.card.sha256,
            str(self._checkpoint.root),
            device,
            dtype,
            settings.adapters,
            settings.merge,
            low,
        )
        with _loaded_lock:
            if key not in _loaded:
                checked_device(device, self.card.name)
                if settings.memory == "auto" and device.startswith("cuda"):
                    low = _short_of_memory(self._checkpoint, self._controls, device)
                _loaded[key] = networks.Networks(
                    self._checkpoint,
                    controls=self._controls,
                    adapters=self._adapters,
                    merge=settings.merge,
                    device=device,
                    dtype=DTYPES[dtype],
                    slicing=low,
                    offload=low and device != "cpu",
                )
            return _loaded[key]


_loaded: dict[tuple[Any, ...], networks.Networks] = {}
_loaded_lock = threading.Lock()


@lru_cache(maxsize=8)
def _restored(kind: type[Diffusion], base: str, settings: Settings, identity: str) -> Diffusion:
    """Rebuild a pickled generator, and refuse other weights than those it was pickled with."""
    generator = kind(base, settings)
    if generator.card.sha256 != identity:
        raise GeneratorError(
            f"restoring {base}: the files here have identity {generator.card.sha256}, the sender's {identity}",
            "give every worker the same folder",
        )
    return generator


def _adapters(source: str, scale: float) -> list[networks.Adapter]:
    """Return the adapters of a file, or of the folder that holds them; learned tokens come first."""
    path = Path(source).expanduser()
    if "@" in source and not path.exists():
        path = find(source)
    settings: Mapping[str, Any] = {}
    files = [path]
    if path.is_dir():
        if (path / SETTINGS).is_file():
            settings = read_json(path / SETTINGS)
        files = [path / name for name in ADAPTER_FILES if (path / name).is_file()]
        if not files:
            raise GeneratorError(
                f"adapter folder {path} holds none of {', '.join(ADAPTER_FILES)}", "name the file"
            )
    for file in files:
        if file.suffix != ".safetensors" or not file.is_file():
            raise GeneratorError(
                f"adapter {source} is no safetensors file", "eoaug convert-weights FOLDER turns .bin into it"
            )
        read_header(file)
    return [networks.Adapter(file.absolute(), scale, sha256_of(file), settings) for file in files]


def _range(told: Any, root: Path) -> tuple[float, float]:
    """Return the pixel sizes that a checkpoint says it was made for."""
    if not (
        isinstance(told, list | tuple) and len(told) == 2 and all(isinstance(n, int | float) for n in told)
    ):
        raise GeneratorError(
            f"{root / SETTINGS} says gsd_m={told!r}", "write two numbers of metres, such as [0.3, 10]"
        )
    return float(told[0]), float(told[1])


def _short_of_memory(checkpoint: Checkpoint, controls: Sequence[Component], device: str) -> bool:
    parts = (*checkpoint.parts.values(), *controls)
    needed = sum(path.stat().st_size for part in parts for path in part.weights)
    return torch.cuda.mem_get_info(device)[0] < 1.5 * needed
