"""Fine-tunes a checkpoint on images with captions: LoRA or all weights of each part, and a textual-inversion token.

Everything random is a function of the seed and the step, so a resumed training gives the same bytes as an
uninterrupted one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from eoaug.augmentation.training_items import TrainingSet
from eoaug.captions.caption_file import read_captions
from eoaug.captions.facts import words_of
from eoaug.datasets import training_cubes
from eoaug.errors import EoaugWarning, ParameterError
from eoaug.generators.base import metadata_rows
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.generators.checkpoints.safe_read import read_json
from eoaug.raster.arrays import Float32Array
from eoaug.training import finetuned_files
from eoaug.training.latent_cache import LatentCache
from eoaug.training.state import TrainingState, read_progress
from eoaug.training.tuned_parts import TunedParts
from eoaug.training.tuning import Tuning
from eoaug.training.windows import CaptionedWindow, CubeWindows, ItemWindows, Windows

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["Tuned", "Tuning", "finetune"]

_DROPOUT = 0.1
"""Share of captions, and of metadata fields, left out in training: classifier-free guidance needs unconditional steps."""


@dataclass(frozen=True)
class Tuned:
    """The result of a fine-tuning."""

    path: Path
    """If UNet and text encoders have a LoRA or a new token only, a folder for ``load(base, adapters=[path])``. Otherwise a
    checkpoint for ``load(path)``, in whose weights and vocabulary all LoRA and the token are."""
    losses: tuple[float, ...]
    """Loss of every step."""


def finetune(
    base: str | Path,
    cubes: str | Path | xr.Dataset | Mapping[str, xr.Dataset] | TrainingSet,
    out: str | Path,
    tuning: Tuning | None = None,
    *,
    captions: Mapping[str, str | Sequence[str]] | str | Path | None = None,
    search: Mapping[str, Any] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Train on windows of cubes and write an adapter or a checkpoint for `eoaug.load`.

    Parameters
    ----------
    base
        Checkpoint folder or pinned hub id.
    cubes
        Folder of netCDF cubes (`training_cubes.read_training_cubes`); a STAC catalog or another source of
        `eoaug.open_cube`, each item of which is a cube named by its id; or one cube, or cubes by name. All are
        read into memory. Or a training set (`eoaug.training_set`), whose images of the split ``train`` are opened one at
        a time, so that any number of them fits.
    out
        Folder to write; an interrupted training in it is resumed.
    tuning
        Options; None: the defaults of `Tuning`.
    captions
        By cube name (file name without suffix) or id of the image: a prompt, a class label of one word, or several of them,
        of which every step takes one. A file that `eoaug.caption` has written, or JSON. Of a training set also ``"facts"``:
        captions of every window, from what is known of it. None: ``captions.json`` in the folder of the cubes, the class
        of an image, else ``tuning.prompt``.
    search
        Which items of a STAC source: ``collections``, ``bbox``, ``datetime``, ``limit``, as for
        `eoaug.open_cube`.
    progress
        Called with the number of steps done and the loss of the last.

    Returns
    -------
    Tuned
        The folder and the losses.

    Raises
    ------
    ParameterError
        The checkpoint does not generate images from text alone, or ``out`` holds another training.
    SourceError
        No cube has the bands and enough clear pixels.
    """
    from eoaug.generators.runtime import one_thread

    tuning = tuning or Tuning()
    if str(base) == "embedded":
        raise ParameterError(
            "embedded is no checkpoint: its land is drawn by rules and by statistics of chips",
            "tune these on a training set: eoaug tune-land SET --out FOLDER",
        )
    prompts = _prompts(cubes, captions)
    source = cubes if isinstance(cubes, TrainingSet) else _read_cubes(cubes, tuning.bands, search or {})
    with one_thread():
        training = _Training(base, source, Path(out), tuning, prompts)
        while training.step < tuning.steps:
            loss = training.advance()
            if progress is not None:
                progress(training.step, loss)
            if training.step % tuning.save_every == 0:
                training.save()
        training.save()
        training.write()
    return Tuned(Path(out), tuple(training.losses))


def _prompts(
    cubes: object, captions: Mapping[str, str | Sequence[str]] | str | Path | None
) -> dict[str, list[str]] | str:
    """Return prompts by name; ``"facts"`` as it is."""
    from eoaug.generators.checkpoints.diffusionsat import caption

    if captions == "facts":
        return "facts"
    if isinstance(captions, str | Path):
        is_lines = str(captions).endswith(".jsonl")
        captions = read_captions(captions) if is_lines else dict(read_json(Path(captions)).items())
    if captions is None and isinstance(cubes, TrainingSet):
        captions = {item.id: f"a satellite image of {words_of(item.label)}" for item in cubes if item.label}
    elif captions is None:
        captions = _stored_captions(cubes)
    several = {name: [own] if isinstance(own, str) else list(own) for name, own in captions.items()}
    return {
        name: [str(text) if " " in str(text) else caption(None, str(text)) for text in own]
        for name, own in several.items()
    }


