"""The GPU engine of face swap: a network puts subjects' faces onto the picture's, and a restorer sharpens them."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from services.swap.stage import FluxFaceParams
from services.swap.swapping.align import matrix_of, nose_outside_eyes
from services.swap.swapping.choice import Choice, choose
from services.swap.swapping.networks import Networks, Place, borrowed, keys_of, place_of
from services.swap.swapping.restore import BOOST_PX, Restoring, found_again
from services.swap.swapping.subjects import Subject, check, subjects_of
from services.swap.swapping.swap import swap
from shared.contracts.errors import InvalidInput
from shared.models.device import require_device, torch_facts, wanted_device
from shared.models.process import residency as of_process
from shared.models.residency import Residency
from shared.models.settings import models_folder
from shared.models.shelf import Shelf
from shared.vision.boxes import centre
from shared.vision.codec import Image, decode
from shared.vision.networks.insight import Insight, InsightFace, distinct
from shared.vision.networks.restorer import restore_faces
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Output, Work

_OTHER_PICTURE = "Generate it again with another seed, or let the step pass on what it cannot swap (require_face)."


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done, decided before the swapper is loaded."""

    faces: tuple[InsightFace, ...]
    """Of the picture, largest first."""
    subjects: tuple[Subject, ...]
    choices: tuple[Choice, ...]

    @property
    def placed(self) -> tuple[tuple[Choice, InsightFace], ...]:
        """The subjects that have a face."""
        return tuple((choice, choice.face) for choice in self.choices if choice.face is not None)


@dataclass(frozen=True, eq=False)
class Done:
    """What came of it."""

    image: Image
    swapped: tuple[Choice, ...]
    left: tuple[tuple[Choice, str], ...]
    """Subjects without a face, and why."""
    restored: int


class FluxFace:
    """Borrows its networks of the process's Residency. One step at a time.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where they compute, in fp32; as the environment says where None.
        residency: where models are borrowed; the process's where None.
    """

    def __init__(
        self, folder: Path | None = None, device: str | None = None, residency: Residency | None = None
    ) -> None:
        self._shelf = Shelf(folder or models_folder())
        self._device = device or wanted_device()
        self._own_residency = residency
        self._places: dict[tuple[object, ...], Place] = {}

    def models(self, params: FluxFaceParams) -> Mapping[str, str]:
        """Digests of the weights that a step with these parameters uses.

        Raises:
            InvalidInput: a parameter names a model of another kind.
            Permanent: a file is missing or damaged; says what would help.
        """
        return self._place(params).digests

    def resident_keys(self, params: FluxFaceParams) -> AbstractSet[str]:
        """All of its networks."""
        return keys_of(self._place(params), self._device)

    def run(self, work: Work[FluxFaceParams]) -> Outcome:
        """Output `image`: the picture with the subjects' faces; as it came, byte for byte, where none was swapped.

        Raises:
            InvalidInput: photos or targets cannot be used; or a subject got no face, and `require_face` asks for it.
            Permanent: weights or the device are missing, or a network gives what is no number; says what would help.
            ResourceExhausted: there is no room for them.
        """
        params, place = work.params, self._place(work.params)
        require_device(self._device, torch_facts())
        image = decode(work.one("image"))
        with place.faces.borrowed(self._device, self._residency) as insight:
            plan = plan_of(work, image, insight)
            work.progress(0.3)
            if not plan.placed:
                done = Done(image, (), _unplaced(plan), 0)
            else:
                with borrowed(place, self._device, self._residency) as networks:
                    done = carry_out(plan, image, networks, insight, params, work.progress)
        if params.require_face and done.left:
            choice, why = done.left[0]
            raise InvalidInput("image", f"subject {choice.subject} of {len(plan.subjects)}: {why}", _OTHER_PICTURE)
        output = image_output(done.image, "intermediate") if done.swapped else _as_it_came(work.one("image"))
        return Outcome({"image": output}, facts(plan, done, place))

    @property
    def _residency(self) -> Residency:
        return self._own_residency or of_process()

    def _place(self, params: FluxFaceParams) -> Place:
        named = (
            params.model, params.encoder, params.restorer,
            params.parser if "parsed" in params.masks else None,
            params.occluder if "occlusion" in params.masks else None,
        )  # fmt: skip
        if named not in self._places:
            self._places[named] = place_of(self._shelf, params)
        return self._places[named]


