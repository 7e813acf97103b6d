"""The networks that the gate trains: small ones of its own, and those of timm and segmentation_models_pytorch by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torch import nn

from eoaug.errors import ParameterError, first_line

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SmallClassifier", "SmallUnet", "network_for"]


def _block(given: int, width: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution that knows no other image of its batch: batch norms would mix real and made images."""
    return nn.Sequential(
        nn.Conv2d(given, width, 3, stride, 1, bias=False), nn.GroupNorm(min(8, width), width), nn.ReLU()
    )


class SmallClassifier(nn.Module):
    """Six convolutions and a linear layer, for images of some tens of pixels.

    Parameters
    ----------
    bands, classes
        Channels given and numbers returned.
    width
        Channels of the first layer.
    """

    def __init__(self, bands: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(bands, width, 2), _block(width, width),
            _block(width, 2 * width, 2), _block(2 * width, 2 * width),
            _block(2 * width, 4 * width, 2), _block(4 * width, 4 * width),
        )  # fmt: skip
        self.head = nn.Linear(4 * width, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the mean of the last layer, (B, 4 width)."""
        out: Tensor = self.body(images).mean(dim=(2, 3))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes, (B, classes)."""
        out: Tensor = self.head(self.features(images))
        return out


class SmallUnet(nn.Module):
    """A U-Net of three scales (Ronneberger et al. 2015).

    Parameters
    ----------
    bands, classes
        Channels given and returned.
    width
        Channels of the finest scale.
    """

    def __init__(self, bands: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.fine = nn.Sequential(_block(bands, width), _block(width, width))
        self.middle = nn.Sequential(_block(width, 2 * width, 2), _block(2 * width, 2 * width))
        self.coarse = nn.Sequential(_block(2 * width, 4 * width, 2), _block(4 * width, 4 * width))
        self.to_middle = _block(6 * width, 2 * width)
        self.to_fine = _block(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes of pixels, (B, classes, H, W)."""
        fine = self.fine(images)
        middle = self.middle(fine)
        up = self._joined(self.coarse(middle), middle)
        out: Tensor = self.head(self.to_fine(self._joined(self.to_middle(up), fine)))
        return out

    @staticmethod
    def _joined(small: Tensor, large: Tensor) -> Tensor:
        import torch

        grown = nn.functional.interpolate(small, size=large.shape[-2:], mode="nearest")
        return torch.cat([grown, large], dim=1)


def network_for(model: Any, *, pixels: bool, bands: int, classes: int) -> nn.Module:
    """Return a network with random weights.

    Parameters
    ----------
    model
        ``"small"``; ``"timm:NAME"`` for classes of images; ``"smp:ARCHITECTURE:ENCODER"`` for classes of pixels; or a function
        of the numbers of channels and classes that returns a module.
    pixels
        Whether pixels have classes.
    bands, classes
        Numbers of channels and classes.

    Raises
    ------
    ParameterError
        There is no such network, or its library is not installed.
    """
    if callable(model):
        network = model(bands, classes)
        if not isinstance(network, nn.Module):
            raise ParameterError(f"model={model!r} returns {network!r}", "return a torch.nn.Module")
        return network
    library, _, name = str(model).partition(":")
    if model == "small":
        return SmallUnet(bands, classes) if pixels else SmallClassifier(bands, classes)
    if library not in ("timm", "smp") or not name or pixels != (library == "smp"):
        kind = "smp:unet:resnet18" if pixels else "timm:resnet18"
        raise ParameterError(f"model={model!r} does not fit the task", f"use 'small', or e.g. {kind!r}")
    try:
        if library == "timm":
            timm = importlib.import_module("timm")
            made = timm.create_model(name, pretrained=False, in_chans=bands, num_classes=classes)
        else:
            smp = importlib.import_module("segmentation_models_pytorch")
            architecture, _, encoder = name.partition(":")
            made = smp.create_model(architecture, encoder or "resnet18", None, bands, classes)
    except ImportError as error:
        raise ParameterError(
            f"model={model!r} needs a library that is not installed: {error}", "pip install 'eoaug[torchgeo]'"
        ) from error
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ParameterError(
            f"model={model!r} cannot be made: {first_line(error)}", "name a model that the library lists"
        ) from error
    assert isinstance(made, nn.Module)
    return made
