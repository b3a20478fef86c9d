"""A models folder of tiny FLUX models, PuLID's weights and adapters, for tests of what is shared by the FLUX stages."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from shared.flux import tiny
from shared.flux.pulid import tiny as tiny_pulid
from shared.flux.pulid.index import INDEX, IdentityFiles

TOKENS, ID_WIDTH = 4, tiny_pulid.IDENTITY.idformer.out_dim
PULIDS = ("pulid_flux_v0.9.0", "pulid_flux_v0.9.1")


def write_models(folder: Path) -> None:
    """The model `tiny`, and both versions of PuLID in its size."""
    tiny.write(folder / "tiny")
    for seed, version in enumerate(PULIDS):
        file = f"{version}.safetensors"
        (folder / version).mkdir()
        save_file(tiny_pulid.pulid(seed).state_dict(), folder / version / file)
        index = tiny_pulid.IDENTITY.model_copy(update={"files": IdentityFiles(pulid=file)})
        (folder / version / INDEX).write_text(index.model_dump_json())


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
