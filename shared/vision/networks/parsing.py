"""Which pixel of an aligned face is what, and the picture of the bare face that PuLID looks at.

Sources: Yu et al. 2018, "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", without its
spatial path, as face-parsing.PyTorch trained it on CelebAMask-HQ and facexlib publishes it (`parsing_bisenet`), whose
tensor names the modules bear; pulid/pipeline_flux.py for what is kept of a face.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from shared.contracts.errors import Permanent
from shared.flux.residents import ModuleResident
from shared.flux.tensors import check_layout, shapes, tensors
from shared.vision.codec import Image

CLASSES = 19

WIDTH = 64
"""Channels of the published parser's first convolution."""

FIRST_CONVOLUTION = "cp.resnet.conv1.weight"
"""[width, 3, 7, 7]."""

WHITE_CLASSES = (0, 16, 18, 7, 8, 9, 14, 15)
"""Background, cloth, hat, both ears, earring, neck, necklace. What is left is the face with its hair."""

GREY_WEIGHTS = (0.299, 0.587, 0.114)
"""Luma of R, G and B (Rec. 601)."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, of RGB from 0 to 1."""

COUNTER = "num_batches_tracked"
"""Batch norms' count of training steps: in some checkpoints and not in others, read by nothing at inference."""

Labels = NDArray[np.integer[Any]]
"""The class of each pixel, (H, W)."""


class ConvNormRelu(nn.Module):
    """A convolution without bias, batch norm, ReLU; the size is kept."""

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, out, H, W]."""
        return relu(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a short cut (He et al. 2015)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if stride > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, out, H / stride, W / stride]."""
        residual = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(residual + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """The backbone, without its classifier. 64 channels wide at first, as published, unless told otherwise."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.layer3 = nn.Sequential(BasicBlock(2 * width, 4 * width, 2), BasicBlock(4 * width, 4 * width, 1))
        self.layer4 = nn.Sequential(BasicBlock(4 * width, 8 * width, 2), BasicBlock(8 * width, 8 * width, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features at an eighth (2 widths), a sixteenth (4) and a thirty-second (8) of the size."""
        eighth = self.layer2(self.layer1(self.maxpool(relu(self.bn1(self.conv1(x))))))
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class AttentionRefinement(nn.Module):
    """Features weighed channel by channel, by what the whole picture says of them."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = ConvNormRelu(channels, out)
        self.conv_atten = nn.Conv2d(out, out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, out, H, W]."""
        features: Tensor = self.conv(x)
        return features * torch.sigmoid(self.bn_atten(self.conv_atten(_overall(features))))


class ContextPath(nn.Module):
    """What surrounds each place, carried from coarse to fine."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.resnet = ResNet18(width)
        self.arm16 = AttentionRefinement(4 * width, 2 * width)
        self.arm32 = AttentionRefinement(8 * width, 2 * width)
        self.conv_head32 = ConvNormRelu(2 * width, 2 * width)
        self.conv_head16 = ConvNormRelu(2 * width, 2 * width)
        self.conv_avg = ConvNormRelu(8 * width, 2 * width, kernel=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The backbone's eighth, and the context at an eighth and a sixteenth of the size; 2 widths each."""
        eighth, sixteenth, coarsest = self.resnet(x)
        context = self.arm32(coarsest) + self.conv_avg(_overall(coarsest))
        context16 = self.conv_head32(interpolate(context, sixteenth.shape[2:], mode="nearest"))
        context = self.arm16(sixteenth) + context16
        return eighth, self.conv_head16(interpolate(context, eighth.shape[2:], mode="nearest")), context16


class FeatureFusion(nn.Module):
    """Joins detail and context, and weighs the channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convblk = ConvNormRelu(channels, out, kernel=1)
        self.conv1 = nn.Conv2d(out, out // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(out // 4, out, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Two of [B, channels / 2, H, W] -> [B, out, H, W]."""
        features: Tensor = self.convblk(torch.cat((detail, context), dim=1))
        return features + features * torch.sigmoid(self.conv2(relu(self.conv1(_overall(features)))))


class Head(nn.Module):
    """Features to a score for each class."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv = ConvNormRelu(channels, inner)
        self.conv_out = nn.Conv2d(inner, CLASSES, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, 19, H, W]."""
        scores: Tensor = self.conv_out(self.conv(x))
        return scores


class FaceParser(nn.Module):
    """BiSeNet over ResNet-18. The two heads that only training uses stand here because the file holds them.

    Args:
        width: channels of the first convolution; all others are multiples of it.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.cp = ContextPath(width)
        self.ffm = FeatureFusion(4 * width, 4 * width)
        self.conv_out = Head(4 * width, 4 * width)
        self.conv_out16 = Head(2 * width, width)
        self.conv_out32 = Head(2 * width, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores [B, 19, H, W] of normalised pixels [B, 3, H, W], both sides a multiple of 32."""
        detail, context, _ = self.cp(pixels)
        scores = self.conv_out(self.ffm(detail, context))
        return interpolate(scores, pixels.shape[2:], mode="bilinear", align_corners=True)


def parser_key(path: Path, device: str) -> str:
    """What a Residency knows `parser_resident` by."""
    return f"{path} in {torch.float32} on {device}"


def parser_resident(path: Path, device: str, width: int | None = None) -> ModuleResident[FaceParser]:
    """The parser as a Resident, in fp32.

    Args:
        path: as of `load_parser`.
        device: `cpu`, `cuda` or `cuda:<index>`.
        width: of its first convolution; the one that the file has where None.

    Raises:
        Permanent: the file cannot be read. Loading raises what `load_parser` does.
    """
    channels = shapes(path).get(FIRST_CONVOLUTION, (WIDTH,))[0] if width is None else width
    with torch.device("meta"):
        state = FaceParser(channels).state_dict().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state)
    return ModuleResident(f"{path} in {torch.float32}", lambda: load_parser(path, "cpu", channels), size, device)


