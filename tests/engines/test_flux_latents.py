"""Latents: one noise for a seed, diffusers' packing, the autoencoder's own numbers; words; pictures out of latents."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux import tiny
from shared.flux.decode import PUBLISHED, decode, decode_all, encode, encode_all, load_vae, previewer
from shared.flux.latents import image_ids, noise, pack, to_model, to_vae, unpack
from shared.flux.text import CLIP_L, T5_XXL, EncoderPaths, Encoders, PromptEmbedding, PromptMemory, load_encoders
from shared.flux.text import encode as encode_words
from shared.vision.codec import Image


@cache
def vae() -> Any:
    return tiny.vae()


@cache
def encoders() -> Encoders:
    return Encoders(*tiny.clip(), *tiny.t5())


def picture(width: int = 64, height: int = 48) -> Image:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def test_noise_is_that_of_torch_manual_seed_and_touches_no_global_generator() -> None:
    torch.manual_seed(11)
    expected = torch.randn(1, 16, 6, 8)
    state = torch.random.get_rng_state()
    assert torch.equal(noise(64, 48, 11), expected)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_noise_of_a_seed_is_pinned() -> None:
    """These numbers are PyTorch's for seed 7: should a version draw others, stored pictures could not be made again."""
    assert noise(64, 64, 7)[0, 0, 0, :3].tolist() == pytest.approx([-0.820135, 0.395631, 0.898908], abs=1e-5)


@pytest.mark.parametrize(("width", "height", "field"), [(60, 64, "width"), (64, 72, "height"), (0, 64, "width")])
def test_sides_that_16_does_not_divide_are_refused(width: int, height: int, field: str) -> None:
    with pytest.raises(InvalidInput, match="multiple of 16") as refused:
        noise(width, height, 1)
    assert refused.value.field == field


def test_packing_is_that_of_diffusers() -> None:
    latent = torch.randn(2, 16, 6, 10)
    theirs = FluxPipeline._pack_latents(latent, 2, 16, 6, 10)  # noqa: SLF001 - the reference
    assert torch.equal(pack(latent), theirs)
    assert torch.equal(unpack(theirs, 6, 10), latent)
    ids = FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)  # noqa: SLF001 - the reference
    assert torch.equal(image_ids(6, 10), ids)


def test_the_autoencoders_numbers_are_its_configs() -> None:
    latent = torch.randn(1, 16, 2, 2)
    scale, shift = vae().config.scaling_factor, vae().config.shift_factor
    assert (scale, shift) == (0.3611, 0.1159)
    assert torch.allclose(to_vae(to_model(latent, scale, shift), scale, shift), latent, atol=1e-6)
    assert to_model(torch.full((1,), shift + 1), scale, shift).item() == pytest.approx(scale)


def test_decoding_is_that_of_diffusers_pipeline() -> None:
    pipe = tiny.pipeline()
    latent = noise(64, 48, 3)
    theirs = pipe.image_processor.postprocess(pipe.vae.decode(latent / 0.3611 + 0.1159).sample.detach(), "np")[0]
    ours = decode(pipe.vae, latent)
    assert ours.shape == (48, 64, 3)
    assert np.abs(ours - theirs * 255).max() <= 0.51


def test_encoding_is_that_of_diffusers() -> None:
    image = picture()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    theirs = (vae().encode(pixels).latent_dist.mean - 0.1159) * 0.3611
    assert torch.allclose(encode(vae(), image), theirs, atol=1e-6)


def test_several_are_decoded_and_encoded_as_one_by_one_bit_by_bit() -> None:
    """And those that cannot be are refused: pictures of two sizes, none, several latents where one is decoded."""
    latents = torch.cat([noise(64, 48, seed) for seed in (1, 2, 3)])
    pictures = decode_all(vae(), latents)
    for one, latent in zip(pictures, latents.split(1), strict=True):
        assert np.array_equal(one, decode(vae(), latent))
    assert torch.equal(encode_all(vae(), pictures), torch.cat([encode(vae(), one) for one in pictures]))
    with pytest.raises(InvalidInput, match="they are 64 x 48 and 96 x 64"):
        encode_all(vae(), [picture(), picture(96, 64)])
    with pytest.raises(InvalidInput, match="they are none"):
        encode_all(vae(), [])
    with pytest.raises(InvalidInput, match="there are 3"):
        decode(vae(), latents)


