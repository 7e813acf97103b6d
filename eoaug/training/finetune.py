"""Fine-tuning a checkpoint on cubes with captions: LoRA or all weights, and a learned word.

Imports the ground, the generators and this package's samples; torch inside. Everything random is a function
of the seed and the step, so that an interrupted training, resumed, gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from eoaug.datasets import training_cubes
from eoaug.errors import BandError, ParameterError, SourceError
from eoaug.generators.base import metadata_rows
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.generators.checkpoints.hub import SETTINGS
from eoaug.generators.checkpoints.safe_read import read_json

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["Tuned", "Tuning", "finetune"]

_ATTENTION = {
    "unet": ["to_k", "to_q", "to_v", "to_out.0"],
    "text": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
"""Layers that a LoRA joins (arXiv:2106.09685): the attention's projections."""
_DROPOUT = 0.1
"""Share of captions, and of metadata fields, left out in training, so that guidance has something to lead from."""
_CLEAR = 0.95
"""Least share of a window without cloud."""
_DRAWS = 1000
"""Random windows to look at before giving up."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How to fine-tune."""

    mode: Literal["lora", "full"] = "lora"
    target: tuple[str, ...] = ("unet",)
    """Of ``unet``, ``text`` and, with ``mode="full"``, ``vae``."""
    rank: int = 16
    """Of the LoRA's matrices."""
    token: str | None = None
    """A new word to learn, e.g. ``"<sar>"``; captions should hold it."""
    steps: int = 1000
    batch: int = 1
    rate: float = 1e-4
    """Learning rate of AdamW."""
    snr: float | None = 5.0
    """Largest signal-to-noise ratio that a step weighs with (min-SNR, arXiv:2303.09556); None: no weighting."""
    ema: float | None = 0.999
    """Decay of the average of weights that is written; None: the last weights."""
    checkpointing: bool = False
    """Compute activations anew on the way back: less memory, more time."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the forward; weights and their average stay in float32."""
    bands: tuple[str, str, str] = ("red", "green", "blue")
    """What the picture's three channels show: names of bands or variables, one may be given more than once."""
    stretch: tuple[float, float] = (0.0, 0.3)
    """Reflectance (or what the bands are in) of black and white, as for `eoaug.load`."""
    prompt: str = "a satellite image"
    """Caption of cubes that have none."""
    tile_px: int | None = None
    """Edge of a training window; None: what the UNet was trained on."""
    save_every: int = 250
    """Steps between states that a stopped training goes on from."""
    seed: int = 0
    device: str | None = None
    """None: a GPU if there is one."""

    def __post_init__(self) -> None:
        known = {"unet", "text", *(["vae"] if self.mode == "full" else [])}
        if not self.target or set(self.target) - known:
            raise ParameterError(
                f"target={','.join(self.target)!r} with mode={self.mode!r}", f"use {', '.join(sorted(known))}"
            )
        for name, low in (("rank", 1), ("steps", 1), ("batch", 1), ("save_every", 1)):
            if getattr(self, name) < low:
                raise ParameterError(f"{name}={getattr(self, name)} is too small", f"e.g. {name}={low}")
        if len(self.bands) != 3:
            raise ParameterError(
                f"bands={','.join(self.bands)!r} are {len(self.bands)}, a picture has 3 channels",
                "give three; one may come more than once: bands=('vv', 'vh', 'vv')",
            )
        if self.mode not in ("lora", "full") or self.precision not in ("float32", "bfloat16", "float16"):
            raise ParameterError(
                f"mode={self.mode!r} with precision={self.precision!r} is unknown",
                "use mode lora or full, precision float32, bfloat16 or float16",
            )


@dataclass(frozen=True)
class Tuned:
    """What a training left behind."""

    path: Path
    """For LoRA and tokens a folder for ``load(base, adapters=[path])``; for full training a checkpoint."""
    losses: tuple[float, ...]
    """Of every step."""


