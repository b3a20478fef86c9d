"""`doctorgen models …` as a user types it, on a machine without network."""

import json
import os
import sys
from pathlib import Path

import pytest

from doctor_image_gen.cli import models
from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.settings import Settings
from shared.models.catalogue import load_models
from shared.models.lock import read_pins
from shared.models.needs import needs, planned
from shared.models.settings import models_folder
from tests.unit.typed import Type

CATALOGUE = load_models()
PORTRAIT = list(needs(CATALOGUE, planned(find_recipe(None, "portrait"), "flux")).models)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "models"


def fill(folder: Path) -> None:
    """All that the portrait needs, as sparse files of the right sizes: they take no room."""
    for model in PORTRAIT:
        for file in model.files:
            path = folder / model.name / file.path.replace("*", "all.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as empty:
                os.truncate(empty.fileno(), file.size)
        for name in model.gives:
            (folder / model.name / name).write_bytes(b"converted")


def test_an_empty_machine_is_told_what_a_recipe_needs(type_in: Type) -> None:
    said = type_in("models", "check", "portrait")
    assert said.status == 1
    for model in PORTRAIT:
        (line,) = [line for line in said.out.splitlines() if line.startswith(f"│ {model.name} ")]
        assert model.role in line
        assert model.licence in line
        assert "missing" in line
    assert f"0 of {len(PORTRAIT)} models are there; to download: ≈ 49.64 GB" in said.out
    assert "doctorgen models download pulid_flux_v0.9.1 " in said.out
    assert "doctorgen models convert EVA02-CLIP-L-336 " in said.out
    assert "HF_TOKEN" in said.out


def test_the_same_for_machines(type_in: Type) -> None:
    said = type_in("models", "check", "portrait", "--json")
    assert said.status == 1
    document = json.loads(said.out)
    assert document["engine"] == "flux"
    assert document["ready"] is False
    assert document["missing_bytes"] == sum(model.size for model in PORTRAIT)
    (flux,) = [row for row in document["models"] if row["name"] == "flux1-dev"]
    assert flux["commercial"] is False
    assert flux["steps"] == ["generate", "hands", "face_detail", "refine"]


def test_a_machine_that_has_all_is_told_so(type_in: Type, folder: Path) -> None:
    fill(folder)
    said = type_in("models", "check", "portrait")
    assert (said.status, said.out) == (0, f"portrait with engine flux: all {len(PORTRAIT)} models are there\n")
    assert json.loads(type_in("models", "check", "portrait", "--json").out)["ready"] is True


def test_what_is_there_but_not_converted_is_not_downloaded_again(type_in: Type, folder: Path) -> None:
    fill(folder)
    (folder / "codeformer-v0.1.0" / "codeformer.safetensors").unlink()
    said = type_in("models", "check", "portrait")
    assert said.status == 1
    assert "to download: 0.0 MB" in said.out
    assert "models download" not in said.out
    assert "doctorgen models convert codeformer-v0.1.0\n" in said.out


def test_the_portable_engine_needs_nothing(type_in: Type) -> None:
    said = type_in("models", "check", "portrait", "--engine", "portable")
    assert (said.status, said.out) == (0, "portrait with engine portable: no models are needed\n")


def test_a_recipe_whose_steps_name_their_engines_needs_none_named(type_in: Type) -> None:
    """And whoever lacks the models of random numbers is told which command makes them."""
    said = type_in("models", "check", "rehearsal")
    assert said.status == 1
    assert "rehearsal with the engines that its steps name: 0 of 10 models are there; to download: " in said.out
    assert "│ tiny-flux " in said.out
    assert "│ tiny-pulid " in said.out
    assert said.out.endswith("doctorgen models tiny\n")


def test_without_the_libraries_making_models_says_what_to_install(
    type_in: Type, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with the portable engines alone."""
    monkeypatch.setattr(models, "TINY", {"tiny-flux": "nowhere_installed.tiny"})
    said = type_in("models", "tiny")
    assert said.status != 0
    assert "nowhere_installed is not installed" in said.err
    assert "requirements-gpu.txt" in said.err
    assert not (folder / "tiny-flux").exists()


def written(folder: Path) -> None:
    """A stand-in for what makes tiny-pulid: it takes torch seconds to be imported."""
    (folder / "antelopev2").mkdir(parents=True, exist_ok=True)
    for file in ("identity_index.json", "pulid.safetensors", "eva_clip.safetensors", "face_parsing.safetensors"):
        (folder / file).write_bytes(bytes(800_000))
    (folder / "antelopev2" / "glintr100.onnx").write_bytes(bytes(1_300_000))


def test_models_of_random_numbers_are_pinned_and_may_be_made_anew(
    type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of the user's choice, with the command that tries them there, on a CPU where there is no GPU."""
    monkeypatch.setattr(models, "torch_facts", lambda: None)
    monkeypatch.delenv("DOCTORGEN_DEVICE", raising=False)
    monkeypatch.setattr(models, "TINY", {"tiny-pulid": f"{__name__}:write"})
    monkeypatch.setattr(sys.modules[__name__], "write", written, raising=False)
    own = tmp_path / "my weights"
    assert type_in("models", "tiny", str(own)).status == 0
    (own / "tiny-pulid" / "pulid.safetensors").write_bytes(bytes(900_000))
    said = type_in("models", "tiny", str(own))
    assert said.status == 0
    assert f"tiny-pulid: 4.5 MB in {own / 'tiny-pulid'}\n" in said.out
    assert "random numbers" in said.out
    assert f"DOCTORGEN_MODELS_DIR='{own}' DOCTORGEN_DEVICE=cpu doctorgen generate --recipe rehearsal " in said.out
    assert read_pins(own)["tiny-pulid"]["pulid.safetensors"].size == 800_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "rehersal"], "recipe: there is no recipe 'rehersal'. Did you mean rehearsal?"),
        (
            ["check", "portrait", "--engine", "fluxx"],
            "--engine: the recipe 'portrait' has no parameters for an engine 'fluxx'. Did you mean flux?",
        ),
        (
            ["download", "ultrasharp"],
            "model: there is no model 'ultrasharp'. Did you mean 4x-UltraSharp? `doctorgen models list` lists them.",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(type_in: Type, words: list[str], message: str) -> None:
    said = type_in("models", *words)
    assert (said.status, said.err) == (2, f"doctorgen: {message}\n")


def test_what_must_be_downloaded_by_hand_is_explained_before_anything_is_fetched(type_in: Type) -> None:
    said = type_in("models", "download", "flux1-dev", "REAL1SM_V3_FP8")
    assert said.status == 2
    assert "Civitai" in said.err
    assert "doctorgen models verify REAL1SM_V3_FP8" in said.err


def test_every_weight_is_listed(type_in: Type) -> None:
    said = type_in("models", "list")
    assert said.status == 0
    assert all(f"│ {name} " in said.out for name in CATALOGUE)
    rows = json.loads(type_in("models", "list", "--json").out)
    assert [row["name"] for row in rows] == list(CATALOGUE)
    assert {row["state"] for row in rows} == {"missing"}


def test_verifying_pins_and_then_notices_a_change(type_in: Type, folder: Path) -> None:
    assert type_in("models", "verify").out == f"there are no models in {folder} yet\n"
    path = folder / "flux-tokenizers" / "tokenizer" / "vocab.json"
    for one in (path, folder / "flux-tokenizers" / "tokenizer_2" / "spiece.model"):
        one.parent.mkdir(parents=True)
        one.write_bytes(b"words")
    assert type_in("models", "verify").out == "flux-tokenizers: ready\n"
    path.write_bytes(b"sword")
    said = type_in("models", "verify", "flux-tokenizers")
    assert said.status == 1
    assert f"{path} is wrong: expected SHA-256 " in said.err
    assert "`doctorgen models download flux-tokenizers` mends it." in said.err


def test_where_names_the_folder_and_each_file(
    type_in: Type, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type_in("models", "where").out == f"{folder}\n"
    files = type_in("models", "where", "codeformer").out.split()
    assert files == [str(folder / "codeformer-v0.1.0" / f"codeformer.{ending}") for ending in ("pth", "safetensors")]
    monkeypatch.setenv("DOCTORGEN_MODELS_DIR", str(tmp_path / "weights"))
    assert type_in("models", "where").out == f"{tmp_path / 'weights'}\n"


def test_engines_and_commands_look_into_the_same_folder(
    type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is the environment that names it or the settings file."""
    assert models_folder() == Settings.load().models_folder == tmp_path / "data" / "models"
    Path("doctorgen.yaml").write_text(f"models_dir: {tmp_path / 'weights'}\nuser_folder: null\n")
    assert models_folder() == Settings.load().models_folder == tmp_path / "weights"


def test_a_recipe_one_of_whose_steps_names_its_engine_is_checked_with_that_of_the_others(type_in: Type) -> None:
    """The step's own engine is no choice: it is used whichever engine does the rest."""
    said = type_in("models", "check", "portrait-klein")
    assert said.status == 1
    assert "portrait-klein with engine flux: 0 of " in said.out
    assert "│ flux2-klein-4b " in said.out
    assert type_in("models", "plan", "portrait-klein", "--vram", "80", "--ram", "128").status == 0


def test_models_that_a_command_makes_are_told_with_that_command_alone(type_in: Type) -> None:
    """They can be downloaded nowhere, and nobody has to put them anywhere."""
    assert type_in("models", "check", "rehearsal").out.endswith("; to download: 0.0 MB\n  doctorgen models tiny\n")
    assert (
        type_in("models", "verify", "tiny-pulid")
        .err.splitlines()[0]
        .endswith("identity_index.json is missing. `doctorgen models tiny` brings it.")
    )
    said = type_in("models", "download", "tiny-flux")
    assert (said.status, said.err) == (
        2,
        "doctorgen: tiny-flux: it is nowhere to be downloaded. `doctorgen models tiny` makes it.\n",
    )


def test_a_model_that_a_parameter_has_by_default_is_needed_too(type_in: Type) -> None:
    """The pose's control names no ControlNet, and has one all the same: without its weights the job would die."""
    said = type_in("models", "check", "portrait-posed")
    assert "│ flux-controlnet-union-pro-2.0 " in said.out
    assert "0 of 14 models are there; to download: ≈ 53.92 GB" in said.out


@pytest.mark.parametrize("words", [["check", "portrait-klein"], ["plan", "portrait-klein", "--vram", "80"]])
def test_an_engine_that_one_step_alone_has_cannot_do_the_others(type_in: Type, words: list[str]) -> None:
    said = type_in("models", *words, "--engine", "klein")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("doctorgen: --engine: step 'identity', identity.encode, has no engine 'klein'. It has: ")
