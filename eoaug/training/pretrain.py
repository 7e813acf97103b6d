"""Pre-training of the embedded generator from a YAML config; about eighty minutes on two cores.

Everything random is a function of the config's seed, the stage and the step, so that a resumed run gives the same
weights as an uninterrupted one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from eoaug.datasets import training_cubes
from eoaug.datasets.eurosat import read_eurosat, read_eurosat_spectra
from eoaug.datasets.training_cubes import TrainingCube
from eoaug.errors import ParameterError
from eoaug.generators.embedded import flow_samplers
from eoaug.generators.embedded.base_estimate import PRIOR, BaseEstimate, Regressors
from eoaug.generators.embedded.spectral_gaussian import Gaussian
from eoaug.generators.embedded.weights_config import LAND
from eoaug.generators.weights import load_weights, save_weights, sha256_of
from eoaug.raster.arrays import Float32Array
from eoaug.training import samples
from eoaug.training.contact_sheet import stretched
from eoaug.training.land import INFRARED, land_statistics
from eoaug.training.loop import Arrays, TrainingTask, load_into, optimise
from eoaug.training.samples import Sample

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["LAND", "STAGES", "pretrain"]


STAGES = ("detail", "residual")
"""In the order of training: a regressor of detail below a coarse pixel; the diffusion of the residual of the base
estimates, with that regressor among them. A diffusion has a closed-form Gaussian estimate. The stage `LAND` trains no
network: it takes the colours of land by class from chips of EuroSAT, and needs no cubes."""

_STREAMS = {"detail": 0, "residual": 2}
"""Streams of random numbers; the shipped weights depend on them."""

_DIFFUSION = "residual"

_ERROR_FLOOR = 0.05
"""Floor of a sample's squared error before regression, relative to its typical size; for scenes without texture."""

_MIN_DIVISOR = 0.1
"""Smallest divisor 1 - t of an error ("Back to basics", arXiv:2511.13720)."""

_log = logging.getLogger(__name__)


def pretrain(
    config_path: str | Path,
    data_dir: str | Path | None,
    out_dir: str | Path,
    *,
    chips_dir: str | Path | None = None,
    stages: Sequence[str] | None = None,
    minutes: float | None = None,
) -> dict[str, str]:
    """Train networks of the embedded generator and write their averaged weights.

    Parameters
    ----------
    config_path
        YAML as ``weights/embedded/train.yaml``: bands, mean, std, seed, and per stage architecture, task
        mix, batch, steps and learning rate.
    data_dir
        Folder of netCDF cubes (`training_cubes.read_training_cubes`), for `STAGES`.
    out_dir
        Receives ``<stage>.safetensors`` (float16, the exponential moving average, rewritten at every
        checkpoint), ``residual_gaussian.safetensors``, ``land.safetensors``, and ``<stage>.checkpoint.safetensors``, from which a stopped training resumes.
    chips_dir
        Folder with ``eurosat_rgb_train.zip`` and ``eurosat_ms_train.zip``, for `LAND`.
    stages
        Which of `STAGES` and `LAND` to train; None: those of the config.
    minutes
        Wall time per stage, to which the learning-rate schedule is fitted; None: the config's number of steps.

    Returns
    -------
    sha256 of the weights by stage.
    """
    config = yaml.safe_load(Path(config_path).read_text())
    order = (*STAGES, LAND)
    stages = [stage for stage in order if stage in config["stages"]] if stages is None else stages
    unknown = set(stages) - set(order)
    if unknown:
        raise ParameterError(
            f"pre-training: unknown stage {', '.join(sorted(unknown))}", f"use {', '.join(order)}"
        )
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    cubes: Sequence[TrainingCube] = ()
    if set(stages) - {LAND}:
        cubes = _cubes(config, data_dir)
    hashes = {}
    for stage in stages:
        if stage == LAND:
            hashes[stage] = _land(config, chips_dir, out)
            continue
        hashes[stage] = optimise(
            _stage(stage, config, cubes, out),
            _network(config, stage),
            out,
            threads=config.get("threads", 1),
            minutes=minutes,
            precision=config.get("precision", "float32"),
        )
    _assemble(config, out)
    return hashes


def _cubes(config: Mapping[str, Any], folder: str | Path | None) -> list[TrainingCube]:
    if folder is None:
        raise ParameterError("pre-training: no folder of cubes was given", "give the option --data")
    cubes = training_cubes.read_training_cubes(
        folder, config["bands"], tile_px=config["tile_px"], pyramid=config.get("pyramid", 1)
    )
    _log.info("%d cubes", len(cubes))
    return cubes


