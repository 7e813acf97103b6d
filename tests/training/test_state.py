"""A state is written whole, and what is read back trains as if it had never been interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file

from eoaug.errors import ParameterError
from eoaug.training.state import TrainingState, read_progress


def started() -> tuple[torch.nn.Module, TrainingState]:
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"used": torch.nn.Linear(4, 2), "unused": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    return network, TrainingState(dict(network.named_parameters()), optimizer)


def advance(network: torch.nn.Module, state: TrainingState, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        rng = torch.Generator().manual_seed(state.step)
        batch = torch.randn(8, 4, generator=rng)
        loss = (network["used"](batch) - batch[:, :2]).square().mean()  # type: ignore[index]
        losses.append(state.update(loss, ema=0.9, clip=1.0))
    return losses


def test_a_state_continues_as_if_uninterrupted(tmp_path: Path) -> None:
    network, state = started()
    before = advance(network, state, 5)
    state.save(tmp_path / "state.safetensors", {"spent_s": 1.5})
    after = advance(network, state, 5)
    assert read_progress(tmp_path / "state.safetensors") == {"spent_s": 1.5}
    other, resumed = started()
    resumed.load(tmp_path / "state.safetensors")
    assert resumed.step == 5
    assert advance(other, resumed, 5) == after
    assert after != before
    for name, value in state.parameters.items():
        assert torch.equal(resumed.parameters[name], value), name
        assert torch.equal(resumed.averaged[name], state.averaged[name]), name
    assert not torch.equal(state.averaged["used.weight"], state.parameters["used.weight"])
    assert list(tmp_path.iterdir()) == [tmp_path / "state.safetensors"]


def test_the_average_is_the_exponential_moving_average() -> None:
    network, state = started()
    expected = {name: value.detach().clone() for name, value in state.parameters.items()}
    for step in range(1, 30):
        advance(network, state, 1)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in state.parameters.items():
            expected[name] = decay * expected[name] + (1 - decay) * value.detach()
    for name, value in expected.items():
        torch.testing.assert_close(state.averaged[name], value, atol=1e-5, rtol=1e-5)


def test_a_file_without_a_state_is_refused(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "nowhere.safetensors") is None
    save_file({}, tmp_path / "other.safetensors")
    with pytest.raises(ParameterError, match="no state of a training"):
        read_progress(tmp_path / "other.safetensors")
