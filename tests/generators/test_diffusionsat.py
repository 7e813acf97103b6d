"""DiffusionSat: the official modules' numbers, the metadata, the released layouts, the traps."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import eoaug
from eoaug.errors import GeneratorError
from eoaug.generators.base import METADATA_FIELDS
from eoaug.generators.checkpoints.folder import open_checkpoint
from eoaug.testing import CountingGenerator, check_generator, requests
from tests.later import Later

diffusionsat: Any = Later("eoaug.generators.checkpoints.diffusionsat")
networks: Any = Later("eoaug.generators.checkpoints.diffusionsat_networks")
generators: Any = Later("eoaug.generators.checkpoints.generator")
loading: Any = Later("eoaug.generators.checkpoints.loading")
Make = Callable[..., Path]

CLASSES = {"unet": "SatUNet", "controlnet2d": "ControlNetModel", "controlnet3d": "ControlNetModel3D"}
LAYOUTS = ("component", "root", "checkpoint", "checkpoint ema")


@pytest.fixture
def parity(eoaug_data: Path) -> Path:
    folder = eoaug_data / "parity" / "diffusionsat"
    if not folder.is_dir():
        pytest.skip(f"no parity cases at {folder}")
    return folder


def wrapped(source: Path, base: Path, target: Path, layout: str) -> tuple[Path, str]:
    """Lay the weights of a case out as one of the releases; return what to open, and the part to look at."""
    role = "unet" if source.name == "unet" else "controlnet"
    inside = {
        "component": target,
        "root": target / role,
        "checkpoint": target / "checkpoint-100000" / role,
        "checkpoint ema": target / "checkpoint-100000" / f"{role}_ema",
    }[layout]
    if layout != "component":
        shutil.copytree(base, target)
        shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir(parents=True)
    tensors = load_file(source / "diffusion_pytorch_model.safetensors")
    save_file(
        {name: tensor.float() for name, tensor in tensors.items()},
        inside / "diffusion_pytorch_model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((source / "config.json").read_text()) | {"_class_name": CLASSES[source.name]}
    (inside / "config.json").write_text(json.dumps(config))
    return (inside if "ema" in layout else inside.parent if layout == "checkpoint" else target), role


def case(folder: Path) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(folder / "case.npz").items()}


def run(network: Any, name: str, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    first = (given["in_sample"], given["in_timestep"], given["in_encoder_hidden_states"])
    with torch.inference_mode():
        if name == "unet":
            told = {"metadata": given["in_metadata_normalised"]}
            return {"out_sample": network(*first, added_cond_kwargs=told).sample}
        down, mid = network(
            *first,
            given["in_controlnet_cond"],
            metadata=given["in_metadata_normalised"],
            cond_metadata=given["in_cond_metadata_normalised"],
        )
    return {f"out_down_{i}": one for i, one in enumerate(down)} | {"out_mid": mid}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CLASSES)
def test_parity_with_the_official_modules(
    tiny: Make, tmp_path: Path, parity: Path, name: str, layout: str
) -> None:
    if name != "unet" and "checkpoint" in layout:
        pytest.skip("no ControlNet was released so")
    folder, role = wrapped(parity / name, tiny("diffusionsat"), tmp_path / "released", layout)
    # loading.build() refuses a missing, unexpected or misshapen key.
    network = loading.build(open_checkpoint(folder).component(role)).eval()
    given = case(parity / name)
    found = run(network, name, given)
    assert found.keys() == {key for key in given if key.startswith("out_")}
    for key, value in found.items():
        assert float((value - given[key]).abs().max()) <= 1e-5, key


def test_parity_needs_metadata_in_float32(parity: Path, tiny: Make, tmp_path: Path) -> None:
    folder, role = wrapped(parity / "unet", tiny("diffusionsat"), tmp_path / "released", "component")
    network = loading.build(open_checkpoint(folder).component(role)).eval()
    given = case(parity / "unet")
    rounded = given | {"in_metadata_normalised": given["in_metadata_normalised"].half().float()}
    moved = (run(network, "unet", rounded)["out_sample"] - given["out_sample"]).abs().max()
    assert float(moved) > 1e-4


def test_parity_depends_on_the_order_of_frames(parity: Path, tiny: Make, tmp_path: Path) -> None:
    # The paper claims that it does not; the released convolutions along frames say otherwise.
    folder, role = wrapped(parity / "controlnet3d", tiny("diffusionsat"), tmp_path / "released", "component")
    network = loading.build(open_checkpoint(folder).component(role)).eval()
    given = case(parity / "controlnet3d")
    turned = given | {
        name: given[name].flip(2) for name in ("in_controlnet_cond", "in_cond_metadata_normalised")
    }
    moved = (run(network, "controlnet3d", turned)["out_mid"] - given["out_mid"]).abs().max()
    assert float(moved) > 1e-3


def test_a_2d_controlnet_sums_the_embeddings_of_several_images(tiny: Make) -> None:
    net = loading.build(
        open_checkpoint(tiny("sat_controlnet", frames=False, channels=3)).component("controlnet")
    ).eval()
    image, facts = torch.rand(1, 3, 64, 64), torch.rand(1, 7) * 1000
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 32)
    with torch.inference_mode():
        one = net(x, t, text, image[:, :, None], metadata=facts, cond_metadata=facts[..., None])[1]
        same = net(x, t, text, image, metadata=facts, cond_metadata=facts)[1]
        twice = net(x, t, text, image[:, :, None].repeat(1, 1, 2, 1, 1), metadata=facts,
                    cond_metadata=facts[..., None].repeat(1, 1, 2))[1]  # fmt: skip
    assert torch.equal(one, same)
    assert float((twice - one).abs().max()) > 1e-4


# -- metadata -----------------------------------------------------------------------------------------

WORKED = np.array([153.317, -27.862, 0.411, 0.0, 2017, 2, 11])


def test_the_worked_example() -> None:
    listed = [925.8798, 345.2111, 411.4541, 0, 308.3333, 166.6667, 354.8387]
    # The listed vector decodes to the rounded place and pixel size of the example.
    np.testing.assert_allclose(diffusionsat.metadata_vector(WORKED), listed, atol=0.5)
    exact = np.array([925.8798 * 0.36 - 180, 345.2111 * 0.18 - 90, 0.4114541, 0, 2017, 2, 11])
    np.testing.assert_allclose(diffusionsat.metadata_vector(exact), listed, atol=1e-4)


def test_ten_metres_are_ten_thousand_and_years_start_in_1980() -> None:
    # The paper's table says 0 to 10 m; a notebook forgets the shifts (year 2015 as 16,791.7, longitude 212.7).
    vector = diffusionsat.metadata_vector(np.array([76.572, 0.0, 10.0, 0.5, 2015, 12, 31]))
    np.testing.assert_allclose(vector, [712.7, 500, 10_000, 500, 291.6667, 1000, 1000], atol=0.01)
    assert vector.dtype == np.float32


def test_unknown_is_the_value_zero_field_by_field() -> None:
    nothing = diffusionsat.metadata_vector(np.full(7, np.nan))
    assert not nothing.any()
    for i, name in enumerate(METADATA_FIELDS):
        partial = WORKED.copy()
        partial[3] = 0.25
        partial[i] = np.nan
        zero = diffusionsat.metadata_vector(partial) == 0
        assert zero.sum() == (3 if name == "year" else 1), name
        assert zero[i]
    # Undated SpaceNet scenes have 0 for the whole date.
    assert (diffusionsat.metadata_vector(np.array([0, 0, 1, 0, np.nan, 5, 5]))[4:] == 0).all()


def test_legacy_rounds_as_the_published_pipeline(tiny: Make) -> None:
    legacy = eoaug.load(tiny("diffusionsat"), legacy_fp16=True)
    exact = eoaug.load(tiny("diffusionsat"))
    difference = (legacy._embedding_input(WORKED) - exact._embedding_input(WORKED)).abs().max()
    assert 0.01 < float(difference) <= 0.25
    assert legacy._embedding_input(WORKED).dtype == torch.float32


def test_metadata_come_from_the_cube(tiny: Make, eoaug_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyproj import Transformer

    cube = eoaug.open_cube(
        eoaug_data / "catalogs/worldcereal_s2", bands=["red", "green", "blue"], chunks=None
    ).isel(time=slice(0, 3))
    generator = eoaug.load(tiny("diffusionsat"), steps=1, joint_steps=0)
    seen: list[Any] = []
    generate = diffusionsat.DiffusionSat.generate
    monkeypatch.setattr(
        diffusionsat.DiffusionSat,
        "generate",
        lambda self, asked: [seen.extend(asked), generate(self, asked)][1],
    )
    cube.eoaug.synthesize(generator=generator, strength=0.9)
    told = [json.loads(path.read_text()) for path in (eoaug_data / "catalogs/worldcereal_s2").rglob("*.json")]
    cloud = {
        item["properties"]["datetime"][:10]: item["properties"]["eo:cloud_cover"] / 100
        for item in told
        if item["type"] == "Feature"
    }
    to_degrees = Transformer.from_crs(cube.odc.geobox.crs, 4326, always_xy=True)
    affine = cube.odc.geobox.affine
    rows0, cols0 = round(affine.f / affine.e), round(affine.c / affine.a)
    assert {int(one.times[0]) for one in seen} == set(
        cube.time.values.astype("datetime64[s]").astype(int).tolist()
    )
    for request in seen:
        row, col = request.origin
        x, y = affine @ (col - cols0 + 32, row - rows0 + 32)
        lon, lat = to_degrees.transform(x, y)
        k = int(np.argmin(np.abs(cube.time.values.astype("datetime64[s]").astype(int) - request.times[0])))
        day = cube.time.values[k].astype("datetime64[D]").item()
        expected = [
            (lon + 180) / 360,
            (lat + 90) / 180,
            10.0,
            cloud[str(day)],
            (day.year - 1980) / 120,
            day.month / 12,
            day.day / 31,
        ]
        # Places are rounded to five decimals of a degree, a metre, so that crops agree.
        np.testing.assert_allclose(
            diffusionsat.metadata_vector(request.metadata[0]) / 1000, expected, atol=1e-6
        )


# -- the generator ------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", [pytest.param(None, marks=pytest.mark.slow), "2D"])
def test_contract(tiny: Make, control: str | None) -> None:
    nets = [tiny("sat_controlnet", frames=False, channels=10, scale=2)] if control else []
    generator = eoaug.load(tiny("diffusionsat"), controlnets=nets, steps=2, guidance=2.0)
    assert isinstance(generator, diffusionsat.DiffusionSat)
    check_generator(generator)


@pytest.mark.slow
def test_contract_of_sequences(tiny: Make) -> None:
    net = tiny("sat_controlnet", frames=True, channels=3)
    check_generator(eoaug.load(tiny("diffusionsat"), controlnets=[net], steps=2))


def test_verbs_follow_the_controlnet(tiny: Make) -> None:
    base = tiny("diffusionsat")
    assert eoaug.load(base).card.verbs == {"synthesize", "inpaint"}
    flat = eoaug.load(base, controlnets=[tiny("sat_controlnet", frames=False, channels=10, scale=2)]).card
    assert flat.verbs == {"super_resolve"}
    assert flat.bands[:4] == ("red", "green", "blue", "rededge071")
    assert flat.derived_bands == set(flat.bands[3:])
    deep = eoaug.load(base, controlnets=[tiny("sat_controlnet", frames=True, channels=3)]).card
    assert deep.verbs == {"inpaint", "extend", "super_resolve"}
    assert deep.context == 3


def test_each_metadata_field_matters_and_guidance_leads_from_nothing(tiny: Make) -> None:
    generator = eoaug.load(tiny("diffusionsat"), steps=1)
    (request,) = requests(generator.card, "synthesize")
    request = replace(request, metadata=WORKED[None], guidance=3.0)
    before = generator.generate([request])
    for i in range(7):
        changed = WORKED.copy()
        changed[i] = changed[i] + 1 if i != 3 else 0.5
        assert np.abs(generator.generate([replace(request, metadata=changed[None])]) - before).max() > 1e-5
    positive, negative = generator._given(request, 0)
    assert positive["metadata"].any()
    assert not negative["metadata"].any()


def test_frames_are_ascending_repeated_and_told_their_own_dates(tiny: Make) -> None:
    net = tiny("sat_controlnet", frames=True, channels=3)
    generator = eoaug.load(tiny("diffusionsat"), controlnets=[net], steps=1, guidance=2.0)
    (request,) = requests(generator.card, "extend")
    metadata = WORKED + np.eye(7)[6] * np.arange(3)[:, None]
    request = replace(request, metadata=metadata)
    positive, negative = generator._given(request, 1)
    assert positive["control0"].shape == (3, 3, 64, 64)
    assert float(positive["control0"].min()) >= 0
    assert float(positive["control0"].max()) <= 1
    days = positive["control_metadata"][6] * 31 / 1000
    np.testing.assert_allclose(days.numpy(), [11, 13, 13], atol=1e-3)
    assert torch.equal(positive["control0"][:, 1], positive["control0"][:, 2])
    assert not negative["control_metadata"].any()
    assert torch.equal(negative["control0"], positive["control0"])


def test_the_multispectral_condition_is_the_published_one() -> None:
    # Two standard deviations around the mean of B4, as uint8, cut off and not rounded.
    mean, std = 1136.26026392, 965.23119807
    levels = np.array([-5000, mean - 2 * std, mean, mean + 1.999 * std, mean + 3 * std]) / 1e4
    image = np.full((10, 1, 5), np.nan)
    image[0, 0] = levels
    made = diffusionsat.multispectral_image(image)
    np.testing.assert_allclose(made[0, 0] * 255, [0, 0, 127, 254, 255])
    assert not made[1:].any()


def test_the_condition_of_a_super_resolution_has_the_coarse_pixel(tiny: Make) -> None:
    net = tiny("sat_controlnet", frames=False, channels=10, scale=2)
    generator = eoaug.load(tiny("diffusionsat"), controlnets=[net], steps=1)
    (request,) = requests(generator.card, "super_resolve", factor=4)
    assert request.coarse is not None
    positive, _ = generator._given(replace(request, metadata=np.array([[3.0, 50, 2.5, 0, 2020, 1, 1]])), 0)
    assert positive["control0"].shape == (10, 32, 32)
    assert float(positive["metadata"][2]) == 2500
    assert float(positive["control_metadata"][2]) == 10_000


def test_strides_follow_the_conditioning_scale(tiny: Make) -> None:
    def strides(scale: int) -> list[int]:
        net = loading.build(
            open_checkpoint(tiny("sat_controlnet", frames=False, channels=3, scale=scale)).component(
                "controlnet"
            )
        )
        return [block.stride[0] for block in net.controlnet_cond_embedding.blocks[1::2]]

    assert [strides(scale) for scale in (1, 2, 4, 8)] == [[2, 2, 2], [2, 2, 1], [2, 1, 1], [1, 1, 1]]


def test_a_3d_net_that_says_2d_is_told_apart(tiny: Make, tmp_path: Path) -> None:
    shutil.copytree(tiny("sat_controlnet", frames=True, channels=3), tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed/config.json").read_text())
    (tmp_path / "mixed/config.json").write_text(json.dumps(config | {"_class_name": "ControlNetModel"}))
    with pytest.raises(GeneratorError, match="weights are of a 3D ControlNet"):
        eoaug.load(tiny("diffusionsat"), controlnets=[tmp_path / "mixed"])


def test_a_2d_net_that_says_3d_is_told_apart(tiny: Make, tmp_path: Path) -> None:
    shutil.copytree(tiny("sat_controlnet", frames=False, channels=3), tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed/config.json").read_text())
    (tmp_path / "mixed/config.json").write_text(json.dumps(config | {"_class_name": "ControlNetModel3D"}))
    with pytest.raises(GeneratorError, match="weights are of a 2D ControlNet"):
        eoaug.load(tiny("diffusionsat"), controlnets=[tmp_path / "mixed"])


def test_null_is_embedded_and_not_left_out(tiny: Make) -> None:
    # The value 0 has cosine 1: a model told nothing is not a model without metadata.
    unet = loading.build(open_checkpoint(tiny("diffusionsat")).component("unet")).eval()
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 32)
    embedding = unet.metadata_embedding
    with torch.inference_mode():
        assert float(embedding(torch.zeros(1, 7)).abs().max()) > 1e-3
        null = unet(x, t, text, added_cond_kwargs={"metadata": torch.zeros(1, 7)}).sample
        unet.metadata_embedding = None
        without = unet(x, t, text, added_cond_kwargs={}).sample
    assert float((null - without).abs().max()) > 1e-5


def test_frames_are_attended_to_at_the_published_places_without_positions() -> None:
    # Stable Diffusion 2.1's shape, without memory: 64 heads of 5, 10 and 20 numbers at the three downsamplings.
    with torch.device("meta"):
        net = networks.SatControlNet3D(
            block_out_channels=(320, 640, 1280, 1280), attention_head_dim=(5, 10, 20, 20),
            cross_attention_dim=1024, use_linear_projection=True,
        )  # fmt: skip
    assert net.temporal_blocks is not None
    attended = {
        i: (block.transformer_blocks[0].attn1.heads, block.proj_in.out_features)
        for i, block in enumerate(net.temporal_blocks)
        if not isinstance(block, torch.nn.Identity)
    }
    assert attended == {0: (8, 512), 3: (64, 320), 6: (64, 640), 9: (64, 1280)}
    keys = set(net.state_dict())
    assert not [key for key in keys if key.startswith("temporal_blocks") and "pos" in key]
    assert {f"mixing_attns.{i}" for i in range(12)} <= keys


def test_a_training_state_is_its_unet_and_the_average_is_asked_for(tiny: Make, tmp_path: Path) -> None:
    # The authors' notebook loads the weights, not their average: which one must be a choice.
    root = tmp_path / "released"
    shutil.copytree(tiny("diffusionsat"), root)
    file = "diffusion_pytorch_model.safetensors"
    for number, name in enumerate(("unet", "unet_ema"), 1):
        shutil.copytree(root / "unet", root / "checkpoint-7" / name)
        tensors = load_file(root / "unet" / file)
        tensors["conv_in.bias"] = tensors["conv_in.bias"] + number
        save_file(tensors, root / "checkpoint-7" / name / file, metadata={"format": "pt"})

    def bias(folder: Path) -> float:
        return float(loading.build(open_checkpoint(folder).component("unet")).conv_in.bias[0].detach())

    base = bias(root)
    assert bias(root / "checkpoint-7") == pytest.approx(base + 1)
    assert bias(root / "checkpoint-7/unet_ema") == pytest.approx(base + 2)
    kinds = [
        eoaug.load(folder).card.sha256
        for folder in (root, root / "checkpoint-7", root / "checkpoint-7/unet_ema")
    ]
    assert len(set(kinds)) == 3


def test_a_stock_controlnet_does_not_fit(tiny: Make) -> None:
    with pytest.raises(GeneratorError, match="one ControlNet of its own"):
        eoaug.load(tiny("diffusionsat"), controlnets=[tiny("controlnet")])


def test_a_released_folder_with_its_controlnet_beside(tiny: Make, tmp_path: Path) -> None:
    # controlnet3d-...: a pipeline's root with controlnet/, whose UNet is that of the single-image release.
    root = tmp_path / "texas"
    shutil.copytree(tiny("diffusionsat"), root)
    shutil.copytree(tiny("sat_controlnet", frames=True, channels=3), root / "controlnet")
    shutil.rmtree(root / "unet")
    with pytest.raises(GeneratorError, match="has no unet"):
        eoaug.load(root)
    card = eoaug.load(root, unet=tiny("diffusionsat")).card
    assert "extend" in card.verbs


def test_a_plain_unet_stays_stable_diffusion(tiny: Make) -> None:
    assert type(eoaug.load(tiny("sd"))) is generators.Diffusion


def test_defaults_are_those_of_the_papers_figures(tiny: Make) -> None:
    generator = eoaug.load(tiny("diffusionsat"))
    assert generator.card.steps["synthesize"] == 100
    assert generator._guidance == 1.0
    (request,) = requests(generator.card, "synthesize")
    state = generator.begin([request])
    assert state.trajectories[0].negative is None


def test_captions() -> None:
    assert diffusionsat.caption() == "a fmow satellite image"
    assert (
        diffusionsat.caption("fmow", "crop_field", "Brazil")
        == "a fmow satellite image of a crop field in Brazil"
    )
    assert (
        diffusionsat.caption("spacenet", "12 buildings", "Paris")
        == "a spacenet satellite image of 12 buildings in Paris"
    )
    assert diffusionsat.caption(None) == "a satellite image"


def test_prompts_are_captions_when_none_is_given(tiny: Make) -> None:
    generator = eoaug.load(tiny("diffusionsat"))
    (request,) = requests(generator.card, "synthesize")
    fine = np.array([WORKED])
    assert generator._prompt(replace(request, metadata=fine), 0) == "a fmow satellite image"
    coarse = fine.copy()
    coarse[0, 2] = 10
    assert generator._prompt(replace(request, metadata=coarse), 0) == "a satlas satellite image"
    assert generator._prompt(replace(request, prompt="a port"), 0) == "a port"
    assert not math.isnan(coarse[0, 2])


def test_counting_still_steps(tiny: Make) -> None:
    counting = CountingGenerator(eoaug.load(tiny("diffusionsat"), steps=2))
    counting.generate(requests(counting.card, "synthesize"))
    assert counting.calls == 1
