"""What a step borrows of the Residency, by the catalogue's sizes: nothing is read, and no torch is imported.

Engines know the sizes of what they borrow from the files' headers. This knows them before any file is there.
"""

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, NonNegativeInt

from shared.models.catalogue import Model, ModelCatalogue
from shared.models.memory import Footprint
from shared.models.needs import NEEDS_NONE, Step, needs
from shared.models.settings import Fp8

FLUX_1: Final = Footprint(
    weights=23_802_816_640, largest_block=679_662_592, largest_layer=113_283_072, outside_blocks=128_249_984
)
"""FLUX.1's transformer in bf16, with its guidance embedding. Whatever its file holds, it is widened to that."""

PULID_ATTENTIONS_BYTES: Final = 839_270_400
"""Of PuLID's weights what sits in the transformer, in bf16; the rest encodes photos."""

FP8_SAVES: Final[dict[Fp8, int]] = {"weights": 11_822_088_192, "weights_and_activations": 8_598_773_760}
"""What the setting `flux.fp8` takes off FLUX_1 once it is on the device: a byte a weight, less a scale a row."""

SMALL_BYTES: Final = 1_000_000_000
"""A transformer below is none of FLUX.1's size: it is for trying an installation."""

TRANSFORMER, IDENTITY, CONTROLNET = "transformer", "identity adapter", "ControlNet"
TEXT_ENCODERS, AUTOENCODER = ("text encoder", "pooled text encoder"), "autoencoder"


Own = Literal["prompt", "negative_prompt"]
"""What every job has words of its own for, which all its steps paint with."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Words(_Data):
    """The text encoders, given back once the words are read; not borrowed for words that the process remembers."""

    name: str
    bytes: NonNegativeInt
    fixed: frozenset[str] = frozenset()
    """Words that a recipe states, the same in every job."""
    own: frozenset[Own] = frozenset({"prompt"})
    """Words that are each job's own."""


class Painting(_Data):
    """A transformer with an identity's modules in it and its autoencoder: one resident, whatever the identity."""

    model: str
    identity_model: str | None
    need: Footprint
    beside: NonNegativeInt
    """Its autoencoder."""
    attentions: NonNegativeInt = 0
    """The identity's modules, which are put into the transformer when it is there already."""
    fp8_saves: NonNegativeInt = 0

    @property
    def name(self) -> str:
        """As people call it."""
        return self.model if self.identity_model is None else f"{self.model} with {self.identity_model}"


class Whole(_Data):
    """Any other model."""

    name: str
    bytes: NonNegativeInt


class Borrowing(_Data):
    """All that a step borrows, in this order."""

    alone: tuple[Whole, ...] = ()
    """Given back before anything else is borrowed: a detector."""
    words: Words | None = None
    held: tuple[Whole, ...] = ()
    """All at once, and with what is painted with."""
    painting: Painting | None = None


def borrowing(
    catalogue: ModelCatalogue, step: Step, identity_model: str | None = None, fp8: Fp8 | None = None
) -> Borrowing:
    """What a step borrows where it computes in bf16.

    Args:
        catalogue: says the sizes. What it does not know is left out.
        step: with its engine and parameters.
        identity_model: that holds the step's faces, if it is given an identity that such a model can read.
        fp8: the setting of that name.
    """
    if step.engine == NEEDS_NONE:
        return Borrowing()
    found = tuple(needs(catalogue, [step]).models)
    painted = next((model for model in found if model.role == TRANSFORMER), None)
    if painted is None:
        return Borrowing(held=tuple(Whole(name=model.name, bytes=_encoding(model)) for model in found))
    its_own = catalogue.with_requirements(painted.name)
    of_identity = [model for one in found if one.role == IDENTITY for model in catalogue.with_requirements(one.name)]
    others = [model for model in found if model not in its_own and model not in of_identity]
    identity = None if identity_model is None else catalogue.named(identity_model)
    return Borrowing(
        words=_words(its_own, step.params),
        alone=tuple(_whole(model) for model in others if model.role != CONTROLNET),
        held=tuple(_whole(model) for model in others if model.role == CONTROLNET),
        painting=Painting(
            model=painted.name,
            identity_model=None if identity is None else identity.name,
            need=_footprint(painted),
            beside=_autoencoder_bytes(its_own),
            attentions=0 if identity is None else _attentions(identity),
            fp8_saves=0 if fp8 is None or painted.size < SMALL_BYTES else FP8_SAVES[fp8],
        ),
    )


def _whole(model: Model) -> Whole:
    return Whole(name=model.name, bytes=model.memory_bytes)


def _footprint(model: Model) -> Footprint:
    if model.size >= SMALL_BYTES:
        return FLUX_1
    size = _folder(model, "transformer") or model.memory_bytes
    return Footprint(weights=size, largest_block=size, largest_layer=size, outside_blocks=0)


def _base(its_own: tuple[Model, ...]) -> Model:
    """Whose text encoders they are: a model in diffusers' layout, else the encoder itself."""
    folders = (model for model in its_own if _folder(model, "text_encoder_2"))
    return next(folders, next((model for model in its_own if model.role == TEXT_ENCODERS[0]), its_own[0]))


def _words(its_own: tuple[Model, ...], params: Mapping[str, JsonValue]) -> Words:
    """What is read where `prompt` and `negative_prompt` are the job's unless the recipe states them."""
    asked: tuple[Own, ...] = ("prompt", "negative_prompt") if params.get("cfg", 1.0) != 1.0 else ("prompt",)
    return Words(
        name=f"text encoders of {_base(its_own).name}",
        bytes=_words_bytes(its_own),
        fixed=frozenset(f"{params[one]}" for one in asked if one in params),
        own=frozenset(one for one in asked if one not in params),
    )


def _words_bytes(its_own: tuple[Model, ...]) -> int:
    base = _base(its_own)
    in_folder = _folder(base, "text_encoder") + _folder(base, "text_encoder_2")
    return in_folder or sum(model.memory_bytes for model in its_own if model.role in TEXT_ENCODERS)


def _autoencoder_bytes(its_own: tuple[Model, ...]) -> int:
    in_folders = max(_folder(model, "vae") for model in its_own)
    return in_folders or sum(model.memory_bytes for model in its_own if model.role == AUTOENCODER)


def _attentions(identity: Model) -> int:
    return min(PULID_ATTENTIONS_BYTES, identity.memory_bytes)


def _encoding(model: Model) -> int:
    """What a step without a transformer holds of a model: of PuLID what encodes photos."""
    if model.role != IDENTITY or model.memory_bytes <= PULID_ATTENTIONS_BYTES:
        return model.memory_bytes
    return model.memory_bytes - PULID_ATTENTIONS_BYTES


def _folder(model: Model, name: str) -> int:
    return sum(file.size for file in model.files if file.folder == name)