def plan_of(work: Work[FluxFaceParams], image: Image, insight: Insight) -> Plan:
    """Who is to get which face.

    Raises:
        InvalidInput, Permanent: as `FluxFace.run`.
    """
    params = work.params
    subjects = subjects_of(work.inputs, params.faces, insight, params.min_score)
    faces = distinct(insight.find(image, min_score=params.min_score))
    check(faces)
    size = (image.shape[0], image.shape[1])
    return Plan(faces, subjects, choose(faces, [one.embedding for one in subjects], params.targets, size))


def carry_out(
    plan: Plan,
    image: Image,
    networks: Networks,
    insight: Insight,
    params: FluxFaceParams,
    progress: Callable[[float], None],
) -> Done:
    """Swap each face in turn, and restore what was swapped.

    Raises:
        Permanent: a network gives what is no picture or no mask.
    """
    restorer = networks.restorer
    restoring = Restoring(restorer, params.restorer_weight, params.restorer_visibility) if restorer else None
    before = restoring if params.restore == "before" else None
    swapped: list[tuple[Choice, InsightFace]] = []
    left = list(_unplaced(plan))
    for number, (choice, face) in enumerate(plan.placed, start=1):
        latent = networks.swapper.latent(plan.subjects[choice.subject - 1].embedding, params.alignment)
        result = swap(image, face, latent, networks, params, before)
        if isinstance(result, str):
            left.append((choice, result))
        else:
            image = result
            swapped.append((choice, face))
        progress(0.3 + 0.4 * number / len(plan.placed))
    restored = len(swapped) if before is not None else 0
    if restorer is not None and before is None and swapped:
        now = distinct(insight.find(image, min_score=params.min_score))
        again = found_again([face for _, face in swapped], now)
        points = [face.points for face in again if matrix_of(face.points, BOOST_PX, "insightface") is not None]
        image = restore_faces(image, points, restorer, params.restorer_weight, params.restorer_visibility)
        restored = len(points)
    left.sort(key=lambda one: one[0].subject)
    return Done(image, tuple(choice for choice, _ in swapped), tuple(left), restored)


def facts(plan: Plan, done: Done, place: Place) -> dict[str, JsonValue]:
    """What the manifest says: no embedding; subjects counted from 1, faces from the largest on."""
    told: dict[str, JsonValue] = {
        "swapper": place.swapper.name,
        "encoder": place.faces.pack.name,
        "faces": len(plan.faces),
        "subjects": len(plan.subjects),
        "swapped": [_swapped(choice, plan.faces) for choice in done.swapped],
        "restored": done.restored,
    }
    if done.left:
        told["left_alone"] = [{"subject": choice.subject, "why": why} for choice, why in done.left]
    without = [photo for subject in plan.subjects for photo in subject.without_face]
    if without:
        told["photos_without_face"] = list(without)
    if not done.swapped:
        told["note"] = "No face was swapped; the picture is unchanged."
    return told


def _swapped(choice: Choice, faces: Sequence[InsightFace]) -> dict[str, JsonValue]:
    face = choice.face
    if face is None:
        raise ValueError("a face that was swapped is one")
    x, y = centre(face.box)
    return {
        "subject": choice.subject,
        "face": faces.index(face) + 1,
        "at": [round(x, 1), round(y, 1)],
        "width_px": round(face.box[2], 1),
        "score": round(face.score, 3),
        "gender": face.gender,
        "similarity_before": None if choice.similarity is None else round(choice.similarity, 4),
        "turned_away": nose_outside_eyes(face.points),
    }


def _unplaced(plan: Plan) -> tuple[tuple[Choice, str], ...]:
    return tuple((choice, choice.why_not) for choice in plan.choices if choice.face is None)


def _as_it_came(data: bytes) -> Output:
    """The picture of the step before, which wrote it as a PNG."""
    return Output(data=data, media_type="image/png", kind="intermediate")
