"""The networks of DiffusionSat (arXiv:2312.03606) on stock diffusers: UNet, 2D and 3D ControlNet with metadata.

Holds what the published code added to Stable Diffusion's networks, under the parameter names of the released files.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

__all__ = ["SatControlNet", "SatControlNet3D", "SatUNet"]


_REDUCTION = 8
"""Pixels per latent cell along one axis: the downsampling of a conditioning image."""


class _MetadataEmbedding(nn.ModuleList):
    """One embedding per field, summed; added to the embedding of the time step."""

    def __init__(self, fields: int, width: int, flip_sin_to_cos: bool, freq_shift: float) -> None:
        super().__init__(TimestepEmbedding(width, 4 * width) for _ in range(fields))
        self._wave: dict[str, Any] = {
            "embedding_dim": width,
            "flip_sin_to_cos": flip_sin_to_cos,
            "downscale_freq_shift": freq_shift,
        }

    def forward(self, metadata: Tensor) -> Tensor:
        """Embed normalised metadata, shape (B, fields), with values up to about 1000."""
        # Half precision shifts an argument of 900 by up to 0.2 rad, so the sinusoids are computed in float32.
        waves = get_timestep_embedding(metadata.float().flatten(), **self._wave).unflatten(0, metadata.shape)
        dtype = next(self.parameters()).dtype
        parts = [embed(waves[:, i].to(dtype)) for i, embed in enumerate(self)]
        return torch.stack(parts).sum(0)


def _metadata_embedding(config: Any) -> _MetadataEmbedding | None:
    """Return the embedding that a network's configuration asks for, if any."""
    if not config.use_metadata:
        return None
    width, waves = config.block_out_channels[0], (config.flip_sin_to_cos, config.freq_shift)
    return _MetadataEmbedding(config.num_metadata, width, *waves)


class _ControlInputs(NamedTuple):
    """The arguments of a ControlNet's forward; see `SatControlNet.forward`."""

    sample: Tensor
    timestep: Tensor
    text: Tensor
    images: Tensor
    metadata: Tensor | None
    image_metadata: Tensor | None