def _stored_captions(cubes: object) -> dict[str, str]:
    """Return the captions in the folder of the cubes; none without such a file."""
    if not isinstance(cubes, str | Path):
        return {}
    folder = Path(cubes) if Path(cubes).is_dir() else Path(cubes).parent
    path = folder / "captions.json"
    return {name: str(text) for name, text in read_json(path).items()} if path.is_file() else {}


def _read_cubes(
    cubes: str | Path | xr.Dataset | Mapping[str, xr.Dataset], bands: Sequence[str], search: Mapping[str, Any]
) -> list[training_cubes.TrainingCube]:
    """Read cubes from memory, from netCDF files or from the items of a STAC source."""
    if isinstance(cubes, xr.Dataset):
        return [training_cubes.from_dataset(cubes, "cube", bands)]
    if not isinstance(cubes, str | Path):
        return [training_cubes.from_dataset(ds, name, bands) for name, ds in cubes.items()]
    folder = Path(cubes)
    if folder.is_dir() and (any(folder.glob("*.nc")) or not any(folder.glob("*.json"))):
        return training_cubes.read_training_cubes(folder, bands, tile_px=1, pyramid=0)
    from eoaug.stac.open import open_cube
    from eoaug.stac.summary import summarise

    read = []
    for summary in summarise(str(cubes), **search):
        own = [summary.collection] if summary.collection else None
        for name in summary.items:
            source: dict[str, Any] = {"ids": [name], "collections": own}
            # With the quality band, where the item has one, cloudy windows are skipped.
            wanted = [*dict.fromkeys(bands), *_quality_band(str(cubes), bands, source)]
            ds = open_cube(str(cubes), bands=wanted, chunks=None, **source)
            read.append(training_cubes.from_dataset(ds, name, bands))
    return read


def _quality_band(cubes: str, bands: Sequence[str], source: Mapping[str, Any]) -> list[str]:
    """Return the quality band of an item, as the verbs choose it; one that nothing explains is warned of when it is read."""
    from eoaug.cube.dimensions import spatial_dims
    from eoaug.cube.roles import quality_variable, roles_of
    from eoaug.stac.open import open_cube

    whole = open_cube(cubes, **source)
    nodes = [leaf.to_dataset() for leaf in whole.leaves] if isinstance(whole, xr.DataTree) else [whole]
    nodes = [ds for ds in nodes if ds.data_vars]
    known = [name for ds in nodes if (name := quality_variable(ds, spatial_dims(ds), bands)) is not None]
    others = [n for ds in nodes for n, role in roles_of(ds, spatial_dims(ds)).items() if role == "quality"]
    return [*known, *others][:1]


@dataclass(frozen=True)
class _DrawnWindow:
    """A window of a step, before it is encoded."""

    image: Tensor
    """(3, edge, edge) in [-1, 1]."""
    noise: Tensor
    """Of the latent, (c, h, w)."""
    time: Tensor
    prompt: str
    metadata: Float32Array | None
    """Of DiffusionSat."""


def _metadata(window: CaptionedWindow, rng: np.random.Generator) -> Float32Array:
    """Return the metadata of a window as DiffusionSat takes them; fields are dropped independently, as in the published code."""
    from eoaug.generators.checkpoints.diffusionsat import metadata_vector

    time, (lon_deg, lat_deg) = window.time, window.lonlat_deg
    (row,) = metadata_rows([time], dated=time != 0, lon_deg=lon_deg, lat_deg=lat_deg, gsd_m=window.gsd_m)
    metadata = metadata_vector(row)
    return np.where(rng.random(len(metadata)) < _DROPOUT, np.float32(0), metadata)


def _one_of(captions: Sequence[str], rng: np.random.Generator) -> str:
    return captions[0] if len(captions) == 1 else captions[int(rng.integers(len(captions)))]


