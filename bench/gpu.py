"""FLUX.1-dev at full size with random weights, diffusers as it comes beside this project's settings, in one run.

    python -m bench.gpu [--small] [--fp8] [--repeats N] [--out FILE]

Weights are made on the device, prompt embeddings are random: neither changes how long anything takes. Measured are the
seconds of a step and of an image (decoding included) at 20, 28 and 100 steps, the peak of the device's memory, what
PuLID adds to a step, and each rate beside the arithmetic limit: 74.38 TFLOP a step at 1024 x 1024 with 512 text tokens
(docs/models.md), at 790 TFLOP/s in bf16. `--small` runs the same code on tiny models and any machine: it shows that the
harness works, and its seconds mean nothing. `--fp8` needs torchao.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from bench.figures import HEADER, Figure
from tests import torchvision_cpu

torchvision_cpu.install()

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from shared.flux import tiny
from shared.flux.decode import decode
from shared.flux.denoise import Branch, denoise
from shared.flux.latents import noise
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.pulid.injection import attach, sites
from shared.flux.schedules import sigmas
from shared.flux.text import PromptEmbedding

STEP_TFLOP, BF16_TFLOPS = 74.38, 790.0
PULID_BOUND = 1.05
STEPS = (20, 28, 100)
GUIDANCE = 3.5
ID_TOKENS = 32

Run = Callable[[int], None]


@dataclass(frozen=True)
class Machine:
    """Where it runs, and how large."""

    device: str
    dtype: torch.dtype
    side: int
    text_tokens: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Taken:
    """What an image took."""

    seconds: float
    peak_gb: float


FULL = Machine("cuda", torch.bfloat16, 1024, 512, STEPS)
SMALL = Machine("cpu", torch.float32, 64, 16, (2, 4))


def models(machine: Machine) -> tuple[Any, Any]:
    """A transformer and an autoencoder with random weights, made on the device in its dtype."""
    if machine is SMALL:
        return tiny.transformer(), tiny.vae()
    with made_there(machine):
        transformer = FluxTransformer2DModel(guidance_embeds=True)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    return transformer.eval(), vae.eval()


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


def prompt_of(machine: Machine, transformer: Any) -> PromptEmbedding:
    """A random prompt."""
    with made_there(machine):
        pooled = torch.randn(1, transformer.config.pooled_projection_dim)
        sequence = torch.randn(1, machine.text_tokens, transformer.config.joint_attention_dim)
    return PromptEmbedding(pooled=pooled, sequence=sequence)


def plain(machine: Machine, transformer: Any, vae: Any, prompt: PromptEmbedding) -> Run:
    """An image by diffusers' pipeline, with nothing set."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)

    def run(steps: int) -> None:
        pipeline(
            prompt_embeds=prompt.sequence,
            pooled_prompt_embeds=prompt.pooled,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            height=machine.side,
            width=machine.side,
            generator=torch.Generator().manual_seed(1),
        )

    return run


def ours(machine: Machine, transformer: Any, vae: Any, prompt: PromptEmbedding, around: Any = None) -> Run:
    """An image by our own loop."""
    channels = transformer.config.in_channels // 4

    def run(steps: int) -> None:
        start = noise(machine.side, machine.side, 1, channels).to(machine.device)
        branch = Branch(prompt) if around is None else Branch(prompt, around)
        decode(vae, denoise(transformer, start, sigmas("simple", steps).tolist(), branch, GUIDANCE))

    return run


def identity_of(machine: Machine, transformer: Any) -> tuple[list[PerceiverAttentionCA], IdentityCall]:
    """PuLID's modules with random weights, and somebody to be seen."""
    widths = {"dim": transformer.inner_dim, "id_dim": 2048, "heads": 16, "head_dim": 128}
    if machine is SMALL:
        widths |= {"id_dim": 16, "heads": 2, "head_dim": 8}
    with made_there(machine):
        attentions = [PerceiverAttentionCA(**widths).eval() for _ in sites(transformer)]
        tokens = torch.randn(1, ID_TOKENS, widths["id_dim"])
    return attentions, IdentityCall([Subject(tokens=tokens)])


