"""Checkpoints of the Stable Diffusion family: the contract, and the same pictures as diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import eoaug
from eoaug.errors import GeneratorError
from eoaug.generators.base import Request
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.raster import noise
from eoaug.testing import check_generator, requests
from tests.later import Later

diffusers: Any = Later("diffusers")
networks: Any = Later("eoaug.generators.checkpoints.networks")
schedulers: Any = Later("eoaug.generators.checkpoints.schedulers")
Make = Callable[..., Path]
STEPS = 4


def colours(generator: Any, request: Request) -> torch.Tensor:
    """Return the generated colours as diffusers returns pictures: (3, H, W) in [0, 1]."""
    made = generator.generate([request])[0, -1, :3]
    return torch.from_numpy((made + 1) / 2)


def drawn(request: Request, channels: int, factor: int, stream: str = "diffusion latent") -> torch.Tensor:
    H, W = (n // factor for n in request.values.shape[2:])
    origin = (request.origin[0] // factor, request.origin[1] // factor)
    field = noise.normal(
        origin, (channels, H, W), seed=request.seed, stream=stream, time=int(request.times[-1])
    )
    return torch.from_numpy(field)[None]


STOCK: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
"""The schedulers that diffusers itself has under eoaug's names."""
_SCHEDULERS, _PIPELINES = "diffusers.schedulers.scheduling", "diffusers.pipelines.stable_diffusion.pipeline"
DRAWING = {
    "ddpm": f"{_SCHEDULERS}_ddpm",
    "dpmpp_2m_sde": f"{_SCHEDULERS}_dpmsolver_multistep",
    "euler_a": f"{_SCHEDULERS}_euler_ancestral_discrete",
}
"""Those that draw noise in every step, with the module that they draw it in."""


def plain(kind: Any, folder: Path, scheduler: str | None = None, **parts: Any) -> Any:
    """Return diffusers' own pipeline of a folder, silent."""
    parts |= {"safety_checker": None} if "Upscale" not in kind.__name__ and "XL" not in kind.__name__ else {}
    made = kind.from_pretrained(folder, local_files_only=True, **parts)
    if scheduler is not None:
        kind, settings = STOCK[scheduler]
        made.scheduler = getattr(diffusers, kind).from_config(made.scheduler.config, **settings)
    made.set_progress_bar_config(disable=True)
    return made


