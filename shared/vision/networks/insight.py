"""InsightFace's packs of models: they find a picture's faces and say whose they are, of which sex and how old."""

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from insightface.app.common import Face
from insightface.model_zoo import get_model
from numpy.typing import NDArray

from shared.contracts.errors import Permanent
from shared.models.device import check_providers
from shared.models.onnx import Finite, OnnxResident, provider_of, unopened
from shared.vision.boxes import Box
from shared.vision.codec import Image

LADDER_STEP_PX = 64

Gender = Literal["female", "male"]
GENDERS: tuple[Gender, ...] = ("female", "male")
"""As the pack's `genderage` numbers them."""

FINDS, DESCRIBES, GUESSES = "detection", "recognition", "genderage"
"""insightface's names of the models' tasks."""


@dataclass(frozen=True)
class Pack:
    """A pack's files."""

    name: str
    detector: str
    recogniser: str
    attributes: str = "genderage.onnx"

    def files(self, attributes: bool) -> tuple[str, ...]:
        """Those that are loaded, with sex and age or without."""
        return (self.detector, self.recogniser, *((self.attributes,) if attributes else ()))


ANTELOPEV2 = Pack("antelopev2", "scrfd_10g_bnkps.onnx", "glintr100.onnx")
BUFFALO_L = Pack("buffalo_l", "det_10g.onnx", "w600k_r50.onnx")

PACKS = {pack.name: pack for pack in (ANTELOPEV2, BUFFALO_L)}
"""The published ones, by their names."""


@dataclass(frozen=True, eq=False)
class InsightFace:
    """One face. Pixels of the picture it was found in."""

    box: Box
    """x, y, width, height."""
    points: NDArray[np.float64]
    """(5, 2): the picture's left eye, right eye, nose, left and right corner of the mouth."""
    embedding: NDArray[np.float32]
    """(512,), raw as the recogniser gives it, not of unit length."""
    score: float
    """The detector's confidence, 0 to 1."""
    gender: Gender | None = None
    """A guess; None where the pack was opened without it."""
    age: int | None = None
    """In years, likewise."""

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        return self.box[2] * self.box[3]


class Insight:
    """Finds and describes faces. Keeps nothing from one picture to the next. Threads may share it, and take turns.

    Sources: Guo et al. 2021, "Sample and Computation Redistribution for Efficient Face Detection" (SCRFD); Deng et al.
    2018, "ArcFace".

    Args:
        app: what `open_app` gives.
        guesser: insightface's model of sex and age; nothing is guessed where None.
        turn: held by whoever uses `app`; one of its own where None.
    """

    def __init__(self, app: Any, guesser: Any = None, turn: "threading.Lock | None" = None) -> None:
        self.app = app
        self._guesser = guesser
        self._turn = turn or threading.Lock()

    def guessing(self, guesser: Any) -> "Insight":
        """The same detector and recogniser, taking turns with this one, and sex and age guessed beside."""
        return Insight(self.app, guesser, self._turn)

    def find(
        self, image: Image, det_size: int = 640, min_det_size: int = 320, min_score: float = 0.5
    ) -> tuple[InsightFace, ...]:
        """The faces of a picture (uint8 RGB), largest first; none is an empty tuple.

        A face that fills the picture is too large for the detector's anchors at 640 pixels. Where nothing is found the
        picture is therefore looked at ever smaller, 64 pixels a time, and the first size at which there is a face is
        taken.

        Args:
            image: the picture.
            det_size: side of the square that the picture is first fitted into, a multiple of 32.
            min_det_size: and at last.
            min_score: of the detector, from 0 to 1, below which it is no face.

        Raises:
            Permanent: a model gave what is no number.
        """
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        shorter, longer = sorted(image.shape[:2])
        if shorter * min_det_size < longer:
            return ()  # so narrow that nothing of it is left in the detector's square
        for size in range(det_size, min_det_size - 1, -LADDER_STEP_PX):
            found = self._seen(bgr, size, min_score)
            if found:
                return tuple(sorted(map(_face, found), key=lambda face: (-face.area, face.box)))
        return ()

    def _seen(self, bgr: Any, size: int, min_score: float) -> list[Any]:
        """Faces at one size. The detector keeps size and score to itself, so nobody else may set them meanwhile."""
        with self._turn, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning)  # in insightface
            self.app.prepare(ctx_id=0, det_thresh=min_score, det_size=(size, size))
            found: list[Any] = self.app.get(bgr)
            for face in found if self._guesser is not None else ():
                self._guesser.get(bgr, face)
            return found