def _land(config: Mapping[str, Any], folder: str | Path | None, out: Path) -> str:
    """Write the statistics of `LAND` from chips of EuroSAT; return their sha256."""
    if folder is None:
        raise ParameterError("pre-training: the stage land needs chips of EuroSAT", "give the option --chips")
    chips = read_eurosat(Path(folder) / "eurosat_rgb_train.zip")
    spectra, classes = read_eurosat_spectra(Path(folder) / "eurosat_ms_train.zip")
    _log.info("land: %d chips, and %d with thirteen bands", len(chips), len(classes))
    found = land_statistics(chips, spectra, classes, seed=config["seed"])
    return save_weights(out / f"{LAND}.safetensors", found.tensors())


def _assemble(config: Mapping[str, Any], out: Path) -> None:
    """Write the generator's ``config.json`` next to its weights, once all stages are trained."""
    paths = {name: out / f"{name}.safetensors" for name in (*STAGES, f"{_DIFFUSION}_gaussian", LAND)}
    if not all(path.exists() for path in paths.values()):
        return
    networks: dict[str, dict[str, Any]] = {}
    for name, path in paths.items():
        networks[name] = {"file": path.name, "sha256": sha256_of(path)}
        if name in STAGES:
            networks[name]["architecture"] = config["stages"][name]["architecture"]
    networks[LAND]["infrared_bands"] = list(INFRARED)
    own = {name: config[name] for name in ("bands", "mean", "std", "tile_px")}
    generator = {
        "card": {"name": "embedded", **config["card"], **own},
        "context": config["context"],
        "layers": config["layers"],
        "gains": config["gains"],
        "networks": networks,
        "scale": {
            stage: json.loads((out / f"{stage}_scale.json").read_text()) for stage in ("detail", "residual")
        },
    }
    (out / "config.json").write_text(json.dumps(generator, indent=1) + "\n")


def _rng(seed: int, stage: str, *path: int) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[stage], *path])


@dataclass(frozen=True)
class _EncodedSample:
    """One sample of a conditional task, encoded; images (channels, H, W)."""

    image: NDArray[np.float16]
    facts: NDArray[np.float32]
    base: NDArray[np.float16]
    """The base estimate, in the tile's contrast."""
    residual: NDArray[np.float16]
    """Truth minus base estimate, in units of the expected error."""
    weight: NDArray[np.bool_]
    """True where the residual enters the loss: measured and not known."""
    unit: NDArray[np.float16]
    """Size of one unit of the residual, in the tile's contrast; broadcasts to the image."""
    category: str
    """`features.category` of the request."""


def _pool(
    stage: str, config: Mapping[str, Any], cubes: Sequence[TrainingCube], out: Path
) -> list[_EncodedSample]:
    """Draw the stage's samples once: a base estimate costs as much as a training step."""
    settings = config["stages"][stage]
    kinds, shares = zip(*settings["tasks"].items(), strict=True)
    regressors = _regressors(config, out) if stage == "residual" else None
    pool: list[_EncodedSample] = []
    for number in range(settings["pool"]):
        rng = _rng(config["seed"], stage, 0, number)
        kind = kinds[int(rng.choice(len(kinds), p=np.array(shares) / sum(shares)))]
        sample = samples.draw(
            rng, cubes, kind, mean=config["mean"], std=config["std"], tile_px=config["tile_px"],
            context=config["card"]["context"],
        )  # fmt: skip
        pool.append(_prepare(sample, config["context"], regressors))
        if number % 1000 == 999:
            _log.info("%s: %d samples drawn", stage, number + 1)
    return pool


def _prepare(sample: Sample, context: int, regressors: Regressors | None) -> _EncodedSample:
    """Encode a sample for a regressor, or with ``regressors`` for the diffusion of their residual."""
    estimate = BaseEstimate(sample.request, context)
    if regressors is not None:
        regressors.correct([estimate])
    unit = estimate.features.contrast if regressors is None else estimate.spread()
    weight = sample.measured & ~sample.request.known[estimate.target]
    residual = np.where(weight, (sample.truth - estimate.base) / unit, 0)
    image = (estimate.features.image if regressors is None else estimate.image()).astype(np.float16)
    return _EncodedSample(
        image=image,
        facts=estimate.features.facts,
        base=image[: len(residual)],
        residual=np.clip(residual, -20, 20).astype(np.float16),
        weight=weight,
        unit=(unit / estimate.features.contrast).astype(np.float16),
        category=estimate.category,
    )


