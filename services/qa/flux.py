"""The GPU engine: YuNet finds, a recogniser that had no part in making the picture describes, plain measures judge."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from services.qa.checks import all_checks
from services.qa.encoders import has_a_part
from services.qa.flux_checks import more_checks
from services.qa.flux_observe import Eyes, marks_of, observe
from services.qa.judge import judge, outcome
from services.qa.observation import Marks, Observation
from services.qa.references import References, references_of
from services.qa.stage import FluxScoreParams
from shared.contracts.errors import InvalidInput
from shared.models.device import wanted_device
from shared.models.process import residency as of_process
from shared.models.residency import Residency
from shared.models.settings import models_folder
from shared.models.shelf import Shelf
from shared.models.single import Single, single
from shared.vision.codec import decode
from shared.vision.networks.arcface import recogniser_key, recogniser_resident
from shared.vision.networks.yolo import yolo_key, yolo_resident
from shared.vision.networks.yunet import yunet_key, yunet_resident
from shared.vision.picks import picks_of
from shared.worker.operation import Outcome, Work

ONNX = ".onnx"


class _Networks(NamedTuple):
    """Where a step's models lie."""

    detector: Single
    recogniser: Single
    hands: Single | None


class FluxScorer:
    """qa.score by networks. What is wrong with the picture goes into the verdict; it is never an error.

    Borrows its models of the process's Residency. One step at a time.

    Args:
        folder: of the models; the setting `models_dir` where None.
        device: where recogniser and hand detector compute, as the environment says where None; YuNet is for the CPU.
        residency: where models are borrowed; the process's where None.
    """

    def __init__(
        self, folder: Path | None = None, device: str | None = None, residency: Residency | None = None
    ) -> None:
        self._shelf = Shelf(folder or models_folder())
        self._device = device or wanted_device()
        self._residency = residency
        self._found: dict[tuple[str, str, str], _Networks] = {}

    def models(self, params: FluxScoreParams) -> Mapping[str, str]:
        """Digests of the weights.

        Raises:
            InvalidInput: the recogniser had a part in making the picture.
            Permanent: a file is missing, damaged or not converted; says what would help.
        """
        return {one.name: one.digest for one in self._networks(params) if one is not None}

    def resident_keys(self, params: FluxScoreParams) -> AbstractSet[str]:
        """All its networks."""
        found = self._networks(params)
        hands = [] if found.hands is None else [yolo_key(found.hands.path, self._device)]
        return {yunet_key(found.detector.path), recogniser_key(found.recogniser.path, self._device), *hands}

    def run(self, work: Work[FluxScoreParams]) -> Outcome:
        """Output `verdict` (a Verdict). The input `identity` is not looked at.

        Raises:
            InvalidInput: the image or a photo is no picture at all, no photo shows the face that is meant, there is not
                one pick a photo, the recipe hands in no photos, or the recogniser had a part in making the picture.
            Permanent: weights or the device are missing, or a model gave numbers that are none.
        """
        photos = _photos(work)
        with self.eyes(work.params) as eyes:
            return score(work, photos, eyes)

    @contextmanager
    def eyes(self, params: FluxScoreParams) -> Iterator[Eyes]:
        """The networks until the block ends.

        Raises:
            InvalidInput: the recogniser had a part in making the picture.
            Permanent: a file is missing, or is no such model, or onnxruntime cannot use the device.
            ResourceExhausted: they do not fit.
        """
        found = self._networks(params)
        models = self._residency or of_process()
        finder, recogniser, hands = found.detector.path, found.recogniser.path, found.hands
        with ExitStack() as held:
            eyes = held.enter_context(models.use(yunet_key(finder), lambda: yunet_resident(finder)))
            describer = held.enter_context(
                models.use(
                    recogniser_key(recogniser, self._device), lambda: recogniser_resident(recogniser, self._device)
                )
            )
            if hands is None:
                yield Eyes(eyes.it, describer.it, found.recogniser.name, None)
                return
            path = hands.path
            seeker = held.enter_context(
                models.use(yolo_key(path, self._device), lambda: yolo_resident(path, self._device))
            )
            yield Eyes(eyes.it, describer.it, found.recogniser.name, seeker.it)

    def _networks(self, params: FluxScoreParams) -> _Networks:
        named = (params.detector, params.recogniser, params.hand_detector)
        if named not in self._found:
            hands = params.hand_detector
            self._found[named] = _Networks(
                detector=single(self._shelf, params.detector, ONNX, "detector"),
                recogniser=single(self._shelf, params.recogniser, ONNX, "recogniser"),
                hands=None if hands == "none" else single(self._shelf, hands, ONNX, "hand_detector"),
            )
        found = self._found[named]
        pack = has_a_part(found.recogniser.name, found.recogniser.digest)
        if pack is not None:
            raise InvalidInput(
                "recogniser",
                f"{params.recogniser} is the encoder of {pack}, by which pictures are made",
                "Name one that has no part in making them, such as auraface.",
            )
        return found


def score(work: Work[FluxScoreParams], photos: Sequence[bytes], eyes: Eyes) -> Outcome:
    """The outcome of a step, by these networks.

    Raises:
        InvalidInput: the image or a photo is no picture at all, no photo shows the face that is meant, or there is not
            one pick a photo.
        Permanent: a model gave numbers that are none.
    """
    params = work.params
    image = decode(work.one("image"))
    picks = picks_of(params.faces, len(photos), "none was picked")
    references = references_of(photos, picks, eyes.finder, eyes.describer)
    work.progress(0.5)
    seen = observe(image, references, eyes, params.same_person_cosine)
    marks = marks_of(image, eyes)
    checks = (*all_checks(seen, params), *more_checks(seen, marks, params))
    return outcome(judge(seen, checks, eyes.encoder), _facts(references, seen, marks, eyes.encoder))


def _photos(work: Work[FluxScoreParams]) -> tuple[bytes, ...]:
    """The subject's photos.

    Raises:
        InvalidInput: there are none.
    """
    photos = work.inputs.get("photos", ())
    if not photos:
        raise InvalidInput(
            "photos",
            "the step has none, and engine flux compares the picture with the photos themselves",
            "Let the recipe's qa step read `photos: request.photos`.",
        )
    return photos


def _facts(references: References, seen: Observation, marks: Marks, encoder: str) -> dict[str, JsonValue]:
    """What the manifest says beside the verdict's summary: no embedding; photos counted from 1."""
    main = seen.faces[0] if seen.faces else None
    return {
        "encoder": encoder,
        "likeness_by_photo": [] if main is None else [round(one, 3) for one in main.by_photo],
        "photos": list(references.photos),
        "photos_without_face": list(references.without_face),
        "photos_without_pick": list(references.without_pick),
        "photos_of_several_people": list(references.with_several),
        "hands": marks.hands,
        "blockiness": round(marks.blockiness, 3),
        "clipped": round(marks.clipped, 4),
        "seam": round(marks.seam, 2),
    }