def insight_key(place: Path, device: str) -> str:
    """What a Residency knows `insight_resident` by."""
    return f"{place} on {device}"


def insight_resident(place: Path, pack: Pack, device: str) -> OnnxResident[Insight]:
    """Detector and recogniser as a Resident that lends a Slot: one for all who ask, whatever they guess beside.

    Args:
        place: the folder of the files, as `locate` finds it.
        pack: their names.
        device: `cpu`, `cuda` or `cuda:<index>`.
    """
    files = [place / file for file in pack.files(attributes=False)]
    return OnnxResident(f"{pack.name} of {place}", files, lambda: Insight(open_app(place, device, pack)))


def guesser_key(place: Path, pack: Pack, device: str) -> str:
    """What a Residency knows `guesser_resident` by."""
    return f"{place / pack.attributes} on {device}"


def guesser_resident(place: Path, pack: Pack, device: str) -> OnnxResident[Any]:
    """What guesses sex and age, for `Insight.guessing`. The arguments are `insight_resident`'s."""
    name = f"{pack.attributes} of {pack.name} of {place}"
    return OnnxResident(name, [place / pack.attributes], lambda: open_guesser(place, device, pack))


def locate(folder: Path, pack: Pack, attributes: bool = False) -> Path:
    """Where a pack's files are: in `folder`, or one folder deeper, as antelopev2's published archive unpacks.

    Raises:
        Permanent: some are missing from both; says which and how to come by them.
    """
    places = (folder, folder / pack.name)
    wanted = pack.files(attributes)
    missing = {place: [name for name in wanted if not (place / name).is_file()] for place in places}
    for place in places:
        if not missing[place]:
            return place
    best = min(places, key=lambda place: len(missing[place]))
    raise Permanent(
        f"{' and '.join(missing[best])} of {pack.name} missing: looked in {places[0]} and {places[1]}. "
        f"`doctorgen models download {pack.name}` brings them."
    )


def own_pack(folder: Path, name: str, attributes: bool = True) -> Pack:
    """The pack in a folder of one's own, whose files are called as one of the published packs' are.

    Without `attributes` it need not have what guesses sex and age.

    Raises:
        Permanent: none is there whole.
    """
    for pack in PACKS.values():
        if all((folder / file).is_file() for file in pack.files(attributes)):
            return Pack(name, pack.detector, pack.recogniser, pack.attributes)
    known = "; ".join(f"{', '.join(pack.files(attributes))} as {pack.name} has" for pack in PACKS.values())
    raise Permanent(f"{folder} holds no pack of InsightFace. It is to hold {known}.")


class App:
    """A detector and a recogniser as insightface's FaceAnalysis runs them, which opens all the files of their folder.

    Args:
        detector: insightface's SCRFD.
        recogniser: insightface's ArcFaceONNX.
    """

    def __init__(self, detector: Any, recogniser: Any) -> None:
        self.detector = detector
        self._recogniser = recogniser

    def prepare(self, ctx_id: int, det_thresh: float, det_size: tuple[int, int]) -> None:
        """As FaceAnalysis's."""
        self.detector.prepare(ctx_id, input_size=det_size, det_thresh=det_thresh)

    def get(self, bgr: Any) -> list[Any]:
        """As FaceAnalysis's: insightface's faces, with their embeddings."""
        boxes, points = self.detector.detect(bgr)
        found = [Face(bbox=box[:4], kps=five, det_score=box[4]) for box, five in zip(boxes, points, strict=True)]
        for face in found:
            self._recogniser.get(bgr, face)
        return found


