"""One identity of several photos: ways to put their PuLID embeddings together after the encoder.

`mean`, `concat`, `norm_id` and `max_token` are those of ComfyUI-PuLID-Flux-Enhanced; PuLID's author names joining and
averaging after the encoder as feasible (ToTheBeginning/PuLID issue 109).
"""

from collections.abc import Sequence
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from shared.contracts.errors import InvalidInput

Fusion = Literal["weighted", "mean", "concat", "norm_id", "max_token"]


def fuse(embeddings: Tensor, fusion: Fusion = "weighted", qualities: Sequence[float] | None = None) -> Tensor:
    """Put the embeddings of several photos of one person together.

    The default is `weighted`, by the photos' quality. Like `mean` it stays among embeddings of the kind that the
    attention was trained on, and it costs nothing per step; unlike `mean` it lets a blurred, dim or turned face blur
    the likeness only as much as it is worth. `norm_id` weighs by the length of the encoder's answer, which nobody
    trained to mean quality. `max_token` keeps the most extreme photo of each slot, and mixes tokens that were not
    made together. `concat` keeps everything, at N times the tokens, and leaves it to the attention which photo an
    image token listens to: the next best when photos are few and all good.

    Args:
        embeddings: [N, T, D], one embedding for each photo.
        fusion: `weighted`, `mean`, `concat`, `norm_id` or `max_token`.
        qualities: for `weighted` only: one number for each photo, 0 or above and not all 0.

    Returns:
        [T, D]; of `concat` [N * T, D]. The dtype is that of `embeddings`; averages are taken in fp32.

    Raises:
        InvalidInput: the shape, the name of the fusion or the qualities are not as said.
    """
    if embeddings.ndim != 3 or 0 in embeddings.shape:
        found = f"shape {list(embeddings.shape)}"
        raise InvalidInput("embeddings", found, "Give one embedding for each photo: [photos, tokens, width].")
    if qualities is not None and fusion != "weighted":
        raise InvalidInput("qualities", f"given to {fusion}", "Only the fusion weighted uses them.")
    match fusion:
        case "weighted":
            return weighted(embeddings, qualities)
        case "mean":
            return weighted(embeddings, [1.0] * embeddings.shape[0])
        case "concat":
            return embeddings.flatten(0, 1)
        case "norm_id":
            return norm_id(embeddings)
        case "max_token":
            return max_token(embeddings)
    raise InvalidInput("fusion", repr(fusion), "Choose weighted, mean, concat, norm_id or max_token.")


def weighted(embeddings: Tensor, qualities: Sequence[float] | None) -> Tensor:
    """The mean of [N, T, D], each photo weighing as much as its quality: [T, D]."""
    photos = embeddings.shape[0]
    if qualities is None or len(qualities) != photos:
        found = "none" if qualities is None else f"{len(qualities)} for {photos} photos"
        raise InvalidInput("qualities", found, "Give one quality for each photo, or choose the fusion mean.")
    if not all(isfinite(quality) and quality >= 0.0 for quality in qualities) or sum(qualities) == 0.0:
        raise InvalidInput("qualities", f"{list(qualities)}", "They must be finite, 0 or above, and not all 0.")
    return _average(embeddings, torch.tensor(qualities, dtype=torch.float32, device=embeddings.device))


def norm_id(embeddings: Tensor) -> Tensor:
    """The mean of [N, T, D], each photo weighing as much as its embedding's Frobenius norm: [T, D]."""
    norms = torch.linalg.vector_norm(embeddings.float(), dim=(1, 2))
    if norms.sum() == 0.0:
        raise InvalidInput("embeddings", "all of them zero", "Choose the fusion mean, or encode the photos again.")
    return _average(embeddings, norms)


def max_token(embeddings: Tensor) -> Tensor:
    """For each of the T slots of [N, T, D] the token of the photo where it is longest (L2); the first if equal."""
    longest = torch.linalg.vector_norm(embeddings.float(), dim=2).argmax(dim=0)
    return embeddings[longest, torch.arange(embeddings.shape[1], device=embeddings.device)]


def _average(embeddings: Tensor, weights: Tensor) -> Tensor:
    """Sum over the photos of weight times embedding, the weights scaled to the sum 1."""
    return torch.einsum("n,ntd->td", weights / weights.sum(), embeddings.float()).to(embeddings.dtype)
