"""IP-Adapter for FLUX: a picture whose style and composition another is to take.

A vision encoder sums the picture up in one vector, the adapter makes a few tokens of it, and in every double-stream
block the image's queries attend to them beside what they attend to anyway:

    image <- block(image) + weight * attention(query(image), key(tokens), value(tokens))

Keys and values are the same at every step, so they are computed once for a picture and handed over with each call, the
weight multiplied into the values. The transformer holds nothing of any picture: it gets attention processors that
without a picture do what diffusers' own do, and calls with different pictures, weights and adapters run side by side
on it. Once the picture is read, the adapter's gigabyte is needed no more.

Sources: H. Ye et al., "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", 2023;
XLabs' x-flux for the file's names; diffusers' `FluxIPAdapterAttnProcessor`, which this equals up to rounding.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from PIL import Image as Pictures
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.denoise import SHARED, Call, Extra
from shared.flux.parts import adapter_file, proper_name
from shared.flux.residents import ModuleResident
from shared.flux.tensors import check_layout, shapes, tensors
from shared.models.catalogue import load_models
from shared.models.shelf import Shelf
from shared.vision.codec import Image

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue, 0 to 1, in the pictures that CLIP was trained on."""

SEEING: Final = ("vision_model.", "visual_projection.")
"""What the vision encoder's names begin with in a file that may hold the whole of CLIP."""

STYLE: Final = "ip_hidden_states"
"""The argument that blocks hand to their attention. Under diffusers' name blocks that know none pass over it."""

ROLE: Final = "image adapter"
"""What it is called in the catalogue."""

ENCODER: Final = "clip-vit-large-patch14"
OWN_ENCODER: Final = "image_encoder"

MEND: Final = "Name the file that was published for this model; fetch it again if it is that one."


class Sizes(NamedTuple):
    """An adapter's measures. XLabs' first has 19, 3072, 4096, 768, 4; the second 16 tokens."""

    blocks: int
    inner: int
    width: int
    embedding: int
    tokens: int


class Projection(nn.Module):
    """The encoder's vector [B, embedding] -> tokens [B, tokens, width]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tokens = sizes.tokens
        self.proj = nn.Linear(sizes.embedding, sizes.tokens * sizes.width)
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, embedding: Tensor) -> Tensor:
        projected: Tensor = self.proj(embedding.to(self.proj.weight.dtype))
        answer: Tensor = self.norm(projected.unflatten(-1, (self.tokens, -1)))
        return answer


class IpAdapter(nn.Module):
    """All that the published file holds. The parts bear its names, so that the state dict is the file's."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.ip_adapter_proj_model = Projection(sizes)
        self.double_blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "processor": nn.ModuleDict(
                        {
                            "ip_adapter_double_stream_k_proj": nn.Linear(sizes.width, sizes.inner),
                            "ip_adapter_double_stream_v_proj": nn.Linear(sizes.width, sizes.inner),
                        }
                    )
                }
            )
            for _ in range(sizes.blocks)
        )

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [blocks, B, tokens, inner] of an encoder's vector [B, embedding]."""
        seen = self.ip_adapter_proj_model(embedding)
        processors = [cast(Mapping[str, nn.Module], cast(Any, block)["processor"]) for block in self.double_blocks]
        keys = [processor["ip_adapter_double_stream_k_proj"](seen) for processor in processors]
        values = [processor["ip_adapter_double_stream_v_proj"](seen) for processor in processors]
        return torch.stack(keys), torch.stack(values)


class StyleReader(nn.Module):
    """What reads pictures: CLIP's vision encoder and the adapter.

    Raises:
        Permanent: the two do not fit.
    """

    def __init__(self, encoder: Any, adapter: IpAdapter) -> None:
        super().__init__()
        if encoder.config.projection_dim != adapter.sizes.embedding:
            found = f"The image encoder gives {encoder.config.projection_dim} numbers"
            raise Permanent(f"{found} and the IP-Adapter reads {adapter.sizes.embedding}. {MEND}")
        self.encoder = encoder
        self.adapter = adapter


@dataclass(eq=False)
class Style:
    """A picture as a transformer's double-stream blocks see it.

    No tuple and not frozen: a compiler would look into it in blocks that only pass it by (see
    `shared.flux.pulid.context.Frame`).

    Attributes:
        keys: [blocks, B, tokens, width], on the transformer's device and in its dtype.
        values: the same.
    """

    keys: Tensor
    values: Tensor


class AdapterPaths(NamedTuple):
    """Where an IP-Adapter's file and the folder of its vision encoder lie."""

    adapter: Path
    encoder: Path


