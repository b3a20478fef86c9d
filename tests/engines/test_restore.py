"""Each restorer gives what spandrel's network gives when it is called directly, on the same face."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from spandrel import MAIN_REGISTRY
from spandrel.architectures.GFPGAN import GFPGAN
from spandrel_extra_arches import EXTRA_REGISTRY
from spandrel_extra_arches.architectures.CodeFormer import CodeFormer
from torch import Tensor, nn

from shared.contracts.errors import InvalidInput, Permanent
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image
from shared.vision.networks import tiny_esrgan, tiny_restorer
from shared.vision.networks.crop512 import crop512
from shared.vision.networks.image_models import load_image_model
from shared.vision.networks.restorer import Restorer, restorer_key, restorer_resident
from tests.engines.synthetic_antelope import ASTRONAUT_POINTS
from tests.photos import astronaut


def face() -> Image:
    return crop512(astronaut(), np.array(ASTRONAUT_POINTS))


def normalised(crop: Image) -> Tensor:
    return (torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5


def shown(made: Tensor) -> Image:
    levels = ((made[0].clamp(-1, 1) + 1) / 2 * 255).round()
    return np.asarray(levels.permute(1, 2, 0).numpy().astype(np.uint8))


def lively(network: nn.Module) -> nn.Module:
    """Random weights under which much of the picture shows: those that training starts with are 0 in many places."""
    generator = torch.Generator().manual_seed(3)
    for one in network.parameters():
        if not one.any():
            one.data.normal_(0, 0.05, generator=generator)
        one.requires_grad_(False)
    return network.eval()


def gfpgan() -> nn.Module:
    torch.manual_seed(1)
    return lively(GFPGAN())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[nn.Module], Path]]:
    folder = tmp_path_factory.mktemp("restorers")
    written: list[Path] = []

    def save(network: nn.Module) -> Path:
        written.append(tiny_esrgan.save(network, folder / f"{len(written)}.safetensors"))
        return written[-1]

    yield save
    for path in written:
        path.unlink()


def loaded(saved: Callable[[nn.Module], Path], network: nn.Module) -> Restorer:
    return Restorer(load_image_model(saved(network), "face restorer"))


def watched(restorer: Restorer, weight: float) -> tuple[Image, list[tuple[Tensor, dict[str, object], Tensor]]]:
    """The restored face, and what the network was given for it and gave."""
    calls: list[tuple[Tensor, dict[str, object], Tensor]] = []
    hook = restorer.model.network.register_forward_hook(
        lambda _, given, more, made: calls.append((given[0], more, made[0])), with_kwargs=True
    )
    (restored,) = restorer.restore([face()], weight)
    hook.remove()
    return restored, calls


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@torch.inference_mode()
def test_gfpgan_in_full_size_gives_what_spandrel_gives_called_directly(saved: Callable[[nn.Module], Path]) -> None:
    """As its publisher calls it, but with the noise of its file."""
    network = gfpgan()
    restorer = loaded(saved, network)
    restored, [(given, more, made)] = watched(restorer, 0.5)
    assert (restorer.model.architecture, type(restorer.model.network)) == ("GFPGAN", GFPGAN)
    assert same_weights(restorer.model.network, network)
    assert torch.equal(given, normalised(face()))
    assert more == {"return_rgb": False, "randomize_noise": False}
    direct = MAIN_REGISTRY.load(network.state_dict()).model(normalised(face()), return_rgb=False, randomize_noise=False)
    assert torch.equal(made, direct[0])
    assert np.array_equal(restored, shown(direct[0]))
    assert restored.std() > 20


@torch.inference_mode()
def test_codeformer_in_full_size_gives_what_spandrel_gives_called_directly(saved: Callable[[nn.Module], Path]) -> None:
    torch.manual_seed(2)
    network = lively(CodeFormer())
    restorer = loaded(saved, network)
    restored, [(given, more, made)] = watched(restorer, 0.7)
    assert (restorer.model.architecture, type(restorer.model.network)) == ("CodeFormer", CodeFormer)
    assert same_weights(restorer.model.network, network)
    assert torch.equal(given, normalised(face()))
    assert more == {"weight": 0.7}
    direct = EXTRA_REGISTRY["CodeFormer"].architecture.load(network.state_dict())
    assert torch.equal(made, direct.model(normalised(face()), weight=0.7)[0])
    assert np.array_equal(restored, shown(made))
    assert restored.std() > 20


@torch.inference_mode()
def test_restoreformer_gives_what_spandrel_gives_called_directly(saved: Callable[[nn.Module], Path]) -> None:
    """Its descriptor normalises by itself, unlike the others', so that it can be called as it is."""
    network = tiny_restorer.network()
    direct = MAIN_REGISTRY.load(network.state_dict())(torch.from_numpy(face()).permute(2, 0, 1)[None].float() / 255)
    (restored,) = loaded(saved, network).restore([face()], 0.5)
    assert np.abs(restored.astype(int) - (direct[0] * 255).round().permute(1, 2, 0).numpy()).max() <= 1


@torch.inference_mode()
def test_the_successor_looks_back_at_the_finer_scale(saved: Callable[[nn.Module], Path]) -> None:
    restorer = loaded(saved, tiny_restorer.network(plus_plus=True))
    seen: list[tuple[int, ...]] = []
    finer = restorer.model.network.get_submodule("decoder.up.4.attn.0")
    finer.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[1].shape)))
    restored, [(given, _, made)] = watched(restorer, 0.5)
    assert seen == [(1, tiny_restorer.WIDTH, 32, 32)]
    assert torch.equal(given, normalised(face()))
    assert np.array_equal(restored, shown(made))


def test_a_restorer_is_lent_by_the_residency(saved: Callable[[nn.Module], Path]) -> None:
    path, residency = saved(tiny_restorer.network()), Residency(Budget(10**8, 10**8))
    with residency.use(restorer_key(path, "cpu"), lambda: restorer_resident(path, "cpu", name="tiny")) as restorer:
        assert restorer.model.name == "tiny"
        assert residency.on_device() == {restorer_key(path, "cpu")}


def test_a_face_of_another_size_is_refused(saved: Callable[[nn.Module], Path]) -> None:
    restorer = Restorer(load_image_model(saved(tiny_restorer.network()), "face restorer"))
    with pytest.raises(InvalidInput, match=r"crops: a face of shape \(256, 256, 3\)"):
        restorer.restore([face()[::2, ::2]], 0.5)


def test_pixels_that_are_no_numbers_are_an_error_and_no_black_face(saved: Callable[[nn.Module], Path]) -> None:
    network = tiny_restorer.network()
    network.get_parameter("decoder.conv_out.bias").fill_(float("nan"))
    restorer = Restorer(load_image_model(saved(network), "face restorer", name="broken"))
    with pytest.raises(Permanent, match="broken gave pixels that are no numbers"):
        restorer.restore([face()], 0.5)
