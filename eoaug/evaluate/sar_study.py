"""A study of fine-tuning on radar images: one training per combination of parts, each judged by the same figures.

After Debuysere et al. 2025 (arXiv:2506.13307): amplitudes over mean + 3 standard deviations, judged by their distribution,
their texture and CLIP. The yardstick of every figure is that of real images of another place against those of training: no sample can
be asked to be nearer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.backscatter import backscatter
from eoaug.cube.read import read_cube
from eoaug.errors import BandError, ParameterError, SourceError
from eoaug.evaluate.sar_distributions import MODELS, distribution_distances, enl, fit_speckle
from eoaug.evaluate.sar_matrix import StudyArm, StudyMatrix, read_matrix
from eoaug.evaluate.sar_texture import DISTANCES_PX, glcm_descriptors, texture_distances
from eoaug.generators.base import Request, metadata_rows
from eoaug.generators.checkpoints.safe_read import read_json
from eoaug.generators.registry import load
from eoaug.raster.arrays import Float32Array
from eoaug.raster.backscatter import AmplitudeRange, amplitude_range
from eoaug.storage.atomic import atomic_write
from eoaug.training.finetune import finetune

__all__ = [
    "ArmResult",
    "RadarImages",
    "SarStudy",
    "compared",
    "radar_amplitudes",
    "radar_images",
    "replace_text",
    "study_sar",
]

_BINS = 256
_ENL_PATCH_PX = 8
"""Small patches: fields of 20 m pixels are small."""
_SHOWN = 8


@dataclass(frozen=True, eq=False)
class RadarImages:
    """Amplitudes of some places, over mean + 3 standard deviations of those of training."""

    places: Mapping[str, Float32Array]
    """By cube, shape (T, H, W), 0 to 1; without missing pixels."""
    limits: AmplitudeRange

    def patches(self, edge_px: int) -> Float32Array:
        """Return all patches that do not overlap, shape (N, edge, edge)."""
        return np.concatenate([_cut(images, edge_px) for images in self.places.values()])


@dataclass(frozen=True)
class ArmResult:
    """What came of one arm."""

    name: str
    loss: float
    """Mean of the last tenth of the steps."""
    figures: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class SarStudy:
    """A finished study."""

    folder: Path
    arms: tuple[ArmResult, ...]
    null: ArmResult
    """Real images of another place."""
    samples: Mapping[str, Float32Array]
    """Images to show by arm, shape (n, H, W); real ones under ``training`` and the name of the other place."""


def study_sar(
    base: str | Path,
    data: str | Path,
    out: str | Path,
    matrix: StudyMatrix | Mapping[str, Any] | str | Path | None = None,
    *,
    other_place: str | None = None,
    clip: str | Path | None = None,
    device: str | None = None,
    progress: Callable[[str, int, float], None] | None = None,
) -> SarStudy:
    """Train every arm of a matrix, sample from it, and compare the samples with real images; a killed study resumes.

    Parameters
    ----------
    base
        Checkpoint folder or pinned hub id of the Stable Diffusion family.
    data
        Folder of netCDF cubes of at least two places, with a band of radar that declares its form
        (`eoaug.cube.backscatter.backscatter`), and ``captions.json`` where there are captions.
    out
        Folder: ``arms/NAME`` holds the training, the samples and their figures of each arm.
    matrix
        YAML file, mapping or `StudyMatrix`; None: the whole matrix of the paper.
    other_place
        Name of the cube that is kept from training: its images against those of training are the yardstick. Default: the
        last by name.
    clip
        Folder of a CLIP model, e.g. one that was fine-tuned on radar; None: no figure of it.
    device
        As torch names it; None: a GPU if there is one.
    progress
        Called with the arm, its steps done and the loss.

    Raises
    ------
    SourceError
        Fewer than two places with a whole image.
    ParameterError
        ``out`` holds another study.
    """
    settings, folder = read_matrix(matrix), Path(out)
    cubes = radar_amplitudes(Path(data), settings.band)
    kept = other_place if other_place is not None else sorted(cubes)[-1]
    if kept not in cubes or len(cubes) < 2:
        raise SourceError(
            f"other place {kept!r} among the cubes {', '.join(sorted(cubes))}",
            "give cubes of at least two places, and name the one to keep from training",
        )
    images = radar_images({name: c for name, c in cubes.items() if name != kept})
    other = radar_images({kept: cubes[kept]}, images.limits)
    path = Path(data) / "captions.json"
    captions = {k: str(v) for k, v in read_json(path).items() if k in images.places} if path.is_file() else {}
    _same_study(folder, settings, base, images, kept)
    judge = _SampleJudge(images, settings, clip, device or "cpu")
    run = _StudyRun(settings, base, images, captions, judge, device, progress)
    results, shown = [], {"training": _some(images), kept: _some(other)}
    for arm in settings.arms():
        home = folder / "arms" / arm.name
        if not (home / "figures.json").is_file():
            _run_arm(arm, home, run)
        stored = json.loads((home / "figures.json").read_text(encoding="utf-8"))
        results.append(ArmResult(arm.name, stored["loss"], stored["figures"]))
        shown[arm.name] = np.load(home / "samples.npy", allow_pickle=False)[:_SHOWN]
    null = ArmResult(f"real: {kept}", float("nan"), compared(images, other.patches(settings.patch_px)))
    return SarStudy(folder, tuple(results), null, shown)


def radar_images(cubes: Mapping[str, Float32Array], limits: AmplitudeRange | None = None) -> RadarImages:
    """Return amplitudes (T, H, W) by place in the range of a study; without ``limits`` that of these images."""
    if limits is None:
        limits = amplitude_range(np.concatenate([cube.ravel() for cube in cubes.values()]))
    return RadarImages(
        {name: limits.normalise(cube).astype(np.float32) for name, cube in cubes.items()}, limits
    )


def compared(real: RadarImages, patches: NDArray[Any]) -> dict[str, float]:
    """Return the figures of patches (N, edge, edge) against real ones; every figure is a distance but ``enl`` and ``looks``."""
    own = real.patches(patches.shape[-1])
    found = asdict(distribution_distances(own, patches, limits=(0, 1), bins=_BINS))
    out = {f"amplitude {name}": float(value) for name, value in found.items()}
    power = np.square(np.asarray(patches, np.float64) * real.limits.white)
    inside = power[np.asarray(patches) < 1]  # clipped amplitudes have lost their value
    if (inside > 0).sum() > 1:
        fits = {model: fit_speckle(inside, model) for model in MODELS}
        out |= {f"ks {model}": fit.ks for model, fit in fits.items()}
        out["looks"] = fits["gamma"].parameters["looks"]
    out["enl"] = enl(power, patch_px=_ENL_PATCH_PX)
    texture = texture_distances(
        glcm_descriptors(own, limits=(0, 1)), glcm_descriptors(patches, limits=(0, 1))
    )
    for name, values in texture.items():
        out |= {f"{name} {px} px": float(value) for px, value in zip(DISTANCES_PX, values, strict=True)}
        out[name] = float(values.mean())
    return out


# -- the pieces ---------------------------------------------------------------------------------------


class _SampleJudge:
    """Compares samples with the images of training."""

    def __init__(
        self, real: RadarImages, settings: StudyMatrix, clip: str | Path | None, device: str
    ) -> None:
        self._real, self._settings, self._clip = real, settings, None
        if clip is not None:
            from eoaug.captions.clip import ClipModel

            self._clip = ClipModel(clip, device)

    def figures(self, samples: Float32Array, prompts: Sequence[str]) -> dict[str, float]:
        """Return the figures of samples (N, H, W), one prompt each."""
        edge = min(self._settings.patch_px, samples.shape[-1])
        out = compared(self._real, _cut(samples, edge))
        if self._clip is not None:
            grey = [np.repeat((image * 255).astype(np.uint8)[..., None], 3, axis=2) for image in samples]
            found = self._clip.alignment(grey, prompts)
            out |= {"clip": found.cosine, "clip shuffled": found.shuffled}
        return out


@dataclass(frozen=True, eq=False)
class _StudyRun:
    """What all arms of a study share."""

    settings: StudyMatrix
    base: str | Path
    images: RadarImages
    captions: Mapping[str, str]
    judge: _SampleJudge
    device: str | None
    progress: Callable[[str, int, float], None] | None


def _run_arm(arm: StudyArm, home: Path, run: _StudyRun) -> None:
    """Train an arm or resume it, sample, and write samples and figures; the figures last."""
    settings = run.settings
    tuning = arm.tuning(settings, run.device)
    worded = {name: arm.prompt(settings, text) for name, text in run.captions.items()}
    cubes = {name: _as_cube(stack) for name, stack in run.images.places.items()}

    def report(step: int, loss: float) -> None:
        if run.progress is not None:
            run.progress(arm.name, step, loss)

    tuned = finetune(run.base, cubes, home / "training", tuning, captions=worded, progress=report)
    prompts = list(worded.values()) or [tuning.prompt]
    prompts = [prompts[i % len(prompts)] for i in range(settings.samples)]
    samples = _sampled(run.base, tuned.path, prompts, settings, arm.seed, run.device)
    np.save(home / "samples.npy", samples)
    tail = tuned.losses[-max(len(tuned.losses) // 10, 1) :]
    content = {"loss": float(np.mean(tail)), "figures": run.judge.figures(samples, prompts)}
    replace_text(home / "figures.json", json.dumps(content, indent=1) + "\n")


def _sampled(
    base: str | Path,
    tuned: Path,
    prompts: Sequence[str],
    settings: StudyMatrix,
    seed: int,
    device: str | None,
) -> Float32Array:
    """Return an image per prompt, shape (N, H, W), amplitude from 0 to 1."""
    more: dict[str, Any] = {"steps": settings.sampling_steps} | ({} if device is None else {"device": device})
    whole = (tuned / "model_index.json").is_file()
    generator = load(tuned, **more) if whole else load(base, adapters=[tuned], **more)
    card = generator.card
    shape = (1, len(card.bands), card.tile_px, card.tile_px)
    images = []
    for i, prompt in enumerate(prompts):
        request = Request(
            values=np.zeros(shape, np.float32),
            known=np.zeros(shape, bool),
            fill=np.ones(shape, bool),
            times=np.zeros(1, np.int64),
            metadata=metadata_rows([0], dated=False),
            origin=(0, 2 * i * card.tile_px),
            prompt=prompt,
            seed=seed,
            steps=settings.sampling_steps,
        )
        (made,) = generator.generate([request])[0]
        units = np.asarray(card.std)[:, None, None] * made + np.asarray(card.mean)[:, None, None]
        images.append(np.clip(units.mean(axis=0), 0, 1))
    return np.stack(images).astype(np.float32)


def radar_amplitudes(folder: Path, band: str) -> dict[str, Float32Array]:
    """Return the amplitudes of every cube of a folder, shape (T, H, W): the dates without a missing pixel."""
    found = {}
    for path in sorted(folder.glob("*.nc")):
        with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
            names = {b.common_name: b.name for b in read_cube(ds).bands} | {
                str(n): str(n) for n in ds.data_vars
            }
            if band not in names:
                raise BandError(
                    f"{path.name} has no band {band!r}",
                    f"set band: to one of {', '.join(map(str, ds.data_vars))}",
                )
            image = backscatter(ds, "amplitude", bands=[names[band]])[names[band]]
            stack = np.asarray(image.values, np.float32).reshape(-1, *image.shape[-2:])
        whole = np.isfinite(stack).all(axis=(1, 2))
        if whole.any():
            found[path.stem] = stack[whole]
    if not found:
        raise SourceError(
            f"no cube in {folder} has a whole radar image", "give netCDF cubes with a radar band"
        )
    return found


def _as_cube(stack: Float32Array) -> xr.Dataset:
    """Return normalised amplitudes as a cube whose values training takes as they are."""
    times = np.datetime64("2000-01-01", "ns") + np.arange(len(stack)) * np.timedelta64(1, "D")
    return xr.Dataset(
        {"amplitude": (("time", "y", "x"), stack, {"units": "1", "long_name": "amplitude, 0 to 1"})},
        {"time": times},
    )


def _cut(images: NDArray[Any], edge: int) -> NDArray[Any]:
    """Return the patches of images (N, H, W) that do not overlap."""
    count, height, width = images.shape
    rows, cols = height // edge, width // edge
    if not rows or not cols:
        raise ParameterError(
            f"images of {height} x {width} px hold no patch of {edge} px",
            f"set patch_px: {min(height, width)}",
        )
    part = images[:, : rows * edge, : cols * edge].reshape(count, rows, edge, cols, edge)
    return part.transpose(0, 1, 3, 2, 4).reshape(-1, edge, edge)


def _some(images: RadarImages) -> Float32Array:
    (first, *_) = images.places.values()
    chosen: Float32Array = first[np.linspace(0, len(first) - 1, min(_SHOWN, len(first))).astype(int)]
    return chosen


def _same_study(
    folder: Path, settings: StudyMatrix, base: str | Path, images: RadarImages, kept: str
) -> None:
    """Record what a folder holds, and refuse one with another study. More arms and seeds may be added."""
    fixed = settings.model_dump(exclude={"unet", "text", "vae", "token", "seeds"}, mode="json")
    digest = sha256()
    for name, stack in images.places.items():
        digest.update(name.encode() + np.ascontiguousarray(stack).tobytes())
    own = {"base": str(base), "settings": fixed, "images": digest.hexdigest(), "other place": kept}
    path = folder / "study.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        unlike = [key for key in own if before.get(key) != own[key]]
        if unlike:
            raise ParameterError(
                f"{folder} holds a study with other {', '.join(unlike)}",
                "use another folder, or remove this one",
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(own, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a file that appears whole."""
    with atomic_write(path, overwrite=True) as scratch:
        scratch.write_text(text, encoding="utf-8")
