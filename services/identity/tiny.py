"""An identity model of random numbers, in the layout of a folder of one's own.

It knows nobody, but its encoders are loaded and run as PuLID's are, offline and in a second, and its tokens are of the
kind that `shared.flux.tiny`'s transformer is told. The same seed gives the same files.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from shared.flux.pulid import tiny
from shared.flux.pulid.index import INDEX, IdentityIndex
from shared.vision.networks import tiny_faces
from shared.vision.networks.parsing import FaceParser


def parser(seed: int = 0, index: IdentityIndex = tiny.IDENTITY) -> FaceParser:
    """A face parser that takes any pixel for anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FaceParser(index.face_parser_width).eval()


def write(folder: Path, seed: int = 0) -> None:
    """Write it to a folder, which is made."""
    index = tiny.IDENTITY
    files = index.files
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / files.pulid, tiny.pulid(seed, index).state_dict())
    _save(folder / files.vision_tower, tiny.published_names(tiny.vision_tower(seed, index)))
    _save(folder / files.face_parser, parser(seed, index).state_dict())
    tiny_faces.write(folder / files.faces)
    (folder / INDEX).write_text(index.model_dump_json(indent=2) + "\n", "utf-8")


def _save(path: Path, state: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