class _Training:
    """Networks, the trained parameters, and the state between two steps."""

    def __init__(
        self,
        base: str | Path,
        source: Sequence[training_cubes.TrainingCube] | TrainingSet,
        out: Path,
        tuning: Tuning,
        captions: Mapping[str, Sequence[str]] | str,
    ) -> None:
        import torch

        from eoaug.generators.checkpoints.networks import Networks
        from eoaug.generators.checkpoints.schedulers import scheduler_of
        from eoaug.generators.runtime import checked_device

        self.out, self.tuning = out, tuning
        self.checkpoint = open_checkpoint(base)
        device = tuning.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.nets = Networks(self.checkpoint, device=checked_device(device, "finetune"))
        if self.nets.unet.config.in_channels != self.nets.vae.config.latent_channels:
            raise ParameterError(
                f"the UNet of {self.checkpoint.root} takes {self.nets.unet.config.in_channels} channels",
                "fine-tune a text-to-image checkpoint",
            )
        size = self.nets.unet.config.sample_size or 64
        self.edge = tuning.tile_px or int(size) * self.nets.factor
        self.schedule = scheduler_of(self.checkpoint.component("scheduler"), "ddim")
        self.windows: Windows
        if isinstance(source, TrainingSet):
            self.windows = ItemWindows(
                source, tuning.bands, self.edge, tuning.stretch, captions, tuning.prompt
            )
        elif isinstance(captions, str):
            raise ParameterError(
                f"captions={captions!r} needs the images of a training set",
                "give eoaug.training_set(...), or captions",
            )
        else:
            self.windows = CubeWindows(source, self.edge, tuning.stretch, captions, tuning.prompt)
        self._latents = None
        self.losses = list[float]()
        self._tell_long_captions()
        self.parts = TunedParts(self.nets, tuning, self.checkpoint.root)
        if tuning.latents is not None and not self.parts.moves_latents:
            encoder = json.dumps([self.checkpoint.identity, tuning.precision, self.nets.device.split(":")[0]])
            self._latents = LatentCache(tuning.latents, encoder, round(tuning.latents_gb * 1e9))
        parameters = self.parts.parameters
        optimizer = torch.optim.AdamW(parameters.values(), lr=tuning.rate)
        scaler = torch.amp.GradScaler(enabled=tuning.precision == "float16" and device != "cpu")
        self.state = TrainingState(parameters, optimizer, scaler)
        self._state_path = out / "state" / "state.safetensors"
        self._resume()

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.state.step

    # -- a step -------------------------------------------------------------------------------------

    def advance(self) -> float:
        """Take one step and return its loss."""
        import torch

        rng = np.random.default_rng([self.tuning.seed, self.step])
        noise = torch.Generator().manual_seed(self.tuning.seed * 1_000_003 + self.step)
        dtype = getattr(torch, self.tuning.precision)
        drawn = [self._drawn(rng, noise) for _ in range(self.tuning.batch)]
        with torch.autocast(self.nets.device.split(":")[0], dtype=dtype, enabled=dtype is not torch.float32):
            loss = self._losses(drawn).mean()
        self.losses.append(self.state.update(loss, ema=self.tuning.ema or 0.0))
        return self.losses[-1]

    def _drawn(self, rng: np.random.Generator, draws: Any) -> _DrawnWindow:
        """Return a random window, with the noise that is added to it and its conditioning."""
        import torch

        from eoaug.generators.checkpoints.diffusionsat_networks import SatUNet

        window = self.windows.draw(rng)
        edge = self.edge // self.nets.factor
        noise = torch.randn((self.nets.vae.config.latent_channels, edge, edge), generator=draws)
        time = torch.randint(0, self.schedule.config.num_train_timesteps, (), generator=draws)
        prompt = "" if rng.random() < _DROPOUT else self._fitting(_one_of(window.captions, rng))
        metadata = _metadata(window, rng) if isinstance(self.nets.unet, SatUNet) else None
        return _DrawnWindow(torch.from_numpy(window.image), noise, time, prompt, metadata)

    def _fitting(self, caption: str) -> str:
        """Return a caption without the last sentences that the text encoders have no tokens for."""
        from eoaug.generators.checkpoints.networks import reads

        kept = caption
        while not reads(self.nets, kept):
            kept = kept[:-1].rpartition(". ")[0]
            if not kept:
                raise ParameterError(
                    f"the caption {caption[:60]!r}... is one sentence that is longer than the text encoder reads",
                    "shorten it, or leave it out: `eoaug caption --checkpoint FOLDER` counts the tokens",
                )
            kept += "."
        return kept

    def _tell_long_captions(self) -> None:
        """Refuse captions that cannot be used before the first step, and tell of those that are cut."""
        known = [text for own in self.windows.captions_by_name().values() for text in own]
        cut = [text for text in dict.fromkeys(known) if self._fitting(text) != text]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(set(known))} captions are longer than the text encoder reads, such as {cut[0][:60]!r}...: "
                "their last sentences are left out",
                EoaugWarning,
                stacklevel=4,
            )

    def _losses(self, drawn: Sequence[_DrawnWindow]) -> Tensor:
        """Return the loss of every window, computed in one batch; the autoencoder's is their mean."""
        import torch
        from diffusers.training_utils import compute_snr

        device = self.nets.device
        latent, autoencoder_loss = self._encode(torch.stack([one.image for one in drawn]).to(device))
        if not self.parts.of_images:
            return autoencoder_loss[None]
        noise = torch.stack([one.noise for one in drawn]).to(latent)
        time = torch.stack([one.time for one in drawn]).to(device)
        noisy = self.schedule.add_noise(latent, noise, time)
        output = self.nets.predict(noisy, time, self._conditioning(drawn))
        prediction = self.schedule.config.prediction_type
        expected = {  # type: ignore[no-untyped-call]
            "epsilon": lambda: noise,
            "v_prediction": lambda: self.schedule.get_velocity(latent, noise, time),
            "sample": lambda: latent,
        }[prediction]()
        error: Tensor = ((output.float() - expected.float()) ** 2).flatten(1).mean(dim=1)
        if self.tuning.snr is not None:
            snr = compute_snr(self.schedule, time)
            # Equation 4 of min-SNR weights the clean image; this brings it to what the network predicts.
            scale = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[prediction]
            error = snr.clamp(max=self.tuning.snr) / scale * error
        return error + autoencoder_loss

    def _encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents, and the loss of the autoencoder: 0 unless it is trained."""
        import torch

        vae = self.nets.vae
        if self.parts.moves_latents:
            posterior = vae.encode(image).latent_dist
            mode = posterior.mode()
            loss = torch.nn.functional.mse_loss(vae.decode(mode).sample, image)
            # The weight of the divergence is that of latent diffusion's own autoencoders (arXiv:2112.10752).
            return mode.detach() * vae.config.scaling_factor, loss + 1e-6 * posterior.kl().mean()
        mode = torch.stack([self._mode(one) for one in image])
        latent = mode * vae.config.scaling_factor
        if self.parts.how("vae") == "frozen":
            return latent, image.new_zeros(())
        return latent, torch.nn.functional.mse_loss(vae.decode(mode).sample, image)

    def _mode(self, image: Tensor) -> Tensor:
        """Return what the encoder makes of one image (3, H, W), kept or computed; alone, because a batch changes its bytes."""
        import torch

        def encode(one: Tensor) -> Tensor:
            with torch.no_grad():
                mode: Tensor = self.nets.vae.encode(one[None]).latent_dist.mode()[0]
            return mode

        return encode(image) if self._latents is None else self._latents.encoded(image, encode)

    def _conditioning(self, drawn: Sequence[_DrawnWindow]) -> dict[str, Tensor]:
        """Return text, and what else the UNet is conditioned on, with a leading axis of the windows."""
        import torch

        encode = self.nets.encode_text if self.parts.of_texts else self.nets.text
        texts = {prompt: encode(prompt) for prompt in dict.fromkeys(one.prompt for one in drawn)}
        given = {"text": torch.stack([texts[one.prompt].hidden for one in drawn])}
        pooled = [texts[one.prompt].pooled for one in drawn]
        if pooled[0] is not None:
            size = torch.tensor([self.edge, self.edge, 0, 0, self.edge, self.edge], dtype=torch.float32)
            given |= {"pooled": torch.stack(pooled), "sizes": size.repeat(len(drawn), 1).to(self.nets.device)}  # type: ignore[arg-type]
        metadata = [one.metadata for one in drawn if one.metadata is not None]
        if metadata:
            given["metadata"] = torch.from_numpy(np.stack(metadata)).to(self.nets.device)
        return given

    # -- files --------------------------------------------------------------------------------------

    @cached_property
    def _identity(self) -> str:
        """Hash of what a state belongs to: base, options, captions and images, but not the number of steps."""
        unrelated = ("steps", "save_every", "latents", "latents_gb")
        options = {k: v for k, v in asdict(self.tuning).items() if k not in unrelated}
        text = json.dumps([self.checkpoint.identity, options, self.windows.identity()], sort_keys=True)
        return sha256(text.encode()).hexdigest()

    def save(self) -> None:
        """Write the state from which an interrupted training resumes."""
        self.state.save(self._state_path, {"identity": self._identity, "losses": self.losses})

    def _resume(self) -> None:
        """Continue from the state in the folder, if there is one."""
        progress = read_progress(self._state_path)
        if progress is None:
            return
        if progress.get("identity") != self._identity:
            raise ParameterError(
                f"{self.out} holds a training with another base, other settings or other cubes",
                "use another folder, or remove this one",
            )
        self.state.load(self._state_path)
        self.losses = progress["losses"]

    def write(self) -> None:
        """Write the averaged weights with a card."""
        import torch

        with torch.no_grad():
            for name, parameter in self.state.parameters.items():
                parameter.copy_(self.state.averaged[name])
        if self.parts.is_adapter:
            finetuned_files.write_adapter(self.out, self.parts, xl=self.nets.xl)
        else:
            finetuned_files.write_checkpoint(self.out, self.checkpoint, self.parts)
        finetuned_files.write_card(
            self.out,
            self.checkpoint,
            self.tuning,
            self.windows.captions(),
            adapter=self.parts.is_adapter,
            steps=self.step,
        )
