"""The networks of the embedded generator: a plain regressor and a small U-Net denoiser.

Imports torch, so no module imports this one before weights are loaded. Both networks fold 2 x 2 pixels into channels,
take any height and width that 2 divides, and treat every sample independently: no batch statistics, no attention
across samples.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Denoiser", "MeanNet", "build"]


class _Facts(nn.Module):
    """A two-layer map from a vector of facts (B, n) to channels (B, out)."""

    def __init__(self, facts: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(facts, hidden, 1)
        self.second = nn.Conv2d(hidden, out, 1)

    def forward(self, facts: Tensor) -> Tensor:
        # 1 x 1 convolutions on one pixel instead of matrix products: a matrix product over the batch may
        # round a row differently depending on its index.
        return cast(Tensor, self.second(functional.silu(self.first(facts[:, :, None, None]))))


class _PlainBlock(nn.Module):
    """A residual block of two 3 x 3 convolutions without normalisation, hence scaled down (EDSR,
    arXiv:1707.02921): at full scale training diverged.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + 0.2 * self.second(functional.silu(self.first(x))))


class MeanNet(nn.Module):
    """The expected residual over a classical estimate, in one pass.

    Parameters
    ----------
    image_channels
        Channels of the conditions, shape (B, image_channels, H, W).
    facts
        Length of the vector of facts.
    bands
        Band slots of the residual.
    width
        Channels of the body.
    dilations
        One residual block per entry; the entry is the dilation of its first convolution.
    """

    def __init__(
        self, *, image_channels: int, facts: int, bands: int, width: int, dilations: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4 * image_channels, width, 3, padding=1)
        self.facts = _Facts(facts, 32, width)
        self.blocks = nn.ModuleList(_PlainBlock(width, dilation) for dilation in dilations)
        self.leave = nn.Conv2d(width, 4 * bands, 3, padding=1)
        # Starts as zero: training begins at the estimate that is corrected.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast(Tensor, self.leave.bias))

    def forward(self, image: Tensor, facts: Tensor) -> Tensor:
        """Return the residual, shape (B, bands, H, W), in units of the tile's contrast."""
        x = _entered(self.enter, functional.pixel_unshuffle(image, 2)) + self.facts(facts)
        for block in self.blocks:
            x = block(x)
        return functional.pixel_shuffle(self.leave(x), 2)


class _Block(nn.Module):
    """Group norm, SiLU, convolution, twice; scaled and shifted by time and facts in between (adaptive
    group norm: Dhariwal & Nichol 2021, arXiv:2105.05233).
    """

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulate = nn.Conv2d(embedding, 2 * outputs, 1)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(cast(Tensor, self.conv2.bias))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.modulate(embedding).chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return cast(Tensor, self.skip(x) + self.conv2(functional.silu(h)))


