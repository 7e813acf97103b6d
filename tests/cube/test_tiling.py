"""Where tiles lie: a small image in one tile, and many small images in common batches, with the bytes of each alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import eoaug
from eoaug.errors import GeneratorError, ParameterError
from eoaug.testing import CountingGenerator, TinyDenoiser, scene
from eoaug.verbs.together import ImageCall, run_together


def image(
    seed: int, shape_yx: tuple[int, int] = (24, 28), *, dates: int = 1, coordinates: bool = True
) -> xr.Dataset:
    """A cube in reflectance; every second one has gaps."""
    ds = scene(shape_yx, dates=dates, dtype="float32", content="texture")
    if seed % 2:
        ds = ds.where(np.random.default_rng(seed).random(shape_yx) > 0.2)
    return ds if coordinates else ds.drop_vars(["spatial_ref", "x", "y"])


@pytest.mark.parametrize(("tiling", "requests"), [("image", 1), ("plane", 4), (None, 4)])
def test_a_small_image_lies_in_one_tile(tiling: Any, requests: int) -> None:
    counting = CountingGenerator(TinyDenoiser())
    how = {} if tiling is None else {"tiling": tiling}
    eoaug.synthesize(image(0), generator=counting, strength=0.5, joint_steps=0, **how)
    assert counting.requests >= requests
    assert (counting.requests == 1) == (requests == 1)


def test_an_image_without_coordinates_lies_in_one_tile() -> None:
    counting = CountingGenerator(TinyDenoiser())
    eoaug.synthesize(image(0, coordinates=False), generator=counting, strength=0.5)
    assert counting.requests == 1


def test_an_image_larger_than_a_tile_is_tiled_as_on_the_plane() -> None:
    large = image(1, (40, 24))
    one, other = (
        eoaug.inpaint(large, generator=TinyDenoiser(), tiling=tiling, fill="all")
        for tiling in ("image", "plane")
    )
    xr.testing.assert_identical(one, other)


def test_a_tiling_that_is_not_known_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"(?s)'tile'.*plane"):
        eoaug.inpaint(image(1), generator=TinyDenoiser(), tiling="tile")  # type: ignore[arg-type]


def calls(generator: Any) -> list[ImageCall]:
    """Images of several sizes and dates, with and without gaps, for two verbs and other seeds."""
    out = []
    for seed in range(10):
        ds = image(seed, (24, 28 + 2 * (seed % 3)), dates=1 + seed % 2, coordinates=seed % 3 > 0)
        verb: Any = "inpaint" if seed % 4 == 1 else "synthesize"
        own: dict[str, Any] = {"fill": "all"} if verb == "inpaint" else {"strength": 0.3 + 0.05 * seed}
        how = {"generator": generator, "seed": seed, "tiling": "image", "steps": 2 + seed % 2, **own}
        out.append(ImageCall(verb, ds, how, f"image {seed}"))
    return out


def test_images_made_together_are_those_made_alone() -> None:
    counting = CountingGenerator(TinyDenoiser())
    together = run_together(calls(counting))
    requests = counting.requests
    counting.reset()
    for one, call in zip(together, calls(counting), strict=True):
        xr.testing.assert_identical(one, getattr(eoaug, call.verb)(call.ds, **call.arguments))
    assert requests == counting.requests


class Picky(TinyDenoiser):
    """Fails for the images of one seed."""

    def generate(self, requests: Any) -> Any:
        if any(request.seed == 4 for request in requests):
            raise GeneratorError("seed 4 is not to its taste", "choose another")
        return super().generate(requests)


def test_an_image_that_fails_does_not_stop_the_others() -> None:
    picky, tiny = Picky(), TinyDenoiser()
    made = run_together(calls(picky))
    assert [isinstance(one, GeneratorError) for one in made] == [seed == 4 for seed in range(10)]
    assert "image 4" in str(made[4])
    for seed, (one, call) in enumerate(zip(made, calls(tiny), strict=True)):
        if seed != 4:
            expected = getattr(eoaug, call.verb)(call.ds, **call.arguments)
            np.testing.assert_array_equal(one.synthetic.values, expected.synthetic.values)
            for name in call.ds.data_vars:
                np.testing.assert_array_equal(one[name].values, expected[name].values)
