"""The argument memory: it sizes chunks, changes no byte, and refuses what cannot be kept."""

import re

import pytest
import xarray as xr

import eoaug
from eoaug.engine.explain import peak_bytes
from eoaug.errors import ParameterError
from eoaug.testing.scenes import scene
from eoaug.verbs.memory import bytes_of


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("64k", 64_000), (1000, 1000)],
)
def test_sizes_are_read(text, count):
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "much", "0", -1, True, "2 GBB", None])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ParameterError, match="memory="):
        bytes_of(text)


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)


@pytest.mark.usefixtures("two_cores")
def test_more_memory_gives_larger_chunks_and_the_same_bytes():
    ds = scene((200, 130), dates=1, bands=("nir",), content="texture")
    arguments = {"generator": "classical", "factor": 2, "sensor": 0.15, "sensor_noise": 0}
    made = [
        eoaug.plan("super_resolve", ds, memory=memory, **arguments) for memory in ("268MB", "280MB", "2GB")
    ]
    edges = [max(plan.chunking.lengths[1]) for plan in made]
    assert edges[0] < edges[1] <= edges[2]
    assert peak_bytes(made[0]) < peak_bytes(made[2])
    lazy = eoaug.super_resolve(ds, memory="268MB", **arguments)
    assert lazy.nir.chunks[1:] == made[0].chunking.lengths[1:]
    xr.testing.assert_equal(lazy.compute(scheduler="synchronous"), eoaug.super_resolve(ds, **arguments))


@pytest.mark.usefixtures("two_cores")
def test_too_little_is_refused_with_a_size_that_is_enough():
    ds = scene((300, 260), dates=2, bands=("blue", "nir"))
    with pytest.raises(ParameterError, match="memory='10MB' is not enough") as refused:
        eoaug.plan("inpaint", ds, generator="classical", fill="all", memory="10MB")
    enough = re.search(r'memory="(\d+MB)"', str(refused.value))[1]
    assert eoaug.plan("inpaint", ds, generator="classical", fill="all", memory=enough)
    with pytest.raises(ParameterError, match="both memory and chunks"):
        eoaug.plan("inpaint", ds, generator="classical", fill="all", memory=enough, chunks=64)
