"""Where the GPU's benchmarks run, and models of random weights that are made there: full-size ones, or tiny ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from shared.flux import tiny
from shared.flux.decode import PUBLISHED
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.pulid.injection import attach, sites
from shared.flux.speed import PACKAGES, Attention
from shared.flux.text import PromptEmbedding

STEP_TFLOP, LAYERS_TFLOP = 74.38, 59.49
BF16_TFLOPS, FP8_TFLOPS = 790.0, 1500.0
BF16_LIMIT_S = STEP_TFLOP / BF16_TFLOPS
FP8_LIMIT_S = LAYERS_TFLOP / FP8_TFLOPS + (STEP_TFLOP - LAYERS_TFLOP) / BF16_TFLOPS
TEXT_TOKENS = 512
AIMED_AT = "H200"
ID_TOKENS = 32


@dataclass(frozen=True)
class Machine:
    """Where it runs, and how large."""

    device: str
    dtype: torch.dtype
    side: int
    text_tokens: int
    word_width: int
    """Of T5's answer."""
    pooled_width: int
    """Of CLIP's."""
    id_width: int
    """Of PuLID's tokens."""
    steps: tuple[int, int, int]
    """Few, those of the aim, many."""
    kernels: tuple[Attention, ...]
    compiler: str
    small: bool = False
    """Tiny models, whose seconds and bytes mean nothing."""


FULL = Machine(
    device="cuda",
    dtype=torch.bfloat16,
    side=1024,
    text_tokens=TEXT_TOKENS,
    word_width=4096,
    pooled_width=768,
    id_width=2048,
    steps=(20, 28, 100),
    kernels=("native", "_native_cudnn", "_native_flash", "flash", "_flash_3"),
    compiler="inductor",
)
SMALL = Machine(
    device="cpu",
    dtype=torch.float32,
    side=64,
    text_tokens=16,
    word_width=tiny.WIDTH,
    pooled_width=tiny.WIDTH,
    id_width=16,
    steps=(1, 2, 4),
    kernels=("native", "_native_math"),
    compiler="eager",
    small=True,
)


def models(machine: Machine) -> tuple[Any, Any]:
    """A transformer and an autoencoder with random weights, made on the device in its dtype; the same each time."""
    torch.manual_seed(0)
    if machine.small:
        made = tiny.transformer(double=1, single=1), tiny.vae()
    else:
        with made_there(machine):
            made = FluxTransformer2DModel(guidance_embeds=True).eval(), AutoencoderKL(**PUBLISHED).eval()
    return made[0].requires_grad_(requires_grad=False), made[1].requires_grad_(requires_grad=False)


@contextmanager
def made_there(machine: Machine) -> Iterator[None]:
    """Modules made within are on the device and in its dtype from the start."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(machine.dtype)
    try:
        with torch.device(machine.device):
            yield
    finally:
        torch.set_default_dtype(before)


def prompt_of(machine: Machine) -> PromptEmbedding:
    """A random prompt."""
    with made_there(machine):
        pooled = torch.randn(1, machine.pooled_width)
        sequence = torch.randn(1, machine.text_tokens, machine.word_width)
    return PromptEmbedding(pooled=pooled, sequence=sequence)


def see_people(machine: Machine, transformer: Any) -> list[PerceiverAttentionCA]:
    """Attach PuLID with random weights; its modules."""
    heads = {"heads": 2, "head_dim": 8} if machine.small else {"heads": 16, "head_dim": 128}
    with made_there(machine):
        attentions = [
            PerceiverAttentionCA(transformer.inner_dim, machine.id_width, **heads)
            .eval()
            .requires_grad_(requires_grad=False)
            for _ in sites(transformer)
        ]
    attach(transformer, attentions)
    return attentions


def identity_of(machine: Machine, transformer: Any) -> IdentityCall:
    """Attach PuLID with random weights; somebody to be seen."""
    see_people(machine, transformer)
    with made_there(machine):
        return IdentityCall([Subject(tokens=torch.randn(1, ID_TOKENS, machine.id_width))])


def timed(machine: Machine, run: Callable[[], Any]) -> float:
    """Seconds, until the device has done it."""
    begin = perf_counter()
    run()
    if machine.device == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - begin


def kernel_seconds(machine: Machine, note: Callable[[str], None]) -> dict[Attention, float]:
    """Of each attention kernel that there is here, what one call takes on tensors as large as the model's.

    Args:
        machine: where.
        note: told which cannot be had.
    """
    tokens = machine.text_tokens + (machine.side // 16) ** 2
    with made_there(machine):
        given = [torch.randn(1, tokens, 24, 128) for _ in range(3)]
    found: dict[Attention, float] = {}
    for kernel in machine.kernels:
        package = PACKAGES.get(kernel)
        if package is not None and find_spec(package) is None:
            continue
        backend = AttentionBackendName(kernel)

        def ten(backend: AttentionBackendName = backend) -> None:
            with torch.no_grad():
                for _ in range(10):
                    dispatch_attention_fn(*given, backend=backend)

        try:
            ten()
            found[kernel] = min(timed(machine, ten) for _ in range(3)) / 10
        except Exception as error:  # noqa: BLE001 - a kernel that cannot run here is one less to choose from
            note(f"Attention {kernel} cannot be had here: {first_line(error)}")
    return found


def limit_s(width: int, height: int, steps: int) -> tuple[float, float]:
    """The arithmetic limit of sampling a picture of that many pixels, in seconds: all in bf16, and layers in fp8."""
    share = (TEXT_TOKENS + width * height / 256) / (TEXT_TOKENS + 1024 * 1024 / 256)
    layers, attention = steps * LAYERS_TFLOP * share, steps * (STEP_TFLOP - LAYERS_TFLOP) * share**2
    return (layers + attention) / BF16_TFLOPS, layers / FP8_TFLOPS + attention / BF16_TFLOPS


def first_line(error: Exception) -> str:
    """What it says, short."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
