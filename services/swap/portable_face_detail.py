"""The portable face detailer: gives faces back some fine detail, eyes, brows and mouth a little more than skin."""

from collections.abc import Mapping

import numpy as np

from services.swap.landmarks import BROWS, EYES, FACE_OVAL, LIPS
from services.swap.stage import FaceDetailParams
from services.swap.unchanged import unchanged
from shared.vision.blend import Mask, Region, feather, from_lab, lay_over, place, polygon_mask, to_lab
from shared.vision.codec import Image, decode
from shared.vision.faces import Face, FaceFinder
from shared.vision.filters import Plane, gaussian, within_neighbourhood
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work

_NOISE = 0.6
"""Lightness steps about this small (L of Lab) count as noise and are hardly raised."""


class PortableFaceDetail:
    """Every face found by MediaPipe, sharpened at two scales within its own outline."""

    def __init__(self) -> None:
        self._finder = FaceFinder()

    def models(self, _: FaceDetailParams) -> Mapping[str, str]:
        return self._finder.models

    def run(self, work: Work[FaceDetailParams]) -> Outcome:
        data = work.one("image")
        image = decode(data)
        faces = self._finder.find(image)[: work.params.max_faces]
        if not faces:
            return unchanged(data, "faces")
        for face in faces:
            image = restore_face(image, face, work.params)
        sizes = [round(face.box[2], 1) for face in faces]
        return Outcome({"image": image_output(image, "intermediate")}, {"faces": len(faces), "face_width_px": [*sizes]})


def restore_face(image: Image, face: Face, params: FaceDetailParams) -> Image:
    """A copy of the picture with one face's lightness sharpened; colour stays, so skin keeps its tone.

    Two bands of detail are raised, about a hundred and eightieth and a seventieth of the face's width. No pixel leaves
    the range of its neighbourhood, so no edge gains a halo.
    """
    width = face.box[2]
    region = Region.around(face.mesh, 2.0, image)
    if region.empty:
        return image
    patch = region.of(image)
    fine_px = max(width / 180, 0.8)
    lab = to_lab(patch)
    light = lab[..., 0].copy()
    fine, coarse = gaussian(light, fine_px), gaussian(light, 2.5 * fine_px)
    detail = _without_noise(light - fine) + 0.5 * _without_noise(fine - coarse)
    share = params.strength * (1.0 + params.features * _features(face, region))
    lab[..., 0] = within_neighbourhood(light + 1.5 * share * detail, light, max(round(1.5 * fine_px), 1))
    oval = polygon_mask(region.size, face.mesh[list(FACE_OVAL)] - region.origin)
    return place(image, region, lay_over(patch, from_lab(lab), feather(oval, 0.0, 0.15 * width)))


def _without_noise(detail: Plane) -> Plane:
    size = np.abs(detail)
    return np.asarray(detail * size / (size + _NOISE), np.float32)


def _features(face: Face, region: Region) -> Mask:
    """1 on eyes, brows and lips, fading to 0 on the skin around them."""
    mask = np.zeros(region.size, np.uint8)
    for ring in (*EYES, *BROWS, LIPS):
        mask |= polygon_mask(region.size, face.mesh[list(ring)] - region.origin)
    return gaussian(mask.astype(np.float32), 0.02 * face.box[2])
