"""What FLUX is told in words: CLIP's summary of a prompt and T5's account of it, kept for the prompts asked last.

T5 is 9.5 GB and idle but for a fraction of a second: the encoders are borrowed when an unknown prompt comes, and given
back at once. What was encoded is kept within a bound of bytes, beside the Residency that the encoders are borrowed of:
the stages of a process paint with the same words, and one of them encodes these.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from transformers.utils.logging import disable_progress_bar

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.fp8 import read_weights
from shared.models.residency import Residency
from shared.models.state import state_of

disable_progress_bar()  # a worker has a log, and no screen

CACHE_BYTES = 256 * 1024 * 1024
"""Sixty prompts of 512 tokens of 4096 values in 16 bits."""

Asked = tuple[str, str]
"""Encoders in a precision, and a prompt."""

LEAST_TOKENS = 256
MOST_TOKENS = 512

CLIP_L: Final[dict[str, Any]] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
T5_XXL: Final[dict[str, Any]] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
"""Architectures that the encoders' single files do not say: openai/clip-vit-large-patch14, google/t5-v1_1-xxl."""


class Encoders(nn.Module):
    """CLIP's and T5's tokenizer and model, as `transformers` makes them."""

    def __init__(self, clip_tokenizer: Any, clip: Any, t5_tokenizer: Any, t5: Any) -> None:
        super().__init__()
        self.clip_tokenizer = clip_tokenizer
        self.clip: Any = clip
        self.t5_tokenizer = t5_tokenizer
        self.t5: Any = t5


@dataclass(frozen=True)
class EncoderPaths:
    """Where the encoders lie: folders as `transformers` writes them, or single files for the models."""

    clip_tokenizer: Path
    clip: Path
    t5_tokenizer: Path
    t5: Path

    def state(self) -> str:
        """Another one once a file of theirs was replaced."""
        return state_of(self.clip_tokenizer, self.clip, self.t5_tokenizer, self.t5)


def load_encoders(
    paths: EncoderPaths,
    device: str,
    dtype: torch.dtype,
    clip: dict[str, Any] = CLIP_L,
    t5: dict[str, Any] = T5_XXL,
) -> Encoders:
    """Load them, onto a device, in a dtype. `clip` and `t5` are the architectures of single files.

    Raises:
        Permanent: a file's tensors are not those of its architecture.
    """
    return Encoders(
        clip_tokenizer=AutoTokenizer.from_pretrained(paths.clip_tokenizer, local_files_only=True),
        clip=_model(CLIPTextModel, paths.clip, CLIPTextConfig(**clip), device, dtype),
        t5_tokenizer=AutoTokenizer.from_pretrained(paths.t5_tokenizer, local_files_only=True),
        t5=_model(T5EncoderModel, paths.t5, T5Config(**t5), device, dtype),
    )


def _model(kind: Any, path: Path, config: Any, device: str, dtype: torch.dtype) -> Any:
    if path.is_dir():
        made = kind.from_pretrained(path, dtype=dtype, local_files_only=True, use_safetensors=True)
        return made.to(device).eval().requires_grad_(False)
    # Single files hold the text model under its older prefix, and beside it what serves CLIP's comparison to pictures.
    weights = {
        name.removeprefix("text_model."): value
        for name, value in read_weights([path], dtype).items()
        if not name.endswith(("position_ids", "logit_scale", "text_projection.weight", "encoder.embed_tokens.weight"))
    }
    made, found = kind.from_pretrained(None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True)
    faults = [
        f"{what.replace('_keys', '')} {', '.join(map(str, sorted(found[what])[:8]))}"
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if found[what]
    ]
    if faults:
        raise Permanent(f"{path.name} is not the text encoder it should be: {'; '.join(faults)}. Fetch it again.")
    return made.to(device).eval().requires_grad_(False)


@dataclass(frozen=True)
class PromptEmbedding:
    """A prompt as the transformer reads it.

    Attributes:
        pooled: [1, 768], CLIP's pooled output; of several prompts together [B, 768].
        sequence: [1, 256 to 512, 4096], T5's last hidden states; of several [B, ...].
        tokens_left_out: how many of T5's tokens were beyond the 512 that are read.
    """

    pooled: Tensor
    sequence: Tensor
    tokens_left_out: int = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return self.pooled.nbytes + self.sequence.nbytes

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "PromptEmbedding":
        """The same there and in that dtype."""
        return PromptEmbedding(self.pooled.to(device, dtype), self.sequence.to(device, dtype), self.tokens_left_out)