class _Extended:
    """A diffusers class whose ``__init__`` passes further arguments to its base class."""

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Return the arguments that a configuration may set, of all base classes; diffusers reads one signature."""
        return {
            name
            for kind in input_class.__mro__
            if "__init__" in vars(kind)
            for name, parameter in inspect.signature(vars(kind)["__init__"]).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }


class SatUNet(_Extended, UNet2DConditionModel):  # type: ignore[misc]
    """`UNet2DConditionModel` whose time embedding includes location, pixel size, cloud cover and date.

    Normalised metadata, shape (B, 7), are passed as ``added_cond_kwargs["metadata"]``.
    """

    def __init__(self, use_metadata: bool = True, num_metadata: int = 7, **stock: Any) -> None:
        super().__init__(**stock)
        self.register_to_config(use_metadata=use_metadata, num_metadata=num_metadata)
        self.metadata_embedding = _metadata_embedding(self.config)

    def get_aug_embed(
        self, emb: Tensor, encoder_hidden_states: Tensor, added_cond_kwargs: dict[str, Any]
    ) -> Tensor | None:
        """Return the addition to the embedding of the time step."""
        stock: Tensor | None = super().get_aug_embed(emb, encoder_hidden_states, added_cond_kwargs)
        if self.metadata_embedding is None:
            return stock
        metadata: Tensor = self.metadata_embedding(added_cond_kwargs["metadata"]).to(emb.dtype)
        return metadata if stock is None else stock + metadata


class SatControlNet(_Extended, ControlNetModel):  # type: ignore[misc]
    """`ControlNetModel` with metadata of the target and of the conditioning image.

    Parameters
    ----------
    use_metadata, num_metadata
        Whether metadata are used, and their number of fields.
    conditioning_in_channels
        Channels of the conditioning image.
    conditioning_scale
        Target pixels per conditioning pixel: the strides of the conditioning embedding are 1 from latent
        resolution on.
    **stock
        As for `ControlNetModel`.
    """

    controlnet_down_blocks: Any
    """The layers behind the skip connections."""

    def __init__(
        self,
        use_metadata: bool = True,
        num_metadata: int = 7,
        conditioning_in_channels: int = 3,
        conditioning_scale: int = 1,
        **stock: Any,
    ) -> None:
        super().__init__(**{**stock, "conditioning_channels": conditioning_in_channels})
        self.register_to_config(
            use_metadata=use_metadata,
            num_metadata=num_metadata,
            conditioning_in_channels=conditioning_in_channels,
            conditioning_scale=conditioning_scale,
        )
        self.metadata_embedding = _metadata_embedding(self.config)
        scale = conditioning_scale
        for block in self.controlnet_cond_embedding.blocks[1::2]:
            block.stride = (2, 2) if scale < _REDUCTION else (1, 1)
            scale *= 2

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
        metadata: Tensor | None = None,
        cond_metadata: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the additions to the UNet's skip connections and to its middle block.

        Parameters
        ----------
        sample, timestep, encoder_hidden_states
            As for the UNet; ``timestep`` of shape (B,).
        controlnet_cond
            Shape (B, C, h, w) in [0, 1], or (B, C, F, h, w) for F images: `SatControlNet` sums their embeddings,
            `SatControlNet3D` needs them in ascending time at the target's resolution.
        conditioning_scale
            Factor of all outputs.
        metadata, cond_metadata
            Shape (B, 7), and (B, 7) or (B, 7, F) for the conditioning images.
        """
        given = (sample, timestep, encoder_hidden_states, controlnet_cond, metadata, cond_metadata)
        skips, middle = self._residuals(_ControlInputs(*given))
        return [skip * conditioning_scale for skip in skips], middle * conditioning_scale

    def _residuals(self, given: _ControlInputs) -> tuple[list[Tensor], Tensor]:
        """Return the unscaled outputs."""
        sample, timestep, text, images, metadata, rows = given
        images = images.unsqueeze(2) if images.ndim == 4 else images
        if rows is not None and rows.ndim == 2:
            rows = rows.unsqueeze(2)
        condition = sum(self.controlnet_cond_embedding(images[:, :, f]) for f in range(images.shape[2]))
        emb = self._embedded(timestep, sample.dtype, metadata)
        if rows is not None and self.metadata_embedding is not None:
            for f in range(rows.shape[2]):
                emb = emb + self.metadata_embedding(rows[:, :, f]).to(emb.dtype)
        skips, middle = self._features(self.conv_in(sample) + condition, emb, text)
        blocks = zip(self.controlnet_down_blocks, skips, strict=True)
        return [block(skip) for block, skip in blocks], self.controlnet_mid_block(middle)

    def _embedded(self, timestep: Tensor, dtype: torch.dtype, metadata: Tensor | None) -> Tensor:
        emb: Tensor = self.time_embedding(self.time_proj(timestep).to(dtype))
        if self.metadata_embedding is not None and metadata is not None:
            emb = emb + self.metadata_embedding(metadata).to(dtype)
        return emb

    def _features(self, sample: Tensor, emb: Tensor, text: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run the copied encoder; return its skip connections and its middle block."""
        skips = [sample]
        for block in self.down_blocks:
            attends = getattr(block, "has_cross_attention", False)
            sample, more = block(sample, emb, encoder_hidden_states=text) if attends else block(sample, emb)
            skips += more
        return skips, self.mid_block(sample, emb, encoder_hidden_states=text)


class _FrameEmbedding(nn.Module):
    """Embeds conditioning frames at latent resolution, with convolutions over space and frames."""

    def __init__(self, channels: int, widths: Sequence[int], out: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for now, then in itertools.pairwise(widths):
            self.blocks.append(nn.Conv3d(now, now, 3, padding=1))
            self.blocks.append(nn.Conv3d(now, then, (1, 3, 3), padding=(0, 1, 1), stride=(1, 2, 2)))
        # Initialised to zero, like every output of a ControlNet.
        self.conv_out = _zero(nn.Conv3d(widths[-1], out, 3, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        """Embed shape (B, C, F, H, W) as (B, out, F, H / 8, W / 8)."""
        x = nn.functional.silu(self.conv_in(frames))
        for block in self.blocks:
            x = nn.functional.silu(block(x))
        out: Tensor = self.conv_out(x)
        return out


class SatControlNet3D(SatControlNet):
    """`SatControlNet` over a sequence of images: temporal attention, then a sum over frames.

    Frames are in ascending time: the convolutions along them are not symmetric.

    Parameters
    ----------
    use_temporal_transformer
        Whether skip connections are mixed with attention over frames.
    **rest
        As for `SatControlNet`.
    """

    def __init__(self, use_temporal_transformer: bool = True, **rest: Any) -> None:
        super().__init__(**rest)
        self.register_to_config(use_temporal_transformer=use_temporal_transformer)
        config = self.config
        self.controlnet_cond_embedding = _FrameEmbedding(
            config.conditioning_in_channels,
            config.conditioning_embedding_out_channels,
            config.block_out_channels[0],
        )
        widths = [block.out_channels for block in self.controlnet_down_blocks]
        self.controlnet_down_blocks = nn.ModuleList(_zeroed(width) for width in widths)
        self.controlnet_mid_block = _zeroed(config.block_out_channels[-1])
        self.temporal_blocks: nn.ModuleList | None = None
        if use_temporal_transformer:
            self.temporal_blocks = nn.ModuleList(self._temporal(i, width) for i, width in enumerate(widths))
            self.mixing_attns = nn.ParameterList(torch.tensor(0.0) for _ in widths)

    def _temporal(self, index: int, width: int) -> nn.Module:
        """Return the attention over frames of skip connection ``index``."""
        config = self.config
        period = config.layers_per_block + 1
        level, place = divmod(index - 1, period)
        if index == 0:
            return _over_frames(8, 64, width)
        if place != period - 1 or level == len(config.block_out_channels) - 1:
            return nn.Identity()
        dims = config.attention_head_dim
        # In the official code attention_head_dim is the width of a head; diffusers, for historical reasons, reads it
        # as the number of heads.
        dim = dims if isinstance(dims, int) else dims[level]
        return _over_frames(width // dim, dim, width, norm_num_groups=config.norm_num_groups)

    def _residuals(self, given: _ControlInputs) -> tuple[list[Tensor], Tensor]:
        """Return the unscaled outputs: sums over the frames."""
        sample, timestep, text, images, metadata, image_metadata = given
        B, _, frames = images.shape[:3]

        def per_frame(x: Tensor) -> Tensor:
            return x.repeat_interleave(frames, dim=0)

        def split_frames(x: Tensor) -> Tensor:
            return x.reshape(B, frames, *x.shape[1:]).transpose(1, 2)

        emb = per_frame(self._embedded(timestep, sample.dtype, metadata))
        if image_metadata is not None and self.metadata_embedding is not None:
            rows = image_metadata.transpose(1, 2).flatten(0, 1)
            emb = emb + self.metadata_embedding(rows).to(emb.dtype)
        condition = self.controlnet_cond_embedding(images).transpose(1, 2).flatten(0, 1)
        skips, middle = self._features(per_frame(self.conv_in(sample)) + condition, emb, per_frame(text))
        added = []
        for i, (block, skip) in enumerate(zip(self.controlnet_down_blocks, skips, strict=True)):
            out = block(split_frames(skip))
            if self.temporal_blocks is not None and not isinstance(self.temporal_blocks[i], nn.Identity):
                share = self.mixing_attns[i].clamp(0, 1)
                flat = out.transpose(1, 2).flatten(0, 1)
                mixed = split_frames(self.temporal_blocks[i](flat, num_frames=frames).sample)
                out = share * mixed + (1 - share) * out
            # A sum, as in the released code, not a mean: a repeated frame counts more.
            added.append(out.sum(dim=2))
        return added, self.controlnet_mid_block(split_frames(middle)).sum(dim=2)


def _over_frames(heads: int, width: int, channels: int, **norm: int) -> nn.Module:
    block: nn.Module = TransformerTemporalModel(heads, width, in_channels=channels, num_layers=1, **norm)
    return block


def _zeroed(width: int) -> nn.Conv3d:
    return _zero(nn.Conv3d(width, width, 1))


def _zero(layer: nn.Conv3d) -> nn.Conv3d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
