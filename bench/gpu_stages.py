"""A recipe's stages with models of random weights: their own engines, their own parameters but for models' names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import yaml

from bench import gpu_shelf as shelf
from bench.gpu_machine import Machine, models, prompt_of, see_people
from bench.gpu_report import BESIDE
from doctor_image_gen import recipes
from services.generate.stage import STAGE as GENERATE
from services.qa.stage import STAGE as QA
from services.refine.stage import STAGE as REFINE
from services.swap.stage import STAGE as SWAP
from services.upscale.stage import STAGE as UPSCALE
from shared.flux.painter import Painter
from shared.flux.speed import Speed
from shared.flux.studio import Studio
from shared.flux.text import PromptEmbedding
from shared.models.residency import Residency, Resident, Smaller
from shared.worker.operation import EngineSpec

RECIPE: Final = "portrait"
SMALL_SIDE: Final = 128

RECIPE_FILE: Final = Path(recipes.__file__).with_name(f"{RECIPE}.yaml")
STAGES: Final = {stage.name: stage for stage in (GENERATE, SWAP, REFINE, UPSCALE, QA)}
CROPS: Final = frozenset({"hands", "face_detail"})
PAINTED: Final = CROPS | {"generate", "refine"}

OWN: Final[dict[str, dict[str, Any]]] = {
    "generate": {"model": shelf.FLUX, "identity_model": shelf.PULID},
    "hands": {"model": shelf.FLUX, "detector": shelf.HANDS},
    "face": {"model": shelf.SWAPPER, "encoder": shelf.PACK, "restorer": shelf.RESTORER},
    "face_detail": {
        "model": shelf.FLUX,
        "detector": shelf.FACES,
        "identity_model": shelf.PULID,
        "encoder": shelf.ENCODER,
    },
    "refine": {"model": shelf.REAL1SM},
    "upscale": {},
    "upscale by network": {"method": "network", "upscaler": shelf.UPSCALER},
    "qa": {"detector": shelf.YUNET, "recogniser": shelf.RECOGNISER, "hand_detector": shelf.HANDS},
}
"""What stands in place of the recipe's models, stage by stage. One stage is measured beside the recipe's own."""
STEP_OF: Final = {BESIDE: "upscale"}
SMALLER: Final[dict[str, dict[str, Any]]] = {
    "generate": {"width": SMALL_SIDE, "height": SMALL_SIDE, "steps": 3},
    "hands": {"steps": 3, "guide_size": 64, "max_size": 64},
    "face": {},
    "face_detail": {"steps": 3, "guide_size": 64, "max_size": 64},
    "refine": {"steps": 3},
    "upscale": {"width": 512, "height": 512},
    BESIDE: {"width": 512, "height": 512},
    "qa": {"width": 512, "height": 512},
}
"""What is other than in the recipe in a small run."""


@dataclass(frozen=True)
class Task:
    """A stage of the recipe.

    Attributes:
        name: the recipe's step.
        spec: its engine.
        params: as the recipe has them, with our models.
        inputs: names of what it is given.
    """

    name: str
    spec: EngineSpec
    params: Mapping[str, Any]
    inputs: tuple[str, ...]

    def parsed(self, **more: Any) -> Any:
        """The parameters as the engine's model."""
        return self.spec.parse({**self.params, **more}, self.name)


@dataclass(frozen=True)
class Way:
    """One way to run them.

    Attributes:
        name: of it.
        speed: settings.
        max_batch: crops at once.
    """

    name: str
    speed: Speed
    max_batch: int


class MadeThere:
    """A painter of random weights as a Resident: made on the device, and never anywhere else."""

    bytes = 0
    """Nothing is put out for it."""
    smaller: Sequence[Smaller] = ()

    def __init__(self, name: str, make: Callable[[], Painter]) -> None:
        self.name = name
        self._make = make

    def load(self) -> Painter:
        """Make it."""
        return self._make()

    def to_device(self) -> None:
        """It is there."""

    def to_host(self) -> None:
        """It stays."""

    def drop(self) -> None:
        """Whoever holds it lets go of it."""


class RandomStudio(Studio):
    """A Studio whose weights are made on the device and whose words are random numbers; the rest is its own.

    Args:
        machine: where, and how large.
        folder: of the other models.
        borrow: where painters are lent.
        speed: how they are run.
    """

    def __init__(self, machine: Machine, folder: Path, borrow: Residency, speed: Speed) -> None:
        super().__init__(folder, machine.device, machine.dtype, borrow, speed, machine.compiler)
        self._machine = machine
        self._words: PromptEmbedding | None = None

    def prompt(self, model: str, words: str) -> PromptEmbedding:
        """The same random embedding for any words, as if it had been encoded before."""
        del model, words
        if self._words is None:
            self._words = prompt_of(self._machine)
        return self._words

    def resident(self, model: str, identity_model: str | None = None, *, offloaded: bool = False) -> Resident[Painter]:
        """Of no files: as large as the machine says, whole on the device."""
        del offloaded

        def make() -> Painter:
            transformer, vae = models(self._machine)
            attentions = [] if identity_model is None else see_people(self._machine, transformer)
            return Painter(transformer, vae, attentions, None)

        return MadeThere(model, make)


def tasks(machine: Machine, way: Way) -> list[Task]:
    """The recipe's stages for one way; and the one beside them, behind the one that it might replace."""
    steps = {step["name"]: step for step in yaml.safe_load(RECIPE_FILE.read_text("utf-8"))["steps"]}
    made = []
    for name, own in OWN.items():
        step = steps[STEP_OF.get(name, name)]
        stage = STAGES[step["operation"].partition(".")[0]]
        operation = stage.operation(step["operation"])
        if operation is None:
            raise LookupError(f"{RECIPE} has {step['operation']}, which its stage does not know")
        params = {**step.get("params", {}), **step.get("engines", {}).get("flux", {}), **own}
        if machine.small:
            params |= {key: small for key, small in SMALLER[name].items() if key not in own}
        if name in CROPS:
            params["max_batch"] = way.max_batch
        made.append(Task(name, operation.engines["flux"], params, (*operation.inputs, *operation.optional)))
    return made


def engine_of(task: Task, machine: Machine, way: Way, folder: Path, borrow: Residency) -> Any:
    """The stage's own engine, with random weights for FLUX.

    Raises:
        ModuleNotFoundError: there is none yet.
    """
    module, _, name = task.spec.factory.partition(":")
    make = getattr(import_module(module), name)
    if task.name in PAINTED:
        return make(RandomStudio(machine, folder, borrow, way.speed))
    return make(folder, machine.device, borrow)


def side_of(machine: Machine) -> int:
    """Pixels of the picture's side before it is enlarged."""
    return SMALL_SIDE if machine.small else machine.side