def assert_equal_pictures(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.std() > 0.01
    assert float((ours - theirs[0]).abs().max()) <= 1e-5


@pytest.fixture
def fixed_draws(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a pipeline module draw given noise, and encode pictures as the mode of the posterior."""

    def fix(name: str, *draws: torch.Tensor) -> None:
        module, queue = import_module(name), list(draws)
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: queue.pop(0))
        if hasattr(module, "retrieve_latents"):
            monkeypatch.setattr(module, "retrieve_latents", lambda out, **_: out.latent_dist.mode())

    return fix


CONTRACT = {
    "sd": ("sd", {"lift": "regress", "batch": 3}),
    "sd, dpm++, inject": ("sd", {"lift": "inject", "scheduler": "dpmpp_2m"}),
    "sd, euler, keep": ("sd", {"lift": "keep", "scheduler": "euler", "joint_steps": 1}),
    "inpaint": ("inpaint", {}),
    "xl": ("xl", {"scheduler": "unipc"}),
    "upscaler": ("upscaler", {"lift": "inject"}),
}
SLOW = ("sd, dpm++, inject", "sd, euler, keep", "xl", "upscaler", "inpaint")
"""Contracts whose every part another case or a parity test has, too."""


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CONTRACT])
def test_contract(tiny: Make, case: str) -> None:
    name, options = CONTRACT[case]
    check_generator(eoaug.load(tiny(name), steps=3, **options))


@pytest.mark.sweep
@pytest.mark.parametrize("scheduler", [None, *STOCK])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_text_to_image_is_diffusers(
    tiny: Make, fixed_draws: Callable[..., None], prediction: str, scheduler: str | None
) -> None:
    folder = tiny("sd", prediction=prediction)
    generator = eoaug.load(folder, scheduler=scheduler)
    (request,) = requests(generator.card, "synthesize")
    request = replace(request, prompt="fields in spring", guidance=5.0, steps=STEPS)
    if scheduler in DRAWING:
        fixed_draws(DRAWING[scheduler], *(drawn(request, 4, 8, f"diffusion step {i}") for i in range(STEPS)))
    theirs = plain(diffusers.StableDiffusionPipeline, folder, scheduler)(
        "fields in spring", latents=drawn(request, 4, 8), num_inference_steps=STEPS, guidance_scale=5.0,
        output_type="pt",
    ).images  # fmt: skip
    assert_equal_pictures(colours(generator, request), theirs)


@pytest.mark.parametrize(
    "names", [("ddim", "dpmpp_2m_sde", "pndm"), pytest.param(tuple(STOCK), marks=pytest.mark.slow)], ids=len
)
def test_checkpoints_keep_their_own_sampler(tiny: Make, tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd", pndm=True), folder)
    (request,) = requests(eoaug.load(folder).card, "synthesize")
    request = replace(request, prompt="a mine", guidance=4.0, steps=STEPS)
    theirs = plain(diffusers.StableDiffusionPipeline, folder)(
        "a mine", latents=drawn(request, 4, 8), num_inference_steps=STEPS, guidance_scale=4.0, output_type="pt"
    ).images  # fmt: skip
    assert_equal_pictures(colours(eoaug.load(folder), request), theirs)
    path = folder / "scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    index = json.loads((folder / "model_index.json").read_text())
    made = {}
    for name in names:
        kind, settings = STOCK[name]
        path.write_text(json.dumps(config | settings | {"_class_name": kind}))
        told = index | {"scheduler": ["diffusers", kind]}
        (folder / "model_index.json").write_text(json.dumps(told))
        made[name] = eoaug.load(folder).generate([request])
        assert made[name].tobytes() == eoaug.load(folder, scheduler=name).generate([request]).tobytes(), name
    assert len({one.tobytes() for one in made.values()}) == len(names)
    assert schedulers.SCHEDULERS.keys() == STOCK.keys()


def test_a_sampler_without_a_place_for_its_noise_is_refused_by_name(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(tiny("sd"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "HeunDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(GeneratorError, match="HeunDiscreteScheduler") as caught:
        eoaug.load(folder)
    assert all(repr(name) in caught.value.remedy for name in schedulers.SCHEDULERS)
    assert eoaug.load(folder, scheduler="euler_a").card.steps
    index["scheduler"] = ["diffusers", "VQDiffusionScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(GeneratorError, match=r"eoaug loads .*DDIMScheduler"):
        eoaug.load(folder, scheduler="ddim")


@pytest.mark.parametrize("scheduler", DRAWING)
def test_noise_of_the_steps_belongs_to_the_place(tiny: Make, scheduler: str) -> None:
    generator = eoaug.load(tiny("sd"), scheduler=scheduler, steps=STEPS, batch=2)
    one, other = requests(generator.card, "synthesize", 2)
    alone, together = generator.generate([one]), generator.generate([other, one])
    assert alone[0].tobytes() == together[1].tobytes()
    torch.manual_seed(1)
    again = generator.generate([one])
    assert again.tobytes() == alone.tobytes()
    assert np.abs(generator.generate([replace(one, member=1)]) - alone).max() > 1e-3


def test_a_start_inside_the_schedule_takes_the_second_step_twice(tiny: Make) -> None:
    generator = eoaug.load(tiny("sd"), scheduler="pndm")
    (request,) = requests(generator.card, "synthesize")
    known = np.ones_like(request.known)
    start = np.random.default_rng(0).uniform(-1, 1, request.values.shape).astype(np.float32)
    request = replace(request, values=start, known=known, steps=8)
    full = generator.begin([request]).trajectories[0].scheduler.timesteps.tolist()
    half = generator.begin([replace(request, strength=0.5)]).trajectories[0].scheduler.timesteps.tolist()
    assert full == [876, 751, 751, 626, 501, 376, 251, 126, 1]
    assert half == [376, 251, 251, 126, 1]
    # Noise levels and times agree: a trajectory that is held to the start's latents ends there.
    state = generator.begin([replace(request, strength=0.5)])
    (path,) = state.trajectories
    assert path.clean is not None
    for index in range(path.calls):
        generator.step(state, index)
        generator.replace(state, path.clean.numpy())
    with torch.inference_mode():
        path.advance(path.calls)
    np.testing.assert_allclose(path.x.numpy(), path.clean.numpy(), atol=0.12)


def test_xl_is_diffusers(tiny: Make) -> None:
    folder = tiny("xl")
    generator = eoaug.load(folder, steps=STEPS)
    (request,) = requests(generator.card, "synthesize")
    theirs = plain(diffusers.StableDiffusionXLPipeline, folder)(
        "", latents=drawn(request, 4, 8), num_inference_steps=STEPS, guidance_scale=5.0,
        height=64, width=64, output_type="pt",
    ).images  # fmt: skip
    assert_equal_pictures(colours(generator, request), theirs)


@pytest.mark.parametrize("scheduler", ["ddim", "dpmpp_2m", "euler"])
def test_image_to_image_is_diffusers(tiny: Make, fixed_draws: Callable[..., None], scheduler: str) -> None:
    folder = tiny("sd")
    generator = eoaug.load(folder, scheduler=scheduler)
    (request,) = requests(generator.card, "synthesize")
    start = np.random.default_rng(0).uniform(-1, 1, request.values.shape).astype(np.float32)
    known = np.ones_like(request.known)
    request = replace(request, values=start, known=known, strength=0.5, steps=STEPS, prompt="a lake")
    fixed_draws(f"{_PIPELINES}_stable_diffusion_img2img", drawn(request, 4, 8))
    theirs = plain(diffusers.StableDiffusionImg2ImgPipeline, folder, scheduler)(
        "a lake", image=torch.from_numpy((start[0] + 1) / 2)[None], strength=0.5, num_inference_steps=STEPS,
        guidance_scale=7.5, output_type="pt",
    ).images  # fmt: skip
    assert_equal_pictures(colours(generator, request), theirs)


@pytest.mark.parametrize("name", ["sd", "inpaint"])
def test_inpainting_is_diffusers(tiny: Make, fixed_draws: Callable[..., None], name: str) -> None:
    folder = tiny(name)
    generator = eoaug.load(folder, steps=STEPS)
    (request,) = requests(generator.card, "synthesize")
    image = np.random.default_rng(1).uniform(-1, 1, request.values.shape).astype(np.float32)
    hole = np.zeros(request.fill.shape, bool)
    hole[..., 16:40, 24:64] = True
    if name == "sd":
        # The pipeline encodes what a user hides behind the mask; here nobody knows it.
        image[hole] = 0
    request = replace(request, values=np.where(hole, 0, image), known=~hole, fill=hole)
    seen = generator._image(request, 0)[0].numpy() if name == "sd" else image[0]
    fixed_draws(f"{_PIPELINES}_stable_diffusion_inpaint", drawn(request, 4, 8))
    theirs = plain(diffusers.StableDiffusionInpaintPipeline, folder)(
        "", image=torch.from_numpy((seen + 1) / 2)[None], mask_image=torch.from_numpy(hole[0, :1].astype(np.float32)),
        num_inference_steps=STEPS, guidance_scale=7.5, strength=1.0, height=64, width=64, output_type="pt",
    ).images  # fmt: skip
    ours = colours(generator, request)
    inside = torch.from_numpy(hole[0])
    assert float((ours - theirs[0]).abs()[inside].max()) <= 1e-5
    assert np.array_equal(generator.generate([request])[~hole[None]], image[~hole])


def test_upscaling_is_diffusers(tiny: Make, fixed_draws: Callable[..., None]) -> None:
    folder = tiny("upscaler")
    generator = eoaug.load(folder, steps=STEPS, prompt="roofs")
    (request,) = requests(generator.card, "super_resolve")
    assert request.coarse is not None
    coarse = np.clip(request.coarse, -1, 1)
    request = replace(request, coarse=coarse)
    fixed_draws(f"{_PIPELINES}_stable_diffusion_upscale", drawn(request, 3, 4, "diffusion coarse"))
    theirs = plain(diffusers.StableDiffusionUpscalePipeline, folder)(
        "roofs", image=torch.from_numpy((coarse + 1) / 2), latents=drawn(request, 4, 4),
        num_inference_steps=STEPS, guidance_scale=9.0, noise_level=20, output_type="pt",
    ).images  # fmt: skip
    state = generator.begin([request])
    for index in range(STEPS):
        generator.step(state, index)
    with torch.inference_mode():
        # Before the measurement is put back, which diffusers does not do.
        state.trajectories[0].advance(STEPS)
        ours = (generator._networks.decode(state.trajectories[0].x)[0] + 1) / 2
    assert_equal_pictures(ours, theirs)
    with pytest.raises(GeneratorError, match="by 2"):
        generator.generate([replace(request, factor=2)])


@pytest.mark.parametrize("count", [1, 2])
def test_controlnets_are_diffusers(tiny: Make, count: int) -> None:
    folder = tiny("sd")
    nets = [tiny("controlnet"), tiny("controlnet", seed=8)][:count]
    scales = (1.0, 0.5)[:count]
    generator = eoaug.load(folder, controlnets=nets, control_scales=scales, steps=STEPS, batch=2)
    (request,) = requests(generator.card, "synthesize")
    layout = np.random.default_rng(2).uniform(0, 1, (count, 64, 64)).astype(np.float32)
    images = [torch.from_numpy(one)[None].repeat(3, 1, 1)[None] for one in layout]
    models = [diffusers.ControlNetModel.from_pretrained(net) for net in nets]
    theirs = plain(
        diffusers.StableDiffusionControlNetPipeline, folder, controlnet=models if count > 1 else models[0]
    )(
        "", image=images if count > 1 else images[0], latents=drawn(request, 4, 8), num_inference_steps=STEPS,
        guidance_scale=7.5, controlnet_conditioning_scale=list(scales) if count > 1 else scales[0],
        output_type="pt",
    ).images  # fmt: skip
    assert_equal_pictures(colours(generator, replace(request, layout=layout)), theirs)
    with pytest.raises(GeneratorError, match=f"take {3 * count} channels; layout has none"):
        generator.generate([request])


def test_a_controlnet_of_xl_is_diffusers(tiny: Make) -> None:
    folder, net = tiny("xl"), tiny("controlnet", xl=True)
    generator = eoaug.load(folder, controlnets=[net], steps=STEPS)
    (request,) = requests(generator.card, "synthesize")
    layout = np.random.default_rng(2).uniform(0, 1, (1, 64, 64)).astype(np.float32)
    theirs = plain(
        diffusers.StableDiffusionXLControlNetPipeline,
        folder,
        controlnet=diffusers.ControlNetModel.from_pretrained(net),
    )(
        "", image=torch.from_numpy(layout).repeat(3, 1, 1)[None], latents=drawn(request, 4, 8),
        num_inference_steps=STEPS, guidance_scale=5.0, controlnet_conditioning_scale=1.0, height=64, width=64,
        output_type="pt",
    ).images  # fmt: skip
    assert_equal_pictures(colours(generator, replace(request, layout=layout)), theirs)


def lora(folder: Path, seed: int = 0) -> Path:
    """Write a LoRA in diffusers' form for the attention of `sd`'s UNet and text encoder."""
    rng = torch.Generator().manual_seed(seed)
    at = {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q": (32, 32),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (32, 32),
        "text_encoder.text_model.encoder.layers.0.self_attn.out_proj": (32, 32),
    }
    tensors = {}
    for name, (out, into) in at.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, into, generator=rng)
        tensors[f"{name}.lora_B.weight"] = torch.randn(out, 4, generator=rng)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


def test_a_lora_is_used_scaled_merged_and_left_out(tiny: Make, tmp_path: Path) -> None:
    folder, adapter = tiny("sd"), lora(tmp_path / "lora")
    base = eoaug.load(folder, steps=2)
    (request,) = requests(base.card, "synthesize")
    request = replace(request, prompt="a quarry")
    before = base.generate([request])
    full = eoaug.load(folder, steps=2, adapters=[adapter])
    made = full.generate([request])
    assert full.card.sha256 != base.card.sha256
    assert np.abs(made - before).max() > 1e-3
    none = eoaug.load(folder, steps=2, adapters=[(adapter, 0.0)]).generate([request])
    assert none.tobytes() == before.tobytes()
    merged = eoaug.load(folder, steps=2, adapters=[adapter], merge=True).generate([request])
    np.testing.assert_allclose(merged, made, atol=1e-4)
    # Loading an adapter leaves the base alone: to unload is to load without it.
    assert eoaug.load(folder, steps=2).generate([request]).tobytes() == before.tobytes()
    pipeline = plain(diffusers.StableDiffusionPipeline, folder)
    pipeline.load_lora_weights(str(adapter), weight_name="pytorch_lora_weights.safetensors")
    theirs = pipeline(
        "a quarry", latents=drawn(request, 4, 8), num_inference_steps=4, guidance_scale=7.5, output_type="pt"
    ).images
    assert_equal_pictures(colours(full, replace(request, steps=4)), theirs)


def test_a_lora_of_another_trainer_is_the_same(tiny: Make, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora")
    tensors = load_file(adapter / "pytorch_lora_weights.safetensors")
    kohya = {}
    for name, tensor in tensors.items():
        layer, which = name.removesuffix(".weight").split(".lora_")
        prefix = "lora_te_" if layer.startswith("text_encoder.") else "lora_unet_"
        key = prefix + layer.split(".", 1)[1].replace(".", "_")
        kohya[f"{key}.lora_{'down' if which == 'A' else 'up'}.weight"] = tensor
        kohya[f"{key}.alpha"] = torch.tensor(4.0)  # the rank: a scale of 1
    save_file(kohya, tmp_path / "kohya.safetensors")
    (request,) = requests(eoaug.load(tiny("sd")).card, "synthesize")
    request = replace(request, prompt="a quarry", steps=2)
    one, other = (
        eoaug.load(tiny("sd"), adapters=[path]).generate([request])
        for path in (adapter, tmp_path / "kohya.safetensors")
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_learned_token_is_a_word(tiny: Make, tmp_path: Path) -> None:
    file = tmp_path / "sar.safetensors"
    save_file({"<sar>": torch.randn(2, 32, generator=torch.Generator().manual_seed(3))}, file)
    folder = tiny("sd")
    generator = eoaug.load(folder, steps=4, adapters=[file])
    (request,) = requests(generator.card, "synthesize")
    pipeline = plain(diffusers.StableDiffusionPipeline, folder)
    pipeline.load_textual_inversion(str(file))
    theirs = pipeline(
        "a <sar> image",
        latents=drawn(request, 4, 8),
        num_inference_steps=4,
        guidance_scale=7.5,
        output_type="pt",
    ).images
    assert_equal_pictures(colours(generator, replace(request, prompt="a <sar> image")), theirs)


def test_an_adapter_of_another_base_is_refused(tiny: Make, tmp_path: Path) -> None:
    save_file({"<x>": torch.zeros(1, 7)}, tmp_path / "x.safetensors")
    generator = eoaug.load(tiny("sd"), adapters=[tmp_path / "x.safetensors"])
    with pytest.raises(GeneratorError, match="7 numbers, the text encoder 32"):
        generator.generate(requests(generator.card, "synthesize"))
    save_file({"transformer.a.lora_A.weight": torch.zeros(1, 7)}, tmp_path / "y.safetensors")
    generator = eoaug.load(tiny("sd"), adapters=[tmp_path / "y.safetensors"])
    with pytest.raises(GeneratorError, match="belongs to no network"):
        generator.generate(requests(generator.card, "synthesize"))


def test_sampling_continues_from_replaced_estimates(tiny: Make) -> None:
    # With the truth in the place of every estimate, any sampler arrives there but for its last noise (0.03).
    for scheduler in schedulers.SCHEDULERS:
        generator = eoaug.load(tiny("sd", prediction="v_prediction"), steps=6, scheduler=scheduler)
        (request,) = requests(generator.card, "synthesize")
        state = generator.begin([request])
        truth = np.random.default_rng(4).normal(size=state.trajectories[0].x.shape).astype(np.float32)
        calls = state.trajectories[0].calls
        for index in range(calls):
            generator.step(state, index)
            generator.replace(state, truth)
        with torch.inference_mode():
            state.trajectories[0].advance(calls)
        np.testing.assert_allclose(state.trajectories[0].x.numpy(), truth, atol=0.12)


def test_half_precision_is_near(tiny: Make, tmp_path: Path) -> None:
    adapter = lora(tmp_path / "lora")
    (request,) = requests(eoaug.load(tiny("sd")).card, "synthesize")
    request = replace(request, steps=3)
    full, half = (
        eoaug.load(tiny("sd"), adapters=adapter, dtype=dtype).generate([request])
        for dtype in ("float32", "bfloat16")
    )
    assert 0 < np.abs(half - full).mean() < 0.05


def test_offloaded_networks_are_the_same(tiny: Make) -> None:
    checkpoint = open_checkpoint(tiny("sd"))
    x, t = torch.ones(1, 4, 8, 8), torch.tensor([5])
    with torch.inference_mode():
        one, other = (
            nets.predict(x, t, {"text": nets.text("a field").hidden[None]})
            for nets in (networks.Networks(checkpoint), networks.Networks(checkpoint, offload=True))
        )
    assert torch.equal(one, other)


def test_low_memory_changes_last_bits_alone(tiny: Make) -> None:
    (request,) = requests(eoaug.load(tiny("sd")).card, "synthesize")
    request = replace(request, steps=2)
    normal, low = (eoaug.load(tiny("sd"), memory=m).generate([request]) for m in ("normal", "low"))
    np.testing.assert_allclose(low, normal, atol=1e-5)


WRONG = {
    "an unknown option": ({"stretsh": (0, 1)}, "no option 'stretsh'"),
    "a stretch upside down": ({"stretch": (0.3, 0.0)}, "black below white"),
    "a rule that is none": ({"lift": "guess"}, "lift='guess'"),
    "a scheduler that is none": ({"scheduler": "heun"}, "scheduler='heun'"),
    "a tile that does not divide": ({"tile_px": 60}, "multiple of 16"),
    "no steps": ({"steps": 0}, "steps=0"),
    "a type": ({"dtype": "int8"}, "dtype='int8'"),
    "scales without nets": ({"control_scales": (1.0,)}, "1 control_scales for 0"),
    "an adapter that is not there": ({"adapters": ["nowhere.bin"]}, "no safetensors file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_named(tiny: Make, case: str) -> None:
    options, told = WRONG[case]
    with pytest.raises(GeneratorError, match=told):
        eoaug.load(tiny("sd"), **options)


def test_a_prompt_too_long_is_not_cut(tiny: Make) -> None:
    generator = eoaug.load(tiny("sd"), steps=2)
    (request,) = requests(generator.card, "synthesize")
    with pytest.raises(GeneratorError, match="the text encoder takes 77"):
        generator.generate([replace(request, prompt="x " * 80)])


def test_a_file_describes_a_generator(tiny: Make, tmp_path: Path) -> None:
    lora(tmp_path / "mine")
    (tmp_path / "recipe.json").write_text(
        f'{{"base": "{tiny("sd")}", "adapters": [["mine", 0.5]], "stretch": [0.0, 0.4], "steps": 7}}'
    )
    card = eoaug.load(tmp_path / "recipe.json", lift="keep").card
    assert card.steps["synthesize"] == 7
    assert card.mean[0] == card.std[0] == 0.2
    assert "nir" in card.passthrough_bands
    assert any("mine" in name for name in card.files)
    for bad in ("[]", "{", "7", '{"base": 5}', "{}", '{"bases": "x"}'):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(GeneratorError, match="does not describe a generator"):
            eoaug.load(tmp_path / "bad.json")
    for bad in (
        '"adapters": 5',
        '"adapters": [[5]]',
        '"unet": 5',
        '"adapters": [["mine"]]',
    ):
        (tmp_path / "bad.json").write_text(f'{{"base": "{tiny("sd")}", {bad}}}')
        with pytest.raises(GeneratorError, match=bad.partition('"')[2].partition('"')[0]):
            eoaug.load(tmp_path / "bad.json")
