"""Restorers and upscalers are read whole, from safetensors only, and only for what they were made for."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from spandrel import ModelLoader
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.residents import bytes_of
from shared.models.residency import Budget, Residency
from shared.vision.networks import image_models, tiny_esrgan, tiny_restorer
from shared.vision.networks.image_models import (
    image_model_key,
    image_model_resident,
    load_image_model,
    precision,
    stored_bytes,
)

AS_PUBLISHED = (
    (r"^model\.0\.", "conv_first."),
    (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"^model\.1\.sub\.1\.", "conv_body."),
    (r"^model\.3\.", "conv_up1."),
    (r"^model\.6\.", "conv_up2."),
    (r"^model\.8\.", "conv_hr."),
    (r"^model\.10\.", "conv_last."),
)
"""Of a network of one block that enlarges four times: Real-ESRGAN's names for ESRGAN's tensors."""


def real_esrgan(folder: Path) -> dict[str, torch.Tensor]:
    """Real-ESRGAN's tensors of the tiny network."""
    renamed = {}
    for name, tensor in load_file(tiny_esrgan.write(folder)).items():
        for old, new in AS_PUBLISHED:
            name = re.sub(old, new, name)  # noqa: PLW2901
        renamed[name] = tensor
    return renamed


def saved(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    save_file(tensors, path)
    return path


def pixels(side: int = 24) -> torch.Tensor:
    return torch.rand((1, 3, side, side), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("scale", "unshuffle"), [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (1, 4)])
def test_an_upscaler_gives_what_spandrel_gives_called_directly(tmp_path: Path, scale: int, unshuffle: int) -> None:
    path = tiny_esrgan.write(tmp_path, scale, unshuffle)
    model = load_image_model(path, "upscaler")
    assert (model.architecture, model.scale) == ("ESRGAN", scale)
    with torch.inference_mode():
        expected = ModelLoader().load_from_file(path)(pixels())
        assert torch.equal(model.network(pixels()).clamp(0, 1), expected)


def test_the_other_published_names_of_the_same_tensors_give_the_same_network(tmp_path: Path) -> None:
    old = load_image_model(tiny_esrgan.write(tmp_path), "upscaler")
    new = load_image_model(saved(real_esrgan(tmp_path), tmp_path / "real.safetensors"), "upscaler")
    with torch.inference_mode():
        assert torch.equal(old.network(pixels()), new.network(pixels()))


def test_the_compact_kind_of_real_esrgan_is_taken(tmp_path: Path) -> None:
    path = saved(Compact(num_feat=4, num_conv=1, upscale=4).state_dict(), tmp_path / "general.safetensors")
    model = load_image_model(path, "upscaler")
    assert (model.architecture, model.scale) == ("Compact", 4)


def test_weights_stored_in_half_precision_are_widened(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in load_file(tiny_esrgan.write(tmp_path)).items()}
    model = load_image_model(saved(halves, tmp_path / "half.safetensors"), "upscaler")
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert not any(one.requires_grad for one in model.parameters())
    assert not model.network.training


def test_restoreformer_is_told_from_its_successor_by_its_tensors(tmp_path: Path) -> None:
    first = load_image_model(tiny_restorer.write(tmp_path), "face restorer")
    second = tiny_esrgan.save(tiny_restorer.network(plus_plus=True), tmp_path / "other.safetensors")
    assert first.architecture == "RestoreFormer"
    assert load_image_model(second, "face restorer").architecture == "RestoreFormer++"


def test_a_checkpoints_prefix_and_its_losses_are_left_out(tmp_path: Path) -> None:
    tensors = tiny_restorer.network(plus_plus=True).state_dict()
    whole = {f"vqvae.{name}": tensor for name, tensor in tensors.items()} | {"loss.logvar": torch.zeros(1)}
    model = load_image_model(saved(whole, tmp_path / "RestoreFormer++.safetensors"), "face restorer")
    assert model.network.state_dict().keys() == tensors.keys()


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "4x-UltraSharp" / "4x-UltraSharp.pth"
    path.parent.mkdir()
    path.write_bytes(b"not even a pickle")
    with pytest.raises(Permanent, match="`doctorgen models convert 4x-UltraSharp`"):
        load_image_model(path, "upscaler")


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tiny_esrgan.write(tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(Permanent, match="cannot be read"):
        load_image_model(path, "upscaler")


def test_an_unknown_architecture_is_named_by_its_tensors(tmp_path: Path) -> None:
    path = saved({"transformer.wte.weight": torch.zeros(2, 2)}, tmp_path / "words.safetensors")
    with pytest.raises(Permanent, match=r"no network that is known here: its tensors are transformer\.wte\.weight"):
        load_image_model(path, "upscaler")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    tensors = load_file(tiny_esrgan.write(tmp_path))
    del tensors["model.6.bias"]
    with pytest.raises(Permanent, match=r"Missing key.*model\.6\.bias"):
        load_image_model(saved(tensors, tmp_path / "less.safetensors"), "upscaler")


def test_a_tensor_without_which_the_size_cannot_be_told_is_named(tmp_path: Path) -> None:
    tensors = load_file(tiny_restorer.write(tmp_path))
    del tensors["encoder.down.3.block.0.conv2.weight"]
    with pytest.raises(Permanent, match=r"encoder\.down\.3\.block\.0\.conv2\.weight"):
        load_image_model(saved(tensors, tmp_path / "less.safetensors"), "face restorer")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    tensors = load_file(tiny_esrgan.write(tmp_path))
    tensors["model.8.bias"] = torch.zeros(5)
    with pytest.raises(Permanent, match=r"size mismatch for model\.8\.bias"):
        load_image_model(saved(tensors, tmp_path / "odd.safetensors"), "upscaler")


def test_a_tensor_too_many_is_named_where_the_library_minds_it(tmp_path: Path) -> None:
    tensors = load_file(tiny_esrgan.write(tmp_path)) | {"head.weight": torch.zeros(3)}
    with pytest.raises(Permanent, match=r"Unexpected key.*head\.weight"):
        load_image_model(saved(tensors, tmp_path / "more.safetensors"), "upscaler")


def test_a_tensor_too_many_is_named_where_the_library_lets_go_of_it(tmp_path: Path) -> None:
    tensors = real_esrgan(tmp_path) | {"attention.weight": torch.ones(3)}
    with pytest.raises(Permanent, match=r"1 tensors more than ESRGAN has, among them attention\.weight"):
        load_image_model(saved(tensors, tmp_path / "more.safetensors"), "upscaler")


def test_a_restorer_is_no_upscaler_and_an_upscaler_no_restorer(tmp_path: Path) -> None:
    restorer, upscaler = tiny_restorer.write(tmp_path / "r"), tiny_esrgan.write(tmp_path / "u")
    with pytest.raises(InvalidInput, match=r"is a face restorer \(RestoreFormer\)\. Name an upscaler\.") as found:
        load_image_model(restorer, "upscaler", field="upscaler")
    assert found.value.field == "upscaler"
    with pytest.raises(InvalidInput, match=r"is an upscaler \(ESRGAN\)\. Name a face restorer\."):
        load_image_model(upscaler, "face restorer")


def test_a_network_for_grey_pictures_is_refused(tmp_path: Path) -> None:
    grey = ESRGAN(in_nc=1, out_nc=1, num_filters=4, num_blocks=1)
    with pytest.raises(Permanent, match="not made for pictures in colour"):
        load_image_model(tiny_esrgan.save(grey, tmp_path / "grey.safetensors"), "upscaler")


def test_codeformer_says_what_it_needs_where_its_code_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_models, "find_spec", lambda _: None)
    path = saved({name: torch.zeros(1) for name in image_models.CODEFORMER}, tmp_path / "codeformer.safetensors")
    with pytest.raises(Permanent, match="install spandrel_extra_arches"):
        load_image_model(path, "face restorer")


def test_only_upscalers_on_a_gpu_compute_in_half_precision() -> None:
    assert precision("upscaler", "cuda:1") == torch.float16
    assert precision("upscaler", "cpu") == precision("face restorer", "cuda") == torch.float32


def test_a_residency_lends_one_network_to_all_who_ask(tmp_path: Path) -> None:
    path, residency = tiny_esrgan.write(tmp_path), Residency(Budget(10**8, 10**8))
    key = image_model_key(path, "upscaler", "cpu")
    for _ in range(2):
        with residency.use(key, lambda: image_model_resident(path, "upscaler", "cpu")) as model:
            assert bytes_of(model) == stored_bytes(path, torch.float32)
    assert residency.figures().loads == 1


def test_the_tiny_networks_are_the_same_each_time_they_are_written(tmp_path: Path) -> None:
    for tiny in (tiny_esrgan, tiny_restorer):
        once, again = tiny.write(tmp_path / "1"), tiny.write(tmp_path / "2")
        assert once.read_bytes() == again.read_bytes()
        assert once.stat().st_size < 2_500_000