def test_large_pictures_are_decoded_in_tiles_that_fade_into_each_other() -> None:
    latent = noise(160, 128, 5) * 0.2
    whole, tiled = decode(vae(), latent), decode(vae(), latent, tiled_from=0)
    assert tiled.shape == whole.shape
    assert not np.array_equal(tiled, whole)
    assert np.array_equal(decode(vae(), latent), whole), "tiling does not outlast its picture"


def test_tiles_of_one_picture_leave_the_next_as_it_was() -> None:
    large = picture(96, 64)
    before = encode(vae(), large)
    decode(vae(), noise(96, 64, 5), tiled_from=0)
    assert torch.equal(encode(vae(), large), before)
    assert not torch.equal(encode(vae(), large, tiled_from=0), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_latent_is_an_error_and_no_black_picture(value: float) -> None:
    latent = noise(64, 64, 1)
    latent[0, 3, 1, 1] = value
    with pytest.raises(Permanent, match="the latent holds 1 of 1024 values that are no finite numbers"):
        decode(vae(), latent)


def test_a_broken_picture_is_an_error() -> None:
    broken = tiny.vae()
    torch.nn.init.constant_(broken.decoder.conv_out.bias, float("nan"))
    with pytest.raises(Permanent, match="decoded picture"):
        decode(broken, noise(64, 64, 1))


def test_a_preview_shows_what_the_decoder_shows() -> None:
    """Of a flat latent of the size it was measured at, the decoder's mean colour."""
    painter = previewer(vae())
    flat = torch.zeros(1, 16, 4, 4)
    preview = painter.paint(flat)
    assert preview.shape == (4, 4, 3)
    with torch.no_grad():
        shown = vae().decode(flat / 0.3611 + 0.1159).sample.mean(dim=(0, 2, 3))
    assert np.abs(preview[0, 0] - (shown / 2 + 0.5).numpy() * 255).max() <= 0.51
    flat[0, 2] = 0.5
    assert not np.array_equal(painter.paint(flat), preview)


def test_words_are_encoded_as_diffusers_does() -> None:
    pipe = tiny.pipeline()
    made = encode_words(encoders(), "a doctor in a ward, 50 mm")
    with torch.no_grad():
        sequence, pooled, _ = pipe.encode_prompt("a doctor in a ward, 50 mm", max_sequence_length=256)
    assert made.sequence.shape == (1, 256, tiny.WIDTH)
    assert torch.allclose(made.sequence, sequence, atol=1e-6)
    assert torch.allclose(made.pooled, pooled, atol=1e-6)


def test_long_prompts_are_read_to_512_tokens_and_what_is_beyond_is_counted() -> None:
    middle, long = encode_words(encoders(), "a" * 300), encode_words(encoders(), "a" * 600)
    assert middle.tokens_left_out == 0
    assert 300 <= middle.sequence.shape[1] <= 302
    assert long.sequence.shape[1] == 512
    assert 88 <= long.tokens_left_out <= 90


class Scribe:
    """Encodes one prompt, and counts how often."""

    def __init__(self, words: str) -> None:
        self.words = words
        self.count = 0

    def __call__(self) -> PromptEmbedding:
        self.count += 1
        return encode_words(encoders(), self.words)


def test_unknown_words_alone_are_encoded() -> None:
    """And the same words of other encoders are others."""
    memory, scribe = PromptMemory(), Scribe("one")
    first = memory.recall(("t5", "one"), scribe)
    assert memory.recall(("t5", "one"), scribe) is first
    assert scribe.count == 1
    memory.recall(("t5", "two"), scribe)
    memory.recall(("t5 in bf16", "one"), scribe)
    assert scribe.count == 3


def test_the_prompts_asked_for_last_are_kept_within_the_bound() -> None:
    scribe = Scribe("x")
    memory = PromptMemory(bound_bytes=2 * scribe().size)
    for words in ("one", "two", "one", "three", "one"):
        memory.recall(("t5", words), scribe)
    assert scribe.count == 1 + 3
    memory.recall(("t5", "two"), scribe)
    assert scribe.count == 1 + 4


def test_threads_that_ask_for_the_same_words_wait_for_one_encoding() -> None:
    """Those who ask for others do not, nor for ever after one that failed."""
    memory, scribe = PromptMemory(), Scribe("one")
    inside, leave = threading.Event(), threading.Event()

    def slowly() -> PromptEmbedding:
        inside.set()
        assert leave.wait(20)
        return scribe()

    def failing() -> PromptEmbedding:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        memory.recall(("t5", "one"), failing)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(memory.recall, ("t5", "one"), slowly)
        assert inside.wait(20)
        second = threads.submit(memory.recall, ("t5", "one"), scribe)
        memory.recall(("t5", "another"), Scribe("another"))
        leave.set()
        assert second.result(20) is first.result(20)
    assert scribe.count == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write(tmp_path / "one", seed=5)
    tiny.write(tmp_path / "two", seed=5)
    return tmp_path


def test_tiny_weights_are_the_same_for_a_seed_and_load_offline(folder: Path) -> None:
    one, two = (sorted(path for path in (folder / name).rglob("*") if path.is_file()) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    loaded = FluxPipeline.from_pretrained(str(folder / "one"), local_files_only=True)
    weights = tiny.transformer(5).state_dict()
    assert all(torch.equal(weights[name], value) for name, value in loaded.transformer.state_dict().items())
    assert not torch.equal(weights["x_embedder.weight"], tiny.transformer(6).state_dict()["x_embedder.weight"])


def published_name(name: str) -> str:
    """The publisher's name for a tensor of an autoencoder of four levels in diffusers."""
    name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{3 - int(found[1])}", name)
    pairs = [
        (r"down_blocks\.(\d)", r"down.\1"),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"resnets", "block"),
        (r"(down|up)samplers\.0", r"\1sample"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ]
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def test_the_publishers_autoencoder_file_is_read(tmp_path: Path) -> None:
    def published(value: torch.Tensor, name: str) -> torch.Tensor:
        """Its attention is made of 1 x 1 convolutions."""
        linear = ".attentions." in name and value.ndim == 2
        return (value[:, :, None, None] if linear else value).contiguous()

    weights = {published_name(name): published(value, name) for name, value in vae().state_dict().items()}
    assert {"encoder.mid.attn_1.q.weight", "decoder.up.3.block.0.conv1.weight"} <= weights.keys()
    save_file(weights, tmp_path / "ae.safetensors")
    loaded = load_vae(tmp_path / "ae.safetensors", torch.float32, "cpu", dict(vae().config))
    latent = noise(64, 48, 3)
    assert np.array_equal(decode(loaded, latent), decode(vae(), latent))
    with pytest.raises(Permanent, match=r"is not FLUX\.1's autoencoder"):
        load_vae(tmp_path / "ae.safetensors", torch.float32, "cpu")


def test_single_files_of_the_encoders_are_read(tmp_path: Path) -> None:
    """With the names of CLIP's older files, and what they hold besides."""
    clip, t5 = encoders().clip, encoders().t5
    clip_weights = {f"text_model.{name}": value for name, value in clip.state_dict().items()}
    clip_weights |= {"logit_scale": torch.ones(()), "text_projection.weight": torch.ones(2, 2)}
    save_file(clip_weights, tmp_path / "clip_l.safetensors")
    t5_weights = {name: value for name, value in t5.state_dict().items() if name != "encoder.embed_tokens.weight"}
    save_file(t5_weights, tmp_path / "t5.safetensors")
    encoders().clip_tokenizer.save_pretrained(tmp_path / "one")
    encoders().t5_tokenizer.save_pretrained(tmp_path / "two")
    paths = EncoderPaths(
        tmp_path / "one", tmp_path / "clip_l.safetensors", tmp_path / "two", tmp_path / "t5.safetensors"
    )
    loaded = load_encoders(paths, "cpu", torch.float32, clip.config.to_dict(), t5.config.to_dict())
    ours, theirs = encode_words(loaded, "a doctor"), encode_words(encoders(), "a doctor")
    assert torch.equal(ours.pooled, theirs.pooled)
    assert torch.equal(ours.sequence, theirs.sequence)
    del t5_weights["encoder.final_layer_norm.weight"]
    save_file(t5_weights, tmp_path / "t5.safetensors")
    with pytest.raises(Permanent, match=r"t5.safetensors is not the text encoder .* missing encoder.final_layer_norm"):
        load_encoders(paths, "cpu", torch.float32, clip.config.to_dict(), t5.config.to_dict())


def test_the_published_architectures_have_the_published_sizes() -> None:
    with torch.device("meta"):
        sizes = [
            sum(weight.numel() for weight in model.parameters())
            for model in (
                CLIPTextModel(CLIPTextConfig(**CLIP_L)), T5EncoderModel(T5Config(**T5_XXL)), AutoencoderKL(**PUBLISHED)
            )
        ]  # fmt: skip
    assert sizes == [123_060_480, 4_762_310_656, 83_819_683]
