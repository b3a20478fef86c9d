"""What a step that paints with FLUX depends on: the same digests whichever stage asks."""

from pathlib import Path

from shared.flux.params import Lora, Sampling
from shared.flux.used import Used, strengths
from shared.models.settings import Speed
from shared.models.shelf import Shelf
from shared.storage.digest import sha256


def write(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "weights.safetensors").write_bytes(name.encode())


def test_models_that_are_there_are_told_with_what_they_require_and_with_adapters(tmp_path: Path) -> None:
    """By proper names, each once; what is missing is left to whoever loads it."""
    for name in ("REAL1SM_V3_FP8", "flux1-dev", "pulid_flux_v0.9.1", "warm"):
        write(tmp_path, name)
    params = Sampling(model="REAL1SM_V3_FP8", loras=(Lora(model="warm"), Lora(model="absent")))
    found = Used(tmp_path, Speed()).models(params, ["pulid_flux_v0.9.1", "flux1-dev", "absent-too"])
    names = ["REAL1SM_V3_FP8", "flux1-dev", "pulid_flux_v0.9.1", "warm"]
    assert found == {name: Shelf(tmp_path).own_digest(name) for name in names}
    assert found["warm"] == sha256(b"warm")


def test_what_was_replaced_is_told_as_what_it_is(tmp_path: Path) -> None:
    """A worker lives for days; its results would be filed under weights that it does not paint with."""
    write(tmp_path, "warm")
    used, params = Used(tmp_path, Speed()), Sampling(loras=(Lora(model="warm"),))
    assert used.models(params) == {"warm": sha256(b"warm")}
    (tmp_path / "new").write_bytes(b"cold")
    (tmp_path / "new").replace(tmp_path / "warm/weights.safetensors")
    assert used.models(params) == {"warm": sha256(b"cold")}


def test_settings_that_change_pictures_are_told(tmp_path: Path) -> None:
    speed = Speed(fused_qkv=True)
    assert Used(tmp_path, speed).models(Sampling()) == {"flux1-dev/settings": sha256(speed.identity().encode())}
    assert Used(tmp_path, Speed(group_offload=True)).models(Sampling()) == {}


def test_an_adapter_that_is_named_twice_acts_as_strongly_as_both() -> None:
    params = Sampling(loras=(Lora(model="one", strength=0.5), Lora(model="two"), Lora(model="one", strength=0.25)))
    assert strengths(params) == {"one": 0.75, "two": 1.0}