def faster(transformer: Any, vae: Any, *, fp8: bool) -> None:
    """This project's settings: the blocks compiled one by one, fused projections, the decoder channels last."""
    transformer.fuse_qkv_projections()
    vae.to(memory_format=torch.channels_last)
    if fp8:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, quantize_  # noqa: PLC0415 - optional

        quantize_(transformer, Float8DynamicActivationFloat8WeightConfig())
    transformer.compile_repeated_blocks(fullgraph=True, recompile_limit=32)


def taken(machine: Machine, run: Run, steps: int, repeats: int) -> Taken:
    """The fastest of so many images."""
    cuda = machine.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        begin = perf_counter()
        run(steps)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(perf_counter() - begin)
    return Taken(min(seconds), torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0)


def figures(machine: Machine, repeats: int, *, fp8: bool) -> Iterator[Figure]:
    """All figures, the plain pipeline's first: compiling changes the model for good."""
    transformer, vae = models(machine)
    prompt = prompt_of(machine, transformer)
    found: dict[str, dict[int, Taken]] = {}
    ways: list[tuple[str, Callable[[], Run]]] = [
        ("diffusers as it comes", lambda: plain(machine, transformer, vae, prompt)),
        ("our loop, nothing set", lambda: ours(machine, transformer, vae, prompt)),
    ]
    for name, make in ways:
        found[name] = measured(machine, make(), repeats)
    attentions, call = identity_of(machine, transformer)
    attachment = attach(transformer, attentions)
    found["our loop with PuLID"] = measured(machine, ours(machine, transformer, vae, prompt, call.around), repeats)
    attachment.detach()
    best = "ours, fp8" if fp8 else "ours"
    faster(transformer, vae, fp8=fp8)
    found[best] = measured(machine, ours(machine, transformer, vae, prompt), repeats)
    yield from reported(machine, found, best)


def measured(machine: Machine, run: Run, repeats: int) -> dict[int, Taken]:
    """A way of making an image, by number of steps. Once for warmth first."""
    run(machine.steps[0])
    return {steps: taken(machine, run, steps, repeats) for steps in machine.steps}


def reported(machine: Machine, found: dict[str, dict[int, Taken]], best: str) -> Iterator[Figure]:
    """Seconds, memory and ratios."""
    least, most = machine.steps[0], machine.steps[-1]

    def step_s(name: str) -> float:
        by_steps = found[name]
        return (by_steps[most].seconds - by_steps[least].seconds) / (most - least)

    first = next(iter(found))
    for name, by_steps in found.items():
        for steps, one in by_steps.items():
            yield Figure(f"{name}, an image of {steps} steps", one.seconds, "s")
        yield Figure(f"{name}, a step", step_s(name) * 1000, "ms")
        yield Figure(f"{name}, peak memory", max(one.peak_gb for one in by_steps.values()), "GB")
        if machine is FULL:
            yield Figure(f"{name}, of the arithmetic limit", STEP_TFLOP / BF16_TFLOPS / step_s(name), "")
    with_one, without = step_s("our loop with PuLID"), step_s("our loop, nothing set")
    yield Figure("PuLID: a step with / without", with_one / without, "", PULID_BOUND if machine is FULL else None)
    times = found[first][most].seconds / found[best][most].seconds
    yield Figure(f"an image of {most} steps: {first} / {best}", times, "")


def main(words: Sequence[str]) -> int:
    """0; 2 where there is no GPU and none was renounced."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu")
    parser.add_argument("--small", action="store_true", help="tiny models, any machine")
    parser.add_argument("--fp8", action="store_true", help="fp8 weights and activations by torchao")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the table here, too")
    chosen = parser.parse_args(words)
    if not chosen.small and not torch.cuda.is_available():
        print("torch sees no CUDA device. Run it on a machine with a GPU, or give --small.", file=sys.stderr)
        return 2
    machine = SMALL if chosen.small else FULL
    where = "CPU, tiny models" if chosen.small else torch.cuda.get_device_name()
    table = "\n".join(
        [f"{where}, torch {torch.__version__}\n", HEADER]
        + [figure.row() for figure in figures(machine, chosen.repeats, fp8=chosen.fp8)]
    )
    print(table)
    if chosen.out:
        chosen.out.write_text(table + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
