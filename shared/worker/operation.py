"""What a stage says it can do, and what an engine is given and gives back."""

import json
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from shared.contracts.artifacts import ArtifactKind
from shared.contracts.base import Parameters, invalid_input
from shared.models.libraries import prepare_libraries


class Params(BaseModel):
    """Base of the parameter models: strict, immutable, every field with a default, a range and a unit."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


P = TypeVar("P", bound=Params)


@dataclass(frozen=True)
class Work(Generic[P]):
    """One step to be done, with its inputs fetched and checked.

    Attributes:
        params: as the engine's model.
        inputs: blobs by the names of the operation's inputs.
        seed: 0 where the operation has none.
        progress: told now and then which fraction is done. What it raises, when the job is no longer wanted, ends the
            step; so does `show`.
        plan: 0, or after running out of memory the number of a smaller plan (tiles, offload): slower, the same bytes.
        show: given a small picture of what is coming into being, a JPEG or PNG of at most 16 KiB, as often as one
            likes: most are dropped. It is no output of the step; whoever listens to the job may see it.
    """

    params: P
    inputs: Mapping[str, tuple[bytes, ...]]
    seed: int
    progress: Callable[[float], None] = field(default=lambda _: None)
    plan: int = 0
    show: Callable[[bytes], None] = field(default=lambda _: None)

    def one(self, name: str) -> bytes:
        """The single blob of an input."""
        (blob,) = self.inputs[name]
        return blob

    def perhaps(self, name: str) -> bytes | None:
        """The single blob of an optional input; None where the recipe does not give it."""
        return self.one(name) if name in self.inputs else None


@dataclass(frozen=True)
class Output:
    """A blob to be stored."""

    data: bytes
    media_type: str
    kind: ArtifactKind


@dataclass(frozen=True)
class Outcome:
    """What an operation made: its outputs by name, and what it measured or decided, for the manifest."""

    outputs: Mapping[str, Output]
    facts: Mapping[str, JsonValue] = field(default_factory=dict)


class Engine(Protocol[P]):
    """How an operation is done. Built once in a worker's life; `run` is a pure function of its work."""

    def models(self, params: P, /) -> Mapping[str, str]:
        """The weights that a step with these parameters uses: name to SHA-256. Part of the step key."""

    def run(self, work: "Work[P]") -> Outcome:
        """Do the step.

        Raises:
            InvalidInput: the caller's photos or words cannot be used; names the field and the mend.
            ResourceExhausted: out of memory.
            Permanent: retrying cannot help.
        """


@runtime_checkable
class TakesTurns(Protocol):
    """What an engine has beyond `Engine` if it computes on the process's device: its steps take turns there.

    Steps of all other engines, as the portable ones, never wait for one another.
    """

    def resident_keys(self, params: Any, /) -> AbstractSet[str]:
        """What a step with these parameters borrows of the process's Residency: the keys.

        May be empty: then nothing has to be moved for the step, but it takes its turn all the same.
        """


@dataclass(frozen=True)
class EngineSpec:
    """An engine by the import path of its factory ("package.module:callable"), so that naming it imports nothing.

    Raise `revision` whenever this engine alone gives other bytes for the same inputs. Part of the step key, and pinned
    in no message: what older code made is not taken for it, and jobs that wait go on.
    """

    params: type[Params]
    factory: str
    smaller_plans: int = 0
    revision: int = 1

    def parse(self, params: Parameters, field: str) -> Params:
        """The parameters as the engine's model, defaults filled in. `field` says where they stand in the request.

        Raises:
            InvalidInput: a parameter is unknown or out of range.
        """
        try:
            return self.params.model_validate_json(json.dumps(params))
        except ValidationError as error:
            raise invalid_input(error, field, self.params) from error

    def build(self) -> Engine[Params]:
        """Import the engine's module and make the engine."""
        prepare_libraries()
        module, _, name = self.factory.partition(":")
        engine: Engine[Params] = getattr(import_module(module), name)()
        return engine


@dataclass(frozen=True)
class Operation:
    """One thing a stage can do. Raise `version` whenever the same inputs would give other bytes.

    A worker refuses steps that were pinned to another version, so every job that waits would end: where the operation
    means the same still, and an engine only does it otherwise, raise that engine's `revision` instead.
    A recipe's step must have all `inputs` and may have any of the `optional` ones.
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seeded: bool
    engines: Mapping[str, EngineSpec]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A queue's name and the operations of the workers that read it."""

    name: str
    operations: tuple[Operation, ...]

    def operation(self, name: str) -> Operation | None:
        """The operation of that name, or None."""
        return next((operation for operation in self.operations if operation.name == name), None)
