"""The engines of the chaos stages: real operations on real, small pictures. The same inputs give the same bytes."""

from collections.abc import Mapping
from time import sleep
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contracts.artifacts import ArtifactKind
from shared.contracts.verdict import Likeness, Verdict, rating_of
from shared.worker.operation import Outcome, Output, Work
from tests.chaos.stages import PictureParams

Image = NDArray[np.uint8]
PNG = "image/png"
SIDE = 96
IDENTITY_SIDE = 16


def decode(data: bytes) -> Image:
    """The picture in a PNG, BGR as OpenCV has it, shape (H, W, 3)."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def encode(image: Image) -> bytes:
    """The picture as a PNG."""
    return bytes(cv2.imencode(".png", image)[1])


def resized(image: Image, side: int) -> Image:
    """The picture, `side` by `side` pixels."""
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


class PictureEngine:
    """Waits as told, half of it before the picture is made and half after, and tells of progress between."""

    output: ClassVar[str] = "image"
    kind: ClassVar[ArtifactKind] = "intermediate"

    def models(self, _: PictureParams) -> Mapping[str, str]:
        return {}

    def run(self, work: Work[PictureParams]) -> Outcome:
        """Do the step."""
        sleep(work.params.work_ms / 2000)
        work.progress(0.5)
        made = self.make(work)
        sleep(work.params.work_ms / 2000)
        work.progress(1.0)
        return Outcome({self.output: Output(encode(made), PNG, self.kind)}, {"mean": float(made.mean())})

    def make(self, work: Work[PictureParams]) -> Image:
        """The picture that the step makes."""
        raise NotImplementedError


class Shrink(PictureEngine):
    """Who somebody is: the photo at 16 by 16."""

    output = "identity"
    kind = "identity"

    def make(self, work: Work[PictureParams]) -> Image:
        return resized(decode(work.inputs["photos"][0]), IDENTITY_SIDE)


class Paint(PictureEngine):
    """The photo over noise of the seed, tinted with the identity's mean colour."""

    def make(self, work: Work[PictureParams]) -> Image:
        photo = resized(decode(work.inputs["photos"][0]), SIDE)
        rng = np.random.Generator(np.random.PCG64(work.seed))
        noise = rng.integers(0, 256, photo.shape, dtype=np.uint8)
        tint = np.full_like(photo, decode(work.one("identity")).mean(axis=(0, 1)).astype(np.uint8))
        blended = cv2.addWeighted(photo, work.params.strength, noise, 1 - work.params.strength, 0)
        return np.asarray(cv2.addWeighted(blended, 0.8, tint, 0.2, 0), np.uint8)


class Swirl(PictureEngine):
    """Turned about its centre."""

    def make(self, work: Work[PictureParams]) -> Image:
        image = decode(work.one("image"))
        turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 90 * work.params.strength, 1.0)
        return np.asarray(cv2.warpAffine(image, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT), np.uint8)


class Mend(PictureEngine):
    """Smoothed, with the identity in its corner."""

    def make(self, work: Work[PictureParams]) -> Image:
        image = np.asarray(cv2.medianBlur(decode(work.one("image")), 3), np.uint8)
        image[:IDENTITY_SIDE, :IDENTITY_SIDE] = decode(work.one("identity"))
        return image


class Grain(PictureEngine):
    """Grain of the seed."""

    def make(self, work: Work[PictureParams]) -> Image:
        image = decode(work.one("image"))
        rng = np.random.Generator(np.random.PCG64(work.seed))
        grain = rng.normal(0, 20 * work.params.strength, image.shape)
        return np.clip(image + grain, 0, 255).astype(np.uint8)


class Double(PictureEngine):
    """Twice as large."""

    kind = "result"

    def make(self, work: Work[PictureParams]) -> Image:
        image = decode(work.one("image"))
        return np.asarray(cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4), np.uint8)


class Judge:
    """How near the picture's mean colour is to the identity's."""

    def models(self, _: PictureParams) -> Mapping[str, str]:
        return {}

    def run(self, work: Work[PictureParams]) -> Outcome:
        """Judge."""
        sleep(work.params.work_ms / 1000)
        image, identity = decode(work.one("image")), decode(work.one("identity"))
        distance = float(np.abs(image.mean(axis=(0, 1)) - identity.mean(axis=(0, 1))).mean()) / 255
        score = round(1 - distance, 6)
        likeness = Likeness(score=score, rating=rating_of(score), distance=round(distance, 6), encoder="mean colour")
        verdict = Verdict(passed=True, likeness=likeness, checks=(), reasons=())
        return Outcome({"verdict": Output(verdict.to_json(), "application/json", "verdict")})
