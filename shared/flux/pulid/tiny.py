"""PuLID and its vision tower of random weights, for shared.flux.tiny's transformer. The same seed gives the same ones.

services.identity.tiny writes a folder with all that an identity model needs, `doctorgen models tiny` that and the FLUX.
"""

from typing import Final

import torch
from torch import Tensor

from shared.flux.pulid.eva import EvaTower
from shared.flux.pulid.index import AttentionsShape, EvaShape, IdentityIndex, IDFormerShape
from shared.flux.pulid.weights import Pulid, built

IDENTITY: Final = IdentityIndex(
    idformer=IDFormerShape(
        dim=32, depth=5, heads=2, head_dim=16, queries=32, id_tokens=2, out_dim=40, id_dim=536, vit_dim=48, ff_mult=2
    ),
    attentions=AttentionsShape(count=3, dim=32, heads=2, head_dim=16),
    vision_tower=EvaShape(image_size=56, width=48, depth=5, heads=2, projected=24, taps=(1, 2, 3, 4, 5)),
    face_parser_width=4,
)
"""PuLID's sizes for shared.flux.tiny's transformer: cross-attentions for double block 0, single blocks 0 and 4."""

PUBLISHED_NAMES: Final = {
    "mlp.norm.": "mlp.ffn_ln.",
    "attn.norm.": "attn.inner_attn_ln.",
    "fc1_g": "w1",
    "fc1_x": "w2",
    "fc2": "w3",
    "q_proj.bias": "q_bias",
    "v_proj.bias": "v_bias",
}
"""EVA-CLIP's own names, by what timm calls them."""


def pulid(seed: int = 0, index: IdentityIndex = IDENTITY) -> Pulid:
    """PuLID: the encoder, and the cross-attentions of its transformer's places."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return built(index).eval()


def vision_tower(seed: int = 0, index: IdentityIndex = IDENTITY) -> EvaTower:
    """The tower that the encoder listens to."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EvaTower(index.vision_tower).eval()


def published_names(tower: EvaTower) -> dict[str, Tensor]:
    """A tower's weights as its publisher's file names them."""
    state = {}
    for name, tensor in tower.trunk.state_dict().items():
        for ours, theirs in PUBLISHED_NAMES.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901 - a name is changed step by step
        state[f"visual.{name}"] = tensor
    return state