class _Attention(nn.Module):
    """Self-attention over the pixels of one sample."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        weight = torch.softmax(q @ k.transpose(-1, -2) * (C // self.heads) ** -0.5, dim=-1)
        return cast(Tensor, x + self.out((weight @ v).transpose(-1, -2).reshape(B, C, H, W)))


class Denoiser(nn.Module):
    """Clean-estimate prediction on the path x_t = t x + (1 - t) e.

    The network F works on unit-variance inputs (Karras et al. 2022, arXiv:2206.00364, eq. 7, in the
    coordinates of the linear path). Its output is added to the estimate that is exact for a Gaussian field
    (arXiv:2412.09726), in place of their skip connection, which is exact for white data:

        x_hat = linear(x_t, t) + (1 - t) / s * F(x_t / s, ...),    s**2 = t**2 + (1 - t)**2

    Loss and sampler use the clean estimate ("Back to basics", arXiv:2511.13720).

    Parameters
    ----------
    image_channels
        Channels of the conditions.
    facts
        Length of the vector of facts.
    bands
        Band slots.
    widths
        Channels of the three levels, at 1, 1/2 and 1/4 of the folded resolution.
    fold
        Edge of the square of pixels that is folded into channels.
    refine
        Channels of the last two convolutions, at full resolution: they remove the checkerboard artefacts of folding.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        facts: int,
        bands: int,
        widths: tuple[int, int, int],
        fold: int = 2,
        refine: int = 24,
    ) -> None:
        super().__init__()
        a, b, c = widths
        self.fold, self.bands = fold, bands
        embedding = 128
        self.time = _Facts(1 + 2 * 8, embedding, embedding)
        self.facts = _Facts(facts, embedding, embedding)
        self.enter = nn.Conv2d(fold**2 * (bands + image_channels), a, 3, padding=1)
        self.down1 = nn.ModuleList([_Block(a, a, embedding)])
        self.to2 = nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.down2 = nn.ModuleList([_Block(b, b, embedding)])
        self.to3 = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.middle = nn.ModuleList([_Block(c, c, embedding), _Block(c, c, embedding)])
        self.attention = _Attention(c, 4)
        self.from3 = nn.Conv2d(c, b, 3, padding=1)
        self.up2 = nn.ModuleList([_Block(2 * b, b, embedding), _Block(b, b, embedding)])
        self.from2 = nn.Conv2d(b, a, 3, padding=1)
        self.up1 = nn.ModuleList([_Block(2 * a, a, embedding), _Block(a, a, embedding)])
        self.unfold = nn.Conv2d(a, fold**2 * refine, 1)
        self.refine1 = nn.Conv2d(refine + bands, refine, 3, padding=1)
        self.refine2 = nn.Conv2d(refine, bands, 3, padding=1)
        nn.init.zeros_(self.refine2.weight)
        nn.init.zeros_(cast(Tensor, self.refine2.bias))

    def forward(self, x_t: Tensor, t: Tensor, image: Tensor, facts: Tensor, linear: Tensor) -> Tensor:
        """Return the clean estimate.

        Parameters
        ----------
        x_t
            Shape (B, bands, H, W).
        t
            Shape (B,), 0 = noise, 1 = clean.
        image
            Shape (B, image_channels, H, W).
        facts
            Shape (B, facts).
        linear
            Shape (B, bands, H, W): the estimate in closed form, `spectral_gaussian.Gaussian.estimate`.
        """
        return self.step(x_t, t, self.encode(image), facts, linear)

    def encode(self, image: Tensor) -> Tensor:
        """Return the first convolution of the feature images, which is the same at every step."""
        return _entered(self.enter, functional.pixel_unshuffle(image, self.fold), self.fold**2 * self.bands)

    def step(self, x_t: Tensor, t: Tensor, encoded: Tensor, facts: Tensor, linear: Tensor) -> Tensor:
        """Return the clean estimate, as `forward`, from the output of `encode` instead of ``image``."""
        t = t[:, None, None, None]
        s = (t * t + (1 - t) * (1 - t)).sqrt()
        x = x_t / s
        e = functional.silu(self.time(_waves(t)) + self.facts(facts))
        point = functional.pixel_unshuffle(x, self.fold)
        h1 = functional.conv2d(point, self.enter.weight[:, : point.shape[1]], padding=1)
        h1 = h1 + encoded.to(h1.dtype)
        for block in self.down1:
            h1 = block(h1, e)
        h2 = self.to2(h1)
        for block in self.down2:
            h2 = block(h2, e)
        h = self.to3(h2)
        h = self.middle[0](h, e)
        h = self.attention(h)
        h = self.middle[1](h, e)
        h = torch.cat([self.from3(_resized(h, h2)), h2], dim=1)
        for block in self.up2:
            h = block(h, e)
        h = torch.cat([self.from2(_resized(h, h1)), h1], dim=1)
        for block in self.up1:
            h = block(h, e)
        h = functional.pixel_shuffle(self.unfold(functional.silu(h)), self.fold)
        h = self.refine1(torch.cat([h, x], dim=1))
        out = self.refine2(functional.silu(h))
        return cast(Tensor, linear + (1 - t) / s * out)


def _entered(enter: nn.Conv2d, image: Tensor, first: int = 0) -> Tensor:
    """Return a convolution of the input channels from ``first`` on; those beyond the image's are 0."""
    weight = enter.weight[:, first : first + image.shape[1]]
    return functional.conv2d(image, weight, enter.bias, padding=1)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(x, size=like.shape[-2:], mode="nearest")


def _waves(t: Tensor) -> Tensor:
    """Return features of the log noise level, shape (B, 17): sigma = (1 - t) / t spans 0.002 to 1000."""
    level = torch.log((1 - t).clamp_min(2e-3) / t.clamp_min(1e-3))[:, :, 0, 0] / 4
    frequency = 0.5 * 2.0 ** (torch.arange(8, dtype=t.dtype, device=t.device) / 2)
    angle = level * frequency * torch.pi
    return torch.cat([level, angle.sin(), angle.cos()], dim=1)


def build(architecture: dict[str, Any]) -> nn.Module:
    """Return the network that ``architecture`` (a part of the config) describes, with random weights."""
    kinds: dict[str, type[nn.Module]] = {"mean": MeanNet, "denoiser": Denoiser}
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in architecture.items()}
    return kinds[str(settings.pop("kind"))](**settings)