def _regressors(config: Mapping[str, Any], out: Path) -> Regressors:
    """Return the regressors that earlier stages trained."""
    import torch

    layers = config["layers"]
    used = sorted(set(layers.values()) - {PRIOR})
    networks = {name: _network(config, name) for name in used}
    for name, network in networks.items():
        load_into(network, load_weights(out / f"{name}.safetensors"))
    scales = {name: json.loads((out / f"{name}_scale.json").read_text()) for name in used}

    def forward(
        name: str, image: Sequence[Float32Array], facts: Sequence[Float32Array]
    ) -> Sequence[Float32Array]:
        with torch.inference_mode():
            corrections: NDArray[np.float32] = networks[name](
                torch.from_numpy(np.stack(image)), torch.from_numpy(np.stack(facts))
            ).numpy()
        return list(corrections)

    return Regressors(layers, scales, forward)


def _turn(arrays: Mapping[str, NDArray[Any]], turn: int) -> dict[str, NDArray[Any]]:
    """Return images (channels, H, W) under one of the eight symmetries of the square; vectors are unchanged."""

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim < 3:
            return array
        return np.rot90(array[..., ::-1] if turn >= 4 else array, turn % 4, axes=(-2, -1))

    return {name: turned(array) for name, array in arrays.items()}


def _stack(items: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.float32]]:
    return {name: np.stack([item[name] for item in items]).astype(np.float32) for name in items[0]}


def _network(config: Mapping[str, Any], stage: str) -> nn.Module:
    """Return the stage's network with initial weights, a function of the seed."""
    import torch

    from eoaug.generators.embedded.networks import build

    torch.manual_seed(config["seed"])
    return build(config["stages"][stage]["architecture"])


def _stage(stage: str, config: Mapping[str, Any], cubes: Sequence[TrainingCube], out: Path) -> TrainingTask:
    settings, seed = config["stages"][stage], config["seed"]
    pool = _in_units(_pool(stage, config, cubes, out), out / f"{stage}_scale.json")
    fields = _fields(stage, pool, out) if stage == _DIFFUSION else {}

    def batches(step: int, share: slice) -> Arrays:
        rng = _rng(seed, stage, 1, step)
        chosen = [pool[index] for index in rng.integers(len(pool), size=settings["batch"])]
        turns = [int(rng.integers(8)) for _ in chosen]
        items = [
            _turn({"image": s.image, "facts": s.facts, "x": s.residual, "weight": s.weight}, turn)
            for s, turn in zip(chosen[share], turns[share], strict=True)
        ]
        arrays = _stack(items)
        if stage != _DIFFUSION:
            return arrays
        shape = (settings["batch"], *chosen[0].residual.shape)
        arrays |= {name: array[share] for name, array in _noise(rng, shape, settings).items()}
        return arrays | _linear(arrays, [fields[sample.category] for sample in chosen[share]])

    examples = {sample.category: sample for sample in reversed(pool)}

    def show(network: nn.Module) -> NDArray[np.floating]:
        rows = []
        for name in sorted(examples):
            sample = examples[name]
            residual = _answer(network, sample, fields.get(name), seed)
            steps = sample.unit.astype(np.float32) * np.stack([0 * residual, residual, sample.residual])
            images = sample.base.astype(np.float32) + np.where(sample.weight, steps, 0)
            rows.append(stretched(images, images[2]))
        return np.stack(rows)

    loss = _diffusion_loss if stage == _DIFFUSION else _regression_loss
    return TrainingTask(stage, settings, seed, batches, loss, show)


