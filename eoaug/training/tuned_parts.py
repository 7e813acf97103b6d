"""What a fine-tuning trains of a checkpoint's networks: weights, low-rank matrices, a token; and what it leaves alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from eoaug.training.tuning import Tuning

if TYPE_CHECKING:
    from torch import Tensor

    from eoaug.generators.checkpoints.networks import Networks

__all__ = ["TunedParts"]

_LOW_RANK: Mapping[str, list[str] | str] = {
    "unet": ["to_k", "to_q", "to_v", "to_out.0"],
    "text": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "vae": r"(encoder|decoder)\..*\.(to_k|to_q|to_v|to_out\.0|conv1|conv2)",
}
"""Layers with a LoRA (arXiv:2106.09685): the projections of the attention. The autoencoder has them in one block of its
encoder and one of its decoder only, so its convolutions have one too."""
_LOW_RANK_DECODER = r"decoder\..*\.(to_k|to_q|to_v|to_out\.0|conv1|conv2)"
_HAS_LOW_RANK = ("lora", "decoder_lora")
_DECODER = ("decoder.", "post_quant_conv.")
"""Beginnings of the names of the weights between latents and image."""


class TunedParts:
    """The networks of a checkpoint, of which some weights are trained.

    A part that is frozen, and of a part with low-rank matrices every other weight, keeps its bytes.

    Parameters
    ----------
    nets
        Networks without a gradient; changed in place.
    tuning
        Says what is trained.
    source
        The checkpoint, for messages.
    """

    def __init__(self, nets: Networks, tuning: Tuning, source: object) -> None:
        self._nets, self.token = nets, tuning.token
        self._trained = tuning.trained
        self.rows: dict[str, Tensor] = {}
        """Embeddings of the token, shape (1, D), by text encoder."""
        self._numbers: dict[str, int] = {}
        if tuning.token is not None:
            for number, name in enumerate(self._encoders()):
                self.rows[name], self._numbers[name] = self._add_token(number, tuning.token, source)
        self.parameters: dict[str, Tensor] = {}
        """What is trained, by name."""
        for name, network in self.networks().items():
            self._prepare(name, network, tuning)
            self.parameters |= {
                f"{name}.{path}": weight
                for path, weight in network.named_parameters()
                if weight.requires_grad
            }
        self.parameters |= {f"{name}.token": rows for name, rows in self.rows.items()}

    def how(self, name: str) -> str:
        """Return how a network is trained: ``full``, ``lora``, ``decoder_lora``, ``decoder`` or ``frozen``."""
        return self._trained[name.split("_")[0]]

    @property
    def moves_latents(self) -> bool:
        """Whether the encoder of the autoencoder is trained."""
        return self._trained["vae"] in ("full", "lora")

    @property
    def of_images(self) -> bool:
        """Whether anything but the autoencoder is trained."""
        return bool(self.rows) or any(self._trained[part] != "frozen" for part in ("unet", "text"))

    @property
    def of_texts(self) -> bool:
        """Whether the outputs of the text encoders change in training."""
        return bool(self.rows) or self._trained["text"] != "frozen"

    @property
    def is_adapter(self) -> bool:
        """Whether the result is an adapter of the base, and not a checkpoint of its own."""
        return {self._trained["unet"], self._trained["text"]} <= {"lora", "frozen"} and self._trained[
            "vae"
        ] == "frozen"

    def networks(self) -> dict[str, Any]:
        """Return all networks by name: ``unet``, ``vae``, ``text`` and, of SDXL, ``text_2``."""
        return {"unet": self._nets.unet, "vae": self._nets.vae, **self._encoders()}

    def low_rank(self) -> dict[str, Any]:
        """Return the networks with low-rank matrices, by name."""
        return {name: network for name, network in self.networks().items() if self.how(name) in _HAS_LOW_RANK}

    def merged(self) -> dict[str, Any]:
        """Return the networks that differ from the base's, by name, after adding LoRA and token to their weights."""
        import torch
        from diffusers.utils.peft_utils import recurse_remove_peft_layers
        from peft.tuners.tuners_utils import BaseTunerLayer

        for network in self.low_rank().values():
            for layer in network.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.merge()
            recurse_remove_peft_layers(network)
            # With these, both libraries would write matrices instead of weights.
            network._hf_peft_config_loaded = False
            del network.peft_config
        for name, rows in self.rows.items():
            with torch.no_grad():
                table = self._encoders()[name].get_input_embeddings().weight
                table[self._numbers[name]] = rows[0].to(table)
        return {
            name: network
            for name, network in self.networks().items()
            if self.how(name) != "frozen" or name in self.rows
        }

    def tokenizers(self) -> dict[str, Any]:
        """Return the tokenizers that have a new token, by text encoder."""
        return {
            name: tokenizer
            for name, (tokenizer, _) in zip(self._encoders(), self._nets.encoders, strict=True)
            if name in self.rows
        }

    def _encoders(self) -> dict[str, Any]:
        """Return the text encoders by name."""
        return {
            "text" if number == 0 else f"text_{number + 1}": encoder
            for number, (_, encoder) in enumerate(self._nets.encoders)
        }

    def _prepare(self, name: str, network: Any, tuning: Tuning) -> None:
        """Let the weights of a network that are trained have a gradient."""
        import torch

        if tuning.checkpointing and name == "unet":
            network.enable_gradient_checkpointing()
        if self.how(name) == "full":
            network.requires_grad_(True)
        elif self.how(name) == "decoder":
            for path, weight in network.named_parameters():
                weight.requires_grad_(path.startswith(_DECODER))
        elif self.how(name) in _HAS_LOW_RANK:
            from peft import LoraConfig

            layers = _LOW_RANK_DECODER if self.how(name) == "decoder_lora" else _LOW_RANK[name.split("_")[0]]

            low_rank = LoraConfig(
                r=tuning.rank,
                lora_alpha=tuning.rank,
                init_lora_weights="gaussian",
                target_modules=layers,
            )
            # peft draws the first matrix from the global generator; the draws of a network do not depend on the others.
            with torch.random.fork_rng([] if self._nets.device == "cpu" else [self._nets.device]):
                torch.manual_seed(tuning.seed * 1_000_003 + list(self.networks()).index(name))
                network.add_adapter(low_rank)

    def _add_token(self, number: int, token: str, source: object) -> tuple[Tensor, int]:
        """Add a token with the mean of all embeddings to a text encoder; return its embeddings and their row in the table.

        They are trained outside the table: in it, the optimiser's weight decay would move all other words too.
        """
        import torch

        embeddings = self._nets.encoders[number][1].get_input_embeddings()
        (row,) = self._nets.add_token(number, token, embeddings.weight.mean(dim=0, keepdim=True), source)
        learned = torch.nn.Parameter(embeddings.weight[row : row + 1].detach().clone())
        embeddings.register_forward_hook(partial(_with_row, row, learned))
        return learned, row


def _with_row(row: int, learned: Tensor, module: Any, given: tuple[Tensor], output: Tensor) -> Tensor:
    """Return the output of an embedding table in which a row is replaced."""
    import torch

    return torch.where((given[0] == row)[..., None], learned.to(output), output)