def load_parser(path: Path, device: str | torch.device = "cpu", width: int = WIDTH) -> FaceParser:
    """Read the parser in fp32, ready for inference.

    Args:
        path: `parsing_bisenet` of facexlib, converted from its pickle to safetensors under the same names.
        device: where it is put.
        width: of the parser's first convolution.

    Raises:
        Permanent: the file cannot be read, or lacks tensors, or holds others, or some of another shape.
    """
    parser = FaceParser(width)
    found = {name: shape for name, shape in shapes(path).items() if not name.endswith(COUNTER)}
    check_layout(str(path), found, layout(parser))
    state = tensors(path, found, torch.float32, "cpu")
    counters = {name: tensor for name, tensor in parser.state_dict().items() if name.endswith(COUNTER)}
    parser.load_state_dict(state | counters, strict=True)
    return parser.to(device).eval().requires_grad_(False)


def layout(parser: FaceParser) -> dict[str, tuple[int, ...]]:
    """Name to shape of each tensor that the file must hold."""
    return {name: tuple(one.shape) for name, one in parser.state_dict().items() if not name.endswith(COUNTER)}


@torch.inference_mode()
def parse(parser: nn.Module, image: Image) -> Labels:
    """The class of each pixel of a face, uint8 RGB [H, W, 3] as `crop512` cuts it: uint8 [H, W], 0 to 18.

    Raises:
        Permanent: the parser gave what is no number, which would pass for background.
    """
    device = next(parser.parameters()).device
    pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
    mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    scores: Tensor = parser((pixels - mean) / std)
    if not bool(torch.isfinite(scores).all()):
        raise Permanent(
            "The face parser gave what is no number. Its file is damaged, or the device computes wrongly: `doctorgen "
            "models verify` says which."
        )
    return np.asarray(scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy())


def grey_on_white(rgb: Image, labels: Labels) -> NDArray[np.float32]:
    """The bare face in grey on white.

    Colour and surroundings are taken away so that the identity does not carry the photo's light and clothes.

    Args:
        rgb: uint8 [H, W, 3].
        labels: [H, W], the class of each pixel.

    Returns:
        float32 [H, W, 3], 0 to 1, three equal channels.
    """
    grey = (rgb.astype(np.float32) / 255) @ np.array(GREY_WEIGHTS, np.float32)
    bare = np.where(np.isin(labels, WHITE_CLASSES), np.float32(1.0), grey)
    return np.repeat(bare[:, :, None], 3, axis=2)


def _overall(features: Tensor) -> Tensor:
    """The mean over the picture: [B, C, H, W] -> [B, C, 1, 1]."""
    return features.mean(dim=(2, 3), keepdim=True)