def finetune(
    base: str | Path,
    cubes: str | Path | xr.Dataset | Mapping[str, xr.Dataset],
    out: str | Path,
    tuning: Tuning | None = None,
    *,
    captions: Mapping[str, str] | None = None,
    search: Mapping[str, Any] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Train on the windows of cubes and write what `eoaug.load` uses.

    Parameters
    ----------
    base
        Checkpoint folder or pinned hub id.
    cubes
        Folder of netCDF cubes (`samples.read_cubes`); a STAC catalog or whatever else `eoaug.open_cube` takes
        as a source, every item a cube of its own, called by its id; or a cube, or cubes by name, however
        opened. All are read into memory.
    out
        Folder to write; a training that was stopped there goes on.
    tuning
        How; None: `Tuning`'s defaults.
    captions
        Prompt by cube name (file name without suffix), or a class label (a single word). None:
        ``captions.json`` beside the cubes, else ``tuning.prompt``.
    search
        Which items of a STAC source: ``collections``, ``bbox``, ``datetime``, ``limit``, as for
        `eoaug.open_cube`.
    progress
        Called with the number of steps done and the loss of the last.

    Returns
    -------
    Where the result lies, and the losses.
    """
    from eoaug.generators.checkpoints.diffusionsat import caption
    from eoaug.generators.runtime import one_thread

    tuning = tuning or Tuning()
    if captions is None:
        beside = Path(cubes) if isinstance(cubes, str | Path) else Path()
        listed = (beside if beside.is_dir() else beside.parent) / "captions.json"
        found = listed.is_file() and isinstance(cubes, str | Path)
        captions = {name: str(text) for name, text in read_json(listed).items()} if found else {}
    told = {name: text if " " in text else caption(None, text) for name, text in captions.items()}
    with one_thread():
        training = _Training(base, _opened(cubes, tuning.bands, search or {}), Path(out), tuning, told)
        while training.step < tuning.steps:
            loss = training.advance()
            if progress is not None:
                progress(training.step, loss)
            if training.step % tuning.save_every == 0:
                training.save()
        training.save()
        training.write()
    return Tuned(Path(out), tuple(training.losses))


def _opened(
    cubes: str | Path | xr.Dataset | Mapping[str, xr.Dataset], bands: Sequence[str], search: Mapping[str, Any]
) -> list[training_cubes.TrainingCube]:
    """Read cubes from wherever they are."""
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
    for found in summarise(str(cubes), **search):
        own = [found.collection] if found.collection else None
        for name in found.items:
            # Clouds are left out where the item tells of them.
            for quality in (["scl"], ["qa_pixel"], []):
                wanted = [*dict.fromkeys(bands), *quality]
                try:
                    ds = open_cube(str(cubes), ids=[name], collections=own, bands=wanted, chunks=None)
                except BandError:
                    if quality:
                        continue
                    raise
                read.append(training_cubes.from_dataset(ds, name, bands))
                break
    return read


class _Training:
    """Networks, what of them is trained, and the state that goes from step to step."""

    def __init__(
        self,
        base: str | Path,
        cubes: Sequence[training_cubes.TrainingCube],
        out: Path,
        tuning: Tuning,
        captions: Mapping[str, str],
    ) -> None:
        import torch

        from eoaug.generators.checkpoints.networks import Networks
        from eoaug.generators.checkpoints.schedulers import scheduler_of
        from eoaug.generators.runtime import checked_device

        self.out, self.tuning, self.captions = out, tuning, captions
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
        self.schedule = scheduler_of(self.checkpoint.part("scheduler"), "ddim")
        self.cubes = [c for c in cubes if c.bands.all() and min(c.values.shape[2:]) >= self.edge]
        if not self.cubes:
            raise SourceError(
                f"none of {len(cubes)} cubes has {', '.join(tuning.bands)} and {self.edge} pixels or more",
                "give larger cubes, a smaller tile_px, or other bands",
            )
        self.step, self.losses = 0, list[float]()
        self.rows = self._new_word()
        self.trained = self._trained()
        self.average = [parameter.detach().clone() for parameter in self.trained]
        self.optimizer = torch.optim.AdamW(self.trained, lr=tuning.rate)
        self.scaler = torch.amp.GradScaler(enabled=tuning.precision == "float16" and device != "cpu")
        self._resume()

    # -- what is trained ----------------------------------------------------------------------------

    def _new_word(self) -> list[int]:
        """Add the token, which begins as the mean of all words; return its rows in the table."""
        if self.tuning.token is None:
            return []
        table = self.nets.readers[0][1].get_input_embeddings().weight
        return self.nets.add_words(
            0, self.tuning.token, table.mean(dim=0, keepdim=True), self.checkpoint.root
        )

    def _modules(self) -> dict[str, Any]:
        nets = self.nets
        chosen = {"unet": nets.unet, "vae": nets.vae}
        chosen |= {"text" if i == 0 else "text_2": encoder for i, (_, encoder) in enumerate(nets.readers)}
        return {name: chosen[name] for name in chosen if name.split("_")[0] in self.tuning.target}

    def _trained(self) -> list[Any]:
        """Return the parameters that are trained, in a fixed order."""
        import torch

        tuning = self.tuning
        torch.manual_seed(tuning.seed)  # the LoRA's first matrix is drawn by peft
        for name, module in self._modules().items():
            if tuning.mode == "lora":
                from peft import LoraConfig

                layers = _ATTENTION[name.split("_")[0]]
                module.add_adapter(
                    LoraConfig(
                        r=tuning.rank,
                        lora_alpha=tuning.rank,
                        init_lora_weights="gaussian",
                        target_modules=layers,
                    )
                )
            else:
                module.requires_grad_(True)
            if tuning.checkpointing and name == "unet":
                module.enable_gradient_checkpointing()
        if self.rows:
            self.nets.readers[0][1].get_input_embeddings().weight.requires_grad_(True)
        every = [self.nets.unet, self.nets.vae, *(encoder for _, encoder in self.nets.readers)]
        return [p for module in every for p in module.parameters() if p.requires_grad]

    # -- a step -------------------------------------------------------------------------------------

    def advance(self) -> float:
        """Take one step and return its loss."""
        import torch

        rng = np.random.default_rng([self.tuning.seed, self.step])
        noise = torch.Generator().manual_seed(self.tuning.seed * 1_000_003 + self.step)
        kind = getattr(torch, self.tuning.precision)
        with torch.autocast(self.nets.device.split(":")[0], dtype=kind, enabled=kind is not torch.float32):
            parts = [self._loss(rng, noise) for _ in range(self.tuning.batch)]
            loss = torch.stack(parts).mean()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._leave_other_words()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._average()
        self.losses.append(float(loss.detach()))
        return self.losses[-1]

    def _loss(self, rng: np.random.Generator, draws: Any) -> Tensor:
        """Return the loss of one random window."""
        import torch

        cube, date, window = self._window(rng)
        image = torch.from_numpy(window)[None].to(self.nets.device)
        latent, own = self._encoded(image)
        if self.tuning.target == ("vae",):
            return own
        noise = torch.randn(latent.shape, generator=draws).to(latent)
        last = self.schedule.config.num_train_timesteps
        time = torch.randint(0, last, (1,), generator=draws).to(self.nets.device)
        noisy = self.schedule.add_noise(latent, noise, time)
        output = self.nets.predict(noisy, time, self._given(cube, date, rng))
        kind = self.schedule.config.prediction_type
        share = self.schedule.alphas_cumprod[time].to(latent)
        signal, spread = share.sqrt(), (1 - share).sqrt()
        wanted = {"epsilon": noise, "v_prediction": signal * noise - spread * latent, "sample": latent}[kind]
        error = torch.nn.functional.mse_loss(output.float(), wanted.float())
        ratio = share / (1 - share)
        weight = torch.ones_like(ratio)
        if self.tuning.snr is not None:
            # Equation 4 for the clean image, brought to what the network predicts.
            per = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones_like(ratio)}[kind]
            weight = ratio.clamp(max=self.tuning.snr) / per
        return (weight * error).sum() + own

    def _encoded(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return latents, and the autoencoder's own loss if it is trained."""
        import torch

        if "vae" not in self.tuning.target:
            with torch.no_grad():
                return self.nets.encode(image), image.new_zeros(())
        posterior = self.nets.vae.encode(image).latent_dist
        shown = self.nets.vae.decode(posterior.mode()).sample
        # The weight of the divergence is that of latent diffusion's own autoencoders (arXiv:2112.10752).
        own = torch.nn.functional.mse_loss(shown, image) + 1e-6 * posterior.kl().mean()
        return posterior.mode().detach() * self.nets.vae.config.scaling_factor, own

    def _window(self, rng: np.random.Generator) -> tuple[training_cubes.TrainingCube, int, Any]:
        """Draw a clear window: cube, date and (3, edge, edge) in [-1, 1], turned at random."""
        low, high = self.tuning.stretch
        for _ in range(_DRAWS):
            cube = self.cubes[int(rng.integers(len(self.cubes)))]
            T, _, H, W = cube.values.shape
            date = int(rng.integers(T))
            row, col = int(rng.integers(H - self.edge + 1)), int(rng.integers(W - self.edge + 1))
            here = (slice(row, row + self.edge), slice(col, col + self.edge))
            values = cube.values[date, :, *here]
            turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
            if cube.clear[date][here].mean() >= _CLEAR and np.isfinite(values).all():
                image = np.clip(2 * (values - low) / (high - low) - 1, -1, 1)
                image = np.rot90(image[:, :, ::-1] if mirror else image, turns, axes=(1, 2))
                return cube, date, np.ascontiguousarray(image, np.float32)
        raise SourceError(
            f"{_DRAWS} random windows of {self.edge} pixels held clouds or gaps",
            "give clearer cubes, or a smaller tile_px",
        )

    def _given(
        self, cube: training_cubes.TrainingCube, date: int, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        import torch

        from eoaug.generators.checkpoints.diffusionsat import metadata_vector
        from eoaug.generators.checkpoints.diffusionsat_networks import SatUNet

        caption = self.captions.get(cube.name, self.tuning.prompt)
        prompt = "" if rng.random() < _DROPOUT else caption
        learns = "text" in self.tuning.target or bool(self.rows)
        text = self.nets.read(prompt) if learns else self.nets.text(prompt)
        given = {"text": text.hidden[None]}
        if text.pooled is not None:
            size = torch.tensor([self.edge, self.edge, 0, 0, self.edge, self.edge], dtype=torch.float32)
            given |= {"pooled": text.pooled[None], "sizes": size[None].to(self.nets.device)}
        if isinstance(self.nets.unet, SatUNet):
            time, (lon_deg, lat_deg) = int(cube.times[date]), cube.lonlat_deg
            (row,) = metadata_rows(
                [time], dated=time != 0, lon_deg=lon_deg, lat_deg=lat_deg, gsd_m=cube.gsd_m
            )
            facts = metadata_vector(row)
            # Each field is dropped alone, as in the published code.
            facts = np.where(rng.random(len(facts)) < _DROPOUT, np.float32(0), facts)
            given["metadata"] = torch.from_numpy(facts)[None].to(self.nets.device)
        return given

    def _leave_other_words(self) -> None:
        if not self.rows or ("text" in self.tuning.target and self.tuning.mode == "full"):
            return
        table = self.nets.readers[0][1].get_input_embeddings().weight
        if table.grad is not None:
            kept = table.grad[self.rows].clone()
            table.grad.zero_()
            table.grad[self.rows] = kept

    def _average(self) -> None:
        import torch

        decay = self.tuning.ema
        # The first steps count for more, or the average would remember the beginning for ever.
        share = 0.0 if decay is None else min(decay, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, parameter in zip(self.average, self.trained, strict=True):
                mean.lerp_(parameter, 1 - share)

    # -- files --------------------------------------------------------------------------------------

    @cached_property
    def _identity(self) -> str:
        """What a state belongs to: base, settings, captions and cubes; not how long or how often saved."""
        told = {k: v for k, v in asdict(self.tuning).items() if k not in ("steps", "save_every")}
        cubes = [
            [cube.name, sha256(np.ascontiguousarray(cube.values).view(np.uint8).reshape(-1)).hexdigest()]
            for cube in self.cubes
        ]
        text = json.dumps([self.checkpoint.identity, told, dict(self.captions), cubes], sort_keys=True)
        return sha256(text.encode()).hexdigest()

    def save(self) -> None:
        """Write the state that `_resume` goes on from."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.trained):
            held = self.optimizer.state[parameter]
            tensors |= {
                f"{i}.weight": parameter.detach(),
                f"{i}.average": self.average[i],
                f"{i}.mean": held["exp_avg"],
                f"{i}.square": held["exp_avg_sq"],
            }
        folder = self.out / "state"
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "state.part"
        told = {"step": str(self.step), "identity": self._identity, "losses": json.dumps(self.losses)}
        told["scaler"] = json.dumps(self.scaler.state_dict())
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, part, metadata=told)
        part.replace(folder / "state.safetensors")

    def _resume(self) -> None:
        import torch
        from safetensors import safe_open

        path = self.out / "state" / "state.safetensors"
        if not path.is_file():
            return
        with safe_open(path, framework="pt") as file:
            told = file.metadata()
            if told.get("identity") != self._identity:
                raise ParameterError(
                    f"{self.out} holds a training with another base, other settings or other cubes",
                    "use another folder, or remove this one",
                )
            with torch.no_grad():
                for i, parameter in enumerate(self.trained):
                    parameter.copy_(file.get_tensor(f"{i}.weight"))
                    self.average[i].copy_(file.get_tensor(f"{i}.average"))
                    self.optimizer.state[parameter] = {
                        "step": torch.tensor(float(told["step"])),
                        "exp_avg": file.get_tensor(f"{i}.mean").to(parameter),
                        "exp_avg_sq": file.get_tensor(f"{i}.square").to(parameter),
                    }
        if scaler := json.loads(told["scaler"]):
            self.scaler.load_state_dict(scaler)
        self.step, self.losses = int(told["step"]), json.loads(told["losses"])

    def write(self) -> None:
        """Write the averaged weights with a card."""
        import torch

        with torch.no_grad():
            for parameter, mean in zip(self.trained, self.average, strict=True):
                parameter.copy_(mean)
        if self.tuning.mode == "lora":
            self._write_lora()
        else:
            self._write_full()
        if self.rows:
            from safetensors.torch import save_file

            table = self.nets.readers[0][1].get_input_embeddings().weight.detach()
            assert self.tuning.token is not None
            save_file(
                {self.tuning.token: table[self.rows].contiguous().clone()},
                self.out / "learned_embeds.safetensors",
            )
        # What the next user must know, and what tells how it was made; not where or how often it was saved.
        own = asdict(self.tuning)
        told = {name: own[name] for name in own if name not in ("steps", "device", "save_every", "prompt")}
        told |= {
            "base": self.checkpoint.base,
            "captions": {cube.name: self.captions.get(cube.name, self.tuning.prompt) for cube in self.cubes},
            "licence": self.checkpoint.settings.get("licence", "unknown"),
            "description": f"{self.tuning.mode} fine-tuning of {self.checkpoint.root.name}, {self.step} steps.",
        }
        before = {} if self.tuning.mode == "lora" else self.checkpoint.settings
        text = json.dumps({**before, **told}, indent=1, sort_keys=True)
        (self.out / SETTINGS).write_text(text, encoding="utf-8")

    def _write_lora(self) -> None:
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        names = {
            "unet": "unet_lora_layers",
            "text": "text_encoder_lora_layers",
            "text_2": "text_encoder_2_lora_layers",
        }
        layers = {
            names[name]: convert_state_dict_to_diffusers(
                get_peft_model_state_dict(module, save_embedding_layers=False)
            )
            for name, module in self._modules().items()
        }
        pipeline = StableDiffusionXLPipeline if self.nets.xl else StableDiffusionPipeline
        pipeline.save_lora_weights(self.out, **layers, safe_serialization=True)

    def _write_full(self) -> None:
        """Write a whole checkpoint: the base's files, but for what was trained."""
        folders = {"unet": "unet", "vae": "vae", "text": "text_encoder", "text_2": "text_encoder_2"}
        trained = {folders[name]: module for name, module in self._modules().items()}
        for item in sorted(self.checkpoint.root.iterdir()):
            if item.name in trained or item.name == SETTINGS:
                continue
            if item.name in self.checkpoint.parts:
                shutil.copytree(item, self.out / item.name, dirs_exist_ok=True)
            elif item.suffix == ".json":
                shutil.copy(item, self.out / item.name)
        for name, module in trained.items():
            module.save_pretrained(self.out / name, safe_serialization=True)
