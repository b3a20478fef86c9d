"""What the tests of swap.face's engine `flux` share: a photo of several people, tiny networks, calls of the engine."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
from insightface.data import get_image

from services.swap.flux_face import FluxFace
from services.swap.stage import FluxFaceParams
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image
from shared.vision.networks import tiny_swapper
from shared.vision.networks.insight import BUFFALO_L, Insight, open_app, open_guesser
from shared.vision.networks.tiny_faces import MIDDLE, Seen
from shared.worker.operation import Outcome, Work
from tests.photos import png, scaled

SWAPPER, HYPERSWAP, PACK, OCCLUDER = "our-swapper", "our-hyperswap", "our-pack", "our-occluder"

SIX: tuple[Seen, ...] = (
    (0.405, 0.394, 0.124),
    (0.088, 0.380, 0.134),
    (0.753, 0.160, 0.126),
    (0.622, 0.477, 0.111),
    (0.923, 0.390, 0.108),
    (0.254, 0.242, 0.114),
)
"""Where the faces of `people` and of `crowd` are."""


@cache
def _people() -> Image:
    picture: Image = cv2.cvtColor(get_image("t1"), cv2.COLOR_BGR2RGB)
    return picture


def people() -> Image:
    """Six people, 1280 x 886 (carried by insightface's wheel)."""
    return _people().copy()


def crowd() -> Image:
    """The same at half the size, for what needs no detail."""
    return scaled(_people(), 0.5)


def write(folder: Path, faces: Sequence[Seen] = (MIDDLE,)) -> None:
    """A models folder with a swapper, one of 256 pixels, a pack that sees these faces, and an occluder."""
    tiny_swapper.write(folder / SWAPPER)
    (folder / HYPERSWAP).mkdir()
    tiny_swapper.write_hyperswap(folder / HYPERSWAP / "hyperswap.onnx")
    tiny_swapper.write_pack(folder / PACK, faces)
    (folder / OCCLUDER).mkdir()
    tiny_swapper.write_occluder(folder / OCCLUDER / "xseg.onnx")


def params(**others: object) -> FluxFaceParams:
    """Of a step that uses these networks and restores nothing, unless told otherwise."""
    told = {"model": SWAPPER, "encoder": PACK, "occluder": OCCLUDER, "restorer": "none", **others}
    return FluxFaceParams.model_validate(told)


def opened(place: Path) -> Insight:
    """A pack with buffalo_l's files, with what guesses sex and age."""
    return Insight(open_app(place, "cpu", BUFFALO_L), open_guesser(place, "cpu", BUFFALO_L))


def engine(folder: Path) -> FluxFace:
    """The engine on the CPU, with a Residency of its own."""
    return FluxFace(folder, "cpu", Residency(Budget(10**9, 10**9)))


def run(flux: FluxFace, image: Image, *subjects: Sequence[Image], **others: object) -> Outcome:
    """A step on a picture, with each subject's photos."""
    names = ("photos", "photos_2", "photos_3", "photos_4")
    photos = {name: tuple(map(png, one)) for name, one in zip(names, subjects, strict=False)}
    return flux.run(Work(params(**others), {"image": (png(image),), **photos, "identity": (b"",)}, seed=0))
