"""Published ControlNets: which kinds of drawing they know, where they lie, and that nothing in a file is guessed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel
from safetensors.torch import load_file, save_file

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux import tiny
from shared.flux.control_models import control_path, control_resident, load_control, mode_for
from shared.models.residency import Budget, Residency
from tests.engines.flux_controlnets import ROPE, UNION_PRO_2, controlnet, union, xlabs

UNION_PRO_2_BYTES = 4281779224


def modes(model: str, net: Any, *kinds: str) -> list[int | None]:
    return [mode_for(model, kind, net) for kind in kinds]


def test_a_model_says_which_kinds_it_was_trained_for() -> None:
    kinds = ("canny", "scribble", "depth", "openpose")
    assert modes("my-union", union(), *kinds) == [0, 0, 2, 4]
    assert modes(UNION_PRO_2, controlnet(), *kinds) == [None, None, None, None]
    assert modes("my-own", controlnet(), *kinds, "seg") == [None] * 5
    for model, net in ((UNION_PRO_2, controlnet()), ("my-union", union())):
        with pytest.raises(InvalidInput, match=r"not trained for 'seg', it knows canny, .*openpose"):
            mode_for(model, "seg", net)
    with pytest.raises(InvalidInput, match="it knows canny, scribble"):
        mode_for("my-union", "depth", controlnet(num_mode=2))


NETS = pytest.mark.parametrize(
    "make",
    [controlnet, lambda: controlnet(double=3, single=0, guidance_embeds=False), union, xlabs],
    ids=["guided", "not guided", "union with modes", "xlabs"],
)


@NETS
def test_a_folder_a_bare_folder_and_a_file_give_the_same_model(make: Any, tmp_path: Path) -> None:
    """Without a config the architecture is read off the tensors."""
    net = make()
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    loaded = [load_control(tmp_path, torch.float32)]
    (tmp_path / "config.json").unlink()
    loaded.append(load_control(tmp_path, torch.float32, rope=ROPE))
    loaded.append(load_control(tmp_path / "diffusion_pytorch_model.safetensors", torch.float32, rope=ROPE))
    for one in loaded:
        assert {name: one.config[name] for name in config if not name.startswith("_")} == {
            name: tuple(value) if isinstance(one.config[name], tuple) else value
            for name, value in config.items() if not name.startswith("_")
        }  # fmt: skip
        assert all(torch.equal(one.state_dict()[name], value) for name, value in net.state_dict().items())
        assert not any(weight.requires_grad for weight in one.parameters())
        assert not one.training


def test_the_published_file_is_of_the_size_that_this_architecture_has() -> None:
    """Union-Pro 2.0: six double-stream blocks, none of the other kind, and it is told the guidance."""
    with torch.device("meta"):
        net = FluxControlNetModel(num_layers=6, num_single_layers=0, guidance_embeds=True)
    tensors = sum(2 * weight.numel() for weight in net.state_dict().values())
    assert 0 < UNION_PRO_2_BYTES - tensors < 30_000, "the rest is the file's header"


def changed(folder: Path, change: Any) -> Path:
    """The file, with its tensors changed."""
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("controlnet_blocks.0.bias"), "1 tensors are missing: controlnet_blocks.0.bias"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "1 tensors are not expected: more"),
        (
            lambda tensors: tensors.update({"controlnet_blocks.0.bias": torch.zeros(3)}),
            r"1 of another shape: controlnet_blocks.0.bias \[3\] for \[32\]",
        ),
    ],
    ids=["missing", "unexpected", "misshapen"],
)  # fmt: skip
def test_a_file_is_read_only_if_every_tensor_is_there_and_none_besides(change: Any, said: str, tmp_path: Path) -> None:
    controlnet().save_pretrained(tmp_path)
    with pytest.raises(Permanent, match=said):
        load_control(changed(tmp_path, change), torch.float32)
    (tmp_path / "config.json").unlink()
    with pytest.raises(Permanent, match=said):
        load_control(tmp_path, torch.float32, rope=ROPE)


def test_what_is_no_controlnet_is_refused(tmp_path: Path) -> None:
    tiny.transformer().save_pretrained(tmp_path / "transformer")
    with pytest.raises(Permanent, match="holds a FluxTransformer2DModel, not a FluxControlNetModel"):
        load_control(tmp_path / "transformer", torch.float32)
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(Permanent, match=r"tensors are missing: .*x_embedder\.weight"):
        load_control(tmp_path / "other.safetensors", torch.float32)
    controlnet().save_pretrained(tmp_path / "small")
    with pytest.raises(Permanent, match=r"heads of 16 channels, FLUX\.1 has 128"):
        load_control(tmp_path / "small" / "diffusion_pytorch_model.safetensors", torch.float32)


def test_it_is_found_in_the_models_folder_by_its_name(tmp_path: Path) -> None:
    """A folder in diffusers' layout, or a file alone in it; what is missing or something else is said."""
    controlnet().save_pretrained(tmp_path / "mine")
    assert control_path(tmp_path, "mine") == tmp_path / "mine"
    (tmp_path / "mine" / "config.json").unlink()
    file = control_path(tmp_path, "mine")
    assert file == tmp_path / "mine" / "diffusion_pytorch_model.safetensors"
    assert load_control(file, torch.float32, rope=ROPE).config.num_layers == 1
    with pytest.raises(Permanent, match=f"doctorgen models download {UNION_PRO_2}"):
        control_path(tmp_path, UNION_PRO_2)
    with pytest.raises(Permanent, match=r"other\.safetensors is missing"):
        control_path(tmp_path, "other")
    with pytest.raises(InvalidInput, match="flux1-dev is a transformer"):
        control_path(tmp_path, "flux1-dev")


def test_the_residency_keeps_it(tmp_path: Path) -> None:
    """It takes what was said of it, in the precision that it is loaded in."""
    controlnet().save_pretrained(tmp_path / "my-control-2.0")
    residency = Residency(Budget(device_bytes=10**7, host_bytes=10**7))
    resident = control_resident(tmp_path / "my-control-2.0", torch.bfloat16, "cpu")
    assert resident.name == "ControlNet my-control-2.0"
    with residency.use("control", lambda: resident) as net:
        assert net.dtype == torch.bfloat16
        assert resident.bytes == sum(weight.numel() * 2 for weight in net.parameters())
