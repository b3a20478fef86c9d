"""What makes FLUX faster leaves its pictures what they were, but for rounding."""

from collections.abc import Iterator

import pytest
import torch
from diffusers import AutoencoderKL
from pydantic import ValidationError

from shared.contracts.errors import Permanent
from shared.flux.speed import Speed, speed_up
from tests.engines.flux_models import assert_same, predict, tiny


@pytest.fixture
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
    ).eval()


@pytest.fixture(autouse=True)
def _torch_s_own_attention() -> Iterator[None]:
    """Diffusers keeps the last backend for the models made after."""
    yield
    tiny().reset_attention_backend()


@pytest.mark.parametrize(
    "speed",
    [
        Speed(),
        Speed(fused_qkv=True),
        Speed(attention="native"),
        Speed(attention="_native_math"),
        Speed(compiled_blocks=True),
        Speed(fused_qkv=True, attention="native", compiled_blocks=True),
    ],
    ids=str,
)
def test_the_prediction_stays(speed: Speed, vae: AutoencoderKL) -> None:
    transformer = tiny()
    speed_up(transformer, vae, speed, compiler="eager")
    assert_same(predict(transformer), predict(tiny()))


def test_nothing_is_done_unless_asked_for() -> None:
    assert Speed() == Speed(fused_qkv=False, channels_last_vae=False, compiled_blocks=False, attention=None)


def test_a_vae_with_channels_innermost_decodes_the_same(vae: AutoencoderKL) -> None:
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = vae.decode(latent).sample
        speed_up(tiny(), vae, Speed(channels_last_vae=True))
        after = vae.decode(latent).sample
    assert vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_is_not_installed_is_named(vae: AutoencoderKL) -> None:
    with pytest.raises(Permanent, match="flash_attn_interface"):
        speed_up(tiny(), vae, Speed(attention="_flash_3"))


@pytest.mark.parametrize("kernel", ["sage", "flash_hub", "_flash_3_hub"])
def test_inexact_kernels_and_those_from_a_hub_are_not_offered(kernel: str) -> None:
    """Sage rounds to 8 bits; the hub's are code that is fetched and run."""
    with pytest.raises(ValidationError):
        Speed.model_validate({"attention": kernel})
