"""The portable face swap: the subject's face from their best photo onto the picture's largest face."""

from collections.abc import Mapping

from services.swap.face_swap import swap_face
from services.swap.stage import FaceParams
from services.swap.unchanged import unchanged
from shared.contracts.errors import Permanent
from shared.contracts.identity import FaceMeasure, IdentityRecord
from shared.vision.boxes import coincide
from shared.vision.codec import Image, decode
from shared.vision.faces import Face, FaceFinder
from shared.vision.output import image_output
from shared.worker.operation import Outcome, Work


class PortableFace:
    """MediaPipe's face mesh in both pictures, and a piecewise affine warp between them."""

    def __init__(self) -> None:
        self._finder = FaceFinder()

    def models(self, _: FaceParams) -> Mapping[str, str]:
        return self._finder.models

    def run(self, work: Work[FaceParams]) -> Outcome:
        data = work.one("image")
        image = decode(data)
        faces = self._finder.find(image)
        if not faces:
            if work.params.require_face:
                raise Permanent("The picture shows no face to swap. Generate it again with another seed.")
            return unchanged(data, "faces")
        record = IdentityRecord.from_json(work.one("identity"), "identity")
        best = record.faces[record.best]
        photo, source = self._subject(work.inputs["photos"], best)
        swapped = swap_face(image, faces[0], photo, source, work.params)
        facts = {
            "faces": len(faces),
            "photo": best.photo,
            "face_width_px": round(faces[0].box[2], 1),
            "source_face_width_px": round(source.box[2], 1),
            "yaw_difference": round(faces[0].yaw - source.yaw, 1),
            "pitch_difference": round(faces[0].pitch - source.pitch, 1),
        }
        return Outcome({"image": image_output(swapped, "intermediate")}, facts)

    def _subject(self, photos: tuple[bytes, ...], best: FaceMeasure) -> tuple[Image, Face]:
        """The best photo and the subject's face in it."""
        if best.photo >= len(photos):
            raise Permanent(f"The identity names photo {best.photo}, but the step was given {len(photos)} photos.")
        photo = decode(photos[best.photo])
        for face in self._finder.find(photo):
            if coincide(face.box, best.box):
                return photo, face
        raise Permanent(f"Photo {best.photo} shows no face where the identity says it is: {best.box}.")
