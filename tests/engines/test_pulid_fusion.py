"""Several photos' identity embeddings become one: the formulas, their bounds, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shared.contracts.errors import InvalidInput
from shared.flux.pulid.fusion import Fusion, fuse

FUSIONS: tuple[Fusion, ...] = ("weighted", "mean", "concat", "norm_id", "max_token")


def _photos(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 6, generator=torch.Generator().manual_seed(seed))


def _qualities(fusion: Fusion, count: int) -> list[float] | None:
    return [0.5] * count if fusion == "weighted" else None


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_photo_stays_as_it_is(fusion: Fusion) -> None:
    one = _photos(1)
    torch.testing.assert_close(fuse(one, fusion, _qualities(fusion, 1)), one[0])


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shape_and_dtype(fusion: Fusion, dtype: torch.dtype) -> None:
    """32 tokens stay 32, but for concat, which keeps them all."""
    fused = fuse(torch.ones(3, 32, 2048, dtype=dtype), fusion, _qualities(fusion, 3))
    assert fused.shape == (96 if fusion == "concat" else 32, 2048)
    assert fused.dtype == dtype


def test_mean_is_the_arithmetic_mean() -> None:
    photos = _photos(3)
    torch.testing.assert_close(fuse(photos, "mean"), (photos[0] + photos[1] + photos[2]) / 3)


def test_concat_puts_the_photos_one_behind_the_other() -> None:
    photos = _photos(2)
    assert torch.equal(fuse(photos, "concat"), torch.cat((photos[0], photos[1])))


def test_weighted_is_the_default_and_counts_a_photo_by_its_quality() -> None:
    photos = _photos(2)
    torch.testing.assert_close(fuse(photos, qualities=[0.9, 0.3]), 0.75 * photos[0] + 0.25 * photos[1])


def test_a_photo_of_quality_zero_says_nothing() -> None:
    photos = _photos(2)
    torch.testing.assert_close(fuse(photos, "weighted", [0.0, 0.7]), photos[1])


def test_norm_id_weighs_by_the_frobenius_norm() -> None:
    photos = torch.stack((torch.full((4, 6), 3.0), torch.full((4, 6), 1.0)))
    torch.testing.assert_close(fuse(photos, "norm_id"), torch.full((4, 6), 0.75 * 3.0 + 0.25 * 1.0))


def test_max_token_takes_each_slot_from_the_photo_where_it_is_longest() -> None:
    photos = torch.zeros(3, 2, 2)
    photos[0, 0] = torch.tensor([3.0, 4.0])  # length 5
    photos[1, 0] = torch.tensor([4.9, 0.0])
    photos[2, 1] = torch.tensor([-1.0, 0.0])
    assert torch.equal(fuse(photos, "max_token"), torch.tensor([[3.0, 4.0], [-1.0, 0.0]]))


@given(count=st.integers(2, 5), seed=st.integers(0, 2**16), quality=st.lists(st.floats(0.01, 1.0), min_size=5))
def test_averages_never_leave_the_range_of_the_photos(count: int, seed: int, quality: list[float]) -> None:
    photos = _photos(count, seed)
    for fused in (fuse(photos, "mean"), fuse(photos, "norm_id"), fuse(photos, "weighted", quality[:count])):
        assert (fused <= photos.amax(dim=0) + 1e-5).all()
        assert (fused >= photos.amin(dim=0) - 1e-5).all()


@pytest.mark.parametrize("fusion", ["weighted", "mean", "norm_id", "max_token"])
def test_the_order_of_the_photos_does_not_matter(fusion: Fusion) -> None:
    photos = _photos(3)
    qualities = [0.2, 0.9, 0.4] if fusion == "weighted" else None
    turned = qualities[::-1] if qualities else None
    torch.testing.assert_close(fuse(photos.flip(0), fusion, turned), fuse(photos, fusion, qualities))


@pytest.mark.parametrize("shape", [(32, 2048), (1, 2, 32, 2048), (0, 32, 2048)])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_wrong_shape_is_refused_with_what_was_found(shape: tuple[int, ...], fusion: Fusion) -> None:
    with pytest.raises(InvalidInput, match=r"embeddings: shape \["):
        fuse(torch.zeros(shape), fusion)


@pytest.mark.parametrize("qualities", [None, [], [1.0], [1.0, 1.0, 1.0], [0.0, 0.0], [-0.1, 1.0], [float("nan"), 1.0]])
def test_qualities_that_weigh_nothing_are_refused(qualities: list[float] | None) -> None:
    with pytest.raises(InvalidInput, match="qualities"):
        fuse(_photos(2), "weighted", qualities)


def test_qualities_are_refused_where_they_would_be_ignored() -> None:
    with pytest.raises(InvalidInput, match="given to mean"):
        fuse(_photos(2), "mean", [1.0, 1.0])


def test_embeddings_of_nothing_have_no_norm_to_weigh_by() -> None:
    with pytest.raises(InvalidInput, match="all of them zero"):
        fuse(torch.zeros(2, 4, 6), "norm_id")


def test_an_unknown_fusion_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="max_token"):
        fuse(_photos(2), "median")  # type: ignore[arg-type]