def adapter_paths(models: Path, name: str) -> AdapterPaths:
    """Where an adapter lies in the models folder. One of your own may have its encoder in it, as `image_encoder`.

    Raises:
        InvalidInput: it is something else, by the catalogue.
        Permanent: a file is missing; says which command brings it.
        IntegrityError: one is cut short.
    """
    catalogue, shelf = load_models(), Shelf(models)
    known = catalogue.named(name)
    if known is not None and known.role != ROLE:
        raise InvalidInput("ip_adapter", f"{name} is a {known.role}", "Name an IP-Adapter for FLUX.1.")
    own = models / proper_name(name) / OWN_ENCODER
    if known is None and own.is_dir():
        return AdapterPaths(adapter_file(models, name), own)
    for one in catalogue.with_requirements(ENCODER if known is None else known.name):
        shelf.require(one)
    return AdapterPaths(adapter_file(models, name), models / ENCODER)


def load_adapter(path: Path, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu") -> IpAdapter:
    """Read an adapter from XLabs' safetensors file, ready for inference.

    Raises:
        Permanent: the file cannot be read, or lacks tensors, or holds others, or some of another shape.
    """
    found = shapes(path)
    with torch.device("meta"):
        adapter = IpAdapter(_sizes(path, found))
    check_layout(str(path), found, {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()})
    adapter.load_state_dict(tensors(path, found, dtype, device), strict=True, assign=True)
    return adapter.eval().requires_grad_(False)


def load_encoder(folder: Path, dtype: torch.dtype = torch.float16, device: str | torch.device = "cpu") -> Any:
    """Read CLIP's vision encoder from a folder in transformers' layout, which may hold the text encoder as well.

    Raises:
        Permanent: configuration or weights cannot be read, or tensors are missing or of another shape.
    """
    config, path = _config(folder), folder / "model.safetensors"
    found = {
        name: shape
        for name, shape in shapes(path).items()
        if name.startswith(SEEING) and not name.endswith("position_ids")  # which are counted, not learnt
    }
    with torch.device("meta"):
        empty = CLIPVisionModelWithProjection(config)
    check_layout(str(path), found, {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()})
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        None, config=config, state_dict=tensors(path, found, dtype, "cpu"), dtype=dtype
    )
    return encoder.to(device).eval().requires_grad_(False)


def ip_adapter_resident(
    adapter: Path, encoder: Path, dtype: torch.dtype, device: str | torch.device
) -> ModuleResident[StyleReader]:
    """Adapter and encoder as one model of the residency; wanted while a picture is read, not while one is painted.

    Args:
        adapter: XLabs' file.
        encoder: the folder of CLIP's vision encoder.
        dtype: of the adapter. The encoder is held in fp16, as its publisher's users do, or in fp32 where this is fp32.
        device: where it reads.

    Raises:
        Permanent: a header cannot be read or is not what it should be.
    """
    seen = torch.float32 if dtype == torch.float32 else torch.float16
    with torch.device("meta"):
        empty = CLIPVisionModelWithProjection(_config(encoder)), IpAdapter(_sizes(adapter, shapes(adapter)))
    size = _bytes(empty[0], seen) + _bytes(empty[1], dtype)
    return ModuleResident(
        f"IP-Adapter {adapter.stem}",
        lambda: StyleReader(load_encoder(encoder, seen), load_adapter(adapter, dtype)),
        size,
        device,
    )


@torch.no_grad()
def read_style(reader: StyleReader, picture: Image | None) -> Style:
    """Read a picture, with the weight 1.

    Args:
        reader: on the transformer's device; the adapter in the transformer's dtype.
        picture: the middle square of it is seen, at 224 x 224. None is a black one: nothing, for the negative branch
            of true guidance, as diffusers' pipelines have it.
    """
    side: int = reader.encoder.config.image_size
    shown = prepared(np.zeros((side, side, 3), np.uint8) if picture is None else picture, side)
    embedding = reader.encoder(shown[None].to(reader.encoder.device, reader.encoder.dtype)).image_embeds
    keys, values = reader.adapter(embedding)
    return Style(keys, values)


def styled(transformer: Any, style: Style, weight: float) -> Extra:
    """What lets the calls of one branch see a picture: for that branch's `extras`.

    Args:
        transformer: a FluxTransformer2DModel, which many calls may share. Its attention processors are replaced by
            ones that treat calls without a picture as before.
        style: the picture.
        weight: how strongly; 0 is without it.

    Raises:
        InvalidInput: the picture was read by an adapter of another model, or the weight is no number.
    """
    if not np.isfinite(weight):
        raise InvalidInput("ip_adapter_weight", f"is {weight}", "Give a number; 0 is without the picture.")
    blocks, inner = len(transformer.transformer_blocks), transformer.inner_dim
    found = (style.keys.shape[0], style.keys.shape[-1])
    if found != (blocks, inner):
        said = f"is for {found[0]} double blocks {found[1]} wide, and the model has {blocks}, {inner} wide"
        raise InvalidInput("ip_adapter", said, "Name an IP-Adapter that was made for this model.")
    show_styles(transformer)
    weighted = Style(style.keys, (weight * style.values.float()).to(style.values.dtype))

    def extra(_: Call, /) -> Mapping[str, Any]:
        return {SHARED: {STYLE: weighted}} if weight else {}

    return extra


