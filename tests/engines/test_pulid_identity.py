"""The encoder's parts fit together: from prepared faces to what the attention reads."""

import pytest
import torch
from torch import Tensor

from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, load_identity, save_identity
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.eva import EvaTower, identity_condition, prepare
from shared.flux.pulid.fusion import Fusion, fuse
from shared.flux.pulid.idformer import IDFormer
from shared.flux.pulid.index import EvaShape

SHAPE = EvaShape(
    image_size=28, patch_size=7, width=24, depth=6, heads=3, projected=10, reference_grid=3, taps=(1, 2, 3, 4, 6)
)


@pytest.fixture(scope="module")
def encoder() -> IDFormer:
    torch.manual_seed(2)
    former = IDFormer(dim=16, depth=5, heads=2, head_dim=8, queries=4, id_tokens=2, out_dim=12, id_dim=522, vit_dim=24)
    return former.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tower() -> EvaTower:
    torch.manual_seed(1)
    return EvaTower(SHAPE).eval().requires_grad_(False)


ARCFACE = torch.randn(3, 512, generator=torch.Generator().manual_seed(3)) * 20.0
FACES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))


def _encoded(encoder: IDFormer, tower: EvaTower, photos: slice) -> Tensor:
    seen = tower(prepare(FACES[photos], size=28))
    embeddings: Tensor = encoder(identity_condition(ARCFACE[photos], seen.projected), seen.hidden)
    return embeddings


def test_photos_encoded_together_are_encoded_as_alone(encoder: IDFormer, tower: EvaTower) -> None:
    """A batch mixes no photos, and different photos give different embeddings."""
    embeddings = _encoded(encoder, tower, slice(3))
    assert embeddings.shape == (3, 4, 12)
    assert not torch.allclose(embeddings[0], embeddings[1], atol=1e-3)
    torch.testing.assert_close(_encoded(encoder, tower, slice(2, 3)), embeddings[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", ["weighted", "mean", "concat", "norm_id", "max_token"])
def test_the_attention_reads_what_was_written_down(encoder: IDFormer, tower: EvaTower, fusion: Fusion) -> None:
    embeddings = _encoded(encoder, tower, slice(3))
    written = PulidIdentity(
        id=fuse(embeddings, fusion, [0.9, 0.4, 0.6] if fusion == "weighted" else None),
        uncond=encoder.unconditional(vit_tokens=17)[0],
        arcface=ARCFACE,
        about=PulidAbout(models={"idformer": "random"}, fusion=fusion, photos=3),
    )
    read = load_identity(save_identity(written), "identity")
    attention = PerceiverAttentionCA(dim=20, id_dim=12, heads=2, head_dim=4)
    image = torch.randn(1, 9, 20)
    found, nobody = attention(read.id[None], image), attention(read.uncond[None], image)
    assert found.shape == image.shape
    assert torch.equal(found, attention(written.id[None], image))
    assert not torch.allclose(found, nobody, atol=1e-4)