def open_app(place: Path, device: str, pack: Pack) -> App:
    """A pack's detector and recogniser; nothing is downloaded.

    Args:
        place: the folder of the ONNX files.
        device: `cpu`, `cuda` or `cuda:<index>`; both models run there, or none.
        pack: the files' names.

    Raises:
        Permanent: a file is no such model, or onnxruntime cannot use the device.
        ResourceExhausted, DevicePoisoned: as `shared.models.onnx.unopened`.
    """
    return App(
        _opened(place / pack.detector, FINDS, device, pack.name),
        _opened(place / pack.recogniser, DESCRIBES, device, pack.name),
    )


def open_guesser(place: Path, device: str, pack: Pack) -> Any:
    """What a pack guesses sex and age with, as insightface's model. Arguments and errors are `open_app`'s."""
    return _opened(place / pack.attributes, GUESSES, device, pack.name)


def _opened(path: Path, task: str, device: str, pack: str) -> Any:
    """The insightface model of a file."""
    provider, providers = provider_of(device)
    try:
        model = get_model(
            str(path),
            providers=providers,
            static_shape_sessions=False,  # else a detector is opened again, and kept, for each size that it looks at
        )
    except Exception as error:  # onnxruntime's errors have no common root
        wrong = f"{path} is no model that insightface can load"
        raise unopened(path, error, wrong, f"`doctorgen models verify {pack}` says whether it is damaged.") from error
    found = getattr(model, "taskname", "nothing that insightface knows")
    if found != task:
        raise Permanent(
            f"{path} is a model for {found}, where one for {task} is wanted. `doctorgen models download {pack}` "
            "brings it."
        )
    if task == FINDS and not model.use_kps:
        raise Permanent(
            f"{path} finds faces without the five key points by which they are brought upright. Put {BUFFALO_L.name}'s "
            f"{BUFFALO_L.detector} or {ANTELOPEV2.name}'s {ANTELOPEV2.detector} in its place."
        )
    check_providers(model.session.get_providers(), provider)  # onnxruntime falls back to the CPU without an error
    model.session = Finite(model.session, f"{path}, which does {task},")
    return model


def distinct(faces: Sequence[InsightFace], apart: float = 0.2) -> tuple[InsightFace, ...]:
    """The faces in their order, without those that a detector told twice; of two the surer one stays.

    Two boxes of one face may overlap little (a head, and its face alone), and its key points still lie together.

    Args:
        faces: what was found.
        apart: of the smaller box's width, how far key points of two faces lie apart on average, at least.
    """
    kept: list[InsightFace] = []
    for face in sorted(faces, key=lambda one: (-one.score, one.box)):
        if all(_apart(face, other) >= apart for other in kept):
            kept.append(face)
    return tuple(face for face in faces if face in kept)


def _apart(one: InsightFace, other: InsightFace) -> float:
    """Mean distance of two faces' points, in widths of the smaller."""
    width = max(min(one.box[2], other.box[2]), 1e-6)
    return float(np.linalg.norm(one.points - other.points, axis=1).mean()) / width


def _face(found: Any) -> InsightFace:
    left, top, right, bottom = (float(edge) for edge in found.bbox)
    gender, age = getattr(found, "gender", None), getattr(found, "age", None)
    return InsightFace(
        box=(left, top, right - left, bottom - top),
        points=np.asarray(found.kps, np.float64),
        embedding=np.asarray(found.embedding, np.float32),
        score=float(found.det_score),
        gender=None if gender is None else GENDERS[int(gender)],
        age=None if age is None else int(age),
    )
