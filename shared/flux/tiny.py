"""A FLUX of random weights and one megabyte, in diffusers' folder layout: `python -m shared.flux.tiny FOLDER`.

It paints nothing, but it is loaded, told, sampled and decoded as FLUX.1-dev is, offline and in a second. Its latents
have the real shape; widths and depths are small. The same seed gives the same files. shared.flux.pulid.tiny is the
identity model that goes with it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast
from transformers.utils import logging

WIDTH = 32
"""Of text embeddings, and of the transformer's tokens."""


def transformer(seed: int = 0, *, double: int = 2, single: int = 5) -> Any:
    """A transformer of that many blocks of either kind; with the defaults PuLID speaks to each kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = FluxTransformer2DModel(
            in_channels=64, num_layers=double, num_single_layers=single, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 6, 6), guidance_embeds=True,
        )  # fmt: skip
    return made.eval()


def vae(seed: int = 0) -> Any:
    """An autoencoder of 16 channels that halves three times; scale and shift are those of FLUX."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoencoderKL(
            latent_channels=16, sample_size=64, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159,
        )  # fmt: skip
    return made.eval()


def clip(seed: int = 0) -> tuple[Any, Any]:
    """A tokenizer that knows each byte, and a text model."""
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=WIDTH, projection_dim=WIDTH, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tokenizer, CLIPTextModel(config).eval()


def t5(seed: int = 0) -> tuple[Any, Any]:
    """A tokenizer that knows the printable letters, and an encoder."""
    letters = [(chr(code), -3.0) for code in range(ord("!"), ord("~") + 1)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    tokenizer = T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)
    config = T5Config(
        vocab_size=len(vocabulary), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return tokenizer, T5EncoderModel(config).eval()


def pipeline(seed: int = 0) -> Any:
    """All of it as diffusers' own pipeline."""
    clip_tokenizer, clip_model = clip(seed)
    t5_tokenizer, t5_model = t5(seed)
    return FluxPipeline(
        transformer=transformer(seed), vae=vae(seed), text_encoder=clip_model, tokenizer=clip_tokenizer,
        text_encoder_2=t5_model, tokenizer_2=t5_tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def write(folder: Path, seed: int = 0) -> None:
    """Write it to a folder, which is made."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline(seed).save_pretrained(str(folder), safe_serialization=True)
    finally:
        if shown:
            logging.enable_progress_bar()
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)  # written for their owner alone, where a worker may run as somebody else


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m shared.flux.tiny FOLDER")
    write(Path(sys.argv[1]))
