"""A models folder of tiny FLUX models, PuLID's weights and adapters, for tests of what is shared by the FLUX stages."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from shared.flux import tiny
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.idformer import IDFormer
from shared.flux.pulid.weights import Pulid

TOKENS, ID_WIDTH = 4, 24
PULIDS = ("pulid_flux_v0.9.0", "pulid_flux_v0.9.1")


def tiny_pulid() -> Pulid:
    """PuLID for `shared.flux.tiny`."""
    encoder = IDFormer(dim=16, depth=1, heads=2, head_dim=8, queries=TOKENS, out_dim=ID_WIDTH, vit_dim=8, scales=1)
    return Pulid(encoder, (PerceiverAttentionCA(tiny.WIDTH, ID_WIDTH, heads=2, head_dim=8) for _ in range(3)))


def write_models(folder: Path) -> None:
    """The model `tiny`, and both versions of PuLID."""
    tiny.write(folder / "tiny")
    for version in PULIDS:
        (folder / version).mkdir()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(version) + int(version[-1]))
            save_file(tiny_pulid().state_dict(), folder / version / f"{version}.safetensors")


def write_lora(folder: Path, name: str, seed: int = 1, rank: int = 2) -> None:
    """An adapter of one layer in a block of either kind."""
    (folder / name).mkdir()
    generator = torch.Generator().manual_seed(seed)
    weights = {
        f"transformer.{layer}.{part}.weight": torch.randn(shape, generator=generator)
        for layer in ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.attn.to_v")
        for part, shape in (("lora_A", (rank, tiny.WIDTH)), ("lora_B", (tiny.WIDTH, rank)))
    }
    save_file(weights, folder / name / f"{name}.safetensors")
