"""What weights there are: source, files, licence, memory, who needs them. Read from `catalogue.yaml`; loads none."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from shared.contracts.base import Digest
from shared.contracts.errors import InvalidInput
from shared.contracts.nearest import nearest
from shared.models.name import ModelName

BUILT_IN = Path(__file__).with_name("catalogue.yaml")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Bytes = Annotated[int, Field(ge=1)]
Format = Literal["safetensors", "onnx", "pickle", "zip", "diffusers"]


class _Data(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ModelFile(_Data):
    """One file of a model, or with a path that ends in `/*` all files of a folder."""

    path: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+/-]*(/\*)?$")] = Field(
        description="below the model's folder; for a model on Hugging Face the path in its repository, too"
    )
    size: Bytes = Field(alias="bytes")
    approximate: bool = Field(default=False, description="the size is rounded")
    sha256: Digest | None = Field(default=None, description="where public sources agree on it")
    url: Annotated[str, StringConstraints(pattern=r"^https://")] | None = None

    @property
    def folder(self) -> str | None:
        """Of a whole folder its path, else None."""
        return self.path.removesuffix("/*") if self.path.endswith("/*") else None


class Model(_Data):
    """One weight. It has exactly one kind of source: `hub`, a URL at each file, `by_hand` or `made_by`."""

    name: ModelName
    title: str
    role: str = Field(description="what it does; models of one role stand for each other")
    hub: str | None = Field(default=None, description="repository on Hugging Face")
    by_hand: str | None = Field(default=None, description="how to come by it where no program may fetch it")
    made_by: str | None = Field(default=None, description="the command that makes it on this machine")
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1)]
    format: Format
    gives: tuple[str, ...] = Field(default=(), description="files that the conversion makes, and that are then loaded")
    licence: str
    commercial: bool = Field(description="whether the licence allows commercial use")
    note: str = Field(default="", description="what else bears upon its use")
    gated: bool = Field(default=False, description="its terms must be accepted at the source first")
    memory_bytes: Bytes = Field(description="of the weights as an engine holds them")
    used_by: tuple[str, ...] = Field(default=(), description="operation/engine that can use it")
    default_for: tuple[str, ...] = Field(
        default=(), description="operation/engine that uses it unless the step names another of its role"
    )
    requires: tuple[str, ...] = Field(default=(), description="models that it cannot be used without")
    aliases: tuple[str, ...] = Field(default=(), description="other names that recipes may use")

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        by_url = all(file.url for file in self.files)
        if [self.hub, self.by_hand, self.made_by, by_url or None].count(None) != 3:
            raise ValueError(f"{self.name}: state one source: hub, a url at every file, by_hand or made_by")
        return self

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files)

    @property
    def approximate(self) -> bool:
        """Whether `size` is rounded."""
        return any(file.approximate for file in self.files)

    @property
    def loadable(self) -> bool:
        """Whether an engine may load it, as it is or converted: pickles are never loaded."""
        return self.format != "pickle" or bool(self.gives)

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        if self.hub:
            return f"https://huggingface.co/{self.hub}"
        return self.by_hand or (f"`{self.made_by}`" if self.made_by else str(self.files[0].url))


class ModelCatalogue(Mapping[str, Model]):
    """All models by name."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = dict(models)
        self._named = {alias: model for model in models.values() for alias in (model.name, *model.aliases)}
        for model in models.values():
            for name in model.requires:
                self.model(name)

    def __getitem__(self, name: str) -> Model:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def named(self, name: str) -> Model | None:
        """The model of that name or alias, if there is one."""
        return self._named.get(name)

    def model(self, name: str) -> Model:
        """The model of that name or alias.

        Raises:
            InvalidInput: unknown; offers the nearest names.
        """
        found = self.named(name)
        if found is None:
            mend = f"{nearest(name, self._named)} `doctorgen models list` lists them."
            raise InvalidInput("model", f"there is no model '{name}'", mend)
        return found

    def with_requirements(self, name: str) -> tuple[Model, ...]:
        """The model of that name, and after it what it cannot be used without, however indirectly."""
        found: dict[str, Model] = {}
        todo = [name]
        while todo:
            model = self.model(todo.pop(0))
            if model.name not in found:
                found[model.name] = model
                todo += model.requires
        return tuple(found.values())


def parse(text: str) -> ModelCatalogue:
    """The catalogue that a YAML document describes: a model's fields by its name."""
    document: dict[str, dict[str, Any]] = yaml.load(text, Loader=_LOADER)  # noqa: S506 - either loader is a safe one
    models = {name: Model.model_validate_json(json.dumps(fields | {"name": name})) for name, fields in document.items()}
    return ModelCatalogue(models)


@cache
def load_models() -> ModelCatalogue:
    """The catalogue that ships with the product, read once."""
    return parse(BUILT_IN.read_text("utf-8"))