def show_styles(transformer: Any) -> None:
    """Let the model's double-stream blocks see the picture of a call that has one. A second time it does nothing.

    Calls that have none are computed as before. To be done before compiling, where blocks are compiled: they would be
    compiled again.

    Raises:
        InvalidInput: something other than diffusers' own processors is in place.
    """
    processors = [block.attn.processor for block in transformer.transformer_blocks]
    strangers = {type(one) for one in processors} - {FluxAttnProcessor, StyleProcessor}
    if strangers:
        said = f"has the attention processors {', '.join(sorted(one.__name__ for one in strangers))}"
        raise InvalidInput("transformer", said, "Give one as diffusers loads it.")
    for number, (block, before) in enumerate(zip(transformer.transformer_blocks, processors, strict=True)):
        if not isinstance(before, StyleProcessor):
            block.attn.set_processor(StyleProcessor(number, before))


class StyleProcessor(FluxAttnProcessor):  # type: ignore[misc]  # diffusers is not typed
    """diffusers' attention of a double-stream block, and beside it that to the picture of the call.

    The block adds what comes third to its image tokens. The query is computed a second time: a 36th of the model's
    multiplications, and only in calls with a picture.

    Args:
        number: of the block, counted from 0.
        before: whose settings are kept: the attention kernel.
    """

    def __init__(self, number: int, before: FluxAttnProcessor) -> None:
        super().__init__()
        # a tensor, so that blocks that are compiled stay alike: of numbers a compiler makes constants
        self.number = torch.tensor([number])
        self.__dict__.update(before.__dict__)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        ip_hidden_states: Style | None = None,
    ) -> Any:
        joint = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        if ip_hidden_states is None:
            return joint
        # where projections are fused there is none of the query alone (shared.flux.speed)
        whole = attn.to_qkv(hidden_states).chunk(3, dim=-1)[0] if attn.fused_projections else attn.to_q(hidden_states)
        query = attn.norm_q(whole.unflatten(-1, (-1, attn.head_dim)))
        key, value = (self._own(one, query) for one in (ip_hidden_states.keys, ip_hidden_states.values))
        # [B, T, heads, head_dim] -> [B, heads, T, head_dim] and back; no kernel has to be chosen for a few keys
        seen = nn.functional.scaled_dot_product_attention(query.transpose(1, 2), key, value)
        return (*joint, seen.transpose(1, 2).flatten(2).to(hidden_states.dtype))

    def _own(self, all_blocks: Tensor, query: Tensor) -> Tensor:
        """This block's keys or values [B, heads, tokens, head_dim] of all blocks' [blocks, 1 or B, tokens, width]."""
        own = all_blocks.index_select(0, self.number.to(all_blocks.device))[0]
        heads: Tensor = own.unflatten(-1, (-1, query.shape[-1]))
        return heads.expand(query.shape[0], -1, -1, -1).transpose(1, 2)


def prepared(picture: Image, side: int) -> Tensor:
    """A picture [H, W, 3] as CLIP was shown them: its middle square, [3, side, side] in fp32, normalised.

    As transformers' `CLIPImageProcessor` of PIL does it: resized bicubically until the shorter side fits, then cut.
    """
    height, width = picture.shape[:2]
    short = min(height, width)
    fitted = (width * side // short, height * side // short)
    small = np.asarray(Pictures.fromarray(picture).resize(fitted, Pictures.Resampling.BICUBIC))
    top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    square = small[top : top + side, left : left + side].astype(np.float32) / 255
    normal = (square - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(normal.transpose(2, 0, 1).copy())


def _sizes(path: Path, found: Mapping[str, tuple[int, ...]]) -> Sizes:
    """An adapter's measures, read off its tensors' shapes; that all fit to them is for `check_layout` to see."""
    block = re.compile(r"double_blocks\.(\d+)\.")
    numbers = [int(match[1]) for name in found if (match := block.match(name))]
    key = found.get("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", ())
    projection = found.get("ip_adapter_proj_model.proj.weight", ())
    if len(key) != 2 or len(projection) != 2 or projection[0] % key[1]:
        raise Permanent(f"{path}: these are not the weights of an IP-Adapter for FLUX in XLabs' layout. {MEND}")
    inner, width = key
    return Sizes(max(numbers) + 1, inner, width, embedding=projection[1], tokens=projection[0] // width)


def _config(folder: Path) -> Any:
    """The vision encoder's architecture, of its own `config.json` or of the whole CLIP's."""
    path = folder / "config.json"
    if not path.is_file():
        raise Permanent(f"{path} is missing. Fetch the image encoder that the IP-Adapter needs.")
    try:
        return CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise Permanent(f"{path} cannot be understood ({error}). Fetch it again.") from error


def _bytes(empty: nn.Module, dtype: torch.dtype) -> int:
    """What a module of the meta device takes once its numbers are of a dtype."""
    parameters = sum(one.numel() * dtype.itemsize for one in empty.parameters())
    return parameters + sum(one.numel() * one.itemsize for one in empty.buffers())
