"""What the callers of a chaos run order, and what each order must come to: computed in process, with no broker."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import numpy as np

from services.gateway.defaults import GenerationDefaults
from services.gateway.planner import plan
from shared.contracts.base import now
from shared.contracts.recipe import REQUEST_PHOTOS, Recipe
from shared.contracts.request import Consent, JobRequest, PhotoRef
from shared.prompts.catalogue import load_catalogue
from shared.prompts.compiler import compile_brief
from shared.storage.digest import sha256
from shared.storage.layout import artifact_ref
from shared.vision.photos import normalise_photo
from shared.worker.operation import Work
from tests.chaos.engines import PNG, encode
from tests.chaos.house import LIMITS
from tests.chaos.stages import OPERATIONS, RECIPE_NAME

SCENARIO = "lab_coat_portrait"
CALLERS = ("clinic", "agency", "marketing")
JOBS_A_SUBJECT = 12
LONGEST_WORK_MS = 60.0
STEPS_THAT_VARY = ("paint", "swirl", "mend", "grain", "upscale", "qa")


@dataclass(frozen=True)
class Order:
    """A request and the photo that it names."""

    request: JobRequest
    photo: Path


def photo_of(subject: int, seed: int, folder: Path) -> Path:
    """A picture of noise, the subject's own."""
    path = folder / f"subject-{subject}.png"
    if not path.exists():
        rng = np.random.Generator(np.random.PCG64([seed, subject]))
        path.write_bytes(encode(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)))
    return path


def orders(seed: int, folder: Path) -> Iterator[Order]:
    """One order after another, without end, each for another picture. Subjects return, so their identity is shared."""
    rng = Random(f"orders/{seed}")
    number = 0
    while True:
        subject = number // JOBS_A_SUBJECT
        photo = photo_of(subject, seed, folder)
        data = photo.read_bytes()
        name = f"chaos-{seed}-{number}"
        request = JobRequest(
            job_id=name if number % 2 else None,
            idempotency_key=None if number % 2 else name,
            caller=rng.choice(CALLERS),
            subject=f"subject-{subject}",
            consent=Consent(basis="a picture of noise has no rights"),
            photos=(PhotoRef(key=f"inbox/{photo.name}", sha256=sha256(data)),),
            scenario=SCENARIO,
            recipe=RECIPE_NAME,
            seed=rng.getrandbits(32),
            overrides={
                step: {"strength": round(rng.random(), 3), "work_ms": round(rng.uniform(1, LONGEST_WORK_MS), 1)}
                for step in STEPS_THAT_VARY
            },
            priority="interactive" if rng.random() < 0.2 else "bulk",
            deadline=now() + timedelta(days=1),
        )
        yield Order(request, photo)
        number += 1


class Reference:
    """What jobs come to where nothing goes wrong."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._catalogue = load_catalogue(None)
        self._specs = {name: operation.engines["portable"] for name, operation in OPERATIONS.items()}
        self._engines = {name: spec.build() for name, spec in self._specs.items()}

    def image(self, order: Order) -> bytes:
        """The finished picture's bytes. Does not wait as the engines of the run do: waiting changes no byte."""
        request = order.request
        photo = normalise_photo(order.photo.read_bytes(), field="photo", name=order.photo.name, limits=LIMITS)
        reference = artifact_ref(request.subject, "photo", photo, PNG)
        brief = compile_brief(self._catalogue, request.scenario, None, request.attributes, request.custom_prompt)
        slip = plan(request, "reference", (reference,), self._recipe, brief, OPERATIONS, GenerationDefaults())
        blobs = {REQUEST_PHOTOS: (photo,)}
        for step in slip.steps:
            params = self._specs[step.operation].parse({**step.params, "work_ms": 0.0}, step.name)
            inputs = {name: blobs[slot] for name, slot in step.inputs.items()}
            outcome = self._engines[step.operation].run(Work(params, inputs, step.seed or 0))
            blobs |= {f"{step.name}.{name}": (output.data,) for name, output in outcome.outputs.items()}
        return blobs[slip.result][0]
