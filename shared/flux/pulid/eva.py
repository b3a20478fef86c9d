"""EVA02-CLIP-L-14-336's visual tower, whose features tell PuLID's IDFormer what a face looks like.

Sources: Sun et al. 2023, "EVA-CLIP: Improved Training Techniques for CLIP at Scale" (timm's implementation), and
pulid/pipeline_flux.py of PuLID for what is taken from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.models.eva import Eva, checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from shared.contracts.errors import Permanent
from shared.flux.pulid.index import EvaShape
from shared.flux.tensors import check_layout, shapes, tensors

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's, of RGB from 0 to 1."""

TOWER = "visual."
RESIZABLE = ("pos_embed", "patch_embed.proj.weight")
"""What timm's converter would resample in silence, where another size means another model."""


class EvaFeatures(NamedTuple):
    """What the tower sees in a picture."""

    projected: Tensor
    """[B, 768], not normalised."""
    hidden: tuple[Tensor, ...]
    """[B, 577, 1024] after blocks 4, 8, 12, 16 and 20: the residual stream, class token first, no norm applied."""


class EvaTower(nn.Module):
    """timm's EVA02 with the outputs that PuLID takes."""

    def __init__(self, shape: EvaShape | None = None) -> None:
        super().__init__()
        self.shape = shape or EvaShape()
        self.trunk = Eva(
            img_size=self.shape.image_size,
            patch_size=self.shape.patch_size,
            num_classes=self.shape.projected,
            global_pool="token",
            embed_dim=self.shape.width,
            depth=self.shape.depth,
            num_heads=self.shape.heads,
            mlp_ratio=4 * 2 / 3,
            qkv_fused=False,
            swiglu_mlp=True,
            scale_mlp=True,
            scale_attn_inner=True,
            use_rot_pos_emb=True,
            ref_feat_shape=(self.shape.reference_grid, self.shape.reference_grid),
        )

    def forward(self, pixels: Tensor) -> EvaFeatures:
        """The features of normalised pixels, [B, 3, 336, 336] as `prepare` makes them."""
        normed, taps = self.trunk.forward_intermediates(
            pixels, indices=[tap - 1 for tap in self.shape.taps], return_prefix_tokens=True, output_fmt="NLC"
        )
        hidden = tuple(torch.cat((class_token, patches), dim=1) for patches, class_token in taps)
        return EvaFeatures(projected=self.trunk.forward_head(normed), hidden=hidden)


def prepare(faces: Tensor, size: int = 336) -> Tensor:
    """Make faces, [B, 3, H, W] RGB from 0 to 1, the tower's input: [B, 3, size, size], normalised.

    Bicubic with antialiasing, as torchvision resizes tensors since 0.17; the 0.15 that PuLID's first requirements
    named did it without. Values beyond 0 to 1 that the cubic makes at edges are kept, as there.
    """
    resized = interpolate(faces, (size, size), mode="bicubic", align_corners=False, antialias=True)
    mean, std = (faces.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (resized - mean) / std


def identity_condition(arcface: Tensor, projected: Tensor) -> Tensor:
    """IDFormer's first input: the raw ArcFace embedding [B, 512], then the projected token [B, 768] at unit length."""
    return torch.cat((arcface.to(projected), normalize(projected, dim=-1)), dim=-1)


def load_eva(
    path: Path,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    shape: EvaShape | None = None,
) -> EvaTower:
    """Read the tower, ready for inference.

    Args:
        path: `EVA02_CLIP_L_336_psz14_s6B` of QuanSun/EVA-CLIP, converted from its pickle to safetensors under the
            same names. Its text tower is not read.
        dtype: what the tensors are converted to; rotary positions stay fp32.
        device: where they are put.
        shape: the published one where None.

    Raises:
        Permanent: the file cannot be read, holds no such tower, or a tensor is missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        tower = EvaTower(shape)
    names = [name for name in shapes(path) if name.startswith(TOWER)]
    state = to_timm(str(path), tensors(path, names, dtype, device), tower)
    tower.trunk.load_state_dict(state, strict=True, assign=True)
    tower.trunk.rope.to_empty(device=device)
    tower.trunk.rope.init_non_persistent_buffers()
    return tower.eval().requires_grad_(False)


def to_timm(source: str, published: Mapping[str, Tensor], tower: EvaTower) -> dict[str, Any]:
    """The published tensors under timm's names.

    Raises:
        Permanent: `source` holds no such tower, or a tensor is missing, unexpected or misshapen.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in tower.trunk.state_dict().items()}
    absent = [TOWER + name for name in RESIZABLE if TOWER + name not in published]
    if absent:
        mend = f"Name the safetensors file of the whole EVA-CLIP model, whose names begin with {TOWER}."
        raise Permanent(f"{source}: there is no EVA-CLIP visual tower, {absent[0]} is missing. {mend}")
    check_layout(
        source,
        {TOWER + name: tuple(published[TOWER + name].shape) for name in RESIZABLE},
        {TOWER + name: expected[name] for name in RESIZABLE},
    )
    state: dict[str, Any] = checkpoint_filter_fn(dict(published), tower.trunk)
    check_layout(source, {name: tuple(tensor.shape) for name, tensor in state.items()}, expected)
    return state