def together(prompts: Sequence[PromptEmbedding]) -> PromptEmbedding:
    """Prompts of one length as a batch, one for each of the latents that are sampled at once.

    Raises:
        InvalidInput: there is none, or their lengths differ. Padding is not masked, so that filling up the shorter ones
            would change what they say: sample those of another length apart.
    """
    lengths = sorted({one.sequence.shape[1] for one in prompts})
    if len(lengths) != 1:
        found = f"they have {' and '.join(map(str, lengths)) or 'no'} tokens"
        raise InvalidInput("prompts", found, "Sample prompts of one length at once, and the others apart.")
    return PromptEmbedding(
        torch.cat([one.pooled for one in prompts]),
        torch.cat([one.sequence for one in prompts]),
        sum(one.tokens_left_out for one in prompts),
    )


@torch.no_grad()
def encode(encoders: Encoders, prompt: str) -> PromptEmbedding:
    """Encode a prompt, onto the CPU.

    CLIP reads the first 77 tokens. For T5 the prompt is padded to 256 tokens and, as in ComfyUI, not cut there; but at
    512, the longest that FLUX.1-dev was trained on. The padding is not masked: FLUX was trained so.
    """
    clip_ids = encoders.clip_tokenizer(
        prompt, padding="max_length", max_length=encoders.clip_tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    ).input_ids  # fmt: skip
    ids: list[int] = encoders.t5_tokenizer(prompt, truncation=False, verbose=False).input_ids
    left_out = max(0, len(ids) - MOST_TOKENS)
    if left_out:
        ids = [*ids[: MOST_TOKENS - 1], ids[-1]]  # the end mark stays
    ids = ids + [encoders.t5_tokenizer.pad_token_id] * (LEAST_TOKENS - len(ids))
    pooled = encoders.clip(clip_ids.to(encoders.clip.device)).pooler_output
    sequence = encoders.t5(torch.tensor([ids], device=encoders.t5.device))[0]
    return PromptEmbedding(pooled.cpu(), sequence.cpu(), left_out)


class PromptMemory:
    """The embeddings of the prompts asked for last. Used by many threads at once.

    Args:
        bound_bytes: on what is remembered.
    """

    def __init__(self, bound_bytes: int = CACHE_BYTES) -> None:
        self._bound_bytes = bound_bytes
        self._kept: OrderedDict[Asked, PromptEmbedding] = OrderedDict()
        self._making: dict[Asked, threading.Lock] = {}
        self._lock = threading.Lock()  # guards both

    def recall(self, asked: Asked, make: Callable[[], PromptEmbedding]) -> PromptEmbedding:
        """What is remembered, or was made just now: once, however many threads ask for it meanwhile.

        Args:
            asked: which encoders, in which precision, and the prompt.
            make: encodes it.
        """
        with self._lock:
            known = self._known(asked)
            if known is not None:
                return known
            turn = self._making.setdefault(asked, threading.Lock())
        with turn:
            try:
                with self._lock:
                    known = self._known(asked)
                return self._keep(asked, make()) if known is None else known
            finally:
                with self._lock:
                    self._making.pop(asked, None)

    def _known(self, asked: Asked) -> PromptEmbedding | None:
        known = self._kept.get(asked)
        if known is not None:
            self._kept.move_to_end(asked)
        return known

    def _keep(self, asked: Asked, made: PromptEmbedding) -> PromptEmbedding:
        with self._lock:
            self._kept[asked] = made
            while sum(one.size for one in self._kept.values()) > self._bound_bytes:
                self._kept.popitem(last=False)
        return made


def memory_beside(residency: Residency) -> PromptMemory:
    """What is remembered of the encoders that are borrowed of a Residency: one for all who borrow there."""
    with _lock:
        return _memories.setdefault(residency, PromptMemory())


_lock = threading.Lock()
_memories: WeakKeyDictionary[Residency, PromptMemory] = WeakKeyDictionary()