def _answer(network: nn.Module, sample: _EncodedSample, field: Gaussian | None, seed: int) -> Float32Array:
    """Return a network's result for a sample: a regression, or with ``field`` a sampled residual."""
    import torch

    device = next(network.parameters()).device

    def call(*arrays: NDArray[np.floating]) -> Float32Array:
        tensors = [torch.from_numpy(np.asarray(array[None], np.float32)).to(device) for array in arrays]
        with torch.inference_mode():
            answer: Float32Array = network(*tensors)[0].cpu().numpy()
        return answer

    if field is None:
        return call(sample.image, sample.facts)
    there = sample.facts[-len(sample.residual) :] > 0

    def clean(x_t: Float32Array, t: float) -> Float32Array:
        point = (x_t * there[:, None, None]).astype(np.float32)
        answer = call(point, np.array(t), sample.image, sample.facts, field.estimate(point, t, there))
        return answer * there[:, None, None]

    start = np.random.default_rng(seed).standard_normal(sample.residual.shape, dtype=np.float32)
    drawn: Float32Array = flow_samplers.sample_dpmpp_2m(clean, start, flow_samplers.karras(8))
    return drawn


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], settings: Mapping[str, Any]
) -> dict[str, NDArray[np.float32]]:
    """Draw noise e and time t. ln sigma = ln((1 - t) / t) is normal (Karras et al. 2022, table 1)."""
    level = rng.normal(settings["noise"]["mean"], settings["noise"]["std"], size=shape[0])
    return {
        "e": rng.standard_normal(shape, dtype=np.float32),
        "t": (1 / (1 + np.exp(level))).astype(np.float32),
    }


def _linear(arrays: Arrays, fields: Sequence[Gaussian]) -> dict[str, NDArray[np.float32]]:
    """Return the points x_t of the linear path and their closed-form estimates."""
    t = arrays["t"][:, None, None, None]
    # Absent bands are 0, not noise, as in sampling.
    there = arrays["facts"][:, -arrays["x"].shape[1] :] > 0
    x_t = (t * arrays["x"] + (1 - t) * arrays["e"]) * there[:, :, None, None]
    linear = [
        field.estimate(point, time_, bands)
        for field, point, time_, bands in zip(fields, x_t, arrays["t"].tolist(), there, strict=True)
    ]
    return {"x_t": x_t, "linear": np.stack(linear)}


def _fields(stage: str, pool: Sequence[_EncodedSample], out: Path) -> dict[str, Gaussian]:
    """Fit a Gaussian to the residuals of each category."""
    fields, tensors = {}, {}
    for name in sorted({sample.category for sample in pool}):
        members = [sample for sample in pool if sample.category == name]
        residual = np.stack([sample.residual for sample in members]).astype(np.float32)
        fields[name] = Gaussian.fit(residual, np.stack([sample.weight for sample in members])).coarser()
        tensors[f"{name}.mean"], tensors[f"{name}.covariance"] = fields[name].mean, fields[name].covariance
    save_weights(out / f"{stage}_gaussian.safetensors", tensors, half=False)
    return fields


def _in_units(pool: list[_EncodedSample], path: Path) -> list[_EncodedSample]:
    """Return the pool with residuals in units of their typical size per category, which is written to ``path``.

    The residual of a hole is ten times that of x2: without units the loss would ignore the small ones.
    """
    scales = {}
    for name in sorted({sample.category for sample in pool}):
        residuals = [s.residual[s.weight].astype(np.float32) for s in pool if s.category == name]
        # The median over samples of the RMS is robust against a few failures.
        sizes = [np.sqrt(np.mean(values**2)) for values in residuals if values.any()]
        scales[name] = max(round(float(np.median(sizes)), 4), 1e-3) if sizes else 1.0
    path.write_text(json.dumps(scales))
    return [
        replace(
            sample,
            residual=np.clip(sample.residual / np.float32(scales[sample.category]), -6, 6),
            unit=sample.unit * np.float16(scales[sample.category]),
        )
        for sample in pool
    ]


def _regression_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the squared error relative to that of the base estimate, every sample with the same weight.

    The mean over samples of a ratio corresponds to PSNR averaged over windows.
    """
    weight = batch["weight"]
    count = weight.sum(dim=(1, 2, 3)).clamp_min(256.0)
    error = ((network(batch["image"], batch["facts"]) - batch["x"]).square() * weight).sum(dim=(1, 2, 3))
    before = (batch["x"].square() * weight).sum(dim=(1, 2, 3))
    mean: Tensor = (error / (before + _ERROR_FLOOR * count)).mean()
    return mean


def _diffusion_loss(network: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the squared error of the clean estimate over max(1 - t, 0.1): the velocity error (arXiv:2511.13720)."""
    x, weight = batch["x"], batch["weight"]
    t = batch["t"][:, None, None, None]
    estimate = network(batch["x_t"], batch["t"], batch["image"], batch["facts"], batch["linear"])
    error = ((estimate - x) / (1 - t).clamp_min(_MIN_DIVISOR)).square() * weight
    count = weight.sum(dim=(1, 2, 3)).clamp_min(256.0)
    mean: Tensor = (error.sum(dim=(1, 2, 3)) / count).mean()
    return mean
