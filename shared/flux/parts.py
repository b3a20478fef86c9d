"""Where the files of a FLUX model and of what is added to it lie in the models folder. Nothing here loads a weight."""

from pathlib import Path
from typing import NamedTuple

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.text import EncoderPaths
from shared.models.catalogue import Model, load_models
from shared.models.shelf import Shelf

INDEX = "model_index.json"
"""What makes a folder a model in diffusers' layout."""

ROLE = "transformer"


class Parts(NamedTuple):
    """Where the parts of a model lie; each a folder or a file."""

    transformer: Path
    vae: Path
    encoders: EncoderPaths


def proper_name(model: str) -> str:
    """The name of a model's folder: the catalogue's where this is an alias there, else the same."""
    known = load_models().named(model)
    return model if known is None else known.name


def with_requirements(model: str) -> tuple[str, ...]:
    """The proper names of a model and of those that it cannot be used without."""
    catalogue = load_models()
    known = catalogue.named(model)
    return (model,) if known is None else tuple(one.name for one in catalogue.with_requirements(known.name))


def parts(folder: Path, model: str) -> Parts:
    """Where the parts of a model lie: in a folder in diffusers' layout, or in the single files of the catalogue.

    A transformer that comes alone has what the catalogue says that it requires: single files, or another model in
    diffusers' layout, whose text encoders and autoencoder are then its own.

    Raises:
        InvalidInput: it is no transformer.
        Permanent: a file is missing; says which command brings it.
        IntegrityError: one is cut short.
    """
    catalogue, shelf = load_models(), Shelf(folder)
    known = catalogue.named(model)
    if known is not None and known.role != ROLE:
        raise InvalidInput("model", f"{model} is a {known.role}", "Name a FLUX.1 transformer.")
    wanted = () if known is None else catalogue.with_requirements(known.name)
    for one in wanted:
        shelf.require(one)
    own = folder / proper_name(model)
    if (own / INDEX).is_file():
        return Parts(own, own / "vae", _encoders(own))
    if known is None:
        raise Permanent(
            f"{own / INDEX} is missing. `doctorgen models download {model}` brings the weights of a model in the "
            "catalogue; put one of your own there in diffusers' layout, or name its folder with DOCTORGEN_MODELS_DIR."
        )

    def file(one: Model) -> Path:
        return shelf.path(one, shelf.loaded(one)[0])

    base = next((folder / one.name for one in wanted if (folder / one.name / INDEX).is_file()), None)
    if base is not None:
        return Parts(file(known), base / "vae", _encoders(base))
    tokenizers, clip, t5 = folder / "flux-tokenizers", catalogue.model("clip_l"), catalogue.model("t5xxl_fp16")
    encoders = EncoderPaths(tokenizers / "tokenizer", file(clip), tokenizers / "tokenizer_2", file(t5))
    return Parts(file(known), file(catalogue.model("ae")), encoders)


def adapter_file(folder: Path, name: str) -> Path:
    """The one file of a LoRA adapter: it has its folder's name, or is alone there.

    Raises:
        Permanent: it is missing; says which command brings it. Or there are several of other names.
    """
    own = proper_name(name)
    path = folder / own / f"{own}.safetensors"
    if path.is_file():
        return path
    others = sorted(path.parent.glob("*.safetensors"))
    if len(others) > 1:
        raise Permanent(f"{path.parent} holds {len(others)} files. Call the one that is meant {path.name}.")
    if not others:
        raise Permanent(f"{path} is missing. `doctorgen models download {own}` brings it, if it is in the catalogue.")
    return others[0]


def _encoders(folder: Path) -> EncoderPaths:
    names = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    return EncoderPaths(*(folder / name for name in names))
